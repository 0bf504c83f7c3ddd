package profile

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// An Order is which cost of a function rows are sorted by.
type Order string

// The orders.
const (
	ByFlat Order = "flat" // of the function by itself
	ByCum  Order = "cum"  // with what it calls
)

// ParseOrder reads an order's text.
func ParseOrder(text string) (Order, error) {
	if o := Order(text); o == ByFlat || o == ByCum {
		return o, nil
	}
	return "", fmt.Errorf("there is no order %q; there are %s", text, list([]Order{ByFlat, ByCum}))
}

func (o Order) other() Order {
	if o == ByCum {
		return ByFlat
	}
	return ByCum
}

// A Cost is one cost of a function, the mean of the runs.
type Cost struct {
	Value float64 `json:"value"` // per delivery or client
	// Within is half the width of the interval at 95% around Value: by the runs' spread where
	// there are several, and never less than what sampling alone brings about.
	Within float64 `json:"within"`
	Events float64 `json:"events"` // recorded by the profiler, in all runs
}

// A TopRow is a function's costs.
type TopRow struct {
	Function string `json:"function"`          // the whole name
	Inlined  string `json:"inlined,omitempty"` // "inline", "partial" or ""
	Flat     Cost   `json:"flat"`
	Cum      Cost   `json:"cum"`
}

// A Table is where the costs of a side's runs arise.
type Table struct {
	Side  *Side
	Order Order
	Total Cost
	Rows  []TopRow // the dearest first
}

// Top adds a side's costs up by function, all of them.
func Top(s *Side, by Order) *Table {
	t := &Table{Side: s, Order: by}
	u := newTest()
	t.Total = u.cost(s.total(), s.events())
	for _, name := range names(s) {
		flat, cum := s.function(name)
		row := TopRow{Function: name, Inlined: inlining(name, s)}
		var flatEvents, cumEvents float64
		for _, functions := range s.functions {
			if f := functions[name]; f != nil {
				flatEvents, cumEvents = flatEvents+f.flatEvents, cumEvents+f.cumEvents
			}
		}
		row.Flat, row.Cum = u.cost(flat, flatEvents), u.cost(cum, cumEvents)
		t.Rows = append(t.Rows, row)
	}
	slices.SortStableFunc(t.Rows, func(x, y TopRow) int {
		if by == ByCum {
			return cmp.Or(cmp.Compare(y.Cum.Value, x.Cum.Value), cmp.Compare(y.Flat.Value, x.Flat.Value))
		}
		return cmp.Or(cmp.Compare(y.Flat.Value, x.Flat.Value), cmp.Compare(y.Cum.Value, x.Cum.Value))
	})
	return t
}

// cost sums a measure up.
func (t *test) cost(m measure, events float64) Cost {
	c := Cost{Value: m.mean(), Events: events}
	spread, sampling := m.variance()
	if math.IsNaN(spread) {
		c.Within = normalQuantile * math.Sqrt(sampling)
		return c
	}
	c.Within = t.quantile(float64(len(m.values)-1)) * math.Sqrt(max(spread, sampling))
	return c
}
