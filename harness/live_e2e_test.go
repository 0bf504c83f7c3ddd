package harness_test

import (
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/snappy"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/prompb"

	"barrage/harness/report"
)

// families are metrics as a scrape or a push brings them, by name.
type families map[string]*dto.MetricFamily

func decodeFamilies(r io.Reader, format expfmt.Format) (families, error) {
	f := families{}
	for d := expfmt.NewDecoder(r, format); ; {
		one := new(dto.MetricFamily)
		switch err := d.Decode(one); {
		case errors.Is(err, io.EOF):
			return f, nil
		case err != nil:
			return nil, err
		}
		f[one.GetName()] = one
	}
}

// of returns the sum of the series of barrage_harness_NAME that have all these values among
// their labels.
func (f families) of(name string, values ...string) (sum float64) {
	for _, m := range f["barrage_harness_"+name].GetMetric() {
		has := map[string]bool{}
		for _, l := range m.Label {
			has[l.GetValue()] = true
		}
		all := true
		for _, v := range values {
			all = all && has[v]
		}
		if all {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// scrape asks for the protobuf form, the only one that holds native histograms.
func scrape(t *testing.T, url string) families {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil // the run has ended
	}
	defer resp.Body.Close()
	f, err := decodeFamilies(resp.Body, expfmt.ResponseFormat(resp.Header))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// collector is a Pushgateway and a receiver of remote write, as far as a run needs them.
type collector struct {
	t *testing.T

	mu     sync.Mutex
	pushes int
	pushed families           // the last push
	latest map[string]float64 // of remote write, by name, where there is one series
	native prompb.Histogram   // the last one
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/metrics/job/barrage_harness") {
		pushed, err := decodeFamilies(r.Body, expfmt.ResponseFormat(r.Header))
		if err != nil || r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/instance/") || !strings.Contains(r.URL.Path, "/run") {
			c.t.Errorf("push: %s %s, %v", r.Method, r.URL.Path, err)
		}
		c.pushes, c.pushed = c.pushes+1, pushed
		return
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		body, err = snappy.Decode(nil, body)
	}
	var request prompb.WriteRequest
	if err == nil {
		err = request.Unmarshal(body)
	}
	if err != nil {
		c.t.Errorf("remote write: %v", err)
	}
	for _, s := range request.Timeseries {
		name := ""
		for _, l := range s.Labels {
			if l.Name == "__name__" {
				name = strings.TrimPrefix(l.Value, "barrage_harness_")
			}
		}
		for _, v := range s.Samples {
			c.latest[name] = v.Value
		}
		if len(s.Histograms) > 0 {
			c.native = s.Histograms[0]
		}
	}
}

// While a run goes on its metrics say where it is; when all has arrived they say what
// run.json says, to whoever scrapes them, to a Pushgateway and over remote write.
func TestMetricsOfARun(t *testing.T) {
	sink := &collector{t: t, latest: map[string]float64{}}
	server := httptest.NewServer(sink)
	defer server.Close()
	b := start(t, "-metrics", "127.0.0.1:0", "-set", "phases.measure=4s", "-set", "metrics.every=1s",
		"-set", "metrics.pushgateway="+server.URL, "-set", "metrics.remote_write="+server.URL+"/api/v1/write", "smoke")
	var url string
	waitFor(t, "the metrics' address is printed", func() bool {
		if m := regexp.MustCompile(`metrics are at (http://127\.0\.0\.1:\d+/metrics)\n`).FindStringSubmatch(b.stderr.String()); m != nil {
			url = m[1]
		}
		return url != ""
	})
	seen := map[string]families{} // by phase, the last of each
	waitFor(t, "the ceiling is measured", func() bool {
		f := scrape(t, url)
		for _, m := range f["barrage_harness_phase"].GetMetric() {
			if m.GetGauge().GetValue() == 1 {
				seen[m.Label[0].GetValue()] = f
			}
		}
		return seen["ceiling"] != nil
	})
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	if len(r.Warnings) > 0 {
		t.Errorf("warnings: %q", r.Warnings)
	}
	underWay(t, seen)
	final := seen["ceiling"]
	holdAgainst(t, "scraped", final, r)
	if final["go_goroutines"] == nil {
		t.Error("nothing is said of the process itself")
	}
	sink.mu.Lock()
	defer sink.mu.Unlock()
	if sink.pushes < 3 {
		t.Errorf("%d pushes in a run of %s", sink.pushes, r.Ended.Sub(r.Started))
	}
	holdAgainst(t, "pushed", sink.pushed, r)
	if got, want := sink.latest["deliveries_total"], float64(r.Deliveries.Measured.Delivered+r.Deliveries.WarmUp.Delivered); got != want {
		t.Errorf("remote write: %v deliveries, want %v", got, want)
	}
	if got, want := sink.native.GetCountInt(), uint64(r.Latency.All.Count); got != want || sink.latest["latency_seconds_count"] != float64(want) {
		t.Errorf("remote write: %d latencies in the native histogram and %v in the classic one, want %d", got, sink.latest["latency_seconds_count"], want)
	}
	plainLines(t, b.stderr.String())
}

// underWay checks what was seen in the middle.
func underWay(t *testing.T, seen map[string]families) {
	t.Helper()
	for _, phase := range []string{"start", "measure", "ceiling"} {
		if seen[phase] == nil {
			t.Fatalf("the phase %s was never seen", phase)
		}
	}
	if n := seen["start"].of("deliveries_total"); n != 0 {
		t.Errorf("%v deliveries before the first client", n)
	}
	m := seen["measure"]
	if m.of("clients", "joined") != 200 || m.of("deliveries_total") == 0 || m.of("pushes_intended_total") == 0 || m.of("latency_seconds") == 0 || m.of("process_cpu_seconds_total", "comet-1") == 0 {
		t.Errorf("in the measured phase: %v", m)
	}
	if done := seen["ceiling"].of("deliveries_total"); m.of("deliveries_total") > done {
		t.Errorf("%v deliveries in the measured phase, %v in all", m.of("deliveries_total"), done)
	}
}

// holdAgainst holds the metrics of a run's end against its result.
func holdAgainst(t *testing.T, how string, f families, r *report.Run) {
	t.Helper()
	sum := func(of func(report.PushCounts) int64) float64 {
		return float64(of(r.Pushes.Measured) + of(r.Pushes.WarmUp))
	}
	h := f["barrage_harness_latency_seconds"].GetMetric()[0].Histogram
	// run.json has the bytes of the moment at which the kernel was asked for its count, and
	// replies to heartbeats may have come since.
	if got := f.of("read_bytes_total"); got < float64(r.Deliveries.Bytes) {
		t.Errorf("%s: %v bytes, in run.json %d", how, got, r.Deliveries.Bytes)
	}
	for _, c := range []struct {
		name string
		got  float64
		want float64
	}{
		{"clients over TCP", f.of("clients", "tcp", "joined"), float64(r.Clients.TCP)},
		{"clients over WebSocket", f.of("clients", "websocket", "joined"), float64(r.Clients.WebSocket)},
		{"clients in any state", f.of("clients"), float64(r.Clients.Count)},
		{"failed clients", f.of("connect_failures_total"), float64(r.Clients.Failed)},
		{"closed clients", f.of("early_closes_total"), float64(r.Clients.ClosedEarly)},
		{"heartbeats", f.of("heartbeats_total", "sent"), float64(r.Clients.HeartbeatsSent)},
		{"deliveries", f.of("deliveries_total"), float64(r.Deliveries.Measured.Delivered + r.Deliveries.WarmUp.Delivered)},
		{"missing", f.of("missing"), float64(r.Deliveries.Measured.Lost + r.Deliveries.WarmUp.Lost)},
		{"duplicates", f.of("duplicates_total"), float64(r.Deliveries.Measured.Duplicate + r.Deliveries.WarmUp.Duplicate)},
		{"reordered", f.of("reordered_total"), float64(r.Deliveries.Measured.Reordered + r.Deliveries.WarmUp.Reordered)},
		{"pushes intended", f.of("pushes_intended_total"), sum(func(c report.PushCounts) int64 { return c.Intended })},
		{"pushes sent", f.of("pushes_sent_total"), sum(func(c report.PushCounts) int64 { return c.Sent })},
		{"pushes acknowledged", f.of("pushes_total", "acknowledged"), sum(func(c report.PushCounts) int64 { return c.Acknowledged })},
		{"latencies", float64(h.GetSampleCount()), float64(r.Latency.All.Count)},
		{"latencies in native buckets", nativeCount(h), float64(r.Latency.All.Count)},
		{"latencies up to a minute", float64(h.Bucket[len(h.Bucket)-1].GetCumulativeCount()), float64(r.Latency.All.Count)},
		{"swarm threads", float64(len(f["barrage_harness_swarm_busy_ratio"].GetMetric())), float64(r.Swarm.Threads)},
		{"scenario", f.of("info", r.Scenario.Name), 1},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s: %v, in run.json %v", how, c.name, c.got, c.want)
		}
	}
	if mean := h.GetSampleSum() / float64(h.GetSampleCount()); math.Abs(mean-r.Latency.All.Mean) > 0.04*r.Latency.All.Mean {
		t.Errorf("%s: mean latency %v s, in run.json %v", how, mean, r.Latency.All.Mean)
	}
}

func nativeCount(h *dto.Histogram) float64 {
	total, n := int64(h.GetZeroCount()), int64(0)
	for _, d := range h.PositiveDelta {
		n += d
		total += n
	}
	return float64(total)
}

// plainLines checks what is written where there is no terminal.
func plainLines(t *testing.T, text string) {
	t.Helper()
	form := regexp.MustCompile(`^ *\d+\.\ds  (start|connect|warm-up|measure|drain|stop|ceiling) +`)
	last := ""
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "metrics are at ") {
			continue
		}
		m := form.FindStringSubmatch(line)
		if m == nil || strings.ContainsAny(line, "\x1b\r") {
			t.Errorf("the line %q is not as it was", line)
			continue
		}
		last = m[1]
	}
	if last != "ceiling" {
		t.Errorf("the last phase told is %q", last)
	}
}

// Nobody where the metrics go to: the run is as good as it was, and says so.
func TestMetricsThatNobodyTakes(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	b := start(t, "-ceiling=false", "-set", "phases.measure=1s", "-set", "phases.warmup=0s", "-set", "metrics.every=1s",
		"-set", "metrics.pushgateway="+server.URL, "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	if r.Verdict.Status != report.Good || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "Pushgateway "+server.URL) {
		t.Errorf("verdict %+v, warnings %q", r.Verdict, r.Warnings)
	}
	if !strings.Contains(b.stdout.String(), r.Warnings[0]) || strings.Count(b.stderr.String(), "warning: metrics: Pushgateway") != 1 {
		t.Errorf("printed:\n%s%s", b.stdout.String(), b.stderr)
	}
}

// An address that can't be bound is the user's to mend.
func TestMetricsAddress(t *testing.T) {
	b := start(t, "-metrics", "9464", "smoke")
	if status := b.wait(t); status != 2 || !strings.Contains(b.stderr.String(), "-metrics 9464") || !strings.Contains(b.stderr.String(), "127.0.0.1:0") {
		t.Errorf("exit status %d\n%s", status, b.stderr)
	}
	if files, _ := filepath.Glob(filepath.Join(b.results, "*")); len(files) > 0 {
		t.Errorf("it made %v", files)
	}
}
