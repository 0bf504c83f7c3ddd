package swarm

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

const testTimeout = 60 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func newSwarm(t testing.TB, cfg Config) *Swarm {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func newStreams(t testing.TB, list ...ledger.Stream) *ledger.Streams {
	t.Helper()
	streams, err := ledger.NewStreams(list)
	if err != nil {
		t.Fatal(err)
	}
	return streams
}

func subscribe(t testing.TB, streams *ledger.Streams, ids ...uint16) *ledger.Subscription {
	t.Helper()
	set, err := streams.Subscribe(ids...)
	if err != nil {
		t.Fatal(err)
	}
	return set
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

// The report on a server that drops, doubles and swaps by plan is that plan, exactly.
func TestReportEqualsTheFaultPlan(t *testing.T) {
	cases := []struct {
		name    string
		clients int
		pushes  uint32
		unknown []uint32
		rates   faultRates
	}{
		{"a good server", 100, 50, nil, faultRates{}},
		{"drops", 200, 50, nil, faultRates{drop: 0.1}},
		{"doubles", 200, 50, nil, faultRates{double: 0.1}},
		{"swaps", 200, 50, nil, faultRates{swap: 0.1}},
		{"pushes of unknown fate", 200, 50, []uint32{0, 7, 8, 30, 49}, faultRates{drop: 0.3, swap: 0.1}},
		{"everything at once", 1500, 60, []uint32{3, 59}, faultRates{drop: 0.05, double: 0.05, swap: 0.05, stray: 0.05}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			const foreign = 99
			streams := newStreams(t,
				ledger.Stream{ID: 1, Pushes: c.pushes}, ledger.Stream{ID: 2, Pushes: c.pushes},
				ledger.Stream{ID: 3, Pushes: c.pushes, WarmUp: true}, ledger.Stream{ID: foreign})
			sets := [][]uint16{{1, 2}, {2, 3}, {3}}
			unknown := make(map[uint32]bool)
			for _, seq := range c.unknown {
				unknown[seq] = true
			}
			plan := func(i int) faults {
				return planFaults(rand.New(rand.NewPCG(42, uint64(i))), c.rates, sets[i%len(sets)], c.pushes, unknown, foreign)
			}
			server := newFaultyServer(t, func(key string) faults {
				var i int
				if _, err := fmt.Sscanf(key, "client-%d", &i); err != nil {
					t.Errorf("key %q: %v", key, err)
				}
				return plan(i)
			})
			var subs []*ledger.Subscription
			for _, ids := range sets {
				subs = append(subs, subscribe(t, streams, ids...))
			}
			swarm := newSwarm(t, Config{
				Targets: server.targets(), Streams: streams, Threads: 3, ReadBuffer: 4 << 10, Heartbeat: 500 * time.Millisecond,
				Clients: c.clients,
				Client: func(i int) Client {
					return Client{Kind: ledger.Kind(i / 3 % 2), Mid: int64(i), Key: fmt.Sprintf("client-%d", i), Room: "live://1",
						Accepts: []int32{1000, 1001}, Subscription: subs[i%len(subs)]}
				},
			})
			ctx := testContext(t)
			if err := swarm.Connect(ctx); err != nil {
				t.Fatal(err)
			}
			if p := swarm.Snapshot(); p.Joined != int64(c.clients) {
				t.Fatalf("%d of %d joined: %+v", p.Joined, c.clients, p.Failures)
			}
			var want ledger.Counts
			var frames int64
			for i := range c.clients {
				f := plan(i)
				want.Add(f.want)
				frames += int64(len(f.frames))
			}
			for id := range uint16(3) {
				streams.Start(id + 1)
			}
			close(server.start)
			eventually(t, "all frames are read", func() bool { return swarm.Snapshot().Pushes >= frames })

			plans := []ledger.Plan{
				{Stream: 1, Pushed: c.pushes, Unknown: c.unknown},
				{Stream: 2, Pushed: c.pushes, Unknown: c.unknown},
				{Stream: 3, Pushed: c.pushes, Unknown: c.unknown},
			}
			report, err := swarm.Finish(ctx, plans)
			if err != nil {
				t.Fatal(err)
			}
			if got := report.Ledger.Total(); got != want {
				t.Errorf("the ledger's report is not the plan:\ngot  %+v\nwant %+v", got, want)
			}
			if report.ClosedEarly != 0 || report.Failed != 0 || report.Pushes != frames {
				t.Errorf("closed early %v, failures %v, %d pushes, want %d", report.Closes, report.Failures, report.Pushes, frames)
			}
			if d := report.Disorder; d.Duplicate != want.Duplicate || d.Reordered != want.Reordered {
				t.Errorf("live: %+v, want %d duplicate and %d reordered", d, want.Duplicate, want.Reordered)
			}
			where := map[string]int64{}
			for _, w := range report.Where {
				where[w.State] += w.Count
				where["all"] += w.Count
			}
			if where["joined"] != int64(c.clients) || where["all"] != int64(c.clients) {
				t.Errorf("clients by state: %+v", report.Where)
			}
			first := report.Ledger.AllLatency().TotalCount()
			if live := report.AllLatency.TotalCount(); live != first {
				t.Errorf("live: %d latencies, want %d", live, first)
			}
			if m := report.Ledger.Measured(); first != m.Delivered+m.Unknown {
				t.Errorf("%d latencies, want one for each of %d first receipts", first, m.Delivered+m.Unknown)
			}
			counts, err := swarm.Count(ctx, plans)
			if err != nil || counts != want {
				t.Errorf("count: %+v, %v", counts, err)
			}
			drained, err := swarm.Drain(ctx, plans[:0])
			if err != nil || !drained {
				t.Errorf("nothing is owed, but drain: %v, %v", drained, err)
			}
		})
	}
}

func TestLoginSaysWhatGoimExpects(t *testing.T) {
	streams := newStreams(t, ledger.Stream{ID: 1})
	server := newFaultyServer(t, func(string) faults { return faults{} })
	defer close(server.start)
	set := subscribe(t, streams, 1)
	swarm := newSwarm(t, Config{
		Targets: server.targets(), Streams: streams, Clients: 2, Heartbeat: 20 * time.Millisecond,
		Client: func(i int) Client {
			return Client{Kind: ledger.Kind(i), Mid: int64(7 + i), Key: fmt.Sprintf(`client-"%d`, i), Room: "live://1",
				Platform: "test", Accepts: []int32{1000, 1001}, Subscription: set}
		},
	})
	if err := swarm.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "heartbeats of both clients", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return server.beats >= 6
	})
	server.mu.Lock()
	defer server.mu.Unlock()
	for _, tok := range server.tokens {
		i := tok.Mid - 7
		if tok.Key != fmt.Sprintf(`client-"%d`, i) || tok.RoomID != "live://1" || tok.Platform != "test" || len(tok.Accepts) != 2 {
			t.Errorf("token %+v", tok)
		}
	}
}

// answer is what a server of TestCauses does with each connection.
type answer func(conn net.Conn)

func serveWith(t *testing.T, f answer) string {
	l := listen(t)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go f(conn)
		}
	}()
	return l.Addr().String()
}

func write(b []byte) answer {
	return func(conn net.Conn) {
		buf := make([]byte, 4096) // more than a ClientHello
		_, _ = conn.Read(buf)
		_, _ = conn.Write(b)
	}
}

func TestCauses(t *testing.T) {
	authReply := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuthReply})
	beat := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpHeartbeatReply, Body: make([]byte, 4)})
	closing := func(after []byte) answer {
		return func(conn net.Conn) {
			write(after)(conn)
			conn.Close()
		}
	}
	cases := []struct {
		name   string
		kind   ledger.Kind
		answer answer
		joins  bool
		want   Cause
		says   string
	}{
		{"nobody answers", ledger.TCP, func(net.Conn) {}, false, JoinTimeout, "waiting for the auth reply"},
		{"nobody upgrades", ledger.WebSocket, func(net.Conn) {}, false, JoinTimeout, "waiting for the upgrade"},
		{"closed instead of a reply", ledger.TCP, closing(nil), false, ServerClosed, "end of file"},
		{"closed during the handshake", ledger.TCPTLS, closing(nil), false, ServerClosed, "end of file"},
		{"garbage during the handshake", ledger.TCPTLS, write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")), false, HandshakeFailed, "TLS handshake: "},
		{"garbage instead of a reply", ledger.TCP, write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")), false, ProtocolError, "package length"},
		{"not found", ledger.WebSocket, write([]byte("HTTP/1.1 404 Not Found\r\n\r\n")), false, UpgradeRefused, "404 Not Found"},
		{"wrong accept", ledger.WebSocket, write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")), false, UpgradeRefused, "Sec-WebSocket-Accept"},
		{"endless header", ledger.WebSocket, write([]byte("HTTP/1.1 101 " + strings.Repeat("x", 5000))), false, UpgradeRefused, "no end"},
		{"closed after joining", ledger.TCP, closing(authReply), true, ServerClosed, "end of file"},
		{"closed behind more than is read at once", ledger.TCP, closing(slices.Concat(authReply, bytes.Repeat(beat, 16*defaultReadBuffer/len(beat)))), true, ServerClosed, "end of file"},
		{"garbage after joining", ledger.TCP, write(append(authReply, "\xff\xff\xff\xff garbage of some length"...)), true, ProtocolError, "package length"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			streams := newStreams(t, ledger.Stream{ID: 1})
			set := subscribe(t, streams, 1)
			addr := []string{serveWith(t, c.answer)}
			swarm := newSwarm(t, Config{
				Targets: Targets{TCP: addr, WS: addr, TCPTLS: addr}, TLS: &tls.Config{}, Streams: streams, Clients: 5, ConnectTimeout: 300 * time.Millisecond,
				Client: func(int) Client { return Client{Kind: c.kind, Subscription: set} },
			})
			if err := swarm.Connect(testContext(t)); err != nil {
				t.Fatal(err)
			}
			list := func() []CauseCount { return swarm.Snapshot().Failures }
			if c.joins {
				list = func() []CauseCount { return swarm.Snapshot().Closes }
			}
			eventually(t, "5 clients are gone", func() bool { l := list(); return len(l) == 1 && l[0].Count == 5 })
			got := list()[0]
			if got.Cause != c.want || len(got.Examples) != keptExamples || !strings.Contains(got.Examples[0], c.says) {
				t.Errorf("got %v %q, want %v with %q", got.Cause, got.Examples, c.want, c.says)
			}
		})
	}
}

func TestConnectRefused(t *testing.T) {
	l := listen(t)
	l.Close()
	streams := newStreams(t)
	set := subscribe(t, streams)
	swarm := newSwarm(t, Config{
		Targets: Targets{TCP: []string{l.Addr().String()}}, Streams: streams, Clients: 20,
		Client: func(int) Client { return Client{Subscription: set} },
	})
	if err := swarm.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	p := swarm.Snapshot()
	if p.Failed != 20 || len(p.Failures) != 1 || p.Failures[0].Cause != ConnectRefused {
		t.Errorf("%+v", p.Progress)
	}
}

func TestConnectIsPaced(t *testing.T) {
	streams := newStreams(t)
	set := subscribe(t, streams)
	addr := serveWith(t, write(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuthReply})))
	swarm := newSwarm(t, Config{
		Targets: Targets{TCP: []string{addr}}, Streams: streams, Clients: 200, ConnectRate: 400, Threads: 2,
		Client: func(int) Client { return Client{Subscription: set} },
	})
	began := time.Now()
	if err := swarm.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 450*time.Millisecond {
		t.Errorf("200 clients at 400 a second joined in %v", took)
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	streams := newStreams(t)
	set := subscribe(t, streams)
	swarm := newSwarm(t, Config{
		Targets: Targets{TCP: []string{serveWith(t, func(net.Conn) {})}}, Streams: streams, Clients: 10,
		Client: func(int) Client { return Client{Subscription: set} },
	})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := swarm.Connect(ctx); err == nil || !strings.Contains(err.Error(), "0 joined") {
		t.Errorf("error %v", err)
	}
}

func TestConfigErrorsNameTheField(t *testing.T) {
	streams := newStreams(t)
	set := subscribe(t, streams)
	one := func(int) Client { return Client{Subscription: set} }
	for want, cfg := range map[string]Config{
		"Streams":      {},
		"Client":       {Streams: streams, Clients: 1},
		"Threads":      {Streams: streams, Threads: -1},
		"ConnectRate":  {Streams: streams, ConnectRate: -1},
		"ReadBuffer":   {Streams: streams, ReadBuffer: 10},
		"ulimit -n":    {Streams: streams, Clients: 1 << 30, Client: one, Threads: 1},
		"no target":    {Streams: streams, Clients: 1, Client: one},
		"subscription": {Streams: streams, Clients: 1, Client: func(int) Client { return Client{} }, Targets: Targets{TCP: []string{"127.0.0.1:1"}}},
		"tcp target":   {Streams: streams, Clients: 1, Client: one, Targets: Targets{TCP: []string{"nonsense"}}},
	} {
		s, err := New(cfg)
		if err == nil {
			s.Close()
			t.Errorf("no error, want one with %q", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want one with %q", err, want)
		}
	}
}

func TestMethodsAfterCloseReturnAnError(t *testing.T) {
	streams := newStreams(t)
	s, err := New(Config{Streams: streams, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Connect(testContext(t)); err != nil {
		t.Errorf("connecting nobody: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Count(testContext(t), nil); err == nil {
		t.Error("count after close gave no error")
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// Clients connect from the addresses that they were given, in turn, whatever thread has them.
func TestLocalAddrs(t *testing.T) {
	server := newFaultyServer(t, func(string) faults { return faults{} })
	close(server.start)
	streams := newStreams(t, ledger.Stream{ID: 1})
	set := subscribe(t, streams, 1)
	var locals []netip.Addr
	want := map[string]int{}
	for i := range 3 {
		locals = append(locals, netip.AddrFrom4([4]byte{127, 9, 0, byte(i + 1)}))
		want[locals[i].String()] = 20
	}
	swarm := newSwarm(t, Config{
		Targets: server.targets(), Streams: streams, Threads: 2, Clients: 60, LocalAddrs: locals,
		Client: func(i int) Client {
			return Client{Kind: ledger.Kind(i % 2), Key: fmt.Sprintf("client-%d", i), Subscription: set}
		},
	})
	if err := swarm.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if p := swarm.Snapshot(); p.Joined != 60 {
		t.Fatalf("%d joined: %v", p.Joined, p.Failures)
	}
	got := map[string]int{}
	server.mu.Lock()
	for _, c := range server.conns {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		got[host]++
	}
	server.mu.Unlock()
	if !maps.Equal(got, want) {
		t.Errorf("clients came from %v, want %v", got, want)
	}
}
