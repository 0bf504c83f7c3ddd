package capacity

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

// A server that holds up to a limit, or does so by chance near it.
func TestSearch(t *testing.T) {
	sharp := func(limit float64) func(float64, int) Outcome {
		return func(rate float64, _ int) Outcome {
			if rate > limit {
				return Broke
			}
			return Held
		}
	}
	cases := []struct {
		name      string
		from, to  float64
		outcome   func(rate float64, n int) Outcome
		want      func(r *Result) bool
		confirmed bool
	}{
		{"a sharp limit", 10, 1000, sharp(237), func(r *Result) bool { return r.Holds <= 237 && r.Breaks > 237 && r.Breaks <= 1.1*r.Holds }, true},
		{"the limit is a rate that is tried", 10, 1000, sharp(160), func(r *Result) bool { return r.Holds == 160 && r.Breaks > 160 && r.Breaks <= 176 }, true},
		{"everything holds", 10, 300, sharp(1e9), func(r *Result) bool { return r.Holds == 300 && r.Breaks == 0 }, false},
		{"nothing holds", 10, 300, sharp(0), func(r *Result) bool { return r.Holds == 0 && r.Breaks == 10 && len(r.Trials) == 3 }, false},
		{"one rate alone", 50, 50, sharp(60), func(r *Result) bool { return r.Holds == 50 && r.Breaks == 0 && len(r.Trials) == 3 }, false},
		{"the harness gives up before the server does", 10, 1000, func(rate float64, _ int) Outcome {
			if rate > 100 {
				return Unclear
			}
			return Held
		}, func(r *Result) bool {
			return r.Holds <= 100 && r.Unclear > 100 && r.Unclear <= 1.1*r.Holds && r.Breaks == 0
		}, false},
		{"a trial that says nothing is made again", 10, 1000, func(rate float64, n int) Outcome {
			if n%3 == 0 {
				return Unclear
			}
			return sharp(70)(rate, n)
		}, func(r *Result) bool { return r.Holds <= 70 && r.Breaks > 70 && r.Breaks <= 1.1*r.Holds }, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n := 0
			r, err := Search(context.Background(), Config{From: c.from, To: c.to, Precision: 0.1, Confirm: 3, Most: 60,
				Try: func(_ context.Context, rate float64) (Trial, error) {
					n++
					if rate < c.from || rate > c.to {
						t.Errorf("tried %g", rate)
					}
					return Trial{Outcome: c.outcome(rate, n)}, nil
				}})
			if err != nil || !c.want(r) || r.Confirmed != c.confirmed {
				t.Errorf("%+v, %v", r, err)
			}
			for _, trial := range r.Trials {
				if trial.Outcome == Broke && r.Breaks > 0 && trial.Rate < r.Holds {
					t.Errorf("broke at %g, below the %g that hold", trial.Rate, r.Holds)
				}
			}
		})
	}
}

// Where the limit is a matter of chance, what is called holding always held, what is called
// breaking always broke, and the search ends.
func TestSearchAmongChance(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		got, err := Search(context.Background(), Config{From: 10, To: 1000, Precision: 0.1, Confirm: 3, Most: 40,
			Try: func(_ context.Context, rate float64) (Trial, error) {
				// From 100 to 300 it is more and more likely to break.
				if r.Float64() < (rate-100)/200 {
					return Trial{Outcome: Broke, Reason: "latency.p99"}, nil
				}
				return Trial{Outcome: Held}, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		for _, trial := range got.Trials {
			if trial.Rate == got.Holds && trial.Outcome != Held || trial.Rate == got.Breaks && trial.Outcome != Broke {
				t.Errorf("seed %d: %g to %g, with %+v", seed, got.Holds, got.Breaks, trial)
			}
		}
		if got.Holds == 0 || got.Breaks == 0 || got.Breaks <= got.Holds {
			t.Errorf("seed %d: %+v", seed, got)
		}
	}
}

func TestSearchEndsWithAnError(t *testing.T) {
	boom := errors.New("boom")
	n := 0
	r, err := Search(context.Background(), Config{From: 1, To: 100, Precision: 0.1, Confirm: 1, Most: 10,
		Try: func(context.Context, float64) (Trial, error) {
			if n++; n > 2 {
				return Trial{}, boom
			}
			return Trial{Outcome: Held}, nil
		}})
	if !errors.Is(err, boom) || r.Holds != 2 || len(r.Trials) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Search(context.Background(), Config{}); err == nil {
		t.Error("no configuration was accepted")
	}
}
