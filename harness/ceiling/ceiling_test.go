package ceiling

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
)

// The tests' binary is its own sending side.
func TestMain(m *testing.M) {
	if len(os.Args) >= 2 && os.Args[1] == "ceiling" {
		os.Exit(Main(os.Args[2:]))
	}
	if len(os.Args) == 3 && os.Args[1] == "heartbeats" {
		connections, err := strconv.Atoi(os.Args[2])
		if err == nil {
			err = serveHeartbeats(connections)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestRunMeasuresAndBalances(t *testing.T) {
	for name, cfg := range map[string]Config{
		"half WebSocket":      {Clients: 300, Kind: dealt(ledger.TCP, ledger.WebSocket), BodySize: 64, WriteSize: 8000},
		"TCP alone":           {Clients: 100, BodySize: 16, WriteSize: 1},
		"WebSocket":           {Clients: 100, Kind: dealt(ledger.WebSocket), BodySize: 64, WriteSize: 200_000},
		"all inside TLS":      {Clients: 60, Kind: dealt(ledger.TCPTLS, ledger.WSS), BodySize: 64, WriteSize: 200_000},
		"a third inside TLS":  {Clients: 90, Kind: dealt(ledger.TCP, ledger.WebSocket, ledger.WSS), BodySize: 64, WriteSize: 8000},
		"another address":     {Clients: 20, Address: "127.0.0.2", Kind: dealt(ledger.TCP, ledger.WSS), BodySize: 64, WriteSize: 100},
		"a client inside TLS": {Clients: 1, Kind: dealt(ledger.TCPTLS), BodySize: 64, WriteSize: 100},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Sweeps, cfg.Pause, cfg.Duration = 5, time.Millisecond, 200*time.Millisecond
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			r, err := Run(ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			secure := 0
			for i := range cfg.Clients {
				if cfg.Kind != nil && cfg.Kind(i).TLS() {
					secure++
				}
			}
			if r.Clients != cfg.Clients || r.Secure != secure {
				t.Errorf("%d clients, %d of them inside TLS; want %d and %d", r.Clients, r.Secure, cfg.Clients, secure)
			}
			if s := r.Sweep; s.Sweeps != 5 || s.Median <= 0 || s.Median > s.P99 || s.P99 > s.Max || s.SendMedian <= 0 || s.Threads < 1 {
				t.Errorf("sweep %+v", s)
			}
			want := max(1, cfg.WriteSize/(16+cfg.BodySize))
			if f := r.Throughput; f.FramesPerSend != want || f.Sends == 0 || f.SendsPerSecond <= 0 || f.BytesPerSend < float64(want*(16+cfg.BodySize)) || f.Drained < 0 {
				t.Errorf("throughput %+v", f)
			}
		})
	}
}

// dealt has the clients take the transports in turn.
func dealt(kinds ...ledger.Kind) func(i int) ledger.Kind {
	return func(i int) ledger.Kind { return kinds[i%len(kinds)] }
}

// limited is a sending side that may have so many open files in a table.
func limited(t *testing.T, files int) (exe string, args []string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return "/bin/sh", []string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$0" ceiling`, files), self}
}

func TestRunHasMoreConnectionsThanATableHolds(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg := Config{Clients: 301, Kind: dealt(ledger.TCP, ledger.WebSocket, ledger.TCP, ledger.TCPTLS, ledger.WSS), BodySize: 64, WriteSize: 8000, Sweeps: 5, Pause: time.Millisecond, Duration: 200 * time.Millisecond}
	cfg.Exe, cfg.Args = limited(t, fdReserve+40)
	r, err := Run(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s := r.Sweep; s.Sweeps != 5 || s.Median <= 0 || s.CPUSecondsPerSend < 0 {
		t.Errorf("sweep %+v", s)
	}
	// Each sweep went to all sockets of all tables.
	if f := r.Throughput; f.Sends+f.Skipped != 301*f.Sweeps || f.Sends == 0 {
		t.Errorf("throughput %+v", f)
	}
}

func TestRunSaysThatATableIsTooSmall(t *testing.T) {
	cfg := Config{Clients: 10, BodySize: 64}
	cfg.Exe, cfg.Args = limited(t, fdReserve)
	if _, err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "the limit of open files is 64, at least 65") {
		t.Error(err)
	}
}

// Where one sweep takes longer than there is time for all, three are made all the same, and large
// writes go by sendfile alone.
func TestLargeSweepsAreFewer(t *testing.T) {
	for _, size := range []int{100, 8000} {
		r, err := Run(context.Background(), Config{Clients: 50, Kind: dealt(ledger.TCP, ledger.WebSocket), BodySize: 64, WriteSize: size, Sweeps: 1000, SweepFor: time.Nanosecond, Duration: time.Nanosecond})
		if err != nil {
			t.Fatal(err)
		}
		if f := r.Throughput; r.Sweep.Sweeps != 3 || r.Sweep.Median <= 0 || f.Sweeps != 3 || f.Sends+f.Skipped != 150 || f.Sendfile != (size >= leastPages) {
			t.Errorf("writes of %d bytes: %+v", size, r)
		}
	}
}

func TestTakesTwoMinutesAtMost(t *testing.T) {
	last := time.Duration(0)
	for _, clients := range []int{1, 1000, 10_000, 100_000, 400_000} {
		if takes := Takes(clients, 0); takes < last || takes > time.Minute {
			t.Errorf("%d clients take %v, fewer of them %v", clients, takes, last)
		} else {
			last = takes
		}
	}
	if takes := Takes(1_000_000, 0); takes > 2*time.Minute {
		t.Errorf("a million clients take %v", takes)
	}
}

func TestPartsAreAllSocketsOnce(t *testing.T) {
	sockets := func(from, n int) *group {
		g := &group{}
		for i := range n {
			g.sockets = append(g.sockets, socket{fd: int32(from + i)})
		}
		return g
	}
	for _, c := range []struct {
		name   string
		groups []*group
		n      int
		want   []int // sockets of each part
	}{
		{"no sockets", []*group{{}}, 2, nil},
		{"one group, shared out", []*group{sockets(0, 5)}, 2, []int{2, 3}},
		{"fewer sockets than threads", []*group{sockets(0, 2)}, 4, []int{1, 1}},
		{"groups are not divided", []*group{sockets(0, 5), sockets(5, 4), sockets(9, 5)}, 2, []int{5, 4, 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []int
			next := int32(0)
			for _, p := range (&sender{groups: c.groups}).parts(c.n) {
				got = append(got, len(p.sockets))
				for _, s := range p.sockets {
					if s.fd != next {
						t.Errorf("socket %d comes where %d should", s.fd, next)
					}
					next++
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("parts of %d sockets, want %d", got, c.want)
			}
		})
	}
}

func TestKindsAreMixedEvenly(t *testing.T) {
	for _, c := range []struct{ tcp, ws int }{{0, 0}, {3, 0}, {0, 2}, {5, 5}, {9, 1}, {2, 12}, {300, 100}} {
		list := mixed(make([]socket, c.tcp), slices.Repeat([]socket{{ws: true}}, c.ws))
		if len(list) != c.tcp+c.ws {
			t.Fatalf("%d and %d are %d", c.tcp, c.ws, len(list))
		}
		ws := 0
		for i, s := range list {
			if s.ws {
				ws++
			}
			if due := float64(c.ws) * float64(i+1) / float64(len(list)); math.Abs(float64(ws)-due) > 1 {
				t.Errorf("%d TCP, %d WebSocket: %d WebSocket among the first %d", c.tcp, c.ws, ws, i+1)
			}
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := Run(ctx, Config{Clients: 50, BodySize: 64, WriteSize: 64, Sweeps: 1000})
	if err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestConfigErrorsNameTheField(t *testing.T) {
	for want, cfg := range map[string]Config{
		"Clients":  {},
		"BodySize": {Clients: 1, BodySize: 3},
		"start":    {Clients: 1, BodySize: 64, Exe: "/does/not/exist"},
	} {
		if _, err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestSenderEndsWithItsInput(t *testing.T) {
	var out bytes.Buffer
	if err := serve(net.IPv4(127, 0, 0, 1), strings.NewReader(""), &out); err != nil || !strings.HasPrefix(out.String(), `{"addrs":["127.0.0.1:`) {
		t.Errorf("%q, %v", out.String(), err)
	}
	// Even while it waits for connections.
	if err := serve(net.IPv4(127, 0, 0, 1), strings.NewReader(`{"accept":{"connections":1}}`), io.Discard); err != nil {
		t.Error(err)
	}
	if err := serve(net.IPv4(127, 0, 0, 1), strings.NewReader("nonsense"), io.Discard); err == nil {
		t.Error("nonsense gave no error")
	}
}

// BenchmarkRun measures the ceiling itself, half of the clients WebSocket.
func BenchmarkRun(b *testing.B) {
	for _, c := range []struct{ clients, size int }{{10_000, 80}, {10_000, 8000}, {100_000, 80}} {
		b.Run(fmt.Sprintf("clients=%d/write=%d", c.clients, c.size), func(b *testing.B) {
			for range b.N {
				r, err := Run(context.Background(), Config{Clients: c.clients, Kind: dealt(ledger.TCP, ledger.WebSocket), BodySize: 64, WriteSize: c.size})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(r.Sweep.Median.Microseconds())/1e3, "ms-sweep-p50")
				b.ReportMetric(float64(r.Sweep.P99.Microseconds())/1e3, "ms-sweep-p99")
				b.ReportMetric(r.Throughput.SendsPerSecond, "sends/s")
				b.ReportMetric(r.Throughput.CPUSecondsPerSend*1e6, "cpu-us/send")
				b.ReportMetric(float64(r.Throughput.Skipped), "skipped")
				b.Logf("%+v", r)
			}
		})
	}
}

// What is sent from a file is what is sent without one, in either framing.
func TestSharedWritesAreTheSame(t *testing.T) {
	var w write
	w.build(ledger.Stamp{Stream: 1, Intended: 5}, 3, 64)
	for _, ws := range []bool{false, true} {
		var got [2][]byte
		for i := range got {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			s := &socket{fd: int32(pair[0]), ws: ws}
			if i == 1 {
				w.share()
			}
			p := w.to(s)
			if shared := p.file > 0; shared != (i == 1) || s.send(p) != sent {
				t.Fatalf("ws %v: sent from a file: %v, want %v", ws, shared, i == 1)
			}
			got[i] = make([]byte, 2*len(p.bytes))
			n, err := unix.Read(pair[1], got[i])
			if err != nil || n != len(p.bytes) {
				t.Fatalf("ws %v: read %d bytes, %v", ws, n, err)
			}
			w.unshare()
			unix.Close(pair[0])
			unix.Close(pair[1])
		}
		if !bytes.Equal(got[0], got[1]) {
			t.Errorf("ws %v: sent %x, from a file %x", ws, got[0], got[1])
		}
	}
}
