package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/harness/report"
	"barrage/harness/swarm"
	"barrage/server/wire"
)

const testTimeout = 60 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok, or fails the test at the deadline.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// The streams of all tests: both go to all clients.
const pushes = 40

func testStreams(t testing.TB) *ledger.Streams {
	t.Helper()
	s, err := ledger.NewStreams([]ledger.Stream{{ID: 1, Pushes: pushes}, {ID: 2, Pushes: pushes, WarmUp: true}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var testPlans = []ledger.Plan{{Stream: 1, Pushed: pushes, Unknown: []uint32{3}}, {Stream: 2, Pushed: pushes}}

// testClients describes a part of the clients, as harness's layout does.
func testClients(streams *ledger.Streams, targets swarm.Targets, clients, part, parts int) (swarm.Config, error) {
	set, err := streams.Subscribe(1, 2)
	return swarm.Config{
		Targets: targets, Streams: streams, Threads: 2, Clients: (clients - part + parts - 1) / parts,
		Client: func(i int) swarm.Client { return swarm.Client{Key: strconv.Itoa(i*parts + part), Subscription: set} },
	}, err
}

// A fakeComet speaks goim's protocol over TCP. When start is closed it sends each client
// what plan says for its number.
type fakeComet struct {
	t     testing.TB
	l     net.Listener
	start chan struct{}
	plan  func(client int) []ledger.Stamp
	wg    sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // mu guards; those that are open
}

func startFakeComet(t testing.TB, plan func(client int) []ledger.Stamp) *fakeComet {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &fakeComet{t: t, l: l, start: make(chan struct{}), plan: plan, conns: make(map[net.Conn]bool)}
	c.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.conns[conn] = true
			c.mu.Unlock()
			c.wg.Go(func() { c.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.mu.Lock()
		for conn := range c.conns {
			conn.Close()
		}
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

func (c *fakeComet) targets() swarm.Targets { return swarm.Targets{TCP: []string{c.l.Addr().String()}} }

func (c *fakeComet) open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.conns)
}

func (c *fakeComet) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		c.mu.Lock()
		delete(c.conns, conn)
		c.mu.Unlock()
	}()
	buf := make([]byte, 4096)
	n, err := io.ReadAtLeast(conn, buf, wire.HeaderLen)
	if err != nil {
		return // the swarm left
	}
	auth, _, err := wire.Decode(buf[:n], wire.MaxClientBody)
	var token struct{ Key string }
	if err != nil || json.Unmarshal(auth.Body, &token) != nil {
		c.t.Errorf("auth frame %q: %v", buf[:n], err)
		return
	}
	client, err := strconv.Atoi(token.Key)
	if err != nil {
		c.t.Error(err)
		return
	}
	_, _ = conn.Write(wire.AppendFrame(nil, wire.Frame{Ver: auth.Ver, Op: wire.OpAuthReply, Seq: auth.Seq}))
	gone := make(chan struct{})
	c.wg.Go(func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, conn)
	})
	select {
	case <-c.start:
	case <-gone:
		return
	}
	var out []byte
	for _, stamp := range c.plan(client) {
		out = wire.AppendFrame(out, wire.Frame{Ver: wire.Version, Op: 1000, Body: ledger.AppendBody(nil, stamp, 40)})
	}
	_, _ = conn.Write(out)
	<-gone
}

// faultyPlan drops, doubles and swaps by a seed. Latencies are all either nothing or more
// than a histogram holds, so that two runs have the same ones.
func faultyPlan(client int) (stamps []ledger.Stamp) {
	r := rand.New(rand.NewPCG(uint64(client), 5))
	for stream := uint16(1); stream <= 2; stream++ {
		stamp := func(seq uint32) {
			intended := ledger.Now() + int64(time.Hour)
			if seq%3 == 0 {
				intended -= 2 * int64(time.Hour)
			}
			stamps = append(stamps, ledger.Stamp{Stream: stream, Seq: seq, Intended: intended})
		}
		for seq := uint32(0); seq < pushes; seq++ {
			switch p := r.IntN(10); {
			case p == 0 && seq+1 < pushes: // the last one stays, for the end is known by it
				continue
			case p == 1:
				stamp(seq)
				stamp(seq)
			case p == 2 && seq+1 < pushes:
				stamp(seq + 1)
				stamp(seq)
				seq++
			default:
				stamp(seq)
			}
		}
	}
	return stamps
}

// framesOf is how many pushes a plan has for so many clients.
func framesOf(plan func(int) []ledger.Stamp, clients int) (n int64) {
	for i := range clients {
		n += int64(len(plan(i)))
	}
	return n
}

// logBuffer keeps a server's log.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A testAgent is a server whose jobs say how many clients there are in all.
type testAgent struct {
	*Server
	addr string
	log  logBuffer
	stop func() // what the end of the process would do
}

const testBuild = "barrage test"

func startAgent(t testing.TB, security Security, skew time.Duration) *testAgent {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &testAgent{addr: l.Addr().String()}
	a.Server, err = NewServer(ServerConfig{
		Security: security, Build: testBuild, Boot: "boot-" + a.addr, Log: slog.New(slog.NewTextHandler(&a.log, nil)),
		Prepare: func(j Job) (Work, error) {
			var clients int
			if _, err := fmt.Sscanf(j.Scenario, "clients: %d", &clients); err != nil {
				return Work{}, fmt.Errorf("%s: %w", j.File, err)
			}
			cfg, err := testClients(testStreams(t), j.Targets, clients, j.Part, j.Parts)
			return Work{Swarm: cfg, Starts: []Start{{1, time.Second}, {2, 0}}}, err
		},
		Environment: func() report.Environment { return report.Environment{CPU: "cpu of " + a.addr, Cores: 3} },
		Load: func() Load {
			return Load{MachineLoad: MachineLoad{Busy: time.Minute, TCPShort: 1, TCPDropped: 2, Packets: 3, PacketsDropped: 4}, Hiccups: 5}
		},
	}, l)
	if err != nil {
		l.Close()
		t.Fatal(err)
	}
	a.now = func() int64 { return ledger.Now() + int64(skew) }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, l) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(a.stop)
	return a
}

// dialFleet connects to agents that have so many clients together.
func dialFleet(t testing.TB, comet *fakeComet, clients int, cfg FleetConfig, agents ...*testAgent) *Fleet {
	t.Helper()
	f, err := tryDial(t, comet, clients, cfg, agents...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

func tryDial(t testing.TB, comet *fakeComet, clients int, cfg FleetConfig, agents ...*testAgent) (*Fleet, error) {
	t.Helper()
	if cfg.Build == "" {
		cfg.Build = testBuild
	}
	for _, a := range agents {
		cfg.Addrs = append(cfg.Addrs, a.addr)
	}
	return Dial(testContext(t), cfg, Job{File: "test.yaml", Scenario: fmt.Sprintf("clients: %d", clients), Targets: comet.targets()}, testStreams(t))
}

// closesOpen waits until the comet has no client left.
func (c *fakeComet) closesOpen(what string) {
	c.t.Helper()
	eventually(c.t, "the clients leave when "+what, func() bool { return c.open() == 0 })
}

func contains(t testing.TB, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in %q", w, text)
		}
	}
}
