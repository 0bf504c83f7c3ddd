package page

import (
	"fmt"
	"html/template"
	"strings"
)

// Bars are amounts side by side: groups, each with a bar for every colour.
type Bars struct {
	Title  string
	Note   string
	Legend []Legend // what the colours stand for
	Groups []BarGroup
	Format func(float64) string
}

// A BarGroup is bars under one name.
type BarGroup struct {
	Name string
	Bars []Bar
}

// A Bar is an amount, with what it is the middle of.
type Bar struct {
	Name      string // shown where it is pointed at
	Colour    int
	Value     float64
	Low, High float64   // the whisker; none where both are the same
	Runs      []float64 // dots
}

// The size of a bar, and of what lies between groups; the part of the width that is for names,
// and for amounts.
const (
	barHeight, barGap, groupGap = 13.0, 3.0, 12.0
	barLeft, barRight           = 92.0, 84.0
)

// Figure draws the bars, from 0 on; without an amount above 0 there is nothing to draw.
func (s *Bars) Figure() (Figure, bool) {
	most, height := 0.0, groupGap
	for _, g := range s.Groups {
		for _, b := range g.Bars {
			most = max(most, b.Value, b.High)
			height += barHeight + barGap
		}
		height += groupGap
	}
	if most <= 0 {
		return Figure{}, false
	}
	px := func(v float64) float64 { return barLeft + (chartWidth-barLeft-barRight)*max(0, v)/most }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, chartWidth, height, template.HTMLEscapeString(s.Title))
	y := groupGap
	for _, g := range s.Groups {
		middle := y + float64(len(g.Bars))*(barHeight+barGap)/2
		fmt.Fprintf(&b, `<text class="group y" x="%.1f" y="%.1f">%s</text>`, barLeft-8, middle+3, template.HTMLEscapeString(g.Name))
		for _, bar := range g.Bars {
			s.bar(&b, bar, px, y)
			y += barHeight + barGap
		}
		y += groupGap
	}
	b.WriteString("</svg>")
	return Figure{Title: s.Title, Note: s.Note, Legend: s.Legend, SVG: template.HTML(b.String())}, true // made of numbers and escaped texts
}

func (s *Bars) bar(b *strings.Builder, bar Bar, px func(float64) float64, y float64) {
	middle := y + barHeight/2
	fmt.Fprintf(b, `<rect class="bar f%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`,
		bar.Colour, barLeft, y, max(1, px(bar.Value)-barLeft), barHeight, template.HTMLEscapeString(bar.Name))
	for _, v := range bar.Runs {
		fmt.Fprintf(b, `<circle class="run" cx="%.1f" cy="%.1f" r="1.8"/>`, px(v), middle)
	}
	if bar.High > bar.Low {
		fmt.Fprintf(b, `<path class="whisker" d="M%.1f %.1fL%.1f %.1f"/>`, px(bar.Low), middle, px(bar.High), middle)
	}
	fmt.Fprintf(b, `<text class="amount" x="%.1f" y="%.1f">%s</text>`, px(max(bar.Value, bar.High))+6, middle+4, template.HTMLEscapeString(s.Format(bar.Value)))
}
