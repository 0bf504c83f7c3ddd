package compare

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"barrage/harness/page"
	"barrage/harness/page/pagetest"
	"barrage/harness/report"
)

// course gives a run what the curves are of: a latency about p99, and cpu seconds of comet.
func course(r *report.Run, p99, cpu float64, late int) {
	for i := range 60 {
		q := 1 - math.Pow(10, -float64(i)/12)
		r.Latency.Curve = append(r.Latency.Curve, report.Point{Quantile: q, Seconds: p99 * (0.3 + 0.35*float64(i)/12)})
	}
	r.Latency.Curve = append(r.Latency.Curve, report.Point{Quantile: 1, Seconds: 2 * p99})
	r.Deliveries.Measured.Delivered = 1_000_000
	for i, role := range []string{"services", "logic", "comet", "harness"} {
		p := report.Process{Name: role + "-1", Role: role, Server: role == "logic" || role == "comet", CPUSeconds: cpu / float64(4-i), RSSPeakBytes: int64(40+10*i) << 20}
		r.Processes = append(r.Processes, p)
	}
	for i := range 30 {
		phase := []string{"connect", "warm-up", "measure", "measure", "drain"}[max(0, i-late)*5/30]
		s := report.Second{
			At: float64(i+1) + 0.01*float64(late), Phase: phase, Deliveries: int64(50_000 * max(0, i-late-6)),
			P50: p99 / 2, P99: p99 * (1 + 0.2*math.Sin(float64(i))), RSSBytes: map[string]int64{},
		}
		for k, p := range r.Processes {
			s.RSSBytes[p.Name] = int64(20+10*k+i) << 20
		}
		r.Timeline = append(r.Timeline, s)
	}
	r.Started, r.Command = time.Date(2024, 11, 24, 7, 0, 0, 0, time.UTC), []string{"barrage", "bench", "-set", "pushes.0.rate=20/s", "room-10k"}
	r.Environment.System = "Debian <12>"
}

// busyExample is example's sides with curves.
func busyExample() []Side {
	sides := example()
	for i, s := range sides {
		for k, r := range s.Runs {
			course(r, r.Latency.All.P99, 0.05*float64(1+i)+0.001*float64(k), k)
		}
	}
	sides[2].Runs[0].Verdict.Doubts = []string{"the swarm was <b>saturated</b>"}
	return sides
}

func pageOf(t *testing.T, c *Comparison) string {
	t.Helper()
	var b bytes.Buffer
	if err := HTML(&b, c, []string{"barrage", "compare", "results/a", "results/b"}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func mainFigures() (list []report.Figure) {
	for _, f := range report.Figures() {
		if f.Primary {
			list = append(list, f)
		}
	}
	return list
}

func compared(t *testing.T, sides []Side) *Comparison {
	t.Helper()
	c, err := Of(sides, mainFigures())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHTML(t *testing.T) {
	alike := busyExample()[:2]
	tooFew := busyExample()
	for i := range tooFew {
		tooFew[i].Runs = tooFew[i].Runs[:1]
	}
	someInvalid := busyExample()[:2]
	someInvalid[0].Runs[3].Verdict.Status = report.Invalid
	elsewhere := busyExample()[:2]
	for _, r := range elsewhere[1].Runs {
		r.Target, r.Agents = &report.Target{TCP: []string{"10.0.0.1:3101"}, Push: "10.0.0.2:3111"}, []report.Agent{agent("10.0.0.7:3121", 8)}
		r.Environment.HarnessProcs, r.Profiles.Taken = 1, 12
	}
	for name, c := range map[string]struct {
		comparison *Comparison
		want, not  []string
	}{
		"two sides": {compared(t, alike), []string{
			"room-10k: B against A", "results/a, 6 runs, commit 0123456789ab", "6 GOOD",
			"B: server.deliveries_per_cpu_second is 12.5% higher (&#43;10.0% to &#43;15.0%), better", "no difference that 12 runs can show",
			"1,125,000", "1,100,000..1,150,000", "p=0.002", "# A, commit 0123456789ab\nbarrage bench -set pushes.0.rate=20/s room-10k", "Debian &lt;12&gt;",
			"# this page\nbarrage compare results/a results/b",
		}, []string{"INVALID", "Mind,", "<script", "http://", "https://", "src=", "One side alone"}},
		"three sides, one of them invalid": {compared(t, busyExample()), []string{
			"room-10k: B, C against A", "1 of 1 runs of results/c are INVALID", "the kernel differs", "with INVALID runs of C", "C (INVALID) and A: 1 and 6 runs are too few",
			"200 ms<span class=\"invalid-mark\">INVALID</span>", "<title>C, INVALID</title>", "C, INVALID: comet", "the swarm was &lt;b&gt;saturated",
		}, []string{"<b>saturated"}},
		"one run of A invalid": {compared(t, someInvalid), []string{
			"101 ms<span class=\"invalid-mark\">1 of 6 INVALID</span>", "B against A (1 of 6 INVALID): server.deliveries_per_cpu_second", "A, run 4, INVALID", "A, median of 6 runs, 1 of 6 INVALID",
		}, nil},
		"a target, agents and profiles on one side": {compared(t, elsewhere), []string{
			"the cluster differs", "where the clients were differs", "the harness&#39;s processors differs", "whether profiles were taken differs",
			`<td class="fact">the run&#39;s own</td><td class="fact">the harness&#39;s process, 0 processors of the harness</td>`,
			`<td class="fact">clients at 10.0.0.1:3101, pushes at 10.0.0.2:3111</td><td class="fact">1 agent on 1 machine (Other CPU, 8 cores, 16.0 GiB), 1 processor of the harness, profiles taken</td>`,
		}, nil},
		"a run a side": {compared(t, tooFew), []string{"too few runs"}, []string{"median of", " thin\""}},
		"one side":     {Alone(busyExample()[0], mainFigures()), []string{"room-10k: 6 runs", "One side alone", "98.0 ms..104 ms"}, []string{"What changed", "against A"}},
		"nothing":      {Alone(Side{Runs: []*report.Run{{}}}, mainFigures()), []string{"<html"}, nil},
		"nothing in common": {compared(t, []Side{{Name: "a", Runs: []*report.Run{{}}}, {Name: "b", Runs: []*report.Run{{}}}}),
			[]string{"What changed"}, []string{"<figure"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := pageOf(t, c.comparison)
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("%s is not in the page", want)
				}
			}
			for _, not := range append(c.not, "NaN", "Inf", "%!") {
				if strings.Contains(got, not) {
					t.Errorf("%s is in the page", not)
				}
			}
		})
	}
	// What is doubtful comes first, then the words, the table, the curves, and the rest.
	got, at := pageOf(t, compared(t, busyExample())), 0
	for _, part := range []string{"<h1>", "Mind, before", "results/a, 6 runs", "What changed", "<h2>Figures", "over each other", "How to repeat it"} {
		i := strings.Index(got[at:], part)
		if i < 0 {
			t.Fatalf("%s does not come where it should", part)
		}
		at += i
	}
}

func TestMedianCurve(t *testing.T) {
	line := func(from, to, y float64) []page.Point { return []page.Point{{X: from, Y: y}, {X: to, Y: y}} }
	for _, c := range []struct {
		name     string
		curves   [][]page.Point
		log      bool
		from, to float64
		y        float64
	}{
		{"one", [][]page.Point{line(2, 5, 3)}, false, 2, 5, 3},
		{"two: the middle of them", [][]page.Point{line(0, 10, 3), line(0, 10, 4)}, false, 0, 10, 3.5},
		{"three: the middle one", [][]page.Point{line(1, 1000, 9), line(1, 1000, 4), line(1, 1000, 5)}, true, 1, 1000, 5},
		{"what the half alone have is left out", [][]page.Point{line(0, 12, 3), line(0, 5.25, 3)}, false, 0, 6, 3},
		{"one that ends a little before is level until then", [][]page.Point{line(0.01, 9.99, 3), line(0, 10, 4)}, false, 0, 10, 3.5},
		{"as one with fewer deliveries is", [][]page.Point{line(1, 1000, 3), line(1, 700, 4)}, true, 1, 1000, 3.5},
		{"what two of three have is not", [][]page.Point{line(0, 10, 3), line(0, 5, 3), line(0, 10, 3)}, false, 0, 10, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := medianCurve(c.curves, c.log)
			first, last := got[0], got[len(got)-1]
			if math.Abs(first.X-c.from) > 1e-9 || math.Abs(last.X-c.to) > 1e-6 {
				t.Errorf("from %v to %v, want %v to %v", first.X, last.X, c.from, c.to)
			}
			for _, p := range got {
				if math.Abs(p.Y-c.y) > 1e-9 {
					t.Fatalf("%v, want %v", p, c.y)
				}
			}
		})
	}
	if got := medianCurve(nil, false); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	slope := []page.Point{{X: 0, Y: 0}, {X: 2, Y: 4}}
	for x, want := range map[float64]float64{0: 0, 0.5: 1, 2: 4} {
		if y, ok := valueAt(slope, x, false); !ok || y != want {
			t.Errorf("at %v: %v, %v", x, y, ok)
		}
	}
	for _, x := range []float64{-1, 2.8} {
		if _, ok := valueAt(slope, x, false); ok {
			t.Errorf("a value at %v, far beyond the ends", x)
		}
	}
}

// Runs that took long to connect lie over those that did not.
func TestCurvesBeginWithTheMeasuredPhase(t *testing.T) {
	for _, late := range []int{0, 7} {
		r := run(0.1, 1e6)
		course(r, 0.1, 1, late)
		points := measuredLatency(r, func(s *report.Second) float64 { return s.P99 })
		if len(points) == 0 || math.Abs(points[0].X-1) > 1e-9 {
			t.Errorf("late by %d: begins with %v", late, points)
		}
	}
	r := run(0.1, 1e6)
	r.Timeline = []report.Second{{At: 1, Phase: "connect"}, {At: 2, Phase: "connect"}}
	if points := fromMeasured(r, r.Series(func(*report.Second) float64 { return 1 })); len(points) != 0 {
		t.Errorf("nothing was measured: %v", points)
	}
}

func TestRolesHaveTheServerFirst(t *testing.T) {
	if got := fmt.Sprint(roles(busyExample())); got != "[comet logic harness services]" {
		t.Error(got)
	}
}

// The page is whole in a browser, with all charts, and its warnings are seen at once.
func TestComparisonInABrowser(t *testing.T) {
	pagetest.Whole(t, []byte(pageOf(t, compared(t, busyExample()))), `
		document.querySelectorAll("figure > svg").length + " charts",
		document.querySelectorAll("figure > svg path.thick").length + " medians",
		document.querySelectorAll("figure > svg path.thin").length + " runs",
		document.querySelectorAll("rect.bar").length + " bars",
		document.querySelector(".warnings").getBoundingClientRect().top < 200 ? "warned" : "not warned"`,
		"7 charts; 15 medians; 60 runs; 24 bars; warned")
}

// Sides of several sizes are drawn over their clients, too; repeats of one size aren't.
func TestGrowth(t *testing.T) {
	var sides []Side
	for i, n := range []int{1000, 100, 10_000} {
		s := side(letter(i), []float64{0.01, 0.02}, []float64{float64(n), float64(n)})
		for _, r := range s.Runs {
			r.Clients.Count = n
		}
		sides = append(sides, s)
	}
	const title = "CPU time of a delivery, by clients"
	if page := pageOf(t, compared(t, sides)); strings.Count(page, title) == 0 {
		t.Errorf("no chart %q", title)
	}
	drawn := growth(compared(t, sides))
	points := drawn[2].(*page.Chart).Lines[0].Points
	if len(points) != 3 || points[0].X != 100 || points[2].X != 10_000 || points[0].Y <= points[2].Y {
		t.Errorf("points %v", points)
	}
	sides[2].Runs[0].Clients.Count = 100
	if drawn := growth(compared(t, sides)); drawn != nil {
		t.Errorf("%d charts of two sizes", len(drawn))
	}
}
