package swarm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// A server that serves the same clients last again and again: the report names them, by the
// swarm's own numbers, whatever thread they are on and whoever is not in its ledger.
func TestTheSlowestClientsAreNamed(t *testing.T) {
	const clients, pushes, threads = 200, 10, 3
	const late = int64(30 * time.Second) // far more than a busy machine adds
	slow := func(i int) bool { return i%20 == 7 }
	lags := func(i int) bool { return i%5 == 3 }
	streams := newStreams(t, ledger.Stream{ID: 1, Pushes: pushes})
	server := newFaultyServer(t, func(key string) (f faults) {
		i, err := strconv.Atoi(strings.TrimPrefix(key, "client-"))
		if err != nil {
			t.Errorf("key %q: %v", key, err)
		}
		for seq := range uint32(pushes) {
			s := ledger.Stamp{Stream: 1, Seq: seq, Intended: ledger.Now()}
			if slow(i) {
				s.Intended -= late
			}
			f.frames = append(f.frames, wire.Frame{Ver: wire.Version, Op: 1000, Body: ledger.AppendBody(nil, s, 16)})
		}
		return f
	})
	set := subscribe(t, streams, 1)
	swarm := newSwarm(t, Config{
		Targets: server.targets(), Streams: streams, Threads: threads, Clients: clients, Behaviours: Behaviours{SlowRate: 1000},
		Client: func(i int) Client {
			c := Client{Kind: ledger.Kind(i % 2), Mid: int64(i), Key: fmt.Sprintf("client-%d", i), Room: "live://1", Accepts: []int32{1000}, Subscription: set}
			if lags(i) {
				c.Behaviour = SlowReader
			}
			return c
		},
	})
	ctx := testContext(t)
	if err := swarm.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	close(server.start)
	plans := []ledger.Plan{{Stream: 1, Pushed: pushes}}
	if drained, err := swarm.Drain(ctx, plans); err != nil || !drained {
		t.Fatalf("drained: %v, %v", drained, err)
	}
	report, err := swarm.Finish(ctx, plans)
	if err != nil {
		t.Fatal(err)
	}
	var want []int
	for i := range clients {
		if slow(i) && !lags(i) {
			want = append(want, i)
		}
	}
	f := report.Ledger.Fairness(len(want))
	var got []int
	for _, c := range f.Slowest {
		got = append(got, c.Client)
		if c.Receipts != pushes || int64(c.Mean) < late {
			t.Errorf("%+v", c)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) || f.Clients != clients*4/5 || f.Slow != len(want) || f.Halves == nil || f.Halves.Same != len(want) {
		t.Errorf("slow are %d, want %d: %+v, %+v", got, want, f, f.Halves)
	}
}
