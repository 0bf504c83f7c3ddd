package profile

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"barrage/harness/compare"
	"barrage/harness/report"
)

// A DiffRow is how a function's costs differ.
type DiffRow struct {
	Function string     `json:"function"`          // the whole name
	Inlined  string     `json:"inlined,omitempty"` // "inline", "partial" or ""
	Flat     Difference `json:"flat"`
	Cum      Difference `json:"cum"`
}

// A Diff is where two sides' costs differ.
type Diff struct {
	A, B  *Side
	Order Order
	Total Difference
	// Changes are the functions whose cost of Order is called changed, the greatest change
	// first.
	Changes []DiffRow
	// Rest are the others' flat costs together, and Others how many they are. Changes' flat
	// costs and Rest add up to Total.
	Rest   Difference
	Others int
	// Otherwise are how many of the others' costs of the other order are called changed.
	Otherwise int
}

// Compare holds b's costs against a's.
func Compare(a, b *Side, by Order) *Diff {
	d := &Diff{A: a, B: b, Order: by}
	t := newTest()
	d.Total = t.difference(a.total(), b.total())
	call([]*Difference{&d.Total})
	var rows []DiffRow
	for _, name := range names(a, b) {
		flatA, cumA := a.function(name)
		flatB, cumB := b.function(name)
		rows = append(rows, DiffRow{
			Function: name, Inlined: inlining(name, a, b),
			Flat: t.difference(flatA, flatB), Cum: t.difference(cumA, cumB),
		})
	}
	// Costs by themselves and costs with callees are two families of tests. What costs
	// nothing by itself on either side is not among the tested.
	var flats, cums []*Difference
	for i := range rows {
		cums = append(cums, &rows[i].Cum)
		if f := &rows[i].Flat; f.A != 0 || f.B != 0 {
			flats = append(flats, f)
		}
	}
	call(flats)
	call(cums)
	changed := map[string]bool{}
	for _, r := range rows {
		if r.by(by).Changed {
			d.Changes = append(d.Changes, r)
			changed[r.Function] = true
		} else if r.by(by.other()).Changed {
			d.Otherwise++
		}
	}
	// Callers that changed by their callee alone are equal but for rounding: the outer first.
	size := func(r *DiffRow) float64 { return math.Round(math.Abs(r.by(by).Delta) / (d.Total.A + d.Total.B) * 1e9) }
	slices.SortStableFunc(d.Changes, func(x, y DiffRow) int {
		return cmp.Or(cmp.Compare(size(&y), size(&x)), cmp.Compare(y.Cum.B, x.Cum.B))
	})
	d.Others = len(rows) - len(d.Changes)
	d.Rest = t.difference(a.without(changed), b.without(changed))
	call([]*Difference{&d.Rest})
	return d
}

// Enough says whether both sides have the two runs that tell noise from change.
func (d *Diff) Enough() bool { return enough(len(d.A.Runs), len(d.B.Runs)) }

// Doubts are what makes the comparison doubtful: other environments, runs that are no good,
// other processes.
func (d *Diff) Doubts() []string {
	sides := []compare.Side{{Name: d.A.Name, Runs: d.A.reports()}, {Name: d.B.Name, Runs: d.B.reports()}}
	var lines []string
	// Two sides with a run at least can be compared.
	if c, err := compare.Of(sides, report.Figures()[:1]); err == nil {
		lines = c.Warnings
	}
	if a, b := list(d.A.Runs[0].Processes), list(d.B.Runs[0].Processes); a != b {
		lines = append(lines, fmt.Sprintf("the processes differ (%s: %s; %s: %s)", d.A.Name, a, d.B.Name, b))
	}
	return lines
}

func (s *Side) reports() (all []*report.Run) {
	for _, c := range s.Runs {
		all = append(all, c.Run.Report)
	}
	return all
}

func (r *DiffRow) by(o Order) *Difference {
	if o == ByCum {
		return &r.Cum
	}
	return &r.Flat
}

// without adds up the flat costs of all functions but those named.
func (s *Side) without(left map[string]bool) measure {
	return s.measure(func(i int) (value, noise float64) {
		for _, st := range s.Runs[i].stacks {
			if !left[st.frames[len(st.frames)-1].function] {
				value += st.cost
				noise += st.noise()
			}
		}
		return value, noise
	})
}
