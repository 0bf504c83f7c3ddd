package ledger

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestWait(t *testing.T) {
	var w wait
	for _, ns := range []int64{0, 1000, 50_000, LatencyHighest} {
		w.add(ns)
	}
	if got, want := w.sum(), 51_000+float64(LatencyHighest); w.count() != 4 || math.Abs(got-want) > 4*(1<<waitUnit) {
		t.Errorf("%d waits of %.0f ns, want 4 of %.0f", w.count(), got, want)
	}
	// A word that is full keeps the mean that it has, whichever part is.
	for name, ns := range map[string]int64{"the number": 5_000_000, "the sum": LatencyHighest} {
		var w wait
		for range 1<<waitCount + 5 {
			w.add(ns)
		}
		if mean := w.sum() / float64(w.count()); math.Abs(mean-float64(ns)) > 1<<waitUnit {
			t.Errorf("%s runs over: %d waits of %.0f ns in the mean, want %d", name, w.count(), mean, ns)
		}
	}
}

// Random receipts of clients that come, go and come back, dealt out to several books: each
// client's mean is that of its first receipts in a naive list.
func TestMeansAgreeWithNaiveModel(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		const pushes = 20
		streams := mustStreams(t, Stream{ID: 1, First: 7, Pushes: pushes}, Stream{ID: 2, Pushes: pushes, WarmUp: true}, Stream{ID: 3, Pushes: pushes})
		set := mustSubscribe(t, streams, 1, 2, 3)
		const clients, parts = 50, 3
		var books [parts]*Book
		for i := range books {
			books[i] = NewBook(streams, 0, 0)
		}
		naive := make([][2][]int64, clients)
		for c := range clients {
			b, own := books[c%parts], c/parts
			b.Add(set, TCP)
			b.Join(own, nil)
			for range r.IntN(80) {
				if r.IntN(20) == 0 {
					b.Leave(own)
					b.Join(own, nil)
				}
				s := streams.list[r.IntN(3)]
				seq := s.First + r.Uint32N(pushes)
				latency := r.Int64N(int64(time.Second))
				before := b.Accepted()
				b.Account(own, Stamp{Stream: s.ID, Seq: seq, Intended: 1e9}, 1e9+latency)
				if b.Accepted() == before || s.WarmUp {
					continue
				}
				half := 0
				if seq-s.First >= pushes/2 {
					half = 1
				}
				naive[c][half] = append(naive[c][half], latency)
			}
		}
		var merged *Report
		for i, b := range books {
			report, err := b.Report(nil)
			if err != nil {
				t.Fatal(err)
			}
			report.Renumber(func(own int) int { return own*parts + i })
			if merged == nil {
				merged = report
			} else if err := merged.Merge(report); err != nil {
				t.Fatal(err)
			}
		}
		got := map[int]clientWait{}
		for _, w := range merged.waits {
			got[w.client] = w
		}
		for c := range clients {
			for half, list := range naive[c] {
				sum := 0.0
				for _, ns := range list {
					sum += float64(ns)
				}
				w := got[c].halves[half]
				if int(w.count()) != len(list) || math.Abs(w.sum()-sum) > float64(len(list))*(1<<waitUnit) {
					t.Fatalf("seed %d, client %d, half %d: %d waits of %.0f ns, want %d of %.0f", seed, c, half, w.count(), w.sum(), len(list), sum)
				}
			}
		}
	}
}

// unfair returns the report on clients, dealt out to parts books, that wait as delay says.
func unfair(t *testing.T, clients, pushes, parts int, delay func(client, push int) time.Duration) *Report {
	t.Helper()
	streams := mustStreams(t, Stream{ID: 1, Pushes: uint32(pushes)})
	set := mustSubscribe(t, streams, 1)
	var merged *Report
	for part := range parts {
		b := NewBook(streams, clients, clients)
		for c := part; c < clients; c += parts {
			own := b.Add(set, TCP)
			b.Join(own, nil)
			for push := range pushes {
				b.Account(own, Stamp{Stream: 1, Seq: uint32(push), Intended: 1e9}, 1e9+int64(delay(c, push)))
			}
		}
		report, err := b.Report([]Plan{{Stream: 1, Pushed: uint32(pushes)}})
		if err != nil {
			t.Fatal(err)
		}
		report.Renumber(func(own int) int { return own*parts + part })
		if merged == nil {
			merged = report
		} else if err := merged.Merge(report); err != nil {
			t.Fatal(err)
		}
	}
	return merged
}

func TestFairness(t *testing.T) {
	const clients, pushes = 5000, 40
	noise := func() func() time.Duration {
		r := rand.New(rand.NewPCG(5, 5))
		return func() time.Duration { return 10*time.Millisecond + time.Duration(r.IntN(int(10*time.Millisecond))) }
	}
	slow := func(c int) bool { return c%100 == 17 } // 50 of them
	cases := []struct {
		name  string
		delay func(func() time.Duration) func(client, push int) time.Duration
		check func(t *testing.T, f Fairness)
	}{
		{"the same clients are always last", func(noise func() time.Duration) func(int, int) time.Duration {
			return func(c, _ int) time.Duration {
				if slow(c) {
					return noise() + 20*time.Millisecond
				}
				return noise()
			}
		}, func(t *testing.T, f Fairness) {
			if f.Halves.Same != 50 || f.Halves.P > 1e-9 || math.Abs(f.Halves.Again-35.0/15) > 0.05 {
				t.Errorf("%+v", f.Halves)
			}
			for _, c := range f.Slowest {
				if !slow(c.Client) || c.Receipts != pushes || c.Mean < 30*time.Millisecond {
					t.Errorf("%+v is among the slowest", c)
				}
			}
			if f.SlowMean < 34*time.Millisecond || f.SlowMean > 36*time.Millisecond {
				t.Errorf("the slow ones wait %v", f.SlowMean)
			}
		}},
		{"whoever is last is so by chance", func(noise func() time.Duration) func(int, int) time.Duration {
			return func(int, int) time.Duration { return noise() }
		}, func(t *testing.T, f Fairness) {
			if f.Halves.Same > 4 || f.Halves.P < 0.01 || math.Abs(f.Halves.Correlation) > 0.05 || math.Abs(f.Halves.Again-1) > 0.05 {
				t.Errorf("%+v", f.Halves)
			}
		}},
		{"clients that are slow in one half alone", func(noise func() time.Duration) func(int, int) time.Duration {
			return func(c, push int) time.Duration {
				if slow(c) && push < pushes/2 {
					return time.Second
				}
				return noise()
			}
		}, func(t *testing.T, f Fairness) {
			if f.Halves.Same > 4 || f.Halves.P < 0.01 || math.Abs(f.Halves.Again-1) > 0.05 || f.SlowMean < 500*time.Millisecond {
				t.Errorf("%v, %+v", f.SlowMean, f.Halves)
			}
		}},
		{"all wait alike, and no order of theirs makes some slow", func(func() time.Duration) func(int, int) time.Duration {
			return func(int, int) time.Duration { return 5 * time.Millisecond }
		}, func(t *testing.T, f Fairness) {
			if f.Halves.Same > 4 || f.Halves.Correlation != 0 || f.Halves.Again != 1 {
				t.Errorf("%+v", f.Halves)
			}
		}},
		{"a sweep that always goes the same way", func(func() time.Duration) func(int, int) time.Duration {
			return func(c, _ int) time.Duration { return time.Duration(c) * 10 * time.Microsecond }
		}, func(t *testing.T, f Fairness) {
			if f.Halves.Same != 50 || math.Abs(f.Halves.Correlation-1) > 1e-9 || f.Slowest[0].Client != clients-1 {
				t.Errorf("%+v, %+v", f.Slowest, f.Halves)
			}
		}},
		{"a sweep that turns round", func(func() time.Duration) func(int, int) time.Duration {
			return func(c, push int) time.Duration {
				if push >= pushes/2 {
					c = clients - 1 - c
				}
				return time.Duration(c) * 10 * time.Microsecond
			}
		}, func(t *testing.T, f Fairness) {
			if f.Halves.Same != 0 || math.Abs(f.Halves.Correlation+1) > 1e-9 || f.Halves.P != 1 {
				t.Errorf("%+v", f.Halves)
			}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := unfair(t, clients, pushes, 1, c.delay(noise())).Fairness(10)
			if f.Clients != clients || f.Slow != 50 || len(f.Slowest) != 10 || f.Halves == nil || f.Halves.Clients != clients || f.Halves.Slow != 50 || f.Halves.Chance != 0.5 {
				t.Fatalf("%+v, %+v", f, f.Halves)
			}
			c.check(t, f)
		})
	}
}

// What several threads found out is, once merged, what one would have.
func TestFairnessMergesWithoutLoss(t *testing.T) {
	delay := func(c, push int) time.Duration {
		return time.Duration(Scatter(uint64(c%7*1000+push)) % uint64(time.Second))
	}
	whole, parts := unfair(t, 600, 20, 1, delay), unfair(t, 600, 20, 7, delay)
	a, b := whole.Fairness(600), parts.Fairness(600)
	if !slices.Equal(a.Means.Export().Counts, b.Means.Export().Counts) {
		t.Error("the means differ")
	}
	a.Means, b.Means = nil, nil
	if math.Abs(a.Halves.Correlation-b.Halves.Correlation) > 1e-9 || math.Abs(a.Halves.Again-b.Halves.Again) > 1e-9 {
		t.Errorf("%+v, %+v", a.Halves, b.Halves)
	}
	a.Halves.Correlation, a.Halves.Again = b.Halves.Correlation, b.Halves.Again // sums in another order
	if !reflect.DeepEqual(a, b) {
		t.Errorf("whole %+v, %+v\nparts %+v, %+v", a, a.Halves, b, b.Halves)
	}
}

func TestFairnessOfTooLittle(t *testing.T) {
	delay := func(int, int) time.Duration { return time.Millisecond }
	for _, c := range []struct {
		name            string
		clients, pushes int
		slow            int
		halves          bool
	}{
		{"nobody", 0, 4, 0, false}, {"few clients", 39, 4, 0, false}, {"just enough", 40, 4, 10, true},
		{"no push in the first half", 100, 1, 10, false}, {"nothing", 100, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := unfair(t, c.clients, c.pushes, 1, delay).Fairness(3)
			if f.Slow != c.slow || (f.Halves != nil) != c.halves || len(f.Slowest) > 3 {
				t.Errorf("%+v, %+v", f, f.Halves)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	h := unfair(t, 50, 8, 3, func(c, push int) time.Duration {
		return time.Duration(1+push)*time.Millisecond + time.Duration(c)*100*time.Microsecond
	}).Spread()
	if h.TotalCount() != 8 || h.Min() < 4890_000 || h.Max() > 4910_000 {
		t.Errorf("%d pushes with a spread from %d to %d ns, want 8 of 4.9 ms", h.TotalCount(), h.Min(), h.Max())
	}
}
