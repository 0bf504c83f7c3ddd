package harness

import (
	"strings"
	"testing"

	"barrage/harness/capacity"
	"barrage/harness/report"
	"barrage/harness/scenario"
)

// What a search found is said in a sentence, and whether it may be relied on.
func TestCapacityText(t *testing.T) {
	s := &scenario.Scenario{Name: "x", Pushes: []scenario.Push{{Name: "room"}}, Capacity: &scenario.Capacity{Confirm: 3}}
	for _, c := range []struct {
		result capacity.Result
		want   []string
	}{
		{capacity.Result{Holds: 200, Breaks: 216, Confirmed: true}, []string{"x, room: 200 pushes a second hold, 216 do not.", "3 runs at least"}},
		{capacity.Result{Holds: 200, Breaks: 400}, []string{"200 pushes a second hold, 400 do not", "NOT confirmed"}},
		{capacity.Result{Breaks: 10}, []string{"10 pushes a second do not hold", "NOT confirmed"}},
		{capacity.Result{Holds: 10, Unclear: 20}, []string{"10 pushes a second hold; 20 and more could not be measured"}},
		{capacity.Result{Holds: 1000}, []string{"1000 pushes a second hold, and nothing in the range was found not to"}},
		{capacity.Result{}, []string{"no rate could be measured"}},
	} {
		c.result.Trials = []capacity.Trial{{Rate: 20, Outcome: capacity.Broke, Reason: "lost is 3"}}
		var b strings.Builder
		if err := (&CapacityResult{Scenario: s, Result: &c.result, Runs: []*report.Run{{Ceiling: &report.Ceiling{WritesFraction: 0.87}}}}).Text(&b); err != nil {
			t.Fatal(err)
		}
		for _, want := range append(c.want, "20    broke", " 87.0% ", "  lost is 3") {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%q is not in\n%s", want, b.String())
			}
		}
	}
}
