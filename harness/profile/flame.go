package profile

import (
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"strconv"
)

// page are the parts of the flame graph's page, which WriteFlame makes one file of.
//
//go:embed page
var page embed.FS

// WriteFlame writes a flame graph of a side, or of how b differs from a where b is not nil,
// as one HTML file that needs nothing else.
func WriteFlame(w io.Writer, a, b *Side) error {
	sides := []*Side{a}
	if b != nil {
		sides = append(sides, b)
	}
	data, err := json.Marshal(flameData(grow(sides...)))
	if err != nil {
		return fmt.Errorf("draw a flame graph: %w", err)
	}
	parts := struct {
		Title  string
		Style  template.CSS
		Script template.JS
		Data   template.JS
	}{Title: fmt.Sprintf("%s, %s", a.Kind(), a.Name), Data: template.JS(data)}
	if b != nil {
		parts.Title = fmt.Sprintf("%s, %s against %s", a.Kind(), b.Name, a.Name)
	}
	style, err := page.ReadFile("page/flame.css")
	if err != nil {
		return fmt.Errorf("draw a flame graph: %w", err)
	}
	script, err := page.ReadFile("page/flame.js")
	if err != nil {
		return fmt.Errorf("draw a flame graph: %w", err)
	}
	parts.Style, parts.Script = template.CSS(style), template.JS(script)
	t, err := template.ParseFS(page, "page/flame.html")
	if err != nil {
		return fmt.Errorf("draw a flame graph: %w", err)
	}
	if err := t.Execute(w, parts); err != nil {
		return fmt.Errorf("draw a flame graph: %w", err)
	}
	return nil
}

// flameJSON is what the page's script gets.
type flameJSON struct {
	Kind    Kind     `json:"kind"`
	In      string   `json:"in"`     // what costs are measured in
	Symbol  string   `json:"symbol"` // of the unit
	Sampled string   `json:"sampled"`
	Sides   []string `json:"sides"`   // what each is of, in a line
	Basis   []string `json:"basis"`   // what each rests upon
	Summary string   `json:"summary"` // of the difference
	Method  string   `json:"method"`  // what is called a change
	Doubts  []string `json:"doubts"`
	Runs    int      `json:"runs"` // of both sides

	Origins   []Origin   `json:"origins"`
	Functions [][3]any   `json:"functions"` // short name, whole name, index of the origin or -1
	Nodes     [][]float6 `json:"nodes"`     // see flameNode
}

// float6 is written with six digits, which is more than any pixel shows.
type float6 float64

// MarshalJSON writes it.
func (f float6) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(f), 'g', 6, 64), nil
}

// flameNode is a node as the page gets them, each before its children: depth, index of the
// function, 1 where it was put into its caller, cost and events of the one side; and of two
// sides cost and events of B, half the interval's width, 1 where it is called changed.
func flameNode(n *node, depth, function int, two bool) []float6 {
	flag := func(b bool) float6 {
		if b {
			return 1
		}
		return 0
	}
	out := []float6{float6(depth), float6(function), flag(n.inlined), float6(n.cost[0]), float6(n.events[0])}
	if two {
		out = append(out, float6(n.cost[1]), float6(n.events[1]), float6(n.diff.Within), flag(n.diff.Changed))
	}
	return out
}

func flameData(t *tree) flameJSON {
	k := t.sides[0].Kind()
	two := len(t.sides) == 2
	out := flameJSON{
		Kind: k, In: k.measuredIn(), Symbol: k.symbol(), Sampled: k.sampled(),
		Origins: []Origin{Ours, Runtime, Kernel, Standard, Modules, Foreign},
	}
	for _, s := range t.sides {
		out.Sides = append(out.Sides, s.heading()+": "+s.subject())
		out.Basis = append(out.Basis, s.basis(s.events()))
		out.Runs += len(s.Runs)
	}
	if two {
		d := Compare(t.sides[0], t.sides[1], ByFlat)
		out.Summary = fmt.Sprintf("A %s, B %s %s: %s", digits(d.Total.A), digits(d.Total.B), k.measuredIn(), d.sentence(d.Total))
		out.Doubts = d.Doubts()
		for _, line := range d.method() {
			out.Method += line + " "
		}
	} else {
		total := newTest().cost(t.sides[0].total(), t.sides[0].events())
		out.Summary = amount(total.Value, k.measuredIn(), total.Within)
		out.Doubts = doubts(t.sides[0])
	}
	out.Doubts = nonNil(out.Doubts)
	short := shortNames(names(t.sides...))
	origins := map[Origin]int{}
	for i, o := range out.Origins {
		origins[o] = i
	}
	index := map[string]int{}
	t.walk(func(n *node, depth int) {
		key := n.function
		if n.process {
			key = "process " + key // no function's name has a space
		}
		f, ok := index[key]
		if !ok {
			f = len(out.Functions)
			index[key] = f
			switch {
			case n.function == "":
				out.Functions = append(out.Functions, [3]any{"all", "all", -1})
			case n.process:
				out.Functions = append(out.Functions, [3]any{n.function, "processes of the role " + n.function, -1})
			default:
				out.Functions = append(out.Functions, [3]any{short[n.function], n.function, origins[originOf(n.function)]})
			}
		}
		out.Nodes = append(out.Nodes, flameNode(n, depth, f, two))
	})
	return out
}
