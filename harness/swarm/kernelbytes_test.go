package swarm

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// What the swarm read is what the kernel handed out, to the byte, over both transports and
// wherever reads cut the frames.
func TestTheKernelCountsTheSameBytes(t *testing.T) {
	const clients, pushes = 200, 40
	streams := newStreams(t, ledger.Stream{ID: 1, Pushes: pushes})
	set := subscribe(t, streams, 1)
	server := newFaultyServer(t, func(key string) faults {
		var i uint64
		if _, err := fmt.Sscanf(key, "client-%d", &i); err != nil {
			t.Errorf("key %q: %v", key, err)
		}
		return planFaults(rand.New(rand.NewPCG(7, i)), faultRates{}, []uint16{1}, pushes, nil, 99)
	})
	swarm := newSwarm(t, Config{
		Targets: server.targets(), Streams: streams, Threads: 3, ReadBuffer: 4 << 10, Heartbeat: 200 * time.Millisecond, Clients: clients,
		Client: func(i int) Client {
			return Client{Kind: ledger.Kind(i % 2), Key: fmt.Sprintf("client-%d", i), Subscription: set}
		},
	})
	ctx := testContext(t)
	if err := swarm.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	close(server.start)
	// While frames are under way they are equal as well, since what waits in a socket is left out.
	for read, all := int64(0), false; !all; all = read >= clients*pushes {
		report, err := swarm.Finish(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c := report.Counted; c.Read != c.Kernel || c.Uncounted != 0 || c.Read == 0 {
			t.Fatalf("after %d pushes: %+v", report.Pushes, c)
		}
		read = report.Pushes
	}
}

// Clients that left are counted before they go. Only a reset takes the count with it.
func TestTheKernelsCountOfClientsThatLeft(t *testing.T) {
	reply := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuthReply, Body: make([]byte, 100)})
	reset := func(conn net.Conn) {
		write(reply)(conn)
		if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
	closed := func(b []byte) answer {
		return func(conn net.Conn) {
			write(b)(conn)
			conn.Close()
		}
	}
	refused := listen(t)
	cases := []struct {
		name      string
		addr      string
		bytes     int64 // of each client
		uncounted int64
	}{
		{"they are there", serveWith(t, write(reply)), 116, 0},
		{"they were never there", refused.Addr().String(), 0, 0},
		{"closed after joining", serveWith(t, closed(reply)), 116, 0},
		{"closed before joining", serveWith(t, closed(reply[:50])), 50, 0},
		{"dropped for what they were sent, and more is unread", serveWith(t, write(append(reply[:len(reply):len(reply)], make([]byte, minReadBuffer)...))), minReadBuffer, 0},
		{"reset", serveWith(t, reset), -1, 5},
	}
	refused.Close() // behind the others, or one of them got its port
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			const clients = 5
			streams := newStreams(t, ledger.Stream{ID: 1})
			set := subscribe(t, streams, 1)
			swarm := newSwarm(t, Config{
				Targets: Targets{TCP: []string{c.addr}}, Streams: streams, Clients: clients, ReadBuffer: minReadBuffer, Heartbeat: -1,
				Client: func(int) Client { return Client{Subscription: set} },
			})
			ctx := testContext(t)
			if err := swarm.Connect(ctx); err != nil {
				t.Fatal(err)
			}
			if c.name != "they are there" {
				eventually(t, "all are gone", func() bool { s := swarm.Snapshot(); return s.Failed+s.ClosedEarly == clients })
			}
			report, err := swarm.Finish(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := report.Counted
			if got.Uncounted != c.uncounted || c.bytes >= 0 && (got.Read != clients*c.bytes || got.Kernel != got.Read) || got.Kernel > got.Read {
				t.Errorf("%+v, want %d bytes a client, %d uncounted", got, c.bytes, c.uncounted)
			}
		})
	}
}
