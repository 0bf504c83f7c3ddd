package page

import (
	"math"
	"slices"
	"strings"
)

// An Axis maps values to the drawing.
type Axis struct {
	Label  string
	Low    float64 // Low and High are chosen by the values where both are 0
	High   float64
	Unit   float64 // whose round multiples the ticks are at, 1 if 0
	Log    bool
	Ticks  []Tick // chosen where there are none
	Format func(float64) string
}

// A Tick is a value with a name on an axis.
type Tick struct {
	At    float64
	Label string
}

const (
	mostTicks                        = 7
	firstDecade, lastDecade, decades = -9, 9, 10.0
)

// PercentileAxis is an axis on which each step leaves out a tenth of what was left: 0, 90, 99,
// 99.9 ... up to the place most. Place says where a quantile is on it.
func PercentileAxis(most float64) Axis {
	a := Axis{Label: "percentile", Log: true, Low: 1, High: max(most, decades)}
	for e := 0.0; math.Pow(decades, e) <= a.High*1.01 || e < 2; e++ {
		label := "0"
		switch {
		case e == 1:
			label = "90"
		case e == 2:
			label = "99"
		case e > 2:
			label = "99." + strings.Repeat("9", int(e)-2)
		}
		a.Ticks = append(a.Ticks, Tick{math.Pow(decades, e), label})
	}
	return a
}

// Place returns where a quantile below 1 is on a PercentileAxis; the place of 1 is without end.
func Place(quantile float64) float64 { return 1 / (1 - quantile) }

// fill chooses the ends and ticks that are not set, by the values.
func (a *Axis) fill(values []float64) {
	if a.Low == 0 && a.High == 0 && len(values) > 0 {
		a.Low, a.High = slices.Min(values), slices.Max(values)
		if !a.Log {
			a.Low = min(0, a.Low)
			a.High += (a.High - a.Low) / 20 // so that a line at the top is seen
		}
	}
	if a.Log {
		a.fillLog()
		return
	}
	if a.High <= a.Low {
		a.High = a.Low + 1
	}
	if a.Ticks != nil {
		return
	}
	unit := a.Unit
	if unit == 0 {
		unit = 1
	}
	step := niceStep((a.High-a.Low)/unit/(mostTicks-1)) * unit
	for v := math.Ceil(a.Low/step) * step; v <= a.High*1.0001; v += step {
		a.Ticks = append(a.Ticks, Tick{v, a.Format(v)})
	}
}

// fillLog ends a logarithmic axis at powers of 10, where its ticks are.
func (a *Axis) fillLog() {
	a.Low, a.High = max(a.Low, 1e-9), max(a.High, 1e-9)
	a.Low = math.Pow(decades, math.Floor(math.Log10(a.Low)+1e-9))
	a.High = math.Pow(decades, math.Ceil(math.Log10(a.High)-1e-9))
	if a.High <= a.Low {
		a.High = a.Low * decades
	}
	if a.Ticks != nil {
		return
	}
	for e := firstDecade; e <= lastDecade; e++ {
		if v := math.Pow(decades, float64(e)); v >= a.Low*0.99 && v <= a.High*1.01 {
			a.Ticks = append(a.Ticks, Tick{v, a.Format(v)})
		}
	}
}

// niceStep returns the first of 1, 2, 5, 10, ... that is not below step.
func niceStep(step float64) float64 {
	power := math.Pow(decades, math.Floor(math.Log10(step)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= step*0.999 {
			return m * power
		}
	}
	return decades * power
}

// at returns where v is on the axis, 0 to 1.
func (a *Axis) at(v float64) float64 {
	if a.Log {
		v, low, high := math.Log10(max(v, 1e-12)), math.Log10(a.Low), math.Log10(a.High)
		return (v - low) / (high - low)
	}
	return (v - a.Low) / (a.High - a.Low)
}
