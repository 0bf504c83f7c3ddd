package selftest

import (
	"slices"
	"testing"
	"time"

	"barrage/harness/report"
)

// What the cases of a stall plan, worked out by hand, is what a server without any other
// delay would do; a harness that leaves out what was not sent in time, or that counts from
// when it was sent, reports something else and is found out.
func TestStallsByHand(t *testing.T) {
	cases := []struct {
		c       Case
		clients int
		pushes  int
		period  time.Duration
	}{
		{Omission(), 20, 400, 25 * time.Millisecond},
		{stalled(), 10, 600, 50 * time.Millisecond},
	}
	for _, c := range cases {
		t.Run(c.c.ID, func(t *testing.T) {
			stall := c.c.Plan.Stall
			ideal, naive := new(Did), new(Did)
			for k := range c.pushes {
				due := time.Duration(k) * c.period
				wait := int64(0)
				if due >= stall.From && due < stall.To {
					wait = int64(stall.To - due)
				}
				sent := wait
				if due-stall.From > c.period { // only the stall's first push was under way in it
					sent = 0
				}
				for range c.clients {
					ideal.Latencies = append(ideal.Latencies, wait)
					naive.Latencies = append(naive.Latencies, sent)
				}
			}
			slices.Sort(ideal.Latencies)
			slices.Sort(naive.Latencies)
			for _, f := range c.c.Figures(reports(ideal), ideal) {
				if f.Planned != f.Did || f.Outcome != AsPlanned {
					t.Errorf("%s: planned %s, by the model %s, %s", f.Name, f.Planned, f.Did, f.Outcome)
				}
			}
			r := judge(c.c, reports(naive), ideal, 0)
			if r.Outcome != Wrong {
				t.Errorf("a harness with coordinated omission is %s: %+v", r.Outcome, r.Figures)
			}
		})
	}
}

// reports is what a harness would report that measures what d says.
func reports(d *Did) *benched {
	r := new(report.Run)
	r.Verdict.Status = report.Good
	r.Latency.All = report.Percentiles{
		Count: d.Delivered(), Mean: d.Mean(), P50: d.Percentile(50), P90: d.Percentile(90),
		P99: d.Percentile(99), P999: d.Percentile(99.9), Max: d.Percentile(100),
	}
	return &benched{r, 0}
}

// Each tenth frame is struck, and what must come behind the next push has a next one.
func TestOneFrameInTen(t *testing.T) {
	c := counted("swaps", "", Swap)
	struck := 0
	for client := range 50 {
		for seq := range uint32(100) {
			if c.Plan.Fault(client, seq) != Swap {
				continue
			}
			struck++
			if seq == 99 || c.Plan.Fault(client, seq+1) != Deliver {
				t.Errorf("client %d: push %d has no good one behind it", client, seq)
			}
		}
	}
	if struck != 500 {
		t.Errorf("%d of 5000 are struck", struck)
	}
}
