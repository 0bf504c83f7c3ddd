package report

import (
	_ "embed"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"barrage/harness/page"
)

//go:embed report.html.tmpl
var htmlText string

var htmlPage = page.Parse("report", htmlText)

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
	Charts      []page.Figure
	Processes   []htmlRow
	AgentHead   []string // empty without agents
	AgentRows   []htmlRow
	Deliveries  []htmlRow
	Witnesses   []string
	Facts       []htmlRow
	Repeat      string
}

type htmlFigure struct{ Name, Help, Value, Wanted, Class string }

type htmlRow struct{ Cells []string }

// HTML writes r as one page that needs nothing else: no network, no script. The verdict
// comes first.
func HTML(w io.Writer, r *Run) error {
	view := htmlReport{Run: r, Repeat: CommandLine(r.Command), Doubtful: r.Verdict.Doubtful()}
	view.Word = StatusWord(r.Verdict.Status)
	view.Class = r.Verdict.Status
	view.Figures = htmlFigures(r)
	for _, row := range latencyRows(r) {
		view.Rows = append(view.Rows, htmlRow{[]string{strings.TrimSpace(row.name), span(row.p.P50), span(row.p.P90), span(row.p.P99), span(row.p.P999), span(row.p.Max)}})
	}
	for _, cells := range stageRows(r) {
		view.Stages = append(view.Stages, htmlRow{cells})
	}
	view.StageNotes = stageNotes(r)
	if f := r.Fairness; f != nil {
		view.Fair = f.lines()
		for _, c := range f.Slowest {
			view.SlowRows = append(view.SlowRows, htmlRow{[]string{fmt.Sprint(c.Client), c.Transport, c.Room, count(c.Receipts), span(c.Mean)}})
		}
	}
	for _, p := range r.Processes {
		view.Processes = append(view.Processes, htmlRow{[]string{p.Name, span(p.CPUSeconds), fmt.Sprintf("%.2f", p.CoresUsed), sizeOf(p.RSSPeakBytes), sizeOf(p.GoHeapBytes)}})
	}
	for _, a := range r.Agents {
		view.AgentHead = agentHead
		view.AgentRows = append(view.AgentRows, htmlRow{agentCells(a)})
	}
	for _, l := range r.Pushes.Lines {
		view.Deliveries = append(view.Deliveries, htmlRow{append([]string{l.Name, amount(l.Rate) + "/s", size(float64(l.BodyBytes))}, deliveryCells(l.Deliveries)...)})
	}
	view.Deliveries = append(view.Deliveries, htmlRow{append([]string{"measured", "", ""}, deliveryCells(r.Deliveries.Measured)...)})
	if r.Deliveries.WarmUp.Expected > 0 {
		view.Deliveries = append(view.Deliveries, htmlRow{append([]string{"warm-up", "", ""}, deliveryCells(r.Deliveries.WarmUp)...)})
	}
	view.Witnesses = r.witnesses()
	view.Facts = htmlFacts(r)
	view.Charts = page.Figures(latencyCurve(r), latencyHeat(r), deliveryRate(r), connects(r), framesPerWrite(r), sweepRate(r), processorUse(r), memoryUse(r))
	if err := htmlPage.Execute(w, &view); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// htmlFigures are the main figures, and those that something is expected of.
func htmlFigures(r *Run) (list []htmlFigure) {
	for _, f := range FiguresOf(r) {
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

// networkLine says which network a run was in, "" where that is not known.
func networkLine(e *Environment) string {
	switch e.Network {
	case OwnNetwork:
		return fmt.Sprintf("a namespace of its own, %s chains of established connections", e.KernelSettings["net.ipv4.tcp_ehash_entries"])
	case HostNetwork:
		return "the machine's"
	}
	return ""
}

func htmlFacts(r *Run) []htmlRow {
	e := &r.Environment
	rows := []htmlRow{
		{[]string{"started", r.Started.Format("2006-01-02 15:04:05") + " UTC"}},
		{[]string{"machine", e.Machine()}},
		{[]string{"system", fmt.Sprintf("%s, Linux %s, %s", e.System, e.Kernel, e.Go)}},
		{[]string{"commit", e.Commit}},
		{[]string{"target", strings.Join(targetLines(r), "; ")}},
		{[]string{"broker", e.Broker}},
		{[]string{"redis", e.Redis}},
		{[]string{"network", networkLine(e)}},
		{[]string{"open files", fmt.Sprintf("%d soft, %d hard", e.OpenFilesSoft, e.OpenFilesHard)}},
		{[]string{"beside the run", fmt.Sprintf("other processes took %s of the machine, the hypervisor %s", percent(r.Disturbance.OtherCPU), percent(r.Disturbance.Steal))}},
		{[]string{"memory in use", r.Memory.line()}},
		{[]string{"swarm", fmt.Sprintf("%s, the busiest at work for %s of the time; read lag p99 %s", Plural(r.Swarm.Threads, "thread"), percent(r.Swarm.BusyMean), span(r.Swarm.ReadLag.P99))}},
		{[]string{"pusher", fmt.Sprintf("late by p50 %s, p99 %s; acknowledged after p50 %s, p99 %s", span(r.Pushes.Lag.P50), span(r.Pushes.Lag.P99), span(r.Pushes.Ack.P50), span(r.Pushes.Ack.P99))}},
	}
	for _, a := range r.Agents {
		e := &a.Environment
		rows = append(rows, htmlRow{[]string{"agent " + a.Name, fmt.Sprintf("%s, Linux %s; %d open files", e.Machine(), e.Kernel, e.OpenFilesHard)}})
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

// LatencyCurve returns a run's latencies, in seconds, over their percentiles' places.
func LatencyCurve(r *Run) (points []page.Point) {
	for _, p := range r.Latency.Curve {
		if p.Quantile < 1 {
			points = append(points, page.Point{X: page.Place(p.Quantile), Y: p.Seconds})
		}
	}
	return points
}

// PercentileChart is a chart of LatencyCurves, with what is left to 1 on a logarithmic scale.
func PercentileChart(lines ...page.Line) *page.Chart {
	most := 0.0
	for _, l := range lines {
		if n := len(l.Points); n > 0 {
			most = max(most, l.Points[n-1].X)
		}
	}
	return &page.Chart{
		Title: "Latency by percentile", Note: "From a push's intended time to each client's receipt. To the right of 99 each step leaves out a tenth of what was left.",
		X: page.PercentileAxis(most), Y: page.Axis{Format: span}, Lines: lines,
	}
}

// latencyCurve is the distribution beside what was expected of it.
func latencyCurve(r *Run) *page.Chart {
	points := LatencyCurve(r)
	c := PercentileChart(page.Line{Name: "latency", Points: points})
	if r.Ceiling != nil && r.Ceiling.SweepMedian > 0 && len(points) > 0 {
		c.Marks = append(c.Marks, page.Mark{Label: "the ceiling's sweep", Y: r.Ceiling.SweepMedian})
	}
	for _, check := range r.Verdict.Checks {
		if check.Figure == "latency.p99" && len(points) > 0 {
			c.Marks = append(c.Marks, page.Mark{Label: "expected p99 " + check.Wanted, Y: check.Want})
		}
	}
	return c
}

// overTime is a chart over the run's time, with its phases.
func overTime(r *Run, title, note string, y page.Axis) *page.Chart {
	c := &page.Chart{Title: title, Note: note, Y: y}
	end := 1.0
	for _, s := range r.Timeline {
		end = max(end, s.At)
		if n := len(c.Shades); n > 0 && c.Shades[n-1].Label == s.Phase {
			c.Shades[n-1].To = s.At
			continue
		}
		from := max(0, s.At-1)
		if n := len(c.Shades); n > 0 {
			from = c.Shades[n-1].To
		}
		c.Shades = append(c.Shades, page.Shade{Label: s.Phase, From: from, To: s.At})
	}
	c.X = page.Axis{Label: "seconds since the run's start", High: end, Format: amount}
	return c
}

// latencyHeat is how many latencies lie where, over time: a cell is the darker the more of
// its second's it has.
func latencyHeat(r *Run) *page.Chart {
	c := overTime(r, "Latency over time", "Each column is a second, the darker a cell the more of its deliveries took so long.", page.Axis{Format: span, Log: true})
	before := 0.0
	for _, s := range r.Timeline {
		total := int64(0)
		for _, n := range s.Heat {
			total += n
		}
		for i, n := range s.Heat {
			if n == 0 {
				continue
			}
			low, high := heatFloor(i), HeatBound(i)
			c.Cells = append(c.Cells, page.Cell{
				From: max(before, s.At-1), To: s.At, Low: low, High: high, Part: 0.08 + 0.92*math.Sqrt(float64(n)/float64(total)),
				Title: fmt.Sprintf("%s of %s within %s to %s", count(n), count(total), span(low), span(high)),
			})
		}
		before = s.At
	}
	return c
}

// heatFloor is the lower bound of bucket i.
func heatFloor(i int) float64 {
	if i == 0 {
		return HeatLow / math.Pow(10, 1.0/HeatPerDecade)
	}
	return HeatBound(i - 1)
}

// Series returns what of says of each moment of the run's timeline.
func (r *Run) Series(of func(*Second) float64) (points []page.Point) {
	for i := range r.Timeline {
		points = append(points, page.Point{X: r.Timeline[i].At, Y: of(&r.Timeline[i])})
	}
	return points
}

// Rate returns how fast a count of the timeline grows, a second.
func (r *Run) Rate(of func(*Second) float64) (points []page.Point) {
	for i := 1; i < len(r.Timeline); i++ {
		a, b := &r.Timeline[i-1], &r.Timeline[i]
		if took := b.At - a.At; took > 0 {
			points = append(points, page.Point{X: b.At, Y: max(0, (of(b)-of(a))/took)})
		}
	}
	return points
}

func deliveryRate(r *Run) *page.Chart {
	c := overTime(r, "Deliveries a second", "", page.Axis{Format: many})
	c.Lines = []page.Line{{Name: "deliveries", Points: r.Rate(func(s *Second) float64 { return float64(s.Deliveries) })}}
	return c
}

func connects(r *Run) *page.Chart {
	c := overTime(r, "Clients", "Connected and authenticated.", page.Axis{Format: many})
	c.Lines = []page.Line{{Name: "clients", Points: r.Series(func(s *Second) float64 { return float64(s.Clients) })}}
	return c
}

func processorUse(r *Run) *page.Chart {
	c := overTime(r, "Processors in use", "Cores, by process.", page.Axis{Format: digits})
	for _, p := range r.Processes {
		c.Lines = append(c.Lines, page.Line{Name: p.Name, Points: r.Rate(func(s *Second) float64 { return s.CPUSeconds[p.Name] })})
	}
	return c
}

func memoryUse(r *Run) *page.Chart {
	c := overTime(r, "Memory", "Resident, by process.", page.Axis{Format: size, Unit: 1 << 20})
	for _, p := range r.Processes {
		c.Lines = append(c.Lines, page.Line{Name: p.Name, Points: r.Series(func(s *Second) float64 { return float64(s.RSSBytes[p.Name]) })})
	}
	return c
}
