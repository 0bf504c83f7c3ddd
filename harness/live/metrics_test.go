package live

import (
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"barrage/harness/ledger"
)

func TestMetricsFollowTheConventions(t *testing.T) {
	problems, err := testutil.GatherAndLint(registry(measuring(sample(3))))
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %+v", err, problems)
	}
	// Collect and Describe agree, before the first sample too: a pedantic registry checks it.
	for name, m := range map[string]*Metrics{"before the first sample": NewMetrics(Info{}), "measuring": measuring(sample(1))} {
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(m)
		families, err := r.Gather()
		if err != nil || len(families) < 15 {
			t.Errorf("%s: %d metrics, %v", name, len(families), err)
		}
	}
}

func TestEveryFigureOfASampleIsThere(t *testing.T) {
	want := `
# HELP barrage_harness_clients Simulated clients by transport and by how far they have come.
# TYPE barrage_harness_clients gauge
barrage_harness_clients{state="closed",transport="websocket"} 1
barrage_harness_clients{state="failed",transport="tcp"} 4
barrage_harness_clients{state="joined",transport="tcp"} 550
barrage_harness_clients{state="joined",transport="websocket"} 549
# HELP barrage_harness_deliveries_total Pushes that a client received for the first time; slow and stalled clients are left out here and below.
# TYPE barrage_harness_deliveries_total counter
barrage_harness_deliveries_total 3000
# HELP barrage_harness_duplicates_total Pushes that a client received once more.
# TYPE barrage_harness_duplicates_total counter
barrage_harness_duplicates_total 5
# HELP barrage_harness_info The run's scenario and the commit of what is under test; the value is always 1.
# TYPE barrage_harness_info gauge
barrage_harness_info{commit="abc",scenario="smoke"} 1
# HELP barrage_harness_missing Pushes that a client jumped over and has not received so far; those at a stream's end are known at the run's end alone.
# TYPE barrage_harness_missing gauge
barrage_harness_missing 7
# HELP barrage_harness_push_lag_seconds By how much the latest push of the last second was sent after its intended time.
# TYPE barrage_harness_push_lag_seconds gauge
barrage_harness_push_lag_seconds 0.0025
# HELP barrage_harness_pushes_total Pushes by their end: acknowledged is in Kafka, failed was refused or had no connection, unknown had no answer.
# TYPE barrage_harness_pushes_total counter
barrage_harness_pushes_total{result="acknowledged"} 36
barrage_harness_pushes_total{result="failed"} 2
barrage_harness_pushes_total{result="unknown"} 1
# HELP barrage_harness_reordered_total Pushes that a client received after a later one of the same stream.
# TYPE barrage_harness_reordered_total counter
barrage_harness_reordered_total 6
# HELP barrage_harness_swarm_busy_ratio Part of the last second in which a thread of the swarm did not wait for events: near 1 it is saturated.
# TYPE barrage_harness_swarm_busy_ratio gauge
barrage_harness_swarm_busy_ratio{thread="0"} 0.25
barrage_harness_swarm_busy_ratio{thread="1"} 0.5
`
	var names []string
	for line := range strings.Lines(want) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			names = append(names, name)
		}
	}
	r := registry(measuring(sample(3)))
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	families := gather(t, r)
	for _, c := range []struct {
		name, label string
		want        float64
	}{
		{"connect_failures_total", "connect_refused", 3}, {"connect_failures_total", "join_timeout", 1}, {"connect_failures_total", "no_local_port", 0},
		{"early_closes_total", "server_reset", 1}, {"phase", "measure", 1}, {"phase", "drain", 0},
		{"heartbeats_total", "sent", 60}, {"heartbeats_total", "held_back", 2},
		{"process_cpu_seconds_total", "comet-1", 0.75}, {"process_resident_memory_bytes", "harness", 32 << 20},
		{"swarm_cpu_seconds_total", "0", 1}, {"swarm_read_lag_seconds", "0", 0.001},
	} {
		if got, ok := labelled(families[namespace+c.name], c.label); !ok || got != c.want {
			t.Errorf("%s of %s is %v (%v), want %v", c.name, c.label, got, ok, c.want)
		}
	}
}

func gather(t *testing.T, from prometheus.Gatherer) map[string]*dto.MetricFamily {
	t.Helper()
	list, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families := map[string]*dto.MetricFamily{}
	for _, f := range list {
		families[f.GetName()] = f
	}
	return families
}

// labelled returns the value of the series that has a label with this value.
func labelled(f *dto.MetricFamily, value string) (float64, bool) {
	for _, m := range f.GetMetric() {
		for _, l := range m.Label {
			if l.GetValue() == value {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue(), true
			}
		}
	}
	return 0, false
}

// One histogram is both kinds, and both say the same as the counts that it was made of.
func TestLatencyIsNativeAndClassic(t *testing.T) {
	h := ledger.NewLiveHistogram()
	values := map[time.Duration]int64{
		0: 2, 70 * time.Microsecond: 10, time.Millisecond: 1000, 7 * time.Millisecond: 500, time.Second: 3, time.Minute: 1,
	}
	count, sum := int64(0), 0.0
	for v, n := range values {
		if err := h.RecordValues(int64(v), n); err != nil {
			t.Fatal(err)
		}
		count, sum = count+n, sum+v.Seconds()*float64(n)
	}
	m, err := newLatencyMetric(descs.latency, h, began)
	if err != nil {
		t.Fatal(err)
	}
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	got := out.Histogram
	if got.GetSampleCount() != uint64(count) || math.Abs(got.GetSampleSum()-sum) > 0.03*sum {
		t.Errorf("%d observations of %v s together, want %d of %v", got.GetSampleCount(), got.GetSampleSum(), count, sum)
	}
	for _, c := range []struct {
		upTo float64
		want uint64
	}{{0.0001, 12}, {0.0005, 12}, {0.0025, 1012}, {0.01, 1512}, {0.5, 1512}, {2.5, 1515}, {30, 1515}} {
		if n := classicUpTo(got, c.upTo); n != c.want {
			t.Errorf("%d up to %v s in the classic buckets, want %d", n, c.upTo, c.want)
		}
		// A native bucket is 9% wide, and none of the values is that near to the bound.
		if n := nativeUpTo(got, c.upTo); n != c.want {
			t.Errorf("%d up to %v s in the native buckets, want %d", n, c.upTo, c.want)
		}
	}
}

func classicUpTo(h *dto.Histogram, bound float64) uint64 {
	for _, b := range h.Bucket {
		if b.GetUpperBound() == bound {
			return b.GetCumulativeCount()
		}
	}
	return 0
}

func nativeUpTo(h *dto.Histogram, bound float64) uint64 {
	total, at, n := int64(h.GetZeroCount()), int32(0), int64(0)
	deltas := h.PositiveDelta
	for _, s := range h.PositiveSpan {
		at += s.GetOffset()
		for range s.GetLength() {
			n += deltas[0]
			deltas = deltas[1:]
			if math.Exp2(float64(at)/math.Exp2(float64(h.GetSchema()))) <= bound*1.09 {
				total += n
			}
			at++
		}
	}
	return uint64(total)
}

// A scrape gets what its reader asks for: text has the classic buckets, the protobuf form
// the native ones too; and after another run has begun, the figures of that one.
func TestServer(t *testing.T) {
	s, err := Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if families := scrape(t, s.URL(), expfmt.NewFormat(expfmt.TypeTextPlain)); families["go_goroutines"] == nil || families[namespace+"info"] != nil {
		t.Errorf("before the first run: %v", families)
	}
	s.Show(measuring(sample(2)))
	text := scrape(t, s.URL(), expfmt.NewFormat(expfmt.TypeTextPlain))[namespace+"latency_seconds"].GetMetric()[0].Histogram
	proto := scrape(t, s.URL(), expfmt.NewFormat(expfmt.TypeProtoDelim))[namespace+"latency_seconds"].GetMetric()[0].Histogram
	if text.GetSampleCount() != 200 || len(text.Bucket) != len(classicBounds)+1 || text.Schema != nil {
		t.Errorf("as text: %v", text)
	}
	if proto.GetSampleCount() != 200 || len(proto.Bucket) < len(classicBounds) || proto.GetSchema() != nativeSchema || nativeUpTo(proto, 60) != 200 {
		t.Errorf("as protobuf: %v", proto)
	}
	s.Show(NewMetrics(Info{Scenario: "next"}))
	if v, ok := labelled(scrape(t, s.URL(), expfmt.NewFormat(expfmt.TypeTextPlain))[namespace+"info"], "next"); !ok || v != 1 {
		t.Error("the next run is not shown")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := http.Get(s.URL()); err == nil {
		t.Error("it serves after Close")
	}
	if _, err := Serve("nowhere"); err == nil {
		t.Error("an address without a port was taken")
	}
	var none *Server
	none.Show(NewMetrics(Info{}))
}

func scrape(t *testing.T, url string, format expfmt.Format) map[string]*dto.MetricFamily {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", string(format))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return decode(t, resp.Body, expfmt.ResponseFormat(resp.Header))
}

func decode(t *testing.T, r io.Reader, format expfmt.Format) map[string]*dto.MetricFamily {
	t.Helper()
	families := map[string]*dto.MetricFamily{}
	for d := expfmt.NewDecoder(r, format); ; {
		f := new(dto.MetricFamily)
		if err := d.Decode(f); err == io.EOF {
			return families
		} else if err != nil {
			t.Fatal(err)
		}
		families[f.GetName()] = f
	}
}
