package compare

import "barrage/harness/report"

// A Summary is a comparison as JSON: what Text shows, for programs.
type Summary struct {
	Sides    []SideSummary `json:"sides"`
	Warnings []string      `json:"warnings"`
	Figures  []RowSummary  `json:"figures"`
	Words    []string      `json:"words"` // the sentences of Text
}

// A SideSummary names a side, and says how many of its runs are no good: figures of invalid
// ones may not be the server's, failed ones broke an expectation, and those cut short, which
// may be invalid too, are of a part of the time.
type SideSummary struct {
	Name     string `json:"name"`
	Runs     int    `json:"runs"`
	Invalid  int    `json:"invalid"`
	Failed   int    `json:"failed"`
	CutShort int    `json:"cut_short"`
}

// A RowSummary is one figure over all sides, in its unit: seconds, bytes, fractions of 1.
type RowSummary struct {
	Figure string        `json:"figure"`
	Help   string        `json:"help"`
	Sides  []CellSummary `json:"sides"`
}

// A CellSummary is one figure of one side.
type CellSummary struct {
	Values []float64      `json:"values"`
	Median float64        `json:"median"`
	Low    float64        `json:"low"`
	High   float64        `json:"high"`
	Change *ChangeSummary `json:"change,omitempty"` // against the first side
}

// A ChangeSummary is how a side differs from the first.
type ChangeSummary struct {
	By        float64 `json:"by"` // 1.12 for 12% more; where Absolute a difference
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
	Absolute  bool    `json:"absolute"`
	P         float64 `json:"p"`
	Judgement string  `json:"judgement"` // too_few_runs, same, better, worse, different
}

// String returns the judgement's name.
func (j Judgement) String() string {
	return [...]string{"too_few_runs", "same", "better", "worse", "different"}[j]
}

// Summary returns c for programs.
func (c *Comparison) Summary() Summary {
	s := Summary{Warnings: append([]string{}, c.Warnings...), Words: Sentences(c)}
	for _, side := range c.Sides {
		s.Sides = append(s.Sides, SideSummary{
			Name: side.Name, Runs: len(side.Runs),
			Invalid: count(side, (*report.Verdict).Doubtful), Failed: count(side, is(report.Failed)), CutShort: count(side, is(report.CutShort)),
		})
	}
	for _, row := range c.Rows {
		r := RowSummary{Figure: row.Figure.Name, Help: row.Figure.Help}
		for _, cell := range row.Cells {
			out := CellSummary{Values: append([]float64{}, cell.Values...), Median: cell.Median, Low: cell.Low, High: cell.High}
			if ch := cell.Change; ch != nil {
				out.Change = &ChangeSummary{By: ch.Ratio, Low: ch.Low, High: ch.High, Absolute: ch.Absolute, P: ch.P, Judgement: ch.Judge(row.Figure).String()}
			}
			r.Sides = append(r.Sides, out)
		}
		s.Figures = append(s.Figures, r)
	}
	return s
}
