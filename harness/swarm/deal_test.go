package swarm

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// Each client has one thread and one place in it. In turn, threads beyond the processors have one
// run of clients each where there is one target.
func TestDeal(t *testing.T) {
	processors := runtime.NumCPU()
	for _, c := range []struct {
		name                      string
		inTurn                    bool
		clients, threads, targets int
		run, abreast              int
	}{
		{"a thread a processor", true, 100_000, processors, 1, longestRun, processors},
		{"not in turn", false, 100_000, processors + 1, 1, longestRun, processors + 1},
		{"one more", true, 100_000, processors + 1, 1, (100_000 + processors) / (processors + 1), processors},
		{"several targets", true, 100_000, processors + 1, 2, longestRun, processors + 1},
		{"a client a thread", true, processors + 5, processors + 5, 1, 1, processors},
		{"more threads than clients", true, 3, 2*processors + 3, 2, 1, 3},
		{"none", true, 0, 2, 1, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Config{InTurn: c.inTurn, Clients: c.clients, Threads: c.threads, Targets: Targets{TCP: make([]string, c.targets)}}
			cfg.deal()
			if c.clients > 0 && (cfg.run != c.run || cfg.abreast != c.abreast) {
				t.Errorf("runs of %d, %d threads abreast, want %d and %d", cfg.run, cfg.abreast, c.run, c.abreast)
			}
			have := make([]int, cfg.Threads)
			for i := range c.clients {
				thread := cfg.threadOf(i)
				if got := cfg.global(thread, have[thread]); got != i {
					t.Fatalf("client %d of thread %d is %d, want %d", have[thread], thread, got, i)
				}
				if have[thread]++; have[thread] > cfg.perThread() {
					t.Fatalf("thread %d has more than %d clients", thread, cfg.perThread())
				}
			}
		})
	}
}

// Threads connect their clients in the order of their numbers, as many as processors at a time.
func TestThreadsConnectInTurn(t *testing.T) {
	const each = 10
	threads := runtime.NumCPU() + 6
	streams := newStreams(t)
	set := subscribe(t, streams)
	var mu sync.Mutex
	var connecting atomic.Bool
	var logins []int // by thread; mu guards
	addr := serveWith(t, write(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuthReply})))
	s := newSwarm(t, Config{
		Targets: Targets{TCP: []string{addr}}, Streams: streams, Clients: each * threads, Threads: threads,
		InTurn: true, ConnectPending: runtime.NumCPU(), // one a thread
		Client: func(i int) Client {
			if connecting.Load() {
				mu.Lock()
				defer mu.Unlock()
				thread, through := i/each, 0
				for _, n := range logins[:thread] {
					if n >= each-1 { // the last may be under way
						through++
					}
				}
				if through < thread+1-runtime.NumCPU() {
					t.Errorf("client %d logs in when %v have", i, logins)
				}
				logins[thread]++
			}
			return Client{Kind: ledger.TCP, Subscription: set}
		},
	})
	logins = make([]int, threads)
	connecting.Store(true)
	if err := s.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if n := s.Snapshot().Joined; n != int64(each*threads) {
		t.Errorf("%d clients joined, want %d", n, each*threads)
	}
}
