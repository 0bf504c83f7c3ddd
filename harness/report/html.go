package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

//go:embed report.html.tmpl
var htmlText string

var htmlPage = template.Must(template.New("report").Parse(htmlText))

// An htmlReport is what the page's template shows.
type htmlReport struct {
	*Run
	Word, Class string // of the verdict
	Doubtful    bool
	Figures     []htmlFigure
	Rows        []htmlRow
	Stages      []htmlRow
	StageNotes  []string
	Fair        []string
	SlowRows    []htmlRow
	Charts      []htmlChart
	Processes   []htmlRow
	AgentHead   []string // empty without agents
	AgentRows   []htmlRow
	Deliveries  []htmlRow
	Facts       []htmlRow
	Repeat      string
}

type htmlFigure struct{ Name, Help, Value, Wanted, Class string }

type htmlRow struct{ Cells []string }

type htmlChart struct {
	Title, Note string
	Legend      []htmlLegend
	SVG         template.HTML
}

type htmlLegend struct {
	Name   string
	Colour int
}

// HTML writes r as one page that needs nothing else: no network, no script. The verdict
// comes first.
func HTML(w io.Writer, r *Run) error {
	page := htmlReport{Run: r, Repeat: CommandLine(r.Command), Doubtful: r.Verdict.Status == Invalid}
	page.Word = StatusWord(r.Verdict.Status)
	page.Class = r.Verdict.Status
	page.Figures = htmlFigures(r)
	for _, row := range latencyRows(r) {
		page.Rows = append(page.Rows, htmlRow{[]string{strings.TrimSpace(row.name), span(row.p.P50), span(row.p.P90), span(row.p.P99), span(row.p.P999), span(row.p.Max)}})
	}
	for _, cells := range stageRows(r) {
		page.Stages = append(page.Stages, htmlRow{cells})
	}
	page.StageNotes = stageNotes(r)
	if f := r.Fairness; f != nil {
		page.Fair = f.lines()
		for _, c := range f.Slowest {
			page.SlowRows = append(page.SlowRows, htmlRow{[]string{fmt.Sprint(c.Client), c.Transport, c.Room, count(c.Receipts), span(c.Mean)}})
		}
	}
	for _, p := range r.Processes {
		page.Processes = append(page.Processes, htmlRow{[]string{p.Name, span(p.CPUSeconds), fmt.Sprintf("%.2f", p.CoresUsed), sizeOf(p.RSSPeakBytes), sizeOf(p.GoHeapBytes)}})
	}
	for _, a := range r.Agents {
		page.AgentHead = agentHead
		page.AgentRows = append(page.AgentRows, htmlRow{agentCells(a)})
	}
	for _, l := range r.Pushes.Lines {
		page.Deliveries = append(page.Deliveries, htmlRow{append([]string{l.Name, amount(l.Rate) + "/s", size(float64(l.BodyBytes))}, deliveryCells(l.Deliveries)...)})
	}
	page.Deliveries = append(page.Deliveries, htmlRow{append([]string{"measured", "", ""}, deliveryCells(r.Deliveries.Measured)...)})
	if r.Deliveries.WarmUp.Expected > 0 {
		page.Deliveries = append(page.Deliveries, htmlRow{append([]string{"warm-up", "", ""}, deliveryCells(r.Deliveries.WarmUp)...)})
	}
	page.Facts = htmlFacts(r)
	for _, d := range []drawing{latencyCurve(r), latencyHeat(r), deliveryRate(r), connects(r), framesPerWrite(r), sweepRate(r), processorUse(r), memoryUse(r)} {
		svg := d.svg()
		if svg == "" {
			continue
		}
		c := d.base()
		h := htmlChart{Title: c.title, Note: c.note, SVG: svg}
		if len(c.lines) > 1 {
			for i, l := range c.lines {
				h.Legend = append(h.Legend, htmlLegend{l.name, i%colours + 1})
			}
		}
		page.Charts = append(page.Charts, h)
	}
	if err := htmlPage.Execute(w, &page); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// A drawing is a chart, or what else stands on a chart's axes.
type drawing interface {
	base() *chart
	svg() template.HTML // "" where there is nothing to draw
}

// htmlFigures are the main figures, and those that something is expected of.
func htmlFigures(r *Run) (list []htmlFigure) {
	for _, f := range Figures() {
		v, ok := f.Of(r)
		row := htmlFigure{Name: f.Name, Help: f.Help, Value: f.Unit.Format(v)}
		for _, c := range r.Verdict.Checks {
			if c.Figure != f.Name {
				continue
			}
			row.Wanted, row.Class = c.Wanted, "holds"
			switch {
			case c.Unknown:
				row.Value, row.Class, ok = "not known", "", true
			case !c.Holds:
				row.Class = "broken"
			}
		}
		if ok && (f.Primary || row.Wanted != "") {
			list = append(list, row)
		}
	}
	return list
}

func htmlFacts(r *Run) []htmlRow {
	e := &r.Environment
	rows := []htmlRow{
		{[]string{"started", r.Started.Format("2006-01-02 15:04:05") + " UTC"}},
		{[]string{"machine", fmt.Sprintf("%s, %s, %s", e.CPU, Plural(e.Cores, "core"), size(float64(e.MemoryBytes)))}},
		{[]string{"system", fmt.Sprintf("%s, Linux %s, %s", e.System, e.Kernel, e.Go)}},
		{[]string{"commit", e.Commit}},
		{[]string{"target", strings.Join(targetLines(r), "; ")}},
		{[]string{"broker", e.Broker}},
		{[]string{"redis", e.Redis}},
		{[]string{"open files", fmt.Sprintf("%d soft, %d hard", e.OpenFilesSoft, e.OpenFilesHard)}},
		{[]string{"beside the run", fmt.Sprintf("other processes took %s of the machine, the hypervisor %s", percent(r.Disturbance.OtherCPU), percent(r.Disturbance.Steal))}},
		{[]string{"swarm", fmt.Sprintf("%s, the busiest at work for %s of the time; read lag p99 %s", Plural(r.Swarm.Threads, "thread"), percent(r.Swarm.BusyMean), span(r.Swarm.ReadLag.P99))}},
		{[]string{"pusher", fmt.Sprintf("late by p50 %s, p99 %s; acknowledged after p50 %s, p99 %s", span(r.Pushes.Lag.P50), span(r.Pushes.Lag.P99), span(r.Pushes.Ack.P50), span(r.Pushes.Ack.P99))}},
	}
	for _, a := range r.Agents {
		e := &a.Environment
		rows = append(rows, htmlRow{[]string{"agent " + a.Name, fmt.Sprintf("%s, %s, %s, Linux %s; %d open files", e.CPU, Plural(e.Cores, "core"), size(float64(e.MemoryBytes)), e.Kernel, e.OpenFilesHard)}})
	}
	if c := r.Ceiling; c != nil {
		rows = append(rows, htmlRow{[]string{"ceiling", fmt.Sprintf("a plain send loop over %s: %s sends/s, %s for one frame to each", ceilingSockets(r), many(c.SendsPerSecond), span(c.SweepMedian))}})
	}
	if b := r.Behaviour; b != nil {
		rows = append(rows, htmlRow{[]string{"misbehaving clients", strings.Join(b.lines(), ". ") + "."}})
	}
	for _, name := range slices.Sorted(maps.Keys(e.KernelSettings)) {
		rows = append(rows, htmlRow{[]string{name, e.KernelSettings[name]}})
	}
	return slices.DeleteFunc(rows, func(row htmlRow) bool { return row.Cells[1] == "" })
}

// latencyCurve is the distribution, with what is left to 1 on a logarithmic scale.
func latencyCurve(r *Run) *chart {
	c := &chart{
		title: "Latency by percentile", note: "From a push's intended time to each client's receipt. To the right of 99 each step leaves out a tenth of what was left.",
		x: axis{label: "percentile", log: true}, y: axis{format: span},
	}
	var points []point
	most := 10.0
	for _, p := range r.Latency.Curve {
		if p.Quantile >= 1 {
			continue // its place is without end
		}
		x := 1 / (1 - p.Quantile)
		most = max(most, x)
		points = append(points, point{x, p.Seconds})
	}
	c.x.low, c.x.high = 1, most
	for e := 0.0; math.Pow(10, e) <= most*1.01 || e < 2; e++ {
		label := "0"
		switch {
		case e == 1:
			label = "90"
		case e == 2:
			label = "99"
		case e > 2:
			label = "99." + strings.Repeat("9", int(e)-2)
		}
		c.x.ticks = append(c.x.ticks, tick{math.Pow(10, e), label})
	}
	c.lines = []line{{name: "latency", points: points}}
	if r.Ceiling != nil && r.Ceiling.SweepMedian > 0 && len(points) > 0 {
		c.marks = append(c.marks, mark{"the ceiling's sweep", r.Ceiling.SweepMedian})
	}
	for _, check := range r.Verdict.Checks {
		if check.Figure == "latency.p99" && len(points) > 0 {
			c.marks = append(c.marks, mark{"expected p99 " + check.Wanted, check.Want})
		}
	}
	return c
}

// timeAxis is the run's time, with its phases.
func timeAxis(r *Run) (axis, []shade) {
	var shades []shade
	end := 1.0
	for _, s := range r.Timeline {
		end = max(end, s.At)
		if n := len(shades); n > 0 && shades[n-1].label == s.Phase {
			shades[n-1].to = s.At
			continue
		}
		from := max(0, s.At-1)
		if n := len(shades); n > 0 {
			from = shades[n-1].to
		}
		shades = append(shades, shade{s.Phase, from, s.At})
	}
	return axis{label: "seconds since the run's start", high: end, format: func(v float64) string { return amount(v) }}, shades
}

func latencyHeat(r *Run) *heatMap {
	h := &heatMap{chart: chart{title: "Latency over time", note: "Each column is a second, the darker a cell the more of its deliveries took so long.", y: axis{format: span}}}
	h.x, h.shades = timeAxis(r)
	before := 0.0
	for _, s := range r.Timeline {
		if len(s.Heat) > 0 {
			h.columns = append(h.columns, heatColumn{max(before, s.At-1), s.At, s.Heat})
		}
		before = s.At
	}
	return h
}

// perSecond turns a count of the timeline into a rate.
func perSecond(r *Run, of func(*Second) float64) (points []point) {
	for i := 1; i < len(r.Timeline); i++ {
		a, b := &r.Timeline[i-1], &r.Timeline[i]
		if took := b.At - a.At; took > 0 {
			points = append(points, point{b.At, max(0, (of(b)-of(a))/took)})
		}
	}
	return points
}

func deliveryRate(r *Run) *chart {
	c := &chart{title: "Deliveries a second", y: axis{format: many}}
	c.x, c.shades = timeAxis(r)
	c.lines = []line{{name: "deliveries", points: perSecond(r, func(s *Second) float64 { return float64(s.Deliveries) })}}
	return c
}

func connects(r *Run) *chart {
	c := &chart{title: "Clients", note: "Connected and authenticated.", y: axis{format: many}}
	c.x, c.shades = timeAxis(r)
	var points []point
	for _, s := range r.Timeline {
		points = append(points, point{s.At, float64(s.Clients)})
	}
	c.lines = []line{{name: "clients", points: points}}
	return c
}

// processNames are those of the timeline, in the order of the report.
func processNames(r *Run) (names []string) {
	for _, p := range r.Processes {
		names = append(names, p.Name)
	}
	return names
}

func processorUse(r *Run) *chart {
	c := &chart{title: "Processors in use", note: "Cores, by process.", y: axis{format: func(v float64) string { return digits(v) }}}
	c.x, c.shades = timeAxis(r)
	for _, name := range processNames(r) {
		c.lines = append(c.lines, line{name: name, points: perSecond(r, func(s *Second) float64 { return s.CPUSeconds[name] })})
	}
	return c
}

func memoryUse(r *Run) *chart {
	c := &chart{title: "Memory", note: "Resident, by process.", y: axis{format: size, unit: 1 << 20}}
	c.x, c.shades = timeAxis(r)
	for _, name := range processNames(r) {
		l := line{name: name}
		for _, s := range r.Timeline {
			l.points = append(l.points, point{s.At, float64(s.RSSBytes[name])})
		}
		c.lines = append(c.lines, l)
	}
	return c
}
