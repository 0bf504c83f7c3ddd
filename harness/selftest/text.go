package selftest

import (
	"fmt"
	"io"
	"strings"

	"barrage/harness/report"
)

// Worst returns the worst outcome of results.
func Worst(results []Result) (worst Outcome) {
	for _, r := range results {
		worst = max(worst, r.Outcome)
	}
	return worst
}

// Text writes results for a person: what they come to, then a table of what was planned,
// what the server did by its own account, and what the harness reported.
func Text(w io.Writer, results []Result) error {
	var b strings.Builder
	by := map[Outcome]int{}
	for _, r := range results {
		by[r.Outcome]++
	}
	checks := report.Plural(len(results), "check")
	switch Worst(results) {
	case AsPlanned:
		fmt.Fprintf(&b, "PASSED  selftest: %s, and all are reported as planned.\n", checks)
	case Unclear:
		fmt.Fprintf(&b, "UNCLEAR  selftest: %d of %s could not be made on this machine as it is now; the others are reported as planned.\n", by[Unclear], checks)
	case Wrong:
		fmt.Fprintf(&b, "FAILED  selftest: of %[2]s, %[1]d not reported as planned. Don't trust this binary's figures on this machine.\n", by[Wrong], checks)
	}
	var t report.Table
	t.Add("", "planned", "the server did", "reported")
	for _, r := range results {
		t.Add(r.Name)
		for _, f := range r.Figures {
			t.Add("  "+f.Name, f.Planned, f.Did, f.Reported, note(f.Outcome))
		}
	}
	fmt.Fprintf(&b, "\n%s", t.Lines(""))
	for _, r := range results {
		if r.Outcome == AsPlanned {
			continue
		}
		fmt.Fprintf(&b, "\n%s: %s\n", r.Name, r.Outcome)
		for _, why := range r.Why {
			fmt.Fprintf(&b, "  - %s\n", why)
		}
		if r.Attempts > 1 {
			fmt.Fprintf(&b, "  tried %d times; this is the last one\n", r.Attempts)
		}
		fmt.Fprintf(&b, "  its files are in %s\n", r.Dir)
	}
	b.WriteString("\nCounts are to be equal. Times are to be within 1% and 1 ms of what the server did, by its stamps\n" +
		"from just before each frame was sent; the server may be late itself, by 5% and 20 ms.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// note is an outcome in the table, where only what is not as planned needs a word.
func note(o Outcome) string {
	if o == AsPlanned {
		return "ok"
	}
	return o.String()
}
