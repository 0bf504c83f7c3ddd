package compare

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"barrage/harness/report"
)

// A Limit is how far a figure may change before a comparison fails: "latency.p99 +10%" for
// no more than a tenth above A's, "deliveries.per_second -5%" for no more below.
type Limit struct {
	Figure report.Figure
	Change float64 // 0.1 for +10%, -0.05 for -5%
	text   string
}

// ParseLimit reads a limit.
func ParseLimit(text string) (Limit, error) {
	l := Limit{text: text}
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return l, fmt.Errorf("limit %q: write it as FIGURE +N%% or FIGURE -N%%, e.g. 'latency.p99 +10%%'", text)
	}
	f, ok := report.FindFigure(fields[0])
	if !ok {
		return l, fmt.Errorf("limit %q: there is no figure %s; there are %s", text, fields[0], strings.Join(report.FigureNames("NAME"), ", "))
	}
	number, percent := strings.CutSuffix(fields[1], "%")
	v, err := strconv.ParseFloat(number, 64)
	if !percent || err != nil || math.IsNaN(v) || math.IsInf(v, 0) || !strings.ContainsAny(fields[1][:1], "+-") {
		return l, fmt.Errorf("limit %q: %q is no change; write it as +10%% or -10%%", text, fields[1])
	}
	l.Figure, l.Change = f, v/100
	return l, nil
}

// Broken returns a line for each side whose change is past the limit. With enough runs the
// change must be significant too: noise breaks no limit. With fewer the medians decide.
func (l Limit) Broken(c *Comparison) []string {
	var out []string
	for _, row := range c.Rows {
		if row.Figure.Name != l.Figure.Name {
			continue
		}
		for i, cell := range row.Cells {
			ch := cell.Change
			if ch == nil || ch.Enough && !ch.Significant {
				continue
			}
			relative := ch.Ratio - 1
			if ch.Absolute {
				relative = ch.Ratio / math.Abs(row.Cells[0].Median) // infinite from 0 on
			}
			past := relative > l.Change
			if l.Change < 0 || strings.Contains(l.text, "-") {
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
	}
	return out
}
