package compare

import (
	"cmp"
	"slices"

	"barrage/harness/page"
	"barrage/harness/report"
)

// leastSizes is how many numbers of clients there must be for charts over them.
const leastSizes = 3

// growth draws how figures grow with the number of clients, where the sides are so many sizes
// of one scenario: a point is the median of a side's runs.
func growth(c *Comparison) []page.Drawing {
	sizes := make(map[int]bool)
	for _, s := range c.Sides {
		sizes[s.Runs[0].Clients.Count] = true
	}
	if len(sizes) < leastSizes {
		return nil
	}
	chart := func(title, note string, unit report.Unit, log bool, figures ...string) *page.Chart {
		out := &page.Chart{
			Title: title, Note: note,
			X: page.Axis{Label: "clients", Log: true, Format: report.Count.Format}, Y: page.Axis{Log: log, Format: unit.Format},
		}
		for _, name := range figures {
			figure, ok := report.FindFigure(name)
			if !ok {
				continue
			}
			line := page.Line{Name: name}
			for _, s := range c.Sides {
				if own := cell(figure, s.Runs); len(own.Values) > 0 {
					line.Points = append(line.Points, page.Point{X: float64(s.Runs[0].Clients.Count), Y: own.Median})
				}
			}
			slices.SortFunc(line.Points, func(a, b page.Point) int { return cmp.Compare(a.X, b.X) })
			if len(line.Points) > 1 {
				out.Lines = append(out.Lines, line)
			}
		}
		return out
	}
	return []page.Drawing{
		chart("Joined a second, by clients", "How fast clients connected and logged in.", report.Rate, false, "clients.joined_per_second"),
		chart("Memory of a connection, by clients", "What comet takes for it.", report.Bytes, false, "comet.memory_per_connection", "comet.rss_per_connection"),
		chart("CPU time of a delivery, by clients", "All servers that are ours, and comet alone.", report.Seconds, true, "server.cpu_per_delivery", "comet.cpu_per_delivery"),
		chart("Latency and the plain send loop's sweep, by clients", "", report.Seconds, true, "latency.p50", "latency.p99", "ceiling.sweep"),
	}
}
