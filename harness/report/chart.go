package report

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
)

// A chart is an SVG of lines over one axis, drawn when the report is written: it needs no
// script and no network, and takes its colours from the page's style.
type chart struct {
	title  string
	note   string // under the title
	x, y   axis
	lines  []line
	marks  []mark
	shades []shade
}

// An axis maps values to the drawing.
type axis struct {
	label  string
	low    float64
	high   float64
	unit   float64 // whose round multiples the ticks are at, 1 if 0
	log    bool
	ticks  []tick // chosen by fill where there are none
	format func(float64) string
}

type tick struct {
	at    float64
	label string
}

type point struct{ x, y float64 }

// A line is one series. Its colour is the page's style's number i+1.
type line struct {
	name   string
	points []point
	dashed bool
}

// A mark is a horizontal line at a value.
type mark struct {
	label string
	y     float64
}

// A shade is a part of the x axis with a name: a phase.
type shade struct {
	label    string
	from, to float64
}

// The drawing's size, and the part of it that is the plot.
const (
	chartWidth, chartHeight          = 720.0, 260.0
	plotLeft, plotTop, plotRight     = 64.0, 12.0, 12.0
	plotBottom                       = 40.0
	plotWidth                        = chartWidth - plotLeft - plotRight
	plotHeight                       = chartHeight - plotTop - plotBottom
	colours                          = 8
	mostTicks                        = 7
	firstDecade, lastDecade, decades = -9, 9, 10.0
)

// base returns the chart itself, for what is drawn on one too.
func (c *chart) base() *chart { return c }

// fill chooses the ends and ticks that are not set, by the values.
func (a *axis) fill(values []float64) {
	if a.low == 0 && a.high == 0 && len(values) > 0 {
		a.low, a.high = slices.Min(values), slices.Max(values)
		if !a.log {
			a.low = min(0, a.low)
			a.high += (a.high - a.low) / 20 // so that a line at the top is seen
		}
	}
	if a.log {
		a.low, a.high = max(a.low, 1e-9), max(a.high, 1e-9)
		a.low = math.Pow(decades, math.Floor(math.Log10(a.low)+1e-9))
		a.high = math.Pow(decades, math.Ceil(math.Log10(a.high)-1e-9))
		if a.high <= a.low {
			a.high = a.low * decades
		}
		if a.ticks != nil {
			return
		}
		for e := firstDecade; e <= lastDecade; e++ {
			if v := math.Pow(decades, float64(e)); v >= a.low*0.99 && v <= a.high*1.01 {
				a.ticks = append(a.ticks, tick{v, a.format(v)})
			}
		}
		return
	}
	if a.high <= a.low {
		a.high = a.low + 1
	}
	if a.ticks != nil {
		return
	}
	unit := a.unit
	if unit == 0 {
		unit = 1
	}
	step := niceStep((a.high-a.low)/unit/(mostTicks-1)) * unit
	for v := math.Ceil(a.low/step) * step; v <= a.high*1.0001; v += step {
		a.ticks = append(a.ticks, tick{v, a.format(v)})
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
func (a *axis) at(v float64) float64 {
	if a.log {
		v, low, high := math.Log10(max(v, 1e-12)), math.Log10(a.low), math.Log10(a.high)
		return (v - low) / (high - low)
	}
	return (v - a.low) / (a.high - a.low)
}

func (c *chart) px(x float64) float64 { return plotLeft + plotWidth*min(1, max(0, c.x.at(x))) }
func (c *chart) py(y float64) float64 { return plotTop + plotHeight*(1-min(1, max(0, c.y.at(y)))) }

// svg draws the chart; without a point there is nothing to draw.
func (c *chart) svg() template.HTML {
	var xs, ys []float64
	for _, l := range c.lines {
		for _, p := range l.points {
			xs, ys = append(xs, p.x), append(ys, p.y)
		}
	}
	for _, m := range c.marks {
		ys = append(ys, m.y)
	}
	if len(xs) == 0 {
		return ""
	}
	c.x.fill(xs)
	c.y.fill(ys)
	var b strings.Builder
	c.open(&b)
	for i, l := range c.lines {
		class := fmt.Sprintf("line c%d", i%colours+1)
		if l.dashed {
			class += " dashed"
		}
		fmt.Fprintf(&b, `<path class="%s" d="%s"><title>%s</title></path>`, class, c.path(l.points), template.HTMLEscapeString(l.name))
	}
	for _, m := range c.marks {
		y := c.py(m.y)
		fmt.Fprintf(&b, `<line class="mark" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="marklabel" x="%.1f" y="%.1f">%s</text>`,
			plotLeft, plotLeft+plotWidth, y, y, plotLeft+plotWidth-4, y-4, template.HTMLEscapeString(m.label))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) // made of numbers and escaped texts
}

// open writes the beginning of the drawing: phases, axes, grid.
func (c *chart) open(b *strings.Builder) {
	fmt.Fprintf(b, `<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, chartWidth, chartHeight, template.HTMLEscapeString(c.title))
	for i, s := range c.shades {
		from, to := c.px(s.from), c.px(s.to)
		fmt.Fprintf(b, `<rect class="shade s%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`,
			i%2, from, plotTop, max(0, to-from), plotHeight, template.HTMLEscapeString(s.label))
		if to-from > 7*float64(len(s.label)) {
			fmt.Fprintf(b, `<text class="phase" x="%.1f" y="%.1f">%s</text>`, from+4, plotTop+11, template.HTMLEscapeString(s.label))
		}
	}
	for _, t := range c.y.ticks {
		y := c.py(t.at)
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="tick y" x="%.1f" y="%.1f">%s</text>`,
			plotLeft, plotLeft+plotWidth, y, y, plotLeft-6, y+3.5, template.HTMLEscapeString(t.label))
	}
	for _, t := range c.x.ticks {
		x := c.px(t.at)
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="tick x" x="%.1f" y="%.1f">%s</text>`,
			x, x, plotTop, plotTop+plotHeight, x, plotTop+plotHeight+15, template.HTMLEscapeString(t.label))
	}
	fmt.Fprintf(b, `<text class="axis" x="%.1f" y="%.1f">%s</text>`, plotLeft+plotWidth/2, chartHeight-6, template.HTMLEscapeString(c.x.label))
}

func (c *chart) path(points []point) string {
	var b strings.Builder
	for i, p := range points {
		letter := "L"
		if i == 0 {
			letter = "M"
		}
		fmt.Fprintf(&b, "%s%.1f %.1f", letter, c.px(p.x), c.py(p.y))
	}
	return b.String()
}

// A heatMap is how many latencies lie where, over time.
type heatMap struct {
	chart
	columns []heatColumn
}

type heatColumn struct {
	from, to float64 // seconds since the run's start
	counts   []int64 // by bucket, see HeatBound
}

// svg draws the map: a cell is the darker the more of its second's latencies it has.
func (h *heatMap) svg() template.HTML {
	low, high := math.Inf(1), 0.0
	for _, c := range h.columns {
		for i, n := range c.counts {
			if n > 0 {
				low, high = min(low, heatFloor(i)), max(high, HeatBound(i))
			}
		}
	}
	if high == 0 {
		return ""
	}
	h.y.low, h.y.high, h.y.log = low, high, true
	h.x.fill(nil)
	h.y.fill(nil)
	var b strings.Builder
	h.open(&b)
	for _, c := range h.columns {
		total := int64(0)
		for _, n := range c.counts {
			total += n
		}
		for i, n := range c.counts {
			if n == 0 {
				continue
			}
			part := float64(n) / float64(total)
			x, right := h.px(c.from), h.px(c.to)
			y, bottom := h.py(HeatBound(i)), h.py(heatFloor(i))
			fmt.Fprintf(&b, `<rect class="heat" x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill-opacity="%.2f"><title>%s of %s within %s to %s</title></rect>`,
				x, y, max(1, right-x), max(1, bottom-y), 0.08+0.92*math.Sqrt(part), count(n), count(total), span(heatFloor(i)), span(HeatBound(i)))
		}
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) // made of numbers
}

// heatFloor is the lower bound of bucket i.
func heatFloor(i int) float64 {
	if i == 0 {
		return HeatLow / math.Pow(decades, 1.0/HeatPerDecade)
	}
	return HeatBound(i - 1)
}
