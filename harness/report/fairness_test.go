package report

import (
	"strings"
	"testing"
)

func TestFairnessIsAnAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Fairness
		want []string
	}{
		{"always the same ones", Fairness{Clients: 1000, Slow: 10, Halves: &FairHalves{Clients: 1000, Slow: 10, Same: 9, Chance: 0.1, P: 1e-15, Again: 2.3, Correlation: 0.2}},
			[]string{"the slowest 1% (10) of 1,000 clients", "90% of the slowest in the first half", "(1% by chance)", "2.30x the median: mostly the same ones; rank correlation 0.20"}},
		{"chance", Fairness{Clients: 1000, Slow: 10, Halves: &FairHalves{Clients: 1000, Slow: 10, P: 1, Chance: 0.1, Again: 1}},
			[]string{"0% of the slowest", "no more than chance"}},
		{"some", Fairness{Clients: 1000, Slow: 10, Halves: &FairHalves{Clients: 1000, Slow: 10, Same: 3, P: 0.0001, Chance: 0.1, Again: 1.1}},
			[]string{"some are slow again and again"}},
		{"few clients", Fairness{Clients: 200, Slow: 10, Halves: &FairHalves{Clients: 200, Slow: 10, Same: 1, P: 0.4, Chance: 0.5, Again: 1}},
			[]string{"the slowest 10 of 200 clients", "10% of the slowest", "(5% by chance)", "no more than chance"}},
		{"too few clients", Fairness{Clients: 3}, []string{"3 clients: too few"}},
		{"one half alone", Fairness{Clients: 1000, Slow: 10}, []string{"can't be told"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(c.f.lines(), "\n")
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not in:\n%s", want, got)
				}
			}
		})
	}
}
