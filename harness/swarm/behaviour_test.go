package swarm

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/comet/secure/securetest"
	"barrage/server/wire"
)

// A liveServer speaks goim's protocol on one port, and pushes what it is told to whoever is
// there, room by room.
type liveServer struct {
	t        *testing.T
	listener net.Listener
	ws       bool
	wg       sync.WaitGroup

	joins, resets, ends, changes atomic.Int64
	refuse                       atomic.Bool // closes new connections at once

	mu      sync.Mutex // guards what follows, and the order of writes
	members map[net.Conn]string
	next    map[string]uint32 // by room
}

func newLiveServer(t *testing.T, ws bool, cfg *tls.Config) *liveServer {
	t.Helper()
	s := &liveServer{t: t, listener: listen(t), ws: ws, members: map[net.Conn]string{}, next: map[string]uint32{}}
	if cfg != nil {
		s.listener = tls.NewListener(s.listener, cfg)
	}
	s.wg.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			if s.refuse.Load() {
				conn.Close()
				continue
			}
			s.wg.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() {
		s.listener.Close()
		s.mu.Lock()
		for conn := range s.members {
			conn.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *liveServer) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	if s.ws {
		if err := acceptUpgrade(in, conn); err != nil {
			return
		}
	}
	for {
		f, err := readClientFrame(in, s.ws)
		if err != nil {
			s.mu.Lock()
			delete(s.members, conn)
			s.mu.Unlock()
			switch {
			case errors.Is(err, syscall.ECONNRESET):
				s.resets.Add(1)
			case errors.Is(err, io.EOF):
				s.ends.Add(1)
			}
			return
		}
		s.mu.Lock()
		switch f.Op {
		case wire.OpAuth:
			var tok token
			if err := json.Unmarshal(f.Body, &tok); err != nil {
				s.t.Errorf("auth body %q: %v", f.Body, err)
			}
			s.members[conn] = tok.RoomID
			s.joins.Add(1)
			s.write(conn, wire.Frame{Ver: 1, Op: wire.OpAuthReply, Seq: f.Seq})
		case wire.OpChangeRoom:
			s.members[conn] = string(f.Body)
			s.changes.Add(1)
			s.write(conn, wire.Frame{Ver: 1, Op: wire.OpChangeRoomReply, Seq: f.Seq})
		}
		s.mu.Unlock()
	}
}

// write sends a frame; mu must be held. A client that is gone gets none.
func (s *liveServer) write(conn net.Conn, f wire.Frame) {
	b := wire.AppendFrame(nil, f)
	if s.ws {
		b = append(wire.AppendWSHeader(nil, len(b)), b...)
	}
	_, _ = conn.Write(b)
}

// push sends the next push of a stream to the members of a room, and returns how many they are.
func (s *liveServer) push(room string, stream uint16, size int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for conn, in := range s.members {
		if in == room {
			n++
			s.write(conn, wire.Frame{Ver: 1, Op: 1000, Body: ledger.AppendBody(nil, ledger.Stamp{Stream: stream, Seq: s.next[room], Intended: ledger.Now()}, size)})
		}
	}
	s.next[room]++
	return n
}

func (s *liveServer) pushed(room string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next[room]
}

func (s *liveServer) targets() Targets {
	addr := []string{s.listener.Addr().String()}
	return Targets{TCP: addr, WS: addr, TCPTLS: addr, WSS: addr}
}

// everybody returns clients of one kind that are all in a room and own one stream.
func everybody(kind ledger.Kind, set *ledger.Subscription, behaviour func(i int) Behaviour) func(int) Client {
	return func(i int) Client {
		return Client{Kind: kind, Key: fmt.Sprint("client-", i), Room: "live://1", Accepts: []int32{1000}, Subscription: set, Behaviour: behaviour(i)}
	}
}

// Clients that come and go are owed what was pushed while they were there, and no more.
func TestChurningClients(t *testing.T) {
	server := newLiveServer(t, false, nil)
	streams := newStreams(t, ledger.Stream{ID: 1, Pushes: 100_000})
	set := subscribe(t, streams, 1)
	swarm := newSwarm(t, Config{
		Targets: server.targets(), Streams: streams, Threads: 2, Clients: 40, Heartbeat: -1,
		Behaviours: Behaviours{ChurnLives: 30 * time.Millisecond, ChurnAway: 10 * time.Millisecond},
		Client: everybody(ledger.TCP, set, func(i int) Behaviour {
			if i%2 == 0 {
				return Churning
			}
			return WellBehaved
		}),
	})
	ctx := testContext(t)
	if err := swarm.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	streams.Start(1)
	eventually(t, "300 comebacks", func() bool {
		server.push("live://1", 1, 64)
		return swarm.Snapshot().Rejoined >= 300
	})
	plans := []ledger.Plan{{Stream: 1, Pushed: server.pushed("live://1")}}
	if ok, err := swarm.Drain(ctx, plans); !ok || err != nil {
		t.Fatalf("drained %v, %v", ok, err)
	}
	r, err := swarm.Finish(ctx, plans)
	if err != nil {
		t.Fatal(err)
	}
	got := r.Ledger.Total()
	if got.Lost+got.Duplicate+got.Reordered+got.Unexpected.Total() != 0 || got.Expected < 20*int64(plans[0].Pushed) {
		t.Errorf("%v of %d pushes", got, plans[0].Pushed)
	}
	if r.Failed+r.ClosedEarly != 0 || r.Joined != 40 || r.RejoinTime.TotalCount() < 300 || r.RejoinTime.TotalCount() > r.Rejoined {
		t.Errorf("progress %+v, retries %v", r.Progress, r.Retries)
	}
	if resets := server.resets.Load(); server.ends.Load() == 0 || resets > server.ends.Load() {
		t.Errorf("%d ended with a FIN, %d with a RST", server.ends.Load(), resets)
	}
}

// A client that can't come back tries again until it can.
func TestChurningClientTriesAgain(t *testing.T) {
	server := newLiveServer(t, true, nil)
	streams := newStreams(t, ledger.Stream{ID: 1})
	swarm := newSwarm(t, Config{
		Targets: server.targets(), Streams: streams, Threads: 1, Clients: 1,
		Behaviours: Behaviours{ChurnLives: time.Millisecond, ChurnAway: 0},
		Client:     everybody(ledger.WebSocket, subscribe(t, streams, 1), func(int) Behaviour { return Churning }),
	})
	if err := swarm.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	server.refuse.Store(true)
	eventually(t, "a failed attempt", func() bool { return len(swarm.Snapshot().Retries) > 0 })
	if p := swarm.Snapshot(); p.Away != 1 || p.Failed != 0 || p.Present() != 0 {
		t.Errorf("progress %+v", p.Progress)
	}
	server.refuse.Store(false)
	before := swarm.Snapshot().Rejoined
	eventually(t, "the comeback", func() bool { return swarm.Snapshot().Rejoined > before })
}

// A storm takes the connections of the fraction that it is given and has them back.
func TestStorm(t *testing.T) {
	for _, reset := range []bool{false, true} {
		t.Run(fmt.Sprintf("reset %v", reset), func(t *testing.T) {
			server := newLiveServer(t, false, nil)
			streams := newStreams(t, ledger.Stream{ID: 1, Pushes: 100})
			swarm := newSwarm(t, Config{
				Targets: server.targets(), Streams: streams, Threads: 3, Clients: 1000, ConnectPending: 50,
				Client: everybody(ledger.TCP, subscribe(t, streams, 1), func(int) Behaviour { return WellBehaved }),
			})
			ctx := testContext(t)
			if err := swarm.Connect(ctx); err != nil {
				t.Fatal(err)
			}
			streams.Start(1)
			server.push("live://1", 1, 64)
			storm, err := swarm.Storm(ctx, 0.4, reset)
			if err != nil {
				t.Fatal(err)
			}
			if storm.Clients < 380 || storm.Clients > 420 || storm.Back != storm.Clients || storm.Took <= 0 {
				t.Errorf("storm %+v", storm)
			}
			// What a client was sent and had not read when it left is not owed to it.
			server.push("live://1", 1, 64)
			plans := []ledger.Plan{{Stream: 1, Pushed: 2}}
			if ok, err := swarm.Drain(ctx, plans); !ok || err != nil {
				t.Fatalf("drained %v, %v", ok, err)
			}
			r, err := swarm.Finish(ctx, plans)
			if err != nil {
				t.Fatal(err)
			}
			if r.StormTime.TotalCount() != storm.Clients || r.Rejoined != storm.Clients || r.Away != 0 || r.Ledger.Total().Unexpected.Total() != 0 {
				t.Errorf("%d times, progress %+v, %v", r.StormTime.TotalCount(), r.Progress, r.Ledger.Total())
			}
			eventually(t, "the server has seen the ends", func() bool {
				return server.resets.Load()+server.ends.Load() == storm.Clients
			})
			if resets := server.resets.Load(); reset != (resets == storm.Clients) {
				t.Errorf("%d of %d connections were reset", resets, storm.Clients)
			}
		})
	}
}

// Slow clients read what their rate allows, stalled ones nothing; both are accounted apart.
func TestLaggingClients(t *testing.T) {
	const pushes, size = 50, 1000
	server := newLiveServer(t, false, nil)
	streams := newStreams(t, ledger.Stream{ID: 1, Pushes: pushes})
	swarm := newSwarm(t, Config{
		Targets: server.targets(), Streams: streams, Threads: 2, Clients: 12,
		Behaviours: Behaviours{SlowRate: 20_000},
		Client: everybody(ledger.TCP, subscribe(t, streams, 1), func(i int) Behaviour {
			return []Behaviour{WellBehaved, SlowReader, Stalled}[i%3]
		}),
	})
	ctx := testContext(t)
	if err := swarm.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range pushes {
		if n := server.push("live://1", 1, size); n != 12 {
			t.Fatalf("%d members", n)
		}
	}
	plans := []ledger.Plan{{Stream: 1, Pushed: pushes}}
	if ok, err := swarm.Drain(ctx, plans); !ok || err != nil {
		t.Fatalf("drained %v, %v: the well-behaved don't wait for the others", ok, err)
	}
	var r *Report
	eventually(t, "the slow ones have it all", func() bool {
		var err error
		if r, err = swarm.Finish(ctx, plans); err != nil {
			t.Fatal(err)
		}
		return r.Lagging.Total().Delivered == 4*pushes
	})
	// 50 frames of 1016 bytes at 20,000 bytes a second.
	if took := time.Since(began); took < 2400*time.Millisecond {
		t.Errorf("slow clients read everything in %v", took)
	}
	if got := r.Ledger.Total(); got != (ledger.Counts{Expected: 4 * pushes, Delivered: 4 * pushes}) {
		t.Errorf("well-behaved: %v", got)
	}
	if got := r.Lagging.Total(); got != (ledger.Counts{Expected: 8 * pushes, Delivered: 4 * pushes, Lost: 4 * pushes}) {
		t.Errorf("slow and stalled: %v", got)
	}
	// The server loses patience.
	server.mu.Lock()
	for conn := range server.members {
		conn.Close()
	}
	server.mu.Unlock()
	eventually(t, "all are closed", func() bool {
		p := swarm.Snapshot()
		return p.ClosedEarly == 4 && p.LaggingClosed == 8 && p.Present() == 0
	})
}

// A client that vanishes acknowledges nothing any more: what the server sends it stays in
// the server's own buffers.
func TestHalfOpenClients(t *testing.T) {
	server := newLiveServer(t, false, nil)
	streams := newStreams(t, ledger.Stream{ID: 1, Pushes: 100})
	swarm := newSwarm(t, Config{
		Targets: server.targets(), Streams: streams, Threads: 1, Clients: 2, Heartbeat: 20 * time.Millisecond,
		Behaviours: Behaviours{HalfOpenLives: time.Millisecond},
		Client:     everybody(ledger.TCP, subscribe(t, streams, 1), func(i int) Behaviour { return []Behaviour{WellBehaved, HalfOpen}[i] }),
	})
	ctx := testContext(t)
	if err := swarm.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one vanished", func() bool { return swarm.Snapshot().Vanished == 1 })
	server.push("live://1", 1, 64)
	plans := []ledger.Plan{{Stream: 1, Pushed: 1}}
	if ok, err := swarm.Drain(ctx, plans); !ok || err != nil {
		t.Fatalf("drained %v, %v", ok, err)
	}
	unacked := func() (n int) {
		server.mu.Lock()
		defer server.mu.Unlock()
		for conn := range server.members {
			if tcp, ok := conn.(*net.TCPConn); ok && outQueue(t, tcp) > 0 {
				n++
			}
		}
		return n
	}
	eventually(t, "the other one's push is acknowledged, this one's is not", func() bool { return unacked() == 1 })
	if server.ends.Load()+server.resets.Load() != 0 || swarm.Snapshot().Present() != 1 {
		t.Error("the server was told that the client is gone")
	}
	r, err := swarm.Finish(ctx, plans)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Ledger.Total(); got != (ledger.Counts{Expected: 1, Delivered: 1}) {
		t.Errorf("the one that stayed: %v", got)
	}
}

// Clients that change rooms get all of the room that they are in, and nothing of the other.
func TestChangingRooms(t *testing.T) {
	server := newLiveServer(t, true, nil)
	streams := newStreams(t, ledger.Stream{ID: 1, Pushes: 100_000}, ledger.Stream{ID: 2, Pushes: 100_000})
	both, one, two := subscribe(t, streams, 1, 2), subscribe(t, streams, 1), subscribe(t, streams, 2)
	swarm := newSwarm(t, Config{
		Targets: server.targets(), Streams: streams, Threads: 2, Clients: 20, Behaviours: Behaviours{RoomChange: 40 * time.Millisecond},
		Client: func(i int) Client {
			c := Client{Kind: ledger.WebSocket, Key: fmt.Sprint("client-", i), Subscription: both, Room: "live://1", Home: one, OtherRoom: "live://2", Other: two}
			if i%2 == 1 {
				c.Room, c.Home, c.OtherRoom, c.Other = c.OtherRoom, c.Other, c.Room, c.Home
			}
			return c
		},
	})
	ctx := testContext(t)
	if err := swarm.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if err := swarm.ChangeRooms(ctx, true); err != nil {
		t.Fatal(err)
	}
	streams.Start(1)
	streams.Start(2)
	eventually(t, "500 changes", func() bool {
		server.push("live://1", 1, 64)
		server.push("live://2", 2, 64)
		return swarm.Snapshot().RoomChanges >= 500
	})
	if err := swarm.ChangeRooms(ctx, false); err != nil {
		t.Fatal(err)
	}
	plans := []ledger.Plan{{Stream: 1, Pushed: server.pushed("live://1")}, {Stream: 2, Pushed: server.pushed("live://2")}}
	if ok, err := swarm.Drain(ctx, plans); !ok || err != nil {
		t.Fatalf("drained %v, %v", ok, err)
	}
	r, err := swarm.Finish(ctx, plans)
	if err != nil {
		t.Fatal(err)
	}
	got := r.Ledger.Total()
	if got.Lost+got.Duplicate+got.Reordered+got.Unexpected.Total() != 0 || got.Delivered == 0 || r.RoomChanges != server.changes.Load() {
		t.Errorf("%v; %d changes, the server has seen %d", got, r.RoomChanges, server.changes.Load())
	}
}

// Clients inside TLS join, get everything, and can be cut off and come back.
func TestTLSClients(t *testing.T) {
	file, key, trusted := securetest.Pair(t, t.TempDir(), "server", "127.0.0.1")
	pair, err := tls.LoadX509KeyPair(file, key)
	if err != nil {
		t.Fatal(err)
	}
	serverTLS := &tls.Config{Certificates: []tls.Certificate{pair}}
	for _, kind := range []ledger.Kind{ledger.TCPTLS, ledger.WSS} {
		t.Run(kind.String(), func(t *testing.T) {
			server := newLiveServer(t, kind.WebSocket(), serverTLS)
			streams := newStreams(t, ledger.Stream{ID: 1, Pushes: 1000})
			swarm := newSwarm(t, Config{
				Targets: server.targets(), Streams: streams, Threads: 2, Clients: 100, Heartbeat: 50 * time.Millisecond,
				TLS:        &tls.Config{RootCAs: trusted},
				Behaviours: Behaviours{ChurnLives: 50 * time.Millisecond, SlowRate: 500_000},
				Client: everybody(kind, subscribe(t, streams, 1), func(i int) Behaviour {
					return []Behaviour{WellBehaved, Churning, SlowReader, WellBehaved}[i%4]
				}),
			})
			ctx := testContext(t)
			if err := swarm.Connect(ctx); err != nil {
				t.Fatal(err)
			}
			if p := swarm.Snapshot(); p.Joined != 100 {
				t.Fatalf("%d joined, %v", p.Joined, p.Failures)
			}
			streams.Start(1)
			for i := range 100 {
				size := 64
				if i%25 == 0 {
					size = 40_000 // more than a record holds
				}
				server.push("live://1", 1, size)
			}
			plans := []ledger.Plan{{Stream: 1, Pushed: 100}}
			if ok, err := swarm.Drain(ctx, plans); !ok || err != nil {
				t.Fatalf("drained %v, %v", ok, err)
			}
			storm, err := swarm.Storm(ctx, 1, false)
			if err != nil || storm.Clients != 50 || storm.Back != 50 {
				t.Errorf("storm %+v: %v", storm, err)
			}
			r, err := swarm.Finish(ctx, plans)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Ledger.Total(); got.Lost+got.Duplicate+got.Reordered+got.Unexpected.Total() != 0 || r.ClosedEarly != 0 {
				t.Errorf("%v; closed %v", got, r.Closes)
			}
		})
	}
	t.Run("a certificate that nobody vouches for", func(t *testing.T) {
		server := newLiveServer(t, false, serverTLS)
		streams := newStreams(t)
		swarm := newSwarm(t, Config{
			Targets: server.targets(), Streams: streams, Clients: 1, TLS: &tls.Config{},
			Client: everybody(ledger.TCPTLS, subscribe(t, streams), func(int) Behaviour { return WellBehaved }),
		})
		if err := swarm.Connect(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if f := swarm.Snapshot().Failures; len(f) != 1 || f[0].Cause != HandshakeFailed {
			t.Errorf("failures %v", f)
		}
	})
}

// The rate of a ramp grows from its first to its last value.
func TestConnectRamp(t *testing.T) {
	th := &thread{cfg: Config{ConnectRate: 1000, ConnectFrom: 200, ConnectOver: 4 * time.Second}, opened: 5e9}
	for at, want := range map[int64]float64{5e9: 200, 6e9: 400, 7e9: 600, 9e9: 1000, 30e9: 1000} {
		if got := th.connectRate(at); got != want {
			t.Errorf("after %v: %g a second, want %g", time.Duration(at-5e9), got, want)
		}
	}
}

// outQueue returns how many bytes the kernel still keeps until the peer acknowledges them.
func outQueue(t *testing.T, conn *net.TCPConn) int {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
