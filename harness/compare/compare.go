// Package compare holds stored runs against each other. The unit is the run, never the
// single latency: of millions of latencies every difference is significant, and says
// nothing of the next run. Several runs of each side go in; out come, for each figure,
// medians, how far the sides differ with an interval, and a plain sentence.
package compare

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/aclements/go-moremath/stats"
	"golang.org/x/perf/benchmath"

	"barrage/harness/report"
)

// Confidence is the level of every interval and of what is called a difference.
const Confidence = 0.95

// A Side is the runs of one version, configuration or machine.
type Side struct {
	Name string
	Runs []*report.Run
}

// A Comparison is what several sides' runs say about each other. The first side is the one
// that the others are held against.
type Comparison struct {
	Sides    []Side
	Rows     []Row
	Warnings []string // what makes the comparison doubtful: other environments, invalid runs
}

// A Row is one figure over all sides.
type Row struct {
	Figure report.Figure
	Cells  []Cell // one a side
}

// A Cell is one figure of one side's runs.
type Cell struct {
	Values []float64 // one a run that has the figure, in the order of the runs
	Median float64
	// Low and High bound the median at Confidence; with fewer than six runs they are the
	// least and the greatest value, and Bounded is false.
	Low, High float64
	Bounded   bool
	Change    *Change // against the first side; nil on it, and where one of them has no values
}

// A Change is how a side's figure differs from the first side's.
type Change struct {
	// Ratio is the middle of all ratios of a run of this side to one of the first
	// (the Hodges-Lehmann estimate on a logarithmic scale), 1.12 for 12% more. Low and High
	// bound it at Confidence where Enough, else they are the least and the greatest. Where a
	// value is 0 there are no ratios, and Absolute says that Ratio, Low and High are
	// differences.
	Ratio, Low, High float64
	Absolute         bool

	P           float64 // of the Mann-Whitney test
	Significant bool    // P is at most 1 - Confidence
	Enough      bool    // the runs are enough for any difference to be significant
}

// Of compares the figures, all when none is named. One of a line of pushes that no run has is
// an error: it is misspelt.
func Of(sides []Side, figures []report.Figure) (*Comparison, error) {
	if len(sides) < 2 {
		return nil, fmt.Errorf("compare: %d sides; two at least are wanted", len(sides))
	}
	for _, s := range sides {
		if len(s.Runs) == 0 {
			return nil, fmt.Errorf("compare: %s has no run", s.Name)
		}
	}
	if len(figures) == 0 {
		figures = report.FiguresOf(Runs(sides)...)
	}
	for _, f := range figures {
		if err := knowsLine(sides, f); err != nil {
			return nil, err
		}
	}
	c := &Comparison{Sides: sides, Warnings: warnings(sides)}
	for _, f := range figures {
		row := Row{Figure: f}
		for _, s := range sides {
			row.Cells = append(row.Cells, cell(f, s.Runs))
		}
		for i := 1; i < len(row.Cells); i++ {
			row.Cells[i].Change = change(row.Cells[0].Values, row.Cells[i].Values)
		}
		if slices.ContainsFunc(row.Cells, func(c Cell) bool { return len(c.Values) > 0 }) {
			c.Rows = append(c.Rows, row)
		}
	}
	return c, nil
}

// Runs returns the runs of all sides.
func Runs(sides []Side) (runs []*report.Run) {
	for _, s := range sides {
		runs = append(runs, s.Runs...)
	}
	return runs
}

// knowsLine is an error where f is of a line of pushes that no run has.
func knowsLine(sides []Side, f report.Figure) error {
	line, ok := report.LineOf(f.Name)
	if !ok {
		return nil
	}
	var known []string
	for _, r := range Runs(sides) {
		for _, l := range r.Pushes.Lines {
			if l.Name == line {
				return nil
			}
			if !slices.Contains(known, l.Name) {
				known = append(known, l.Name)
			}
		}
	}
	return fmt.Errorf("compare: %s: no run has a line of pushes called %q; there are %s", f.Name, line, strings.Join(known, ", "))
}

// Alone is what the runs of one side say together: a Comparison without a change.
func Alone(s Side, figures []report.Figure) *Comparison {
	c := &Comparison{Sides: []Side{s}, Warnings: warnings([]Side{s})}
	for _, f := range figures {
		if own := cell(f, s.Runs); len(own.Values) > 0 {
			c.Rows = append(c.Rows, Row{f, []Cell{own}})
		}
	}
	return c
}

func cell(f report.Figure, runs []*report.Run) Cell {
	var values []float64
	for _, r := range runs {
		if v, ok := f.Of(r); ok {
			values = append(values, v)
		}
	}
	return summary(values)
}

// summary is the median of values, a run's each, with what bounds it.
func summary(values []float64) Cell {
	c := Cell{Values: values}
	if len(c.Values) == 0 {
		return c
	}
	s := benchmath.AssumeNothing.Summary(benchmath.NewSample(slices.Clone(c.Values), &benchmath.DefaultThresholds), Confidence)
	c.Median, c.Low, c.High, c.Bounded = s.Center, s.Lo, s.Hi, true
	if math.IsInf(s.Lo, 0) || math.IsInf(s.Hi, 0) {
		c.Low, c.High, c.Bounded = slices.Min(c.Values), slices.Max(c.Values), false
	}
	return c
}

// change holds b against a.
func change(a, b []float64) *Change {
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	test := benchmath.AssumeNothing.Compare(
		benchmath.NewSample(slices.Clone(a), &benchmath.DefaultThresholds), benchmath.NewSample(slices.Clone(b), &benchmath.DefaultThresholds))
	ch := &Change{P: test.P, Significant: test.P <= 1-Confidence, Absolute: slices.Min(a) <= 0 || slices.Min(b) <= 0}
	// Every pair of runs says how far the sides are apart. The middle of what they say is
	// the estimate, and the test's own distribution says how many of the outermost can be
	// left out for an interval that agrees with it.
	var pairs []float64
	for _, x := range a {
		for _, y := range b {
			if ch.Absolute {
				pairs = append(pairs, y-x)
			} else {
				pairs = append(pairs, y/x)
			}
		}
	}
	slices.Sort(pairs)
	n := len(pairs)
	ch.Ratio = (pairs[(n-1)/2] + pairs[n/2]) / 2
	outer := outermost(len(a), len(b))
	ch.Enough = outer > 0
	ch.Low, ch.High = pairs[0], pairs[n-1]
	if ch.Enough {
		ch.Low, ch.High = pairs[outer-1], pairs[n-outer]
	}
	return ch
}

// outermost returns the rank, 1 being the outermost, of the pairs that bound an interval at
// Confidence; 0 where there are too few for any.
func outermost(n, m int) int {
	if max(n, m) > stats.MannWhitneyExactLimit { // as the test itself does
		spread := math.Sqrt(float64(n*m) * float64(n+m+1) / 12)
		return max(0, int(math.Ceil(float64(n*m)/2-math.Sqrt2*math.Erfinv(Confidence)*spread)))
	}
	u := stats.UDist{N1: n, N2: m}
	return sort.Search(n*m/2, func(k int) bool { return 2*u.CDF(float64(k)) > 1-Confidence })
}

// A Judgement is what a change means to a user.
type Judgement int

// The judgements.
const (
	Unknown   Judgement = iota // too few runs to tell a difference from noise
	Same                       // no difference that the runs show
	Better                     // a difference for the better
	Worse                      // a difference for the worse
	Different                  // a difference of a figure that judges nothing
)

// Judge says what the change of a figure means.
func (ch *Change) Judge(f report.Figure) Judgement {
	switch {
	case ch.Low == ch.High && ch.equal():
		return Same
	case !ch.Enough:
		return Unknown
	case !ch.Significant:
		return Same
	case f.Better == report.Neither:
		return Different
	case ch.more() == (f.Better == report.More):
		return Better
	default:
		return Worse
	}
}

// more says whether the figure grew.
func (ch *Change) more() bool {
	if ch.Absolute {
		return ch.Ratio > 0
	}
	return ch.Ratio > 1
}

func (ch *Change) equal() bool {
	if ch.Absolute {
		return ch.Ratio == 0
	}
	return ch.Ratio == 1
}
