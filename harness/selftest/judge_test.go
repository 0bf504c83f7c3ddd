package selftest

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"testing"
	"time"

	"barrage/harness/report"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestTimed(t *testing.T) {
	cases := []struct {
		name                   string
		planned, did, reported float64
		want                   Outcome
	}{
		{"to the point", 0.05, 0.05, 0.05, AsPlanned},
		{"a millisecond is allowed", 0.001, 0.001, 0.00199, AsPlanned},
		{"and one hundredth", 1, 1, 1.0109, AsPlanned},
		{"less than it was is as wrong", 1, 1, 0.98, Wrong},
		{"a harness that adds two milliseconds", 0.001, 0.001, 0.003, Wrong},
		{"a harness that leaves out what it did not send in time", 0.8875, 0.8875, 0.0002, Wrong},
		{"a server that was late, and is reported so", 0.001, 0.015, 0.0155, AsPlanned},
		{"a server that was so late that it did something else", 0.001, 0.030, 0.0305, Unclear},
		{"a server that was late, and a harness that reports the plan", 0.001, 0.030, 0.001, Wrong},
	}
	for _, c := range cases {
		if got := timed("p99", c.planned, c.did, c.reported); got.Outcome != c.want {
			t.Errorf("%s: %s, want %s", c.name, got.Outcome, c.want)
		}
	}
}

func TestJudge(t *testing.T) {
	counts := Case{Status: report.Failed, Figures: func(r *benched, _ *Did) []Figure {
		return []Figure{exactly("lost", 500, 500, r.Deliveries.Measured.Lost), verdict(report.Failed, r)}
	}}
	times := Case{Timed: true, Figures: func(r *benched, _ *Did) []Figure {
		return []Figure{timed("p50", 0.05, 0.05, r.Latency.All.P50)}
	}}
	starving := Case{Status: report.Invalid, Figures: func(r *benched, _ *Did) []Figure {
		return []Figure{verdict(report.Invalid, r), doubt("the swarm was saturated", r)}
	}}
	run := func(status string, exit int, lost int64, p50 float64, doubts ...string) *benched {
		r := &report.Run{Verdict: report.Verdict{Status: status, Doubts: doubts}}
		r.Deliveries.Measured.Lost, r.Latency.All.P50 = lost, p50
		return &benched{r, exit}
	}
	cases := []struct {
		name string
		c    Case
		run  *benched
		late float64
		held int64
		want Outcome
		why  []string
	}{
		{"counts as planned", counts, run(report.Failed, 1, 500, 0), 0, 0, AsPlanned, nil},
		{"one is missing", counts, run(report.Failed, 1, 499, 0), 0, 0, Wrong, nil},
		{"one is missing, on a busy machine: counts are counts", counts, run(report.Failed, 1, 499, 0), 1, 0, Wrong, nil},
		{"a verdict that hides the loss", counts, run(report.Good, 0, 500, 0), 0, 0, Wrong, nil},
		{"an exit status that hides it", counts, run(report.Failed, 0, 500, 0), 0, 0, Wrong, nil},
		{"the run itself says that it is invalid", counts, run(report.Invalid, 3, 450, 0, "45 of 50 clients connected"), 0, 0, Unclear, []string{"the run is invalid: 45 of 50 clients connected"}},
		{"a time as planned", times, run(report.Good, 0, 0, 0.0505), 0, 0, AsPlanned, nil},
		{"a time as planned, on a busy machine", times, run(report.Invalid, 3, 0, 0.0505, "busy"), 1, 0, AsPlanned, nil},
		{"a wrong time", times, run(report.Good, 0, 0, 0.055), 0.0001, 0, Wrong, nil},
		{"a wrong time in an invalid run", times, run(report.Invalid, 3, 0, 0.055, "busy"), 0.0001, 0, Unclear, []string{"the run is invalid: busy"}},
		{"a wrong time where threads are woken late", times, run(report.Good, 0, 0, 0.055), 0.004, 0, Unclear,
			[]string{"the machine woke an idle thread late by 4.00 ms (p99)"}},
		{"a wrong time where sockets were full", times, run(report.Good, 0, 0, 0.055), 0, 3, Unclear,
			[]string{"sockets were full at 3 writes, so that the server's stamps are too early"}},
		{"starved, and said so", starving, run(report.Invalid, 3, 0, 0, "busy", "the swarm was saturated: 99%"), 0, 0, AsPlanned, nil},
		{"starved, and invalid for something else", starving, run(report.Invalid, 3, 0, 0, "busy"), 1, 0, Wrong, nil},
		{"starved, and good", starving, run(report.Good, 0, 0, 0), 1, 0, Wrong, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := judge(c.c, c.run, &Did{Held: c.held}, c.late)
			if r.Outcome != c.want || !slices.Equal(r.Why, c.why) {
				t.Errorf("%s %q, want %s %q", r.Outcome, r.Why, c.want, c.why)
			}
		})
	}
}

// The server's own percentiles are by rank, as the harness' histograms have them.
func TestPercentile(t *testing.T) {
	var d Did
	for i := range 400 {
		d.Latencies = append(d.Latencies, int64(i+1)*int64(time.Millisecond))
	}
	for p, want := range map[float64]float64{0: 0.001, 50: 0.200, 90: 0.360, 99: 0.396, 99.9: 0.400, 100: 0.400} {
		if got := d.Percentile(p); got != want {
			t.Errorf("p%g is %g s, want %g s", p, got, want)
		}
	}
	if new(Did).Percentile(99) != 0 || new(Did).Mean() != 0 || d.Mean() != 0.2005 {
		t.Errorf("mean %g", d.Mean())
	}
}

// The table says what was planned and what was reported, and of what is not as planned why,
// and where to look.
func TestText(t *testing.T) {
	good := Result{Name: "1 frame in 10 is dropped", Attempts: 1, Figures: []Figure{exactly("delivered", 4500, 4500, 4500), exactly("lost", 500, 500, 500)}}
	unclear := Result{Name: "every push is held for 1ms", Outcome: Unclear, Attempts: 3, Dir: "/tmp/x/delay-1ms-3",
		Why:     []string{"the run is invalid: other processes took 60% of the machine, at most 10% is accepted (valid.other_cpu)"},
		Figures: []Figure{timed("p50", 0.001, 0.0011, 0.0013), {Name: "p99", Planned: "1.00 ms", Did: "1.20 ms", Reported: "6.10 ms", Outcome: Unclear}}}
	wrong := Result{Name: "nothing is delivered for 15 s in 30", Outcome: Wrong, Attempts: 1, Dir: "/tmp/x/stall-1",
		Figures: []Figure{timed("mean of the pushes due in it", 7.5, 7.501, 0.021), timed("mean of the whole run", 3.75, 3.751, 0.0105)}}
	for name, results := range map[string][]Result{"passed": {good}, "unclear": {good, unclear}, "failed": {good, unclear, wrong}} {
		var b bytes.Buffer
		if err := Text(&b, results); err != nil {
			t.Fatal(err)
		}
		file := "testdata/" + name + ".txt"
		if *update {
			if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(b.Bytes(), want) {
			t.Errorf("%v; %s is now:\n%s", err, file, b.String())
		}
	}
}
