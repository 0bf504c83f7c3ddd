package page

import (
	"fmt"
	"html/template"
	"strings"
)

// A Chart is lines, or the cells of a heat map, over two axes.
type Chart struct {
	Title  string
	Note   string // under the title
	X, Y   Axis
	Lines  []Line
	Marks  []Mark
	Shades []Shade
	Cells  []Cell
}

// A Line is one series. The lines without a colour take the colours in turn.
type Line struct {
	Name   string
	Points []Point
	Colour int    // 1 to Colours, or 0
	Weight Weight // of several lines of one colour
}

// A Point is one of a Line.
type Point struct{ X, Y float64 }

// A Weight is how much a line is to be seen.
type Weight int

// The weights.
const (
	Plain Weight = iota
	Thin         // one of many; it is in no legend
	Thick        // what stands for the many
)

var weightClass = [...]string{"", " thin", " thick"}

// A Mark is a horizontal line at a value.
type Mark struct {
	Label string
	Y     float64
}

// A Shade is a part of the X axis with a name: a phase.
type Shade struct {
	Label    string
	From, To float64
}

// A Cell is a rectangle of a heat map: the larger its part the darker.
type Cell struct {
	From, To  float64 // on the X axis
	Low, High float64 // on the Y axis
	Part      float64 // 0 to 1
	Title     string  // shown where it is pointed at
}

// The drawing's size, and the part of it that is the plot.
const (
	chartWidth, chartHeight      = 720.0, 260.0
	plotLeft, plotTop, plotRight = 64.0, 12.0, 12.0
	plotBottom                   = 40.0
	plotWidth                    = chartWidth - plotLeft - plotRight
	plotHeight                   = chartHeight - plotTop - plotBottom
)

// Figure draws the chart; without a point or a cell there is nothing to draw.
func (c *Chart) Figure() (Figure, bool) {
	var xs, ys []float64
	for _, l := range c.Lines {
		for _, p := range l.Points {
			xs, ys = append(xs, p.X), append(ys, p.Y)
		}
	}
	for _, cell := range c.Cells {
		xs, ys = append(xs, cell.From, cell.To), append(ys, cell.Low, cell.High)
	}
	if len(xs) == 0 {
		return Figure{}, false
	}
	for _, m := range c.Marks {
		ys = append(ys, m.Y)
	}
	c.X.fill(xs)
	c.Y.fill(ys)
	var b strings.Builder
	c.open(&b)
	for _, cell := range c.Cells {
		c.cell(&b, cell)
	}
	for i, l := range c.Lines {
		fmt.Fprintf(&b, `<path class="line c%d%s" d="%s"><title>%s</title></path>`,
			c.colour(i), weightClass[l.Weight], c.path(l.Points), template.HTMLEscapeString(l.Name))
	}
	for _, m := range c.Marks {
		y := c.py(m.Y)
		fmt.Fprintf(&b, `<line class="mark" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="marklabel" x="%.1f" y="%.1f">%s</text>`,
			plotLeft, plotLeft+plotWidth, y, y, plotLeft+plotWidth-4, y-4, template.HTMLEscapeString(m.Label))
	}
	b.WriteString("</svg>")
	return Figure{Title: c.Title, Note: c.Note, Legend: c.legend(), SVG: template.HTML(b.String())}, true // made of numbers and escaped texts
}

func (c *Chart) colour(i int) int {
	if own := c.Lines[i].Colour; own > 0 {
		return own
	}
	return Colour(i)
}

func (c *Chart) legend() (list []Legend) {
	for i, l := range c.Lines {
		if l.Weight != Thin {
			list = append(list, Legend{l.Name, c.colour(i)})
		}
	}
	if len(list) < 2 {
		return nil
	}
	return list
}

func (c *Chart) px(x float64) float64 { return plotLeft + plotWidth*min(1, max(0, c.X.at(x))) }
func (c *Chart) py(y float64) float64 { return plotTop + plotHeight*(1-min(1, max(0, c.Y.at(y)))) }

// open writes the beginning of the drawing: phases, axes, grid.
func (c *Chart) open(b *strings.Builder) {
	fmt.Fprintf(b, `<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, chartWidth, chartHeight, template.HTMLEscapeString(c.Title))
	for i, s := range c.Shades {
		from, to := c.px(s.From), c.px(s.To)
		fmt.Fprintf(b, `<rect class="shade s%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`,
			i%2, from, plotTop, max(0, to-from), plotHeight, template.HTMLEscapeString(s.Label))
		if to-from > 7*float64(len(s.Label)) {
			fmt.Fprintf(b, `<text class="phase" x="%.1f" y="%.1f">%s</text>`, from+4, plotTop+11, template.HTMLEscapeString(s.Label))
		}
	}
	for _, t := range c.Y.Ticks {
		y := c.py(t.At)
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="tick y" x="%.1f" y="%.1f">%s</text>`,
			plotLeft, plotLeft+plotWidth, y, y, plotLeft-6, y+3.5, template.HTMLEscapeString(t.Label))
	}
	for _, t := range c.X.Ticks {
		x := c.px(t.At)
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="tick x" x="%.1f" y="%.1f">%s</text>`,
			x, x, plotTop, plotTop+plotHeight, x, plotTop+plotHeight+15, template.HTMLEscapeString(t.Label))
	}
	fmt.Fprintf(b, `<text class="axis" x="%.1f" y="%.1f">%s</text>`, plotLeft+plotWidth/2, chartHeight-6, template.HTMLEscapeString(c.X.Label))
}

func (c *Chart) cell(b *strings.Builder, cell Cell) {
	x, y := c.px(cell.From), c.py(cell.High)
	fmt.Fprintf(b, `<rect class="heat" x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill-opacity="%.2f"><title>%s</title></rect>`,
		x, y, max(1, c.px(cell.To)-x), max(1, c.py(cell.Low)-y), cell.Part, template.HTMLEscapeString(cell.Title))
}

func (c *Chart) path(points []Point) string {
	var b strings.Builder
	for i, p := range points {
		letter := "L"
		if i == 0 {
			letter = "M"
		}
		fmt.Fprintf(&b, "%s%.1f %.1f", letter, c.px(p.X), c.py(p.Y))
	}
	return b.String()
}
