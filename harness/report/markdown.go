package report

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Markdown writes r as a page for a repository or an issue: the verdict, the main figures
// with what was expected of them, latencies, processes, and how to repeat the run.
func Markdown(w io.Writer, r *Run) error {
	e := &errWriter{w: w}
	e.printf("# %s: %s\n\n%s\n", r.Scenario.Name, StatusWord(r.Verdict.Status), r.Scenario.Description)
	if reasons := slices.Concat(r.Verdict.Doubts, r.Verdict.Reasons); len(reasons) > 0 {
		e.printf("\n")
		for _, reason := range reasons {
			e.printf("- %s\n", reason)
		}
	}
	for _, warning := range r.Warnings {
		e.printf("\nWarning: %s\n", warning)
	}
	mark := ""
	if r.Verdict.Doubtful() {
		mark = " (INVALID)"
	}
	e.printf("\n| figure%s | value | expected |\n|---|---|---|\n", mark)
	for _, f := range FiguresOf(r) {
		wanted, unknown := "", false
		for _, c := range r.Verdict.Checks {
			if c.Figure == f.Name {
				wanted, unknown = strings.TrimSpace(c.Wanted+map[bool]string{false: ": no"}[c.Holds]), c.Unknown
			}
		}
		v, ok := f.Of(r)
		value := f.Unit.Format(v)
		if unknown {
			value, ok = "not known", true
		}
		if !ok || !f.Primary && wanted == "" {
			continue
		}
		e.printf("| %s: %s | %s | %s |\n", f.Name, f.Help, value, wanted)
	}
	e.printf("\n| latency%s | p50 | p90 | p99 | p99.9 | max |\n|---|---|---|---|---|---|\n", mark)
	for _, row := range latencyRows(r) {
		e.printf("| %s | %s | %s | %s | %s | %s |\n", strings.TrimSpace(row.name), span(row.p.P50), span(row.p.P90), span(row.p.P99), span(row.p.P999), span(row.p.Max))
	}
	if lines := r.witnesses(); len(lines) > 0 {
		e.printf("\nCounted beside the ledger%s:\n\n", mark)
		for _, line := range lines {
			e.printf("- %s\n", line)
		}
	}
	if len(r.Stages) > 0 {
		e.printf("\n| where a push's time goes%s | pushes | mean | p50 | p99 | told by |\n|---|---|---|---|---|---|\n", mark)
		for _, cells := range stageRows(r) {
			cells[0] = strings.TrimSpace(cells[0])
			e.printf("| %s |\n", strings.Join(cells[:6], " | "))
		}
		e.printf("\n%s\n", strings.Join(stageNotes(r), " "))
	}
	if f := r.Fairness; f != nil {
		e.printf("\nFairness%s:\n\n", mark)
		for _, line := range f.lines() {
			e.printf("- %s\n", line)
		}
	}
	e.printf("\n| process%s | CPU | cores | peak RSS | Go heap |\n|---|---|---|---|---|\n", mark)
	for _, p := range r.Processes {
		e.printf("| %s | %s | %.2f | %s | %s |\n", p.Name, span(p.CPUSeconds), p.CoresUsed, sizeOf(p.RSSPeakBytes), sizeOf(p.GoHeapBytes))
	}
	if r.Target != nil {
		e.printf("\n%s\n", strings.Join(targetLines(r), "; "))
	}
	e.printf("\n%s, Linux %s, %s%s, %s UTC. To repeat it:\n\n```\n%s\n```\n",
		r.Environment.Machine(), r.Environment.Kernel, r.Environment.Go, commit(r.Environment.Commit),
		r.Started.Format("2006-01-02 15:04"), CommandLine(r.Command))
	return e.err
}

// userInfo is the user and the password of a URL.
var userInfo = regexp.MustCompile(`://[^/?#\s"'@]+@`)

// Shown returns a text with the users and passwords of its URLs left out: what it is to be kept or
// passed on as.
func Shown(text string) string { return userInfo.ReplaceAllString(text, "://xxxxx@") }

// ShownAll is Shown for each text. It never returns nil.
func ShownAll(texts []string) []string {
	list := make([]string, len(texts))
	for i, text := range texts {
		list[i] = Shown(text)
	}
	return list
}

// CommandLine writes a command as a shell takes it.
func CommandLine(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n\"'`$&|;<>()*?[]#~!{}\\") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted[i] = a
	}
	return strings.Join(quoted, " ")
}

// A latencyRow is one line of a table of latencies.
type latencyRow struct {
	name string
	p    Percentiles
}

// latencyRows returns the latencies that the run has.
func latencyRows(r *Run) []latencyRow {
	l := &r.Latency
	rows := []latencyRow{
		{"to receipt", l.All}, {"  TCP", l.TCP}, {"  WebSocket", l.WebSocket}, {"  TCP inside TLS", l.TCPTLS}, {"  WebSocket inside TLS", l.WSS},
	}
	if len(r.Pushes.Lines) > 1 {
		for _, line := range r.Pushes.Lines {
			rows = append(rows, latencyRow{"  of " + line.Name, line.Latency})
		}
	}
	for _, line := range r.Pushes.Lines {
		for _, step := range line.Steps {
			rows = append(rows, latencyRow{fmt.Sprintf("  of %s at %s/s", line.Name, amount(step.Rate)), step.Latency})
		}
	}
	rows = append(rows, latencyRow{"to the first receipt", l.First}, latencyRow{"to the last receipt", l.Last}, latencyRow{"first to last receipt", l.Spread})
	return slices.DeleteFunc(rows, func(r latencyRow) bool { return r.p.Count == 0 })
}
