package profile

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/pprof/profile"

	"barrage/harness/report"
)

// series stores runs whose sweep has so many samples.
func series(t testing.TB, name string, sweeps ...int) []*Run {
	t.Helper()
	dir := t.TempDir()
	var runs []*Run
	for i, n := range sweeps {
		r := result()
		r.Environment.Commit = name + "000000"
		runs = append(runs, store(t, filepath.Join(dir, fmt.Sprint(i)), r, example(t, n)))
	}
	return runs
}

func TestDiff(t *testing.T) {
	cases := []struct {
		golden string
		by     Order
		a, b   []int
	}{
		{"diff.txt", ByFlat, []int{900, 930, 910, 890}, []int{700, 720, 690, 710}},
		{"diff-cum.txt", ByCum, []int{900, 930, 910, 890}, []int{700, 720, 690, 710}},
		{"diff-single.txt", ByFlat, []int{900}, []int{600}},
		{"diff-same.txt", ByFlat, []int{900, 960, 850}, []int{910, 930, 870}},
	}
	for _, c := range cases {
		t.Run(c.golden, func(t *testing.T) {
			d := Compare(side(t, "A", ServerProcesses, CPU, series(t, "a", c.a...)...), side(t, "B", ServerProcesses, CPU, series(t, "b", c.b...)...), c.by)
			var b bytes.Buffer
			if err := d.WriteText(&b, 30); err != nil {
				t.Fatal(err)
			}
			golden(t, c.golden, b.Bytes())
		})
	}
}

func TestDiffJSON(t *testing.T) {
	a, b := side(t, "A", "comet", CPU, series(t, "a", 900)...), side(t, "B", "comet", CPU, series(t, "b", 300)...)
	a.Runs[0].Run.Dir, b.Runs[0].Run.Dir = "A", "B" // instead of the test's own
	var out bytes.Buffer
	if err := Compare(a, b, ByFlat).WriteJSON(&out, 1); err != nil {
		t.Fatal(err)
	}
	golden(t, "diff.json", out.Bytes())
}

// What makes a comparison doubtful is said before its figures.
func TestDoubts(t *testing.T) {
	bad := result()
	bad.Verdict.Status = report.Invalid
	bad.Environment.Cores = 64
	profiles := example(t, 500)
	a := store(t, t.TempDir(), result(), profiles)
	delete(profiles, "comet-2.cpu")
	b := store(t, t.TempDir(), bad, profiles)
	d := Compare(side(t, "A", ServerProcesses, CPU, a), side(t, "B", ServerProcesses, CPU, b), ByFlat)
	text := strings.Join(d.Doubts(), "\n")
	for _, want := range []string{"cores differs (A: 2; B: 64)", "1 of 1 runs of B are INVALID", "the processes differ (A: comet-1, comet-2, job, logic; B: comet-1, job, logic)"} {
		if !strings.Contains(text, want) {
			t.Errorf("it is not said that %q:\n%s", want, text)
		}
	}
	var out bytes.Buffer
	if err := Top(side(t, "B", ServerProcesses, CPU, b), ByFlat).WriteText(&out, 1); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "Mind: 1 of 1 run of B: INVALID") {
		t.Errorf("top does not say that the run is invalid:\n%s", out.String())
	}
}

// random makes a profile of a few dozen stacks, some recursive and some with parts put into
// their callers; noise decides how often each is hit, by a mean that is always the same.
func random(t testing.TB, stacks int, noise *rand.Rand) *profile.Profile {
	fixed := rand.New(rand.NewPCG(1, 2))
	var lines []string
	for range stacks {
		line := "main.main"
		for range 1 + fixed.IntN(8) {
			line += []string{" ", " ", " +"}[fixed.IntN(3)] + fmt.Sprintf("barrage/x.f%d", fixed.IntN(25))
		}
		mean := math.Exp(5 * fixed.Float64())
		if n := poisson(noise, mean); n > 0 {
			lines = append(lines, fmt.Sprintf("%s %d", line, n))
		}
	}
	return build(t, CPU, tick, lines...)
}

func poisson(r *rand.Rand, mean float64) (n int) {
	for at := r.ExpFloat64(); at < mean; at += r.ExpFloat64() {
		n++
	}
	return n
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(a), math.Abs(b)) }

// Whatever the profiles, costs add up: flat ones to the total, cumulative ones contain
// them, processes to the server's, and changes with the rest to the whole difference.
func TestCostsAddUp(t *testing.T) {
	for seed := range uint64(20) {
		noise := rand.New(rand.NewPCG(seed, 7))
		make := func() *Run {
			return store(t, t.TempDir(), result(), map[string]*profile.Profile{
				"comet-1.cpu": random(t, 60, noise), "comet-2.cpu": random(t, 20, noise), "job.cpu": random(t, 10, noise),
			})
		}
		a, b := make(), make()
		parts := 0.0
		for _, process := range []string{"comet", "job"} {
			parts += side(t, process, process, CPU, a).Runs[0].Total
		}
		s := side(t, "A", ServerProcesses, CPU, a)
		if !near(parts, s.Runs[0].Total) {
			t.Fatalf("seed %d: the processes cost %g, together %g", seed, parts, s.Runs[0].Total)
		}
		flat := 0.0
		for _, row := range Top(s, ByFlat).Rows {
			flat += row.Flat.Value
			if row.Cum.Value < row.Flat.Value-1e-9 || row.Cum.Value > s.Runs[0].Total+1e-9 {
				t.Fatalf("seed %d: %s costs %g by itself, %g in all, of %g", seed, row.Function, row.Flat.Value, row.Cum.Value, s.Runs[0].Total)
			}
			if row.Function == "main.main" && !near(row.Cum.Value, s.Runs[0].Total) {
				t.Fatalf("seed %d: the root costs %g of %g", seed, row.Cum.Value, s.Runs[0].Total)
			}
		}
		if !near(flat, s.Runs[0].Total) {
			t.Fatalf("seed %d: the functions cost %g of %g", seed, flat, s.Runs[0].Total)
		}
		d := Compare(s, side(t, "B", ServerProcesses, CPU, b), ByFlat)
		sum := d.Rest.Delta
		for _, row := range d.Changes {
			sum += row.Flat.Delta
		}
		if !near(sum, d.Total.Delta) {
			t.Fatalf("seed %d: the changes add up to %g of %g", seed, sum, d.Total.Delta)
		}
	}
}

// Noise is not called a change: of comparisons of equals, whether of single runs or of
// several, at most about one in twenty lists any function at all.
func TestNoiseIsNoChange(t *testing.T) {
	noise := rand.New(rand.NewPCG(3, 4))
	const trials = 100
	for _, c := range []struct{ a, b int }{{1, 1}, {2, 2}, {4, 4}} {
		listed, totals := 0, 0
		for range trials {
			d := Compare(sampled(t, c.a, noise, 1), sampled(t, c.b, noise, 1), ByFlat)
			if len(d.Changes) > 0 {
				listed++
			}
			if d.Total.Changed {
				totals++
			}
		}
		if listed > trials*8/100 || totals > trials*10/100 {
			t.Errorf("%d and %d runs: %d of %d comparisons of equals list a change, %d call the total one", c.a, c.b, listed, trials, totals)
		}
	}
}

// A change that is there is found, and its interval holds the truth.
func TestChangeIsFound(t *testing.T) {
	noise := rand.New(rand.NewPCG(5, 6))
	const trials = 40
	found, held := 0, 0
	for range trials {
		a, b := sampled(t, 4, noise, 1), sampled(t, 4, noise, 1.5)
		d := Compare(a, b, ByFlat)
		for _, row := range d.Changes {
			if row.Function == "barrage/x.sweep" {
				found++
				if truth := 500 * 0.5 * tick / 2e6; math.Abs(row.Flat.Delta-truth) <= row.Flat.Within {
					held++
				}
			}
		}
	}
	if found < trials*95/100 || held < trials*85/100 {
		t.Errorf("of %d changes %d were found, and %d intervals hold the truth", trials, found, held)
	}
}

// sampled makes a side of runs of a program with sixty functions, of which x.sweep
// costs factor times 500 samples.
func sampled(t testing.TB, runs int, noise *rand.Rand, factor float64) *Side {
	s := &Side{Name: "side"}
	for range runs {
		lines := []string{fmt.Sprintf("main.main barrage/x.sweep %d", poisson(noise, 500*factor))}
		for i := range 60 {
			lines = append(lines, fmt.Sprintf("main.main barrage/x.f%d %d", i, poisson(noise, float64(i*i%37))))
		}
		c := &Costs{Run: &Run{Dir: "RUN", Report: result()}, Kind: CPU, Processes: []string{"comet-1"}, Divisor: 2e6}
		if err := c.add(build(t, CPU, tick, lines...), 2e6, "comet"); err != nil {
			t.Fatal(err)
		}
		s.Runs, s.functions = append(s.Runs, c), append(s.functions, c.functions())
	}
	return s
}

// The test is Welch's, by hand: means 10 and 12, variances 1 and 4 of 3 runs each.
func TestDifference(t *testing.T) {
	a, b := measure{values: []float64{9, 10, 11}, noise: []float64{0, 0, 0}}, measure{values: []float64{10, 12, 14}, noise: []float64{0, 0, 0}}
	d := newTest().difference(a, b)
	// t = 2/sqrt(5/3) = 1.549, 2.94 degrees of freedom; quantile 3.22 there, and 3.24 at the
	// 2.9 that it is rounded down to.
	if d.A != 10 || d.B != 12 || d.Delta != 2 || math.Abs(d.Within-3.24*math.Sqrt(5.0/3)) > 0.01 || math.Abs(d.P-0.221) > 0.002 {
		t.Errorf("Welch's test: %+v", d)
	}
	// Runs that agree by chance are no better known than their samples allow.
	a.noise, b.noise = []float64{9, 9, 9}, []float64{9, 9, 9}
	if e := newTest().difference(a, b); e.Within <= d.Within*1.5 || e.P <= d.P {
		t.Errorf("with the sampling's noise above the spread: %+v", e)
	}
	// Six samples against none are the least that differ (by the exact test p is 0.031), five
	// are not.
	for _, c := range []struct {
		events float64
		want   bool
	}{{5, false}, {6, true}} {
		none, some := measure{values: []float64{0}, noise: []float64{0}, event: 1}, measure{values: []float64{c.events}, noise: []float64{c.events}, event: 1}
		d := newTest().difference(none, some)
		call([]*Difference{&d})
		if d.Changed != c.want || d.Changed != (d.Within < d.Delta) {
			t.Errorf("%g samples against none: %+v, want changed %v", c.events, d, c.want)
		}
	}
	if d := newTest().difference(measure{values: []float64{0}, noise: []float64{0}}, measure{values: []float64{0}, noise: []float64{0}}); d.P != 1 || d.Within != 0 {
		t.Errorf("nothing against nothing: %+v", d)
	}
}
