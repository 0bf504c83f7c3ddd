package compare

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"barrage/harness/report"
)

// Text writes c for a person: what is doubtful, a table, and a sentence for each figure
// that differs.
func Text(w io.Writer, c *Comparison) error {
	var b strings.Builder
	for i, s := range c.Sides {
		fmt.Fprintf(&b, "%s  %s, %s%s\n", letter(i), s.Name, report.Plural(len(s.Runs), "run"), commits(s.Runs))
	}
	warn(&b, c.Warnings)
	b.WriteString("\n")
	var t report.Table
	t.Add(head(c)...)
	for _, row := range c.Rows {
		t.Add(cells(row)...)
	}
	b.WriteString(t.Lines("  "))
	b.WriteString("\n")
	for _, line := range Sentences(c) {
		fmt.Fprintf(&b, "%s\n", line)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Spread writes what the runs of one side say together: each figure's median, with the
// interval that holds it, and the least and the greatest value.
func Spread(w io.Writer, c *Comparison) error {
	var b strings.Builder
	s := c.Sides[0]
	fmt.Fprintf(&b, "%s, %s%s\n", s.Name, report.Plural(len(s.Runs), "run"), commits(s.Runs))
	warn(&b, c.Warnings)
	b.WriteString("\n")
	var t report.Table
	t.Add("figure", strings.TrimSpace("median "+doubt(s)), "", "least", "greatest")
	for _, row := range c.Rows {
		f, own := row.Figure, row.Cells[0]
		t.Add(f.Name, f.Unit.Format(own.Median), spread(f, own), f.Unit.Format(slices.Min(own.Values)), f.Unit.Format(slices.Max(own.Values)))
	}
	b.WriteString(t.Lines("  "))
	_, err := io.WriteString(w, b.String())
	return err
}

// warn writes what is doubtful, where anything is.
func warn(b *strings.Builder, list []string) {
	if len(list) > 0 {
		b.WriteString("\nMind, before you read on:\n")
	}
	for _, line := range list {
		fmt.Fprintf(b, "  - %s\n", line)
	}
}

// letter names side i: A, B, ...
func letter(i int) string { return string(rune('A' + i%26)) }

func commits(list []*report.Run) string {
	var seen []string
	for _, r := range list {
		if c := shortCommit(r); c != "" && (len(seen) == 0 || seen[len(seen)-1] != c) {
			seen = append(seen, c)
		}
	}
	if len(seen) == 0 {
		return ""
	}
	return ", commit " + strings.Join(seen, ", ")
}

// shortCommit is what a person needs of a run's commit: its beginning, and whether there were
// changes beside it.
func shortCommit(r *report.Run) string {
	hash, changed := strings.CutSuffix(r.Environment.Commit, "-dirty")
	hash = hash[:min(len(hash), 12)]
	if changed {
		hash += "-dirty"
	}
	return hash
}

func head(c *Comparison) []string {
	h := []string{"figure"}
	for i, s := range c.Sides {
		h = append(h, strings.TrimSpace(letter(i)+" "+doubt(s)), "")
		if i > 0 {
			h = append(h, letter(i)+" against A", "")
		}
	}
	return h
}

// doubt is the word that stands beside every figure of a side with invalid runs.
func doubt(s Side) string {
	switch n := count(s, (*report.Verdict).Doubtful); n {
	case 0:
		return ""
	case len(s.Runs):
		return "INVALID"
	default:
		return fmt.Sprintf("%d of %d INVALID", n, len(s.Runs))
	}
}

// count is how many of a side's runs have such a verdict.
func count(s Side, such func(*report.Verdict) bool) (n int) {
	for _, r := range s.Runs {
		if such(&r.Verdict) {
			n++
		}
	}
	return n
}

// is says whether a verdict has a status.
func is(status string) func(*report.Verdict) bool {
	return func(v *report.Verdict) bool { return v.Status == status }
}

func cells(row Row) []string {
	out := []string{row.Figure.Name}
	for i, c := range row.Cells {
		if len(c.Values) == 0 {
			out = append(out, "-", "")
		} else {
			out = append(out, row.Figure.Unit.Format(c.Median), spread(row.Figure, c))
		}
		if i > 0 {
			out = append(out, changeCells(row.Figure, c.Change)...)
		}
	}
	return out
}

// spread is the interval of a median, in its unit.
func spread(f report.Figure, c Cell) string {
	if len(c.Values) == 1 {
		return ""
	}
	mark := ""
	if !c.Bounded {
		mark = " (all)" // too few runs for an interval: from the least to the greatest
	}
	return f.Unit.Format(c.Low) + ".." + f.Unit.Format(c.High) + mark
}

func changeCells(f report.Figure, ch *Change) []string {
	if ch == nil {
		return []string{"", ""}
	}
	switch ch.Judge(f) {
	case Same:
		return []string{"~", fmt.Sprintf("p=%.3f", ch.P)}
	case Unknown:
		return []string{ch.size(f), "too few runs"}
	case Better:
		return []string{ch.size(f), "better"}
	case Worse:
		return []string{ch.size(f), "WORSE"}
	default:
		return []string{ch.size(f), "different"}
	}
}

// size writes the change as a percentage, or in the figure's unit.
func (ch *Change) size(f report.Figure) string {
	if ch.Absolute {
		sign := "+"
		if ch.Ratio < 0 {
			sign = "-"
		}
		return sign + f.Unit.Format(math.Abs(ch.Ratio))
	}
	return signed(ch.Ratio)
}

func signed(ratio float64) string { return fmt.Sprintf("%+.1f%%", (ratio-1)*100) }

// Sentences says in plain words what differs, and what doesn't as far as the runs can tell.
func Sentences(c *Comparison) []string {
	var out []string
	for i := 1; i < len(c.Sides); i++ {
		var same []string
		var few [][2]int // how many runs of A and of the side have figures that can't be judged
		unknown := map[[2]int][]string{}
		a, b := named(0, c.Sides[0]), named(i, c.Sides[i])
		who := b
		if a != letter(0) {
			who += " against " + a
		}
		for _, row := range c.Rows {
			ch := row.Cells[i].Change
			if ch == nil {
				continue
			}
			switch ch.Judge(row.Figure) {
			case Same:
				same = append(same, row.Figure.Name)
			case Unknown:
				n := [2]int{len(row.Cells[0].Values), len(row.Cells[i].Values)}
				if unknown[n] == nil {
					few = append(few, n)
				}
				unknown[n] = append(unknown[n], row.Figure.Name)
			default:
				out = append(out, sentence(who, row.Figure, ch))
			}
		}
		n := len(c.Sides[0].Runs) + len(c.Sides[i].Runs)
		if len(same) > 0 {
			out = append(out, fmt.Sprintf("%s and %s: no difference that %d runs can show in %s.", b, a, n, strings.Join(same, ", ")))
		}
		for _, n := range few {
			out = append(out, fmt.Sprintf("%s and %s: %d and %d runs are too few to tell a difference from noise; four of each can. Medians differ in %s.",
				b, a, n[1], n[0], strings.Join(unknown[n], ", ")))
		}
	}
	return out
}

// named is a side's letter, and whether it has invalid runs: no figure of one stands without
// that word.
func named(i int, s Side) string {
	if mark := doubt(s); mark != "" {
		return fmt.Sprintf("%s (%s)", letter(i), mark)
	}
	return letter(i)
}

func sentence(side string, f report.Figure, ch *Change) string {
	verb, direction := "is", "lower"
	if ch.more() {
		direction = "higher"
	}
	judged := map[Judgement]string{Better: "better", Worse: "worse"}[ch.Judge(f)]
	if judged != "" {
		judged = ", " + judged
	}
	if ch.Absolute {
		return fmt.Sprintf("%s: %s %s %s by %s%s (%s).", side, f.Name, verb, direction, f.Unit.Format(math.Abs(ch.Ratio)), judged, f.Help)
	}
	return fmt.Sprintf("%s: %s %s %.3g%% %s (%s to %s)%s: %s.", side, f.Name, verb, math.Abs(ch.Ratio-1)*100, direction,
		signed(ch.Low), signed(ch.High), judged, f.Help)
}
