package swarm

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/fdtable"
	"barrage/server/wire"
)

// A dumbServer accepts any number of connections, upgrades those of WebSocket clients, and
// answers each with an auth reply, unasked. It keeps nothing of them but their descriptors, on
// threads whose tables are their own too.
type dumbServer struct {
	listeners []*os.File
	addrs     []string
	ended     chan struct{}
}

// startDumbServer makes a server for clients connections, all of one kind.
func startDumbServer(t testing.TB, clients int, kind ledger.Kind) *dumbServer {
	t.Helper()
	limit, err := fdtable.Limit()
	if err != nil {
		t.Fatal(err)
	}
	perThread := limit - fdReserve - longestRun
	threads := (clients + perThread - 1) / perThread
	d := &dumbServer{ended: make(chan struct{}, threads)}
	shared, err := fdtable.Shared()
	if err != nil {
		t.Fatal(err)
	}
	reply := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuthReply, Seq: 1})
	if kind.WebSocket() {
		reply = append([]byte{0x80 | wsBinary, byte(len(reply))}, reply...)
	}
	for range threads {
		l := listen(t)
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			t.Fatalf("listener is a %T", l)
		}
		f, err := tcp.File() // blocking, and a descriptor of our own
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		d.listeners = append(d.listeners, f)
		d.addrs = append(d.addrs, l.Addr().String())
		fd := int(f.Fd())
		count := clients/threads + longestRun // clients come in runs, so that some threads get one more
		fdtable.Go(append(shared[:len(shared):len(shared)], fd), func(err error) {
			defer func() { d.ended <- struct{}{} }()
			if err != nil {
				t.Error(err)
				return
			}
			buf := make([]byte, maxUpgrade)
			for range count {
				conn, _, err := unix.Accept(fd)
				if err != nil {
					return // shut down
				}
				if kind.WebSocket() {
					if err := answerUpgrade(conn, buf); err != nil {
						t.Errorf("upgrade: %v", err)
						return
					}
				}
				_, _ = send(int32(conn), reply)
			}
			_, _, _ = unix.Accept(fd) // until it is shut down
		})
	}
	t.Cleanup(func() {
		for _, f := range d.listeners {
			_ = unix.Shutdown(int(f.Fd()), unix.SHUT_RDWR)
		}
		for range d.listeners {
			<-d.ended
		}
		for _, f := range d.listeners {
			f.Close()
		}
	})
	return d
}

// answerUpgrade reads a client's request for a WebSocket, with the space of buf, and grants it.
func answerUpgrade(conn int, buf []byte) error {
	n := 0
	for !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
		more, err := unix.Read(conn, buf[n:])
		if err == nil && more == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("read the request: %w", err)
		}
		n += more
	}
	var answer bytes.Buffer
	if err := acceptUpgrade(bufio.NewReader(bytes.NewReader(buf[:n])), &answer); err != nil {
		return err
	}
	_, err := send(int32(conn), answer.Bytes())
	return err
}

// userMemory returns what the process uses itself after a collection, in bytes: its
// resident anonymous memory, which is everything, and the Go heap and stacks in use.
// The least of a few samples counts, since memory is given back beside us.
func userMemory(t testing.TB) (rss, goInUse int64) {
	t.Helper()
	rss, goInUse = sampleMemory(t)
	for range 4 {
		r, g := sampleMemory(t)
		rss, goInUse = min(rss, r), min(goInUse, g)
	}
	return rss, goInUse
}

func sampleMemory(t testing.TB) (rss, goInUse int64) {
	t.Helper()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) > 1 && string(fields[0]) == "RssAnon:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			rss = kib << 10
		}
	}
	return rss, int64(m.HeapInuse + m.StackInuse)
}

// measureMemory connects clients of a kind and returns the bytes that each of them costs, all of the
// swarm's memory divided by them: buffers, histograms and threads too.
func measureMemory(t testing.TB, clients int, kind ledger.Kind) (rss, goInUse float64, took time.Duration) {
	const streamCount = 4
	server := startDumbServer(t, clients, kind)
	idle := newStreams(t)
	small := newSwarm(t, Config{Streams: idle}) // what the runtime makes once, it has made now
	if err := small.Close(); err != nil {
		t.Fatal(err)
	}
	rssBefore, goBefore := userMemory(t)

	var list []ledger.Stream
	var ids []uint16
	for i := range streamCount {
		list = append(list, ledger.Stream{ID: uint16(i), Pushes: 1000})
		ids = append(ids, uint16(i))
	}
	streams := newStreams(t, list...)
	set := subscribe(t, streams, ids...)
	swarm := newSwarm(t, Config{
		Targets: Targets{TCP: server.addrs, WS: server.addrs}, Streams: streams, Clients: clients, ConnectRate: 40_000,
		Client: func(i int) Client {
			return Client{Kind: kind, Mid: int64(i), Key: fmt.Sprint("client-", i), Room: "live://1", Subscription: set}
		},
	})
	began := time.Now()
	if err := swarm.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	took = time.Since(began)
	if p := swarm.Snapshot(); p.Joined != int64(clients) {
		t.Fatalf("%d of %d joined: %v", p.Joined, clients, p.Failures)
	}
	rssAfter, goAfter := userMemory(t)
	return float64(rssAfter-rssBefore) / float64(clients), float64(goAfter-goBefore) / float64(clients), took
}

const memoryBudget = 256 // bytes a client

func TestMemoryOfAClient(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's shadow memory would be counted too")
	}
	for _, kind := range []ledger.Kind{ledger.TCP, ledger.WebSocket} {
		t.Run(kind.String(), func(t *testing.T) {
			rss, goInUse, _ := measureMemory(t, 10_000, kind)
			t.Logf("10,000 clients: %.0f B each resident, %.0f B each of Go heap and stacks", rss, goInUse)
			if rss > memoryBudget || goInUse > memoryBudget {
				t.Errorf("a client costs %.0f B resident, %.0f B of Go heap and stacks; %d B is the budget", rss, goInUse, memoryBudget)
			}
		})
	}
}

// BenchmarkClients connects so many clients to a dumb server and reports what each costs.
func BenchmarkClients(b *testing.B) {
	for _, kind := range []ledger.Kind{ledger.TCP, ledger.WebSocket} {
		for _, clients := range []int{10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", kind, clients), func(b *testing.B) {
				for range b.N {
					rss, goInUse, took := measureMemory(b, clients, kind)
					b.ReportMetric(rss, "B-resident/client")
					b.ReportMetric(goInUse, "B-go/client")
					b.ReportMetric(float64(clients)/took.Seconds(), "connects/s")
				}
			})
		}
	}
}
