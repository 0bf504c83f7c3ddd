package harness_test

import (
	"math"
	"testing"

	"barrage/harness/report"
)

// A push's time is told from end to end: every push is seen in every stage, and the stages
// follow each other. Without a warm-up the borders of the measured phase lie before the first
// push and behind the last receipt, so that nothing is under way at either.
func TestStagesOfARun(t *testing.T) {
	b := start(t, "-ceiling=false", "-set", "phases.warmup=0s", "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	const pushes = 195
	last := &r.Latency.Last
	if last.Count != pushes {
		t.Fatalf("%d pushes arrived, want %d", last.Count, pushes)
	}
	way := 0.0
	for _, name := range []string{
		report.StageSend, report.StageRequest, report.StageAccept, report.StageQueue, report.StageHandover, report.StageWrite, report.StageReceive, report.StageAck,
	} {
		s, ok := r.Stage(name)
		if !ok || s.Count != pushes {
			t.Errorf("stage %s saw %d pushes: %+v", name, s.Count, s)
			continue
		}
		// No part of a push's way takes longer than the slowest push in the whole, but for what
		// the bounds of a histogram's bucket say too much. Comet's answer to job may.
		if s.Place == report.OnTheWay && (s.Mean > last.Max || s.P50 > 1.25*last.Max || s.P99 > 1.25*last.Max) {
			t.Errorf("stage %+v takes longer than the slowest push, %g s", s, last.Max)
		}
		if !s.Difference && (s.Mean <= 0 || s.P50 <= 0 || s.P50 > s.P99) {
			t.Errorf("stage %+v", s)
		}
		if s.Place == report.OnTheWay {
			way += s.Mean
		}
	}
	// Exactly, but for the rounding of sums.
	if math.Abs(way-last.Mean) > 1e-9 {
		t.Errorf("the stages' means add up to %g s, the whole's is %g s", way, last.Mean)
	}
	// Until comet has it a push can't have been received by its last client, by any clock of
	// this machine; histograms of the harness round to a thousandth.
	mean := func(name string) float64 {
		s, _ := r.Stage(name)
		return s.Mean
	}
	if until := mean(report.StageSend) + mean(report.StageRequest) + mean(report.StageAccept); until > 1.005*last.Mean+1e-5 {
		t.Errorf("accepted by comet after %g s in the mean, received by the last client after %g s", until, last.Mean)
	}
	if mean(report.StageQueue) > mean(report.StageAccept) {
		t.Errorf("read by job later than accepted by comet: %+v", r.Stages)
	}
}
