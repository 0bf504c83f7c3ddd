package report

import "barrage/harness/page"

// Sweeps is what all comets had done at a moment, by their own counters.
type Sweeps struct {
	Sweeps int64 `json:"sweeps"` // passes over the members of a room in a shard
	Frames int64 `json:"frames"`
	Writes int64 `json:"writes"`
}

// sweepsOver returns the timeline's points of a figure between two moments that have one.
func sweepsOver(r *Run, of func(from, to *Sweeps, took float64) (float64, bool)) (points []page.Point) {
	for i := 1; i < len(r.Timeline); i++ {
		a, b := &r.Timeline[i-1], &r.Timeline[i]
		if took := b.At - a.At; a.Sweeps != nil && b.Sweeps != nil && took > 0 {
			if v, ok := of(a.Sweeps, b.Sweeps, took); ok {
				points = append(points, page.Point{X: b.At, Y: v})
			}
		}
	}
	return points
}

func framesPerWrite(r *Run) *page.Chart {
	c := overTime(r, "Frames per write", "How many frames one send call carried, mean of each second.", page.Axis{Format: digits})
	c.Lines = []page.Line{{Name: "frames", Points: sweepsOver(r, func(a, b *Sweeps, _ float64) (float64, bool) {
		return float64(b.Frames-a.Frames) / float64(max(1, b.Writes-a.Writes)), b.Writes > a.Writes
	})}}
	return c
}

func sweepRate(r *Run) *page.Chart {
	c := overTime(r, "Sweeps and writes a second", "Passes over a room's members, and send calls, of all comets together. On a logarithmic scale.", page.Axis{Format: many, Log: true})
	rate := func(of func(*Sweeps) int64) []page.Point {
		return sweepsOver(r, func(a, b *Sweeps, took float64) (float64, bool) {
			v := float64(of(b)-of(a)) / took
			return v, v >= 1
		})
	}
	c.Lines = []page.Line{
		{Name: "sweeps", Points: rate(func(s *Sweeps) int64 { return s.Sweeps })},
		{Name: "writes", Points: rate(func(s *Sweeps) int64 { return s.Writes })},
	}
	return c
}
