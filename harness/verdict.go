package harness

import (
	"fmt"
	"maps"
	"slices"

	"barrage/harness/report"
	"barrage/harness/scenario"
)

// verdict holds a run against what a scenario expects, and against what no run may lack:
// that everyone connected and stayed, that every push was sent and acknowledged, that the
// ledger balances, and that comet counts what the ledger counts.
func verdict(r *report.Run, expect scenario.Expect) report.Verdict {
	v := report.Verdict{Status: report.Good, Reasons: []string{}}
	c, p, d := &r.Clients, &r.Pushes, &r.Deliveries
	if c.Joined != int64(c.Count) {
		v.Fail(fmt.Sprintf("%d of %d clients connected", c.Joined, c.Count))
	}
	if c.ClosedEarly > 0 {
		v.Fail(fmt.Sprintf("%d clients lost their connection", c.ClosedEarly))
	}
	for _, part := range []struct {
		name   string
		pushes report.PushCounts
		counts report.Counts
	}{{"warm-up", p.WarmUp, d.WarmUp}, {"measured", p.Measured, d.Measured}} {
		if n := part.pushes.Intended - part.pushes.Sent; n > 0 {
			v.Fail(fmt.Sprintf("%s: %d of %d pushes were not sent", part.name, n, part.pushes.Intended))
		}
		if n := part.pushes.Sent - part.pushes.Acknowledged; n > 0 {
			v.Fail(fmt.Sprintf("%s: %d of %d pushes were not acknowledged", part.name, n, part.pushes.Sent))
		}
		if part.counts.Expected != part.counts.Delivered+part.counts.Lost {
			v.Fail(fmt.Sprintf("%s: the ledger does not balance: %d expected, %d delivered, %d lost",
				part.name, part.counts.Expected, part.counts.Delivered, part.counts.Lost))
		}
		for _, reason := range slices.Sorted(maps.Keys(part.counts.Unexpected)) {
			v.Fail(fmt.Sprintf("%s: %d frames that nothing accounts for (%s)", part.name, part.counts.Unexpected[reason], reason))
		}
	}
	w, m := &d.WarmUp, &d.Measured
	for _, x := range []struct {
		what      string
		n, accept int64
	}{
		{"lost", w.Lost + m.Lost, expect.Lost},
		{"duplicate", w.Duplicate + m.Duplicate, expect.Duplicate},
		{"reordered", w.Reordered + m.Reordered, expect.Reordered},
	} {
		if x.n > x.accept {
			v.Fail(fmt.Sprintf("%d of %d deliveries %s, at most %d accepted", x.n, w.Expected+m.Expected, x.what, x.accept))
		}
	}
	if d.CometFrames != d.LedgerFrames {
		v.Fail(fmt.Sprintf("comet counts %d frames handed out, the ledger %d received", d.CometFrames, d.LedgerFrames))
	}
	if d.Measured.Expected == 0 {
		v.Fail("nothing was to be delivered in the measured phase")
	}
	return v
}
