package cluster

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

func TestHistogramOf(t *testing.T) {
	m, err := parseMetrics(strings.NewReader(`# TYPE wait_seconds histogram
wait_seconds_bucket{kind="a,\"}=b",le="0.1"} 2
wait_seconds_bucket{kind="a,\"}=b",le="0.2"} 4
wait_seconds_bucket{kind="a,\"}=b",le="+Inf"} 5
wait_seconds_bucket{le="0.1",kind="c"} 0
wait_seconds_bucket{le="0.2",kind="c"} 4
wait_seconds_bucket{le="+Inf",kind="c"} 5
wait_seconds_sum{kind="a,\"}=b"} 1
wait_seconds_sum{kind="c"} 2
wait_seconds_count{kind="a,\"}=b"} 5
wait_seconds_count{kind="c"} 5
wait_seconds_other_bucket{le="0.1"} 99
`))
	if err != nil {
		t.Fatal(err)
	}
	h := m.Histogram("wait_seconds")
	if h.Count != 10 || h.Sum != 3 || h.Mean() != 0.3 {
		t.Errorf("%+v", h)
	}
	for _, c := range []struct{ q, want float64 }{
		{0, 0}, {0.1, 0.05}, {0.2, 0.1}, {0.5, 0.15}, {0.8, 0.2}, {0.9, 0.2}, {1, 0.2}, // above the last bound it is not known
	} {
		if got := h.Quantile(c.q); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("quantile %g is %g, want %g", c.q, got, c.want)
		}
	}
	if none := m.Histogram("wait"); none.Count != 0 || none.Mean() != 0 || none.Quantile(0.5) != 0 {
		t.Errorf("a histogram that isn't there: %+v", none)
	}
	// Between two moments in which nothing came.
	if still := m.Minus(m).Histogram("wait_seconds"); still.Count != 0 || still.Mean() != 0 || still.Quantile(0.99) != 0 {
		t.Errorf("of no values: %+v", still)
	}
}

// What a process serves is read back: the mean exactly, percentiles to half a bucket.
func TestHistogramReadBack(t *testing.T) {
	reg := prometheus.NewRegistry()
	served := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "took_seconds", Help: "x", Buckets: prometheus.ExponentialBuckets(50e-6, 1.25, 65)})
	reg.MustRegister(served)
	random := rand.New(rand.NewPCG(1, 2))
	var values []float64
	sum := 0.0
	for range 10_000 {
		v := math.Exp(random.NormFloat64() - 5) // 7 ms in the median
		values, sum = append(values, v), sum+v
		served.Observe(v)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if _, err := expfmt.MetricFamilyToText(&text, families[0]); err != nil {
		t.Fatal(err)
	}
	m, err := parseMetrics(&text)
	if err != nil {
		t.Fatal(err)
	}
	h := m.Histogram("took_seconds")
	slices.Sort(values)
	if h.Count != 10_000 || math.Abs(h.Mean()/(sum/10_000)-1) > 1e-9 {
		t.Errorf("%g values with a mean of %g, want 10000, %g", h.Count, h.Mean(), sum/10_000)
	}
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999} {
		if got, want := h.Quantile(q), values[int(q*10_000)]; math.Abs(got/want-1) > 0.13 {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
}

func FuzzParseMetrics(f *testing.F) {
	f.Add("a_bucket{le=\"0.1\"} 2\na_count 1\n")
	f.Add("a_bucket{le=\"0.1\",x=\"\\\"} 2\na_bucket{le=} NaN\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMetrics(strings.NewReader(text))
		if err != nil {
			return
		}
		h := m.Histogram("a")
		h.Quantile(0.5)
		m.By("a")
	})
}
