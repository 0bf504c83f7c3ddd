package swarm

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

func TestSocketsOfTheSwarmAreNotTheProcesss(t *testing.T) {
	const clients = 50
	streams := newStreams(t)
	set := subscribe(t, streams)
	ended := make(chan error, clients)
	addr := serveWith(t, func(conn net.Conn) {
		write(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuthReply}))(conn)
		_, err := io.Copy(io.Discard, conn)
		ended <- err
	})
	s := newSwarm(t, Config{
		Targets: Targets{TCP: []string{addr}}, Streams: streams, Clients: clients, Threads: 2,
		Client: func(int) Client { return Client{Kind: ledger.TCP, Subscription: set} },
	})
	if err := s.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	// The server's half is here: 50 sockets, and not 100.
	if len(entries) >= 2*clients {
		t.Errorf("the process has %d open files", len(entries))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range clients {
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Fatal("a connection is still open after Close")
		}
	}
}
