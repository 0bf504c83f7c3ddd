package harness_test

import (
	"testing"

	"barrage/harness/report"
)

// Steps of rates in one run: 20 pushes in the first second, 100 in the next half of one, and 40
// in each second of the rest, which is two; the warm-up has the first rate. The line beside it
// goes its own way.
func TestSteps(t *testing.T) {
	t.Parallel()
	file := scenarioFile(t, `name: steps
clients: {count: 20, connect_rate: 200/s, rooms: {count: 2}, accepts: [1000, 1001]}
pushes:
  - {kind: room, operation: 1000, steps: [{rate: 20/s, for: 1s}, {rate: 200/s, for: 500ms}, {rate: 40/s, for: 1s}], size: 64B}
  - {kind: all, operation: 1001, rate: 10/s, size: 64B}
phases: {warmup: 1s, measure: 3500ms, drain: 20s}
`+lenient+`
`)
	b := start(t, "-ceiling=false", file)
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	// A push to a room is for ten clients, one to all for twenty.
	for _, want := range []struct {
		name               string
		pushes, deliveries int64
	}{{"room", 20 + 100 + 2*40, 200 * 10}, {"all", 35, 35 * 20}} {
		for _, l := range r.Pushes.Lines {
			if l.Name == want.name && (l.Pushes.Intended != want.pushes || l.Pushes.Acknowledged != want.pushes ||
				l.Deliveries.Expected != want.deliveries || l.Deliveries.Delivered != want.deliveries) {
				t.Errorf("line %s: %+v, %+v; want %d pushes and %d deliveries", l.Name, l.Pushes, l.Deliveries, want.pushes, want.deliveries)
			}
		}
	}
	if w := r.Pushes.WarmUp; len(r.Pushes.Lines) != 2 || w.Acknowledged != 20+10 || r.Deliveries.WarmUp.Delivered != 20*10+10*20 {
		t.Errorf("%d lines, warm-up %+v, %+v", len(r.Pushes.Lines), w, r.Deliveries.WarmUp)
	}
	if r.Verdict.Status != report.Good {
		t.Errorf("%+v", r.Verdict)
	}
}
