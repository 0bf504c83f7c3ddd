package live

import (
	"fmt"
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The buckets of the latency: nativeSchema makes eight to each power of two, 9% wide, of
// which the whole range of the ledger fills about 200. The ledger's live figures are exact
// to 3%, so finer ones would say nothing.
const nativeSchema = 3

// classicBounds are the buckets for those who don't read native histograms, in seconds.
var classicBounds = []float64{
	0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
}

// latencyMetric is a histogram of nanoseconds as a metric: a native and a classic histogram
// in one. It is made of the counts, since a million observations a second would cost what is
// to be measured.
type latencyMetric struct{ native, classic prometheus.Metric }

// newLatencyMetric returns h as a metric. Each latency counts with its bucket's middle.
func newLatencyMetric(desc *prometheus.Desc, h *hdrhistogram.Histogram, began time.Time) (prometheus.Metric, error) {
	native, classic := map[int]int64{}, make(map[float64]uint64, len(classicBounds))
	for _, bound := range classicBounds {
		classic[bound] = 0
	}
	count, sum := uint64(0), 0.0
	for _, bar := range h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		v := float64(bar.From+bar.To) / 2 / 1e9
		count += uint64(bar.Count)
		sum += v * float64(bar.Count)
		native[nativeIndex(v)] += bar.Count
		for _, bound := range classicBounds {
			if v <= bound {
				classic[bound] += uint64(bar.Count)
			}
		}
	}
	n, err := prometheus.NewConstNativeHistogram(desc, count, sum, native, nil, 0, nativeSchema, prometheus.DefNativeHistogramZeroThreshold, began)
	if err != nil {
		return nil, fmt.Errorf("latency as a native histogram: %w", err)
	}
	c, err := prometheus.NewConstHistogram(desc, count, sum, classic)
	if err != nil {
		return nil, fmt.Errorf("latency as a classic histogram: %w", err)
	}
	return latencyMetric{n, c}, nil
}

// nativeIndex returns the bucket of v seconds: i holds what lies above 2^((i-1)/8) and up to
// 2^(i/8).
func nativeIndex(v float64) int { return int(math.Ceil(math.Log2(v) * (1 << nativeSchema))) }

func (m latencyMetric) Desc() *prometheus.Desc { return m.native.Desc() }

func (m latencyMetric) Write(out *dto.Metric) error {
	var native, classic dto.Metric
	if err := m.native.Write(&native); err != nil {
		return err
	}
	if err := m.classic.Write(&classic); err != nil {
		return err
	}
	n := native.Histogram
	out.Label = native.Label
	// A new value: what a const metric writes is its own, and shared by all who gather it.
	out.Histogram = &dto.Histogram{
		SampleCount: n.SampleCount, SampleSum: n.SampleSum, CreatedTimestamp: n.CreatedTimestamp,
		Schema: n.Schema, ZeroThreshold: n.ZeroThreshold, ZeroCount: n.ZeroCount,
		PositiveSpan: n.PositiveSpan, PositiveDelta: n.PositiveDelta,
		Bucket: classic.Histogram.Bucket,
	}
	return nil
}
