// Package page draws the pages that reports are: HTML that needs nothing else, no network and
// no script. Charts go in, as numbers; out come SVG drawings, in the colours and the style
// that all pages share, light and dark.
package page

import (
	_ "embed"
	"html/template"
)

//go:embed shared.html.tmpl
var shared string

// Parse returns the template of a page. Beside its own text it has {{template "style"}}, the
// sheet that goes into its style element, and {{template "charts" .}} for a list of Figures.
// It panics where text is no template, since that is part of the program.
func Parse(name, text string) *template.Template {
	return template.Must(template.Must(template.New(name).Parse(shared)).Parse(text))
}

// A Figure is a drawing with what stands around it.
type Figure struct {
	Title, Note string
	Legend      []Legend // empty where there is one colour alone
	SVG         template.HTML
}

// A Legend says what a colour stands for.
type Legend struct {
	Name   string
	Colour int // 1 to Colours
}

// Colours is how many the style has. What needs more takes them again from the first.
const Colours = 8

// Colour is the colour of the i-th thing, counted from 0.
func Colour(i int) int { return i%Colours + 1 }

// A Drawing is anything that becomes a Figure.
type Drawing interface {
	// Figure draws it; ok is false where there is nothing to draw.
	Figure() (f Figure, ok bool)
}

// Figures draws what there is to draw.
func Figures(list ...Drawing) (out []Figure) {
	for _, d := range list {
		if f, ok := d.Figure(); ok {
			out = append(out, f)
		}
	}
	return out
}
