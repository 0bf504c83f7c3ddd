// Package swarm is the simulated clients: up to a million of them on a few OS threads,
// each thread with one epoll and a table of file descriptors of its own. They connect over
// TCP and WebSocket, in the clear or inside TLS, at a given rate, authenticate, send
// heartbeats, and account every push that they read in a ledger.Book of their thread. Some
// may misbehave: see Behaviour.
//
// A client costs 20 bytes here, 8 in the book and 4 per stream that it subscribes to, and
// a pooled 72 only while one of its frames has arrived in part. What one inside TLS costs on
// top is crypto/tls's (BenchmarkTLSClients).
package swarm

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"barrage/harness/ledger"
	"barrage/server/fdtable"
)

// A Client is one simulated client. Its transport is its Kind.
type Client struct {
	Kind         ledger.Kind
	Behaviour    Behaviour
	Mid          int64
	Key          string // empty: the server gives it one
	Room         string // "type://id", or empty
	Platform     string // "web" when empty
	Accepts      []int32
	Subscription *ledger.Subscription // the streams that it is owed, of Config.Streams

	// Of a client that changes rooms, Subscription is what it is owed in either room, and
	// these are its parts: Home where it is in Room, Other where it is in OtherRoom.
	Home, Other *ledger.Subscription
	OtherRoom   string
}

// Targets are the addresses (host:port) of the comets under test. Clients of a kind are
// spread over its addresses in runs.
type Targets struct {
	TCP    []string
	WS     []string
	TCPTLS []string
	WSS    []string
}

// Config says who connects where, and how fast. The zero value of a field that has a
// default takes it.
type Config struct {
	Targets Targets
	Streams *ledger.Streams

	// Clients is how many there are, and Client describes the i-th, 0 <= i < Clients. It is
	// called twice for each, the second time by a thread of the swarm: it must always
	// give the same answer and be safe for concurrent use.
	Clients int
	Client  func(i int) Client

	Threads        int           // default: GOMAXPROCS, or as many as RLIMIT_NOFILE needs, since it holds per thread
	ConnectRate    int           // connects a second over all threads; default 5000
	ConnectFrom    int           // with ConnectOver: the rate at the start, from which it grows evenly to ConnectRate
	ConnectOver    time.Duration // how long it takes to; default 0, at once
	ConnectPending int           // connects and logins under way over all threads; default 512
	ConnectTimeout time.Duration // from connect to the auth reply; default 30 s
	Heartbeat      time.Duration // period of a client's heartbeats, spread evenly; default 60 s, negative for none

	// Gather is how long a thread rests after a round that brought few events, so that the
	// next brings more at once. Where the server is on the same machine it pays for each
	// wakeup of a thread, at the expense of what is measured: on a 2-core virtual machine a
	// third of a send. It is part of every latency, at most once. The default is 200 us, and
	// as many times that as there are threads a processor, so that what arrives in a second
	// costs as many wakeups however many threads the clients need; negative for none.
	Gather time.Duration

	// LocalAddrs are the source addresses, used in turn. Past about 12,000 ports of one
	// source address connecting slows down. The default is one address of 127.0.0.0/8 for
	// every 8000 clients where the target is there too, and the kernel's choice elsewhere.
	LocalAddrs []netip.Addr

	ReadBuffer    int // bytes, one buffer a thread; default 128 KiB
	ReceiveBuffer int // SO_RCVBUF of the clients' sockets; default: the kernel's

	Behaviours Behaviours
	TLS        *tls.Config // of the clients inside TLS; without a ServerName the target's host is it

	// ClockOffset is how far the clock of the pushes' intended times is ahead of this
	// process's, in nanoseconds: it is added to each arrival, and may change meanwhile. Nil
	// where both are one process's.
	ClockOffset *atomic.Int64

	// Raw clients don't log in: a connection counts as joined as soon as it is there, inside TLS
	// where it is to be, and WebSocket ones start with frames, without the HTTP upgrade.
	Raw bool

	// InTurn has the threads connect their clients one after the other, as many as there are
	// processors at a time, where there are more than these and one target. Who comes together is
	// together in the target too, so that what it sends to all of them wakes one thread for many
	// clients, and not each thread for a few. It is for clients who are all sent the same: else
	// those who share a thread with the members of a large room wait until it has read these.
	InTurn bool

	run     int // consecutive clients that have a thread and a target in common
	abreast int // threads that connect at a time, in the order of their numbers
}

// Bounds and defaults of Config.
const (
	defaultConnectRate    = 5000
	defaultConnectPending = 512
	defaultConnectTimeout = 30 * time.Second
	defaultHeartbeat      = time.Minute
	defaultGather         = 200 * time.Microsecond
	defaultReadBuffer     = 128 << 10
	minReadBuffer         = 4 << 10
	fdReserve             = 64 // descriptors of a thread that are no clients
	clientsPerLocalAddr   = 8000

	// Clients are dealt out to threads and targets in runs, and a thread connects one run
	// after the other. Where an fd table is small, a million clients need some fifty comets;
	// one after the other they would wake each comet for a single login at a time, which
	// costs a 2-core machine half of its connects a second. In runs each comet meets the
	// crowd that a larger one would.
	longestRun = 64
	runsEach   = 16 // a thread or target has about so many runs at least, so that parts are even
)

// fill returns c with defaults in place of zeros, or an error that names the field.
func (c Config) fill() (Config, error) {
	switch {
	case c.Streams == nil:
		return c, errors.New("swarm: Streams is missing")
	case c.Clients < 0 || c.Client == nil && c.Clients > 0:
		return c, fmt.Errorf("swarm: Clients is %d, and Client must describe each of them", c.Clients)
	case c.Threads < 0:
		return c, fmt.Errorf("swarm: Threads is %d, must not be negative", c.Threads)
	case c.ConnectRate < 0:
		return c, fmt.Errorf("swarm: ConnectRate is %d, must not be negative", c.ConnectRate)
	case c.ConnectOver < 0 || c.ConnectOver > 0 && c.ConnectFrom < 1:
		return c, fmt.Errorf("swarm: ConnectFrom is %d and ConnectOver %v, a ramp must start with 1 a second at least", c.ConnectFrom, c.ConnectOver)
	case c.ReadBuffer != 0 && c.ReadBuffer < minReadBuffer:
		return c, fmt.Errorf("swarm: ReadBuffer is %d bytes, must be at least %d", c.ReadBuffer, minReadBuffer)
	}
	limit, err := fdtable.Limit()
	if err != nil {
		return c, err
	}
	most := limit - fdReserve
	if most < 1 {
		return c, fmt.Errorf("swarm: the limit of open files is %d, at least %d is needed: raise it with ulimit -n", limit, fdReserve+1)
	}
	if c.Threads == 0 {
		c.Threads = max(runtime.GOMAXPROCS(0), (c.Clients+most-1)/most)
		if c.deal(); c.perThread() > most { // by less than a run
			c.Threads++
		}
	}
	c.deal()
	if need := c.perThread(); need > most {
		return c, fmt.Errorf("swarm: %d clients on %d threads need %d open files a thread, the limit is %d: use more threads, or raise it with ulimit -n %d",
			c.Clients, c.Threads, need+fdReserve, limit, need+fdReserve)
	}
	c.ConnectRate = orDefault(c.ConnectRate, defaultConnectRate)
	c.ConnectPending = orDefault(c.ConnectPending, defaultConnectPending)
	c.ConnectTimeout = orDefault(c.ConnectTimeout, defaultConnectTimeout)
	c.Heartbeat = orDefault(c.Heartbeat, defaultHeartbeat)
	c.Gather = orDefault(c.Gather, defaultGather*time.Duration(max(1, c.Threads/runtime.NumCPU())))
	c.ReadBuffer = orDefault(c.ReadBuffer, defaultReadBuffer)
	if c.ClockOffset == nil {
		c.ClockOffset = new(atomic.Int64)
	}
	return c, nil
}

// deal sets how long a run is, and how many threads connect at a time, and no more threads than
// there are clients for.
func (c *Config) deal() {
	c.Threads = max(1, min(c.Threads, c.Clients))
	targets := max(len(c.Targets.TCP), len(c.Targets.WS), len(c.Targets.TCPTLS), len(c.Targets.WSS))
	if processors := runtime.NumCPU(); c.InTurn && targets == 1 && c.Threads > processors {
		c.run, c.abreast = (c.Clients+c.Threads-1)/c.Threads, processors
		return
	}
	c.run, c.abreast = max(1, min(c.Clients/(runsEach*max(c.Threads, targets)), longestRun)), c.Threads
}

// perThread returns how many clients a thread has at most.
func (c *Config) perThread() int {
	runs := (c.Clients + c.run - 1) / c.run
	return min((runs+c.Threads-1)/c.Threads*c.run, c.Clients)
}

// slots is how many clients of a thread may be on their way to joined at a time.
func (c *Config) slots() int { return max(1, c.ConnectPending/c.abreast) }

// threadOf returns the thread that client i belongs to.
func (c *Config) threadOf(i int) int { return i / c.run % c.Threads }

// targetOf returns which of n targets client i connects to.
func (c *Config) targetOf(i, n int) int { return i / c.run % n }

// global returns the number over all threads of a thread's client i.
func (c *Config) global(thread, i int) int { return (i/c.run*c.Threads+thread)*c.run + i%c.run }

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
