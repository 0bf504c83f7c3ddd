package page

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestAxis(t *testing.T) {
	labels := func(a Axis) string {
		var list []string
		for _, tick := range a.Ticks {
			list = append(list, tick.Label)
		}
		return strings.Join(list, " ")
	}
	for _, c := range []struct {
		values []float64
		log    bool
		want   string
	}{
		{[]float64{0, 10}, false, "0 2 4 6 8 10"},
		{[]float64{3, 7.2}, false, "0 2 4 6"},
		{[]float64{0}, false, "0 0.2 0.4 0.6000000000000001 0.8 1"},
		{[]float64{0.003, 0.3}, true, "0.001 0.01 0.1 1"},
		{[]float64{1}, true, "1 10"},
	} {
		a := Axis{Log: c.log, Format: plain}
		a.fill(c.values)
		if got := labels(a); got != c.want {
			t.Errorf("%v: ticks %s, want %s", c.values, got, c.want)
		}
		for _, v := range c.values {
			if at := a.at(v); at < -1e-9 || at > 1+1e-9 {
				t.Errorf("%v of %v is at %v", v, c.values, at)
			}
		}
	}
}

func plain(v float64) string { return fmt.Sprint(v) }

// wants fails for what is not in a drawing, and for what is in it that should not be.
func wants(t *testing.T, svg string, want, not []string) {
	t.Helper()
	for _, s := range want {
		if !strings.Contains(svg, s) {
			t.Errorf("%s is not in %s", s, svg)
		}
	}
	for _, s := range append(not, "NaN", "Inf", "%!") {
		if strings.Contains(svg, s) {
			t.Errorf("%s is in %s", s, svg)
		}
	}
}

func TestChart(t *testing.T) {
	two := []Point{{0, 1}, {10, 2}}
	for _, c := range []struct {
		name   string
		chart  Chart
		drawn  bool
		legend []Legend
		want   []string
	}{
		{"nothing to draw", Chart{Lines: []Line{{Name: "a"}}, Marks: []Mark{{"limit", 3}}}, false, nil, nil},
		{"one line needs no legend", Chart{Title: "a & b", Lines: []Line{{Name: "<a>", Points: two}}}, true, nil,
			[]string{`aria-label="a &amp; b"`, `class="line c1"`, "<title>&lt;a&gt;</title>"}},
		{"lines take the colours in turn", Chart{Lines: []Line{{Name: "a", Points: two}, {Name: "b", Points: two}}}, true, []Legend{{"a", 1}, {"b", 2}}, []string{`class="line c2"`}},
		{"thin lines are in no legend", Chart{Lines: []Line{
			{Name: "A1", Points: two, Colour: 3, Weight: Thin}, {Name: "A", Points: two, Colour: 3, Weight: Thick}, {Name: "B", Points: two, Colour: 8, Weight: Thick}}},
			true, []Legend{{"A", 3}, {"B", 8}}, []string{`class="line c3 thin"`, `class="line c3 thick"`, `class="line c8 thick"`}},
		{"cells and phases", Chart{Cells: []Cell{{From: 0, To: 1, Low: 1, High: 2, Part: 0.5, Title: "5 < 6"}}, Shades: []Shade{{"measure", 0, 1}}}, true, nil,
			[]string{`fill-opacity="0.50"><title>5 &lt; 6</title>`, `class="shade s0"`, ">measure</text>"}},
		{"a mark is within the axis", Chart{Lines: []Line{{Points: two}}, Marks: []Mark{{"limit", 100}}}, true, nil, []string{">limit</text>", ">100</text>"}},
		{"one point", Chart{Lines: []Line{{Points: two[:1]}}}, true, nil, []string{`d="M`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.chart.X.Format, c.chart.Y.Format = plain, plain
			f, drawn := c.chart.Figure()
			if drawn != c.drawn || f.Title != c.chart.Title && drawn || !slices.Equal(f.Legend, c.legend) {
				t.Errorf("drawn %v, want %v; legend %v, want %v", drawn, c.drawn, f.Legend, c.legend)
			}
			wants(t, string(f.SVG), c.want, nil)
		})
	}
}

func TestPercentileAxis(t *testing.T) {
	a := PercentileAxis(Place(0.9995))
	var labels []string
	for _, tick := range a.Ticks {
		labels = append(labels, tick.Label)
	}
	if got := strings.Join(labels, " "); got != "0 90 99 99.9" || Place(0.99) < 99.9 || Place(0.99) > 100.1 {
		t.Errorf("ticks %s, 0.99 is at %v", got, Place(0.99))
	}
}

func TestBars(t *testing.T) {
	bars := Bars{Title: "t", Format: plain, Groups: []BarGroup{
		{Name: "comet & co", Bars: []Bar{{Name: "A", Colour: 1, Value: 4, Low: 3, High: 8, Runs: []float64{3, 8}}, {Name: "B", Colour: 2, Value: 2}}},
		{Name: "idle", Bars: []Bar{{Name: "A", Colour: 1}}},
	}}
	f, ok := bars.Figure()
	if !ok {
		t.Fatal("nothing is drawn")
	}
	svg := string(f.SVG)
	wants(t, svg, []string{"comet &amp; co", `class="bar f1"`, `class="bar f2"`, ">4</text>"}, nil)
	if dots, whiskers := strings.Count(svg, "<circle"), strings.Count(svg, `class="whisker"`); dots != 2 || whiskers != 1 {
		t.Errorf("%d dots and %d whiskers", dots, whiskers)
	}
	for _, empty := range []Bars{{}, {Groups: []BarGroup{{Bars: []Bar{{}}}}}} {
		if _, ok := empty.Figure(); ok {
			t.Errorf("%+v is drawn", empty)
		}
	}
}
