package compare

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"barrage/harness/report"
)

// A Limit is how far a figure may change before a comparison fails: "latency.p99 +10%" for
// no more than a tenth above A's, "deliveries.per_second -5%" for no more below.
type Limit struct {
	Figure report.Figure
	Change float64 // 0.1 for +10%, -0.05 for -5%
	Down   bool    // it bounds how far the figure may fall, as -0% does, too
	text   string
}

// ParseLimit reads a limit.
func ParseLimit(text string) (Limit, error) {
	l := Limit{text: text}
	trimmed := strings.TrimSpace(text)
	blank := strings.LastIndexAny(trimmed, " \t") // the name of a line of pushes may have others
	if blank < 0 {
		return l, fmt.Errorf("limit %q: write it as FIGURE +N%% or FIGURE -N%%, e.g. 'latency.p99 +10%%'", text)
	}
	name, change := strings.TrimSpace(trimmed[:blank]), trimmed[blank+1:]
	f, ok := report.FindFigure(name)
	if !ok {
		return l, fmt.Errorf("limit %q: there is no figure %s; there are %s", text, name, strings.Join(report.FigureNames("NAME"), ", "))
	}
	number, percent := strings.CutSuffix(change, "%")
	v, err := strconv.ParseFloat(number, 64)
	if !percent || err != nil || math.IsNaN(v) || math.IsInf(v, 0) || !strings.ContainsAny(change[:1], "+-") {
		return l, fmt.Errorf("limit %q: %q is no change; write it as +10%% or -10%%", text, change)
	}
	l.Figure, l.Change, l.Down = f, v/100, change[0] == '-'
	return l, nil
}

// Broken returns a line for each side whose change is past the limit, and for one that doesn't have
// the figure: where nothing arrived there is no latency to be too long. With enough runs the
// change must be significant too: noise breaks no limit. With fewer the medians decide.
func (l Limit) Broken(c *Comparison) []string {
	i := slices.IndexFunc(c.Rows, func(r Row) bool { return r.Figure.Name == l.Figure.Name })
	if i < 0 {
		return []string{fmt.Sprintf("%s: no run has it, so the limit %s says nothing", l.Figure.Name, l.text)}
	}
	cells := c.Rows[i].Cells
	if len(cells[0].Values) == 0 {
		return []string{fmt.Sprintf("A: has no %s to hold others against, so the limit %s says nothing", l.Figure.Name, l.text)}
	}
	var out []string
	for i := 1; i < len(cells); i++ {
		ch := cells[i].Change
		if ch == nil {
			out = append(out, fmt.Sprintf("%s: has no %s, which A has, so the limit %s can't be held", letter(i), l.Figure.Name, l.text))
			continue
		}
		if ch.Enough && !ch.Significant {
			continue
		}
		relative := ch.Ratio - 1
		if ch.Absolute {
			relative = ch.Ratio / math.Abs(cells[0].Median) // infinite from 0 on
		}
		past := relative > l.Change
		if l.Down {
			past = relative < l.Change
		}
		if !past || relative == 0 {
			continue
		}
		by := "by medians alone, the runs are too few for more"
		if ch.Enough {
			by = fmt.Sprintf("p=%.3f", ch.P)
		}
		out = append(out, fmt.Sprintf("%s: %s is %s against A, past the limit %s (%s)", letter(i), l.Figure.Name, ch.size(l.Figure), l.text, by))
	}
	return out
}
