package profile

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"barrage/harness/report"
)

// WriteText writes the first n rows of t for a person; n of 0 is all.
func (t *Table) WriteText(w io.Writer, n int) error {
	var b strings.Builder
	s, k := t.Side, t.Side.Kind()
	fmt.Fprintf(&b, "%s\n%s\n", s.heading(), s.subject())
	fmt.Fprintf(&b, "%s, %s\n", amount(t.Total.Value, k.measuredIn(), t.Total.Within), s.basis(t.Total.Events))
	if left := s.profiling(); left > 0 {
		fmt.Fprintf(&b, "%s went into profiling itself and are in no figure\n", plain(left, k.measuredIn()))
	}
	for _, line := range doubts(s) {
		fmt.Fprintf(&b, "Mind: %s\n", line)
	}
	b.WriteString("\n")
	shown := first(t.Rows, n)
	short := shortNames(names(s))
	rows := [][]string{{"flat", "+-", "share", "cum", "+-", "share", " function"}}
	rest, total := t.Total.Value, t.Total.Value
	for _, r := range shown {
		rest -= r.Flat.Value
		row := append(costCells(r.Flat, total), costCells(r.Cum, total)...)
		rows = append(rows, append(row, " "+title(short[r.Function], r.Inlined)))
	}
	writeTable(&b, rows)
	if left := len(t.Rows) - len(shown); left > 0 {
		fmt.Fprintf(&b, "\n%d more functions: %s, %s of it, by themselves\n", left, plain(rest, k.measuredIn()), percent(rest, total))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteText writes the first n changes of d for a person; n of 0 is all.
func (d *Diff) WriteText(w io.Writer, n int) error {
	var b strings.Builder
	k := d.A.Kind()
	fmt.Fprintf(&b, "A  %s\n   %s\nB  %s\n   %s\n", d.A.heading(), d.A.subject(), d.B.heading(), d.B.subject())
	fmt.Fprintf(&b, "\n%s: A %s, B %s, %s\n", k.measuredIn(), digits(d.Total.A), digits(d.Total.B), d.sentence(d.Total))
	for _, line := range d.method() {
		fmt.Fprintf(&b, "%s\n", line)
	}
	if lines := d.Doubts(); len(lines) > 0 {
		b.WriteString("\nMind, before you read on:\n")
		for _, line := range lines {
			fmt.Fprintf(&b, "  - %s\n", line)
		}
	}
	b.WriteString("\n")
	shown := first(d.Changes, n)
	short := shortNames(names(d.A, d.B))
	rows := [][]string{{"flat A", "flat B", "change", "+-", "cum A", "cum B", "change", "+-", " function"}}
	for _, r := range shown {
		row := append(diffCells(r.Flat), diffCells(r.Cum)...)
		rows = append(rows, append(row, " "+title(short[r.Function], r.Inlined)))
	}
	if len(shown) > 0 {
		writeTable(&b, rows)
		b.WriteString("\n")
	}
	if left := len(d.Changes) - len(shown); left > 0 {
		fmt.Fprintf(&b, "%d more functions changed; -n shows more.\n", left)
	}
	fmt.Fprintf(&b, "%s\n", d.restLine())
	if d.Otherwise > 0 {
		how := map[Order]string{ByFlat: "with what they call", ByCum: "by themselves"}[d.Order]
		fmt.Fprintf(&b, "%d of them changed %s: -sort %s lists them.\n", d.Otherwise, how, d.Order.other())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// costCells are a cost's columns, empty for what was never hit.
func costCells(c Cost, total float64) []string {
	if c.Events == 0 {
		return []string{"-", "", ""}
	}
	return []string{digits(c.Value), digits(c.Within), percent(c.Value, total)}
}

// diffCells are a difference's columns. A change that is none is not written, lest it be
// read as one.
func diffCells(d Difference) []string {
	if d.A == 0 && d.B == 0 {
		return []string{"-", "-", "", ""}
	}
	change := "~"
	if d.Changed {
		change = signed(d.Delta)
	}
	return []string{digits(d.A), digits(d.B), change, digits(d.Within)}
}

// sentence says how much d differs.
func (d *Diff) sentence(x Difference) string {
	if !x.Changed {
		return fmt.Sprintf("no difference that %s can show (%s +-%s)", d.shows(), signed(x.Delta), digits(x.Within))
	}
	ratio := ""
	if x.A > 0 {
		ratio = fmt.Sprintf(" (%+.1f%%)", x.Delta/x.A*100)
	}
	return fmt.Sprintf("%s%s +-%s", signed(x.Delta), ratio, digits(x.Within))
}

func (d *Diff) shows() string { return plural(len(d.A.Runs)+len(d.B.Runs), "run") }

// restLine sums up what is not listed.
func (d *Diff) restLine() string {
	figures := fmt.Sprintf("A %s, B %s, %s +-%s", digits(d.Rest.A), digits(d.Rest.B), signed(d.Rest.Delta), digits(d.Rest.Within))
	how := "by themselves"
	if d.Order == ByCum {
		how = "with what they call"
	}
	line := fmt.Sprintf("%s: %s no difference that %s can show; together, by themselves, %s",
		plural(d.Others, "other function"), how, d.shows(), figures)
	if d.Rest.Changed {
		line = fmt.Sprintf("%s: %s none differs alone as far as %s can show, but together, by themselves, they do: %s",
			plural(d.Others, "other function"), how, d.shows(), figures)
	}
	return line
}

// method says what the intervals are.
func (d *Diff) method() []string {
	if !d.Enough() {
		return []string{
			"One run of a side can't tell noise from change. The intervals are the least that there can be: the",
			"sampling error (Poisson, 95%). What is listed is more than that, and may still differ from run to run.",
		}
	}
	return []string{
		"Intervals are of 95%, by Welch's t-test over the runs, and never less than the sampling error (Poisson).",
		"Of the changes listed one in twenty at most is expected to be noise (Benjamini and Hochberg).",
	}
}

// heading names a side and its commits.
func (s *Side) heading() string {
	text := s.Name
	if len(s.Runs) > 1 {
		text += fmt.Sprintf(", %d runs", len(s.Runs))
	}
	var commits []string
	for _, c := range s.Runs {
		commit := c.Run.Report.Environment.Commit
		if commit != "" && !slices.Contains(commits, commit) {
			commits = append(commits, commit)
		}
	}
	if len(commits) > 0 {
		text += ", commit " + strings.Join(commits, ", ")
	}
	return text
}

// subject says what was profiled.
func (s *Side) subject() string {
	k, n := s.Kind(), float64(len(s.Runs))
	var seconds, divisor float64
	for _, c := range s.Runs {
		seconds, divisor = seconds+c.Seconds/n, divisor+c.Divisor/n
	}
	text := fmt.Sprintf("%s of %s", k, list(s.Runs[0].Processes))
	each := ""
	if n > 1 {
		each = " a run"
	}
	switch {
	case k.flow():
		text += fmt.Sprintf(": %s s%s, %s deliveries%s", digits(seconds), each, count(divisor), each)
	case k != Goroutine:
		text += fmt.Sprintf(": %s clients", count(divisor))
	}
	return text
}

// basis says what the figures rest upon.
func (s *Side) basis(events float64) string {
	text := fmt.Sprintf("by %s %s", count(events), s.Kind().sampled())
	if part, ok := s.accounted(); ok {
		text += fmt.Sprintf(", %.0f%% of the processor time that the kernel counted", part*100)
	}
	return text
}

// profiling returns what taking the profiles cost, in the mean.
func (s *Side) profiling() (sum float64) {
	for _, c := range s.Runs {
		sum += c.Profiling
	}
	return sum / float64(len(s.Runs))
}

// accounted returns which part of the processor time by the kernel's count the profiles
// hold. What they lack was spent in threads that are not Go's.
func (s *Side) accounted() (part float64, ok bool) {
	if s.Kind() != CPU {
		return 0, false
	}
	var profiled, counted float64
	for _, c := range s.Runs {
		r := c.Run.Report
		if r.Server.Seconds <= 0 {
			return 0, false
		}
		profiled += (c.Total + c.Profiling) * c.Divisor / 1e9
		for _, p := range r.Processes {
			if slices.Contains(c.Processes, p.Name) {
				counted += p.CPUSeconds * c.Seconds / r.Server.Seconds
			}
		}
	}
	return profiled / counted, counted > 0
}

// doubts are what makes a side's figures doubtful.
func doubts(s *Side) []string {
	bad := map[string]int{}
	for _, c := range s.Runs {
		if status := c.Run.Report.Verdict.Status; status != report.Good {
			bad[status]++
		}
	}
	var lines []string
	for _, status := range []string{report.Invalid, report.Failed, report.CutShort} {
		if n := bad[status]; n > 0 {
			lines = append(lines, fmt.Sprintf("%d of %s of %s: %s", n, plural(len(s.Runs), "run"), s.Name, report.StatusWord(status)))
		}
	}
	return lines
}

// title writes a function's name for a table.
func title(name, inlined string) string {
	const most = 72
	if len(name) > most {
		name = name[:most/3] + "..." + name[len(name)-(most-most/3-3):]
	}
	switch inlined {
	case "inline":
		return name + " (inlined)"
	case "partial":
		return name + " (partly inlined)"
	}
	return name
}

// amount writes "12.3 ns a delivery +-0.5".
func amount(v float64, in string, within float64) string {
	return plain(v, in) + " +-" + digits(within)
}

func plain(v float64, in string) string { return digits(v) + " " + in }

func signed(v float64) string {
	if v > 0 {
		return "+" + digits(v)
	}
	return digits(v)
}

// percent writes v as a part of total.
func percent(v, total float64) string {
	if total == 0 {
		return "0%"
	}
	text := fmt.Sprintf("%.1f%%", v/total*100)
	if text == "-0.0%" { // a rest of rounding
		return "0.0%"
	}
	return text
}

// digits writes v with three significant digits, and three behind the point at most.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case a < 0.0005:
		return "0"
	case a < 0.9995:
		return strconv.FormatFloat(v, 'f', 3, 64)
	case a < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case a < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return count(v)
}

// count writes v as a whole number with commas.
func count(v float64) string {
	s := strconv.FormatFloat(math.Abs(v), 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if v < 0 {
		return "-" + s
	}
	return s
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// writeTable writes rows whose columns are right-aligned, but for the last.
func writeTable(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, row := range rows {
		for i, cell := range row {
			if i == len(row)-1 {
				b.WriteString(cell + "\n")
				break
			}
			fmt.Fprintf(b, "%*s  ", widths[i], cell)
		}
	}
}
