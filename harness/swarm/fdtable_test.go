package swarm

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// idleSwarm returns a swarm whose threads have tables of their own by now.
func idleSwarm(t *testing.T) *Swarm {
	t.Helper()
	streams := newStreams(t)
	set := subscribe(t, streams)
	s := newSwarm(t, Config{
		Streams: streams, Threads: 4, Clients: 4, Targets: Targets{TCP: []string{"127.0.0.1:1"}},
		Client: func(int) Client { return Client{Subscription: set} },
	})
	if _, err := s.Count(testContext(t), nil); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestListenerOfTheProcessReallyCloses(t *testing.T) {
	l := listen(t)
	idleSwarm(t)
	l.Close()
	conn, err := net.DialTimeout("tcp", l.Addr().String(), time.Second)
	if err == nil {
		conn.Close()
		t.Fatal("a closed listener still accepts: a thread of the swarm holds it open")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
}

func TestPipesOfTheProcessReallyClose(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	idleSwarm(t)
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read of a pipe without writers: %v, want EOF", err)
	}
	stdin.Close()
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	select {
	case err := <-exited:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		_ = cmd.Process.Kill()
		t.Error("the child never saw the end of its stdin")
	}
}

// The runtime polls its own epoll from the swarm's threads too: garbage collections that
// they start themselves, and timers, must not abort the process.
func TestRuntimeSurvivesOnASwarmThread(t *testing.T) {
	s := idleSwarm(t)
	for _, th := range s.threads {
		for range 20 {
			err := th.do(testContext(t), func() {
				runtime.GC()
				time.AfterFunc(time.Microsecond, func() {}).Reset(time.Nanosecond)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

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
