package compare

import (
	"fmt"
	"math"
	"slices"
	"sort"

	"barrage/harness/page"
	"barrage/harness/report"
)

// charts draws the sides' runs over each other: a colour a side, each run a thin line, and
// the median of a side's runs a thick one.
func charts(c *Comparison) []page.Figure {
	percentiles := report.PercentileChart(overlay(c.Sides, true, report.LatencyCurve)...)
	overTime := func(title, note string, unit report.Unit, of func(*report.Run) []page.Point) *page.Chart {
		chart := &page.Chart{
			Title: title, Note: note,
			X: page.Axis{Label: "seconds since the measured phase began", Format: report.Count.Format}, Y: page.Axis{Format: unit.Format},
		}
		if unit == report.Bytes {
			chart.Y.Unit = 1 << 20
		}
		chart.Lines = overlay(c.Sides, false, of)
		return chart
	}
	return page.Figures(append(growth(c),
		fit(percentiles),
		fit(overTime("Median latency over time", "Of the deliveries of each second.", report.Seconds, func(r *report.Run) []page.Point {
			return measuredLatency(r, func(s *report.Second) float64 { return s.P50 })
		})),
		fit(overTime("99th percentile over time", "Of the latencies of each second.", report.Seconds, func(r *report.Run) []page.Point {
			return measuredLatency(r, func(s *report.Second) float64 { return s.P99 })
		})),
		overTime("Deliveries a second", "", report.Rate, func(r *report.Run) []page.Point {
			return fromMeasured(r, r.Rate(func(s *report.Second) float64 { return float64(s.Deliveries) }))
		}),
		byRole(c.Sides, "CPU time of a delivery", "By role, measured phase.", report.Seconds, func(r *report.Run, role string) float64 {
			return cpuOf(r, role)
		}),
		overTime("Memory of comet, logic and job", "Resident, together.", report.Bytes, serverMemory),
		byRole(c.Sides, "Peak memory", "Resident, by role.", report.Bytes, peakOf),
	)...)
}

// overlay returns a curve of each run, and each side's median curve over them. Where log,
// the curves go over a logarithmic axis.
func overlay(sides []Side, log bool, of func(*report.Run) []page.Point) []page.Line {
	var thin, thick []page.Line
	for i, s := range sides {
		var curves [][]page.Point
		for k, r := range s.Runs {
			points := of(r)
			if len(points) < 2 {
				continue
			}
			curves = append(curves, points)
			if len(s.Runs) > 1 {
				thin = append(thin, page.Line{Name: runName(i, k, r), Points: points, Colour: page.Colour(i), Weight: page.Thin})
			}
		}
		if points := medianCurve(curves, log); len(points) > 0 {
			thick = append(thick, page.Line{Name: sideName(i, s), Points: points, Colour: page.Colour(i), Weight: page.Thick})
		}
	}
	return append(thin, thick...) // above the thin ones
}

// sideName is what a side is called beside a curve.
func sideName(i int, s Side) string {
	name := letter(i)
	if len(s.Runs) > 1 {
		name += fmt.Sprintf(", median of %d runs", len(s.Runs))
	}
	if mark := doubt(s); mark != "" {
		name += ", " + mark
	}
	return name
}

func runName(i, k int, r *report.Run) string {
	name := fmt.Sprintf("%s, run %d", letter(i), k+1)
	if r.Verdict.Doubtful() {
		name += ", INVALID"
	}
	return name
}

// curvePoints is how many points a median curve has.
const curvePoints = 240

// medianCurve is the median of curves at each place where more than half of them have a value.
func medianCurve(curves [][]page.Point, log bool) (out []page.Point) {
	if len(curves) < 2 {
		return slices.Concat(curves...)
	}
	low, high := math.Inf(1), math.Inf(-1)
	for _, c := range curves {
		low, high = min(low, c[0].X), max(high, c[len(c)-1].X)
	}
	for i := range curvePoints + 1 {
		part := float64(i) / curvePoints
		x := low + (high-low)*part
		if log {
			x = low * math.Pow(high/low, part)
		}
		var ys []float64
		for _, c := range curves {
			if y, ok := valueAt(c, x, log); ok {
				ys = append(ys, y)
			}
		}
		if 2*len(ys) > len(curves) {
			slices.Sort(ys)
			n := len(ys)
			out = append(out, page.Point{X: x, Y: (ys[(n-1)/2] + ys[n/2]) / 2})
		}
	}
	return out
}

// Runs don't end at the very same place: a curve goes on level for as long as the seconds of a
// timeline, or the last percentiles that two counts can tell, may lie apart. Else a median
// would jump where one of its runs ends a little before the others.
const (
	slackSeconds = 0.75
	slackFactor  = 2.0
)

// valueAt is where a curve, whose points go from left to right, is at x; ok is false where it
// has no value.
func valueAt(c []page.Point, x float64, log bool) (y float64, ok bool) {
	low, high := c[0].X-slackSeconds, c[len(c)-1].X+slackSeconds
	if log {
		low, high = c[0].X/slackFactor, c[len(c)-1].X*slackFactor
	}
	if x < low || x > high {
		return 0, false
	}
	i := sort.Search(len(c), func(i int) bool { return c[i].X >= x })
	switch {
	case i == 0:
		return c[0].Y, true
	case i == len(c):
		return c[i-1].Y, true
	}
	a, b := c[i-1], c[i]
	return a.Y + (b.Y-a.Y)*(x-a.X)/(b.X-a.X), true
}

// fit gives a chart of latencies a logarithmic axis where a plain one would lay the smaller
// of them flat.
func fit(chart *page.Chart) *page.Chart {
	const flat = 20
	low, high := math.Inf(1), 0.0
	for _, l := range chart.Lines {
		most := 0.0 // of the line, which is what would be laid flat
		for _, p := range l.Points {
			most = max(most, p.Y)
		}
		low, high = min(low, most), max(high, most)
	}
	chart.Y.Log = low > 0 && high > flat*low
	return chart
}

// The phase by which runs are laid over each other.
const measurePhase = "measure"

// fromMeasured moves a run's time to the beginning of its measured phase, and leaves out what
// was before.
func fromMeasured(r *report.Run, points []page.Point) (out []page.Point) {
	begin, ok := measuredFrom(r)
	for _, p := range points {
		if ok && p.X > begin {
			out = append(out, page.Point{X: p.X - begin, Y: p.Y})
		}
	}
	return out
}

// measuredFrom is when the measured phase began, as near as the timeline tells it.
func measuredFrom(r *report.Run) (at float64, ok bool) {
	for _, s := range r.Timeline {
		if s.Phase == measurePhase {
			return at, true
		}
		at = s.At
	}
	return 0, false
}

// measuredLatency leaves out the seconds in which nothing arrived.
func measuredLatency(r *report.Run, of func(*report.Second) float64) []page.Point {
	points := fromMeasured(r, r.Series(of))
	return slices.DeleteFunc(points, func(p page.Point) bool { return p.Y <= 0 })
}

func serverMemory(r *report.Run) []page.Point {
	server := slices.ContainsFunc(r.Processes, func(p report.Process) bool { return p.Server })
	begin, ok := measuredFrom(r)
	if !server || !ok {
		return nil
	}
	points := r.Series(func(s *report.Second) float64 {
		sum := int64(0)
		for _, p := range r.Processes {
			if p.Server {
				sum += s.RSSBytes[p.Name]
			}
		}
		return float64(sum)
	})
	for i := range points {
		points[i].X -= begin
	}
	return points
}

func cpuOf(r *report.Run, role string) float64 {
	delivered := float64(r.Deliveries.Measured.Delivered)
	if delivered == 0 {
		return 0
	}
	sum := 0.0
	for _, p := range r.Processes {
		if p.Role == role {
			sum += p.CPUSeconds
		}
	}
	return sum / delivered
}

func peakOf(r *report.Run, role string) float64 {
	sum := int64(0)
	for _, p := range r.Processes {
		if p.Role == role {
			sum += p.RSSPeakBytes
		}
	}
	return float64(sum)
}

// byRole draws an amount of each role's processes together, by side: the median of its runs,
// with what bounds it and each run's.
func byRole(sides []Side, title, note string, unit report.Unit, of func(r *report.Run, role string) float64) *page.Bars {
	bars := &page.Bars{Title: title, Note: note, Format: unit.Format}
	for i, s := range sides {
		bars.Legend = append(bars.Legend, page.Legend{Name: sideName(i, s), Colour: page.Colour(i)})
	}
	for _, role := range roles(sides) {
		g := page.BarGroup{Name: role}
		for i, s := range sides {
			var values []float64
			for _, r := range s.Runs {
				if has(r, role) {
					values = append(values, of(r, role))
				}
			}
			if len(values) == 0 {
				continue
			}
			own := summary(values)
			bar := page.Bar{Name: fmt.Sprintf("%s: %s %s", sideName(i, s), role, unit.Format(own.Median)), Colour: page.Colour(i), Value: own.Median}
			if len(values) > 1 {
				bar.Low, bar.High, bar.Runs = own.Low, own.High, own.Values
			}
			g.Bars = append(g.Bars, bar)
		}
		bars.Groups = append(bars.Groups, g)
	}
	return bars
}

func has(r *report.Run, role string) bool {
	return slices.ContainsFunc(r.Processes, func(p report.Process) bool { return p.Role == role })
}

// roles are those of all runs' processes: the server's first, in the order of their CPU time.
func roles(sides []Side) (names []string) {
	server, cpu := map[string]bool{}, map[string]float64{}
	for _, s := range sides {
		for _, r := range s.Runs {
			for _, p := range r.Processes {
				if !slices.Contains(names, p.Role) {
					names = append(names, p.Role)
				}
				server[p.Role] = server[p.Role] || p.Server
				cpu[p.Role] += p.CPUSeconds
			}
		}
	}
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case server[a] != server[b] && server[a]:
			return -1
		case server[a] != server[b]:
			return 1
		case cpu[a] > cpu[b]:
			return -1
		case cpu[a] < cpu[b]:
			return 1
		}
		return 0
	})
	return names
}
