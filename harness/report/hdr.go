package report

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A NamedHistogram is latencies in ns under a tag.
type NamedHistogram struct {
	Tag       string // "tcp"
	Histogram *hdrhistogram.Histogram
}

// HDRLog writes histograms of one run as an HDR log (version 1.3), which the tools of
// hdrhistogram.org open. Values are ns, the log's greatest value of each line ms.
func HDRLog(w io.Writer, r *Run, list []NamedHistogram) error {
	var b bytes.Buffer // its writes don't fail
	log := hdrhistogram.NewHistogramLogWriter(&b)
	start := r.Started.UnixMilli()
	log.SetBaseTime(0)
	for _, write := range []func() error{
		log.OutputLogFormatVersion,
		func() error {
			return log.OutputComment(fmt.Sprintf("[%s: latency from a push's intended time, in ns]", r.Scenario.Name))
		},
		func() error { return log.OutputComment(verdictNote(r)) },
		func() error { return log.OutputStartTime(start) },
		log.OutputLegend,
	} {
		if err := write(); err != nil {
			return fmt.Errorf("write an HDR log: %w", err)
		}
	}
	for _, h := range list {
		if h.Histogram == nil || h.Histogram.TotalCount() == 0 {
			continue
		}
		c := h.Histogram.Clone()
		c.SetTag(h.Tag)
		c.SetStartTimeMs(start)
		c.SetEndTimeMs(r.Ended.UnixMilli())
		if err := log.OutputIntervalHistogram(c); err != nil {
			return fmt.Errorf("write an HDR log: histogram %s: %w", h.Tag, err)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// verdictNote is a run's verdict, with every reason, as HDR's own tools write comments behind a
// #: one line in brackets.
func verdictNote(r *Run) string {
	note := "Verdict: " + StatusWord(r.Verdict.Status)
	if reasons := slices.Concat(r.Verdict.Doubts, r.Verdict.Reasons); len(reasons) > 0 {
		note += ": " + strings.Join(reasons, "; ")
	}
	return "[" + strings.Join(strings.Fields(note), " ") + "]"
}

// PercentileTable writes the distribution of a histogram of r as HDR's own percentile table
// (.hgrm), in ms, behind a comment with the verdict.
func PercentileTable(w io.Writer, r *Run, h *hdrhistogram.Histogram) error {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	if _, err := fmt.Fprintf(w, "#%s\n", verdictNote(r)); err != nil {
		return fmt.Errorf("write a percentile table: %w", err)
	}
	if _, err := h.PercentilesPrint(w, 5, float64(time.Millisecond)); err != nil {
		return fmt.Errorf("write a percentile table: %w", err)
	}
	return nil
}

// A Point is one point of a latency's distribution.
type Point struct {
	Quantile float64 `json:"quantile"` // 0.99
	Seconds  float64 `json:"seconds"`
}

// CurveOf returns the distribution of a histogram of ns as points for a plot: five to each
// halving of what is left to 1, up to the last value that the count can tell.
func CurveOf(h *hdrhistogram.Histogram) []Point {
	curve := []Point{}
	if h == nil || h.TotalCount() == 0 {
		return curve
	}
	for _, b := range h.CumulativeDistributionWithTicks(5) {
		curve = append(curve, Point{Quantile: b.Quantile / 100, Seconds: float64(b.ValueAt) / 1e9})
	}
	return curve
}

// HeatLow is the upper bound in seconds of a heat map's first bucket, and HeatPerDecade how
// many buckets a factor of ten has.
const (
	HeatLow       = 100e-6
	HeatPerDecade = 10
	heatBuckets   = 62 // the last one is what lasts longer than 100 s
)

// HeatOf returns how many values of a histogram of ns fall into each bucket of a heat map,
// without the empty ones at the end.
func HeatOf(h *hdrhistogram.Histogram) []int64 {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	heat := make([]int64, heatBuckets)
	for _, bar := range h.Distribution() {
		if bar.Count > 0 {
			heat[heatBucket(float64(bar.To)/1e9)] += bar.Count
		}
	}
	for len(heat) > 0 && heat[len(heat)-1] == 0 {
		heat = heat[:len(heat)-1]
	}
	return heat
}

// HeatBound returns the upper bound of bucket i in seconds.
func HeatBound(i int) float64 { return HeatLow * math.Pow(10, float64(i)/HeatPerDecade) }

// heatBucket returns the bucket of a latency.
func heatBucket(seconds float64) int {
	if seconds <= HeatLow {
		return 0
	}
	i := int(math.Ceil(math.Log10(seconds/HeatLow)*HeatPerDecade - 1e-9))
	return min(max(i, 0), heatBuckets-1)
}
