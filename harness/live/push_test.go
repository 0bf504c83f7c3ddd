package live

import (
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/prompb"
)

// receiver keeps what is sent to it.
type receiver struct {
	t      *testing.T
	status int

	mu      sync.Mutex // guards what follows
	paths   []string
	users   map[string]bool
	pushed  map[string]*dto.MetricFamily // the last push
	written map[string][]prompb.TimeSeries
}

func receive(t *testing.T, status int) (*receiver, string) {
	r := &receiver{t: t, status: status, users: map[string]bool{}, written: map[string][]prompb.TimeSeries{}}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return r, s.URL
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paths = append(r.paths, req.Method+" "+req.URL.Path)
	user, password, _ := req.BasicAuth()
	r.users[user+":"+password] = true
	switch {
	case r.status != http.StatusOK:
		http.Error(w, "not today", r.status)
		return
	case strings.HasPrefix(req.URL.Path, "/metrics/job/"):
		r.pushed = decode(r.t, req.Body, expfmt.ResponseFormat(req.Header))
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil || req.Header.Get("Content-Encoding") != "snappy" || req.Header.Get("X-Prometheus-Remote-Write-Version") != "0.1.0" {
		r.t.Errorf("headers %v, %v", req.Header, err)
	}
	var request prompb.WriteRequest
	if body, err = snappy.Decode(nil, body); err == nil {
		err = request.Unmarshal(body)
	}
	if err != nil {
		r.t.Errorf("remote write: %v", err)
	}
	for _, s := range request.Timeseries {
		sorted := slices.IsSortedFunc(s.Labels, func(a, b prompb.Label) int { return strings.Compare(a.Name, b.Name) })
		if !sorted {
			r.t.Errorf("labels %v are not sorted", s.Labels)
		}
		name := label(s, "__name__")
		r.written[name] = append(r.written[name], s)
	}
	w.WriteHeader(http.StatusNoContent)
}

func label(s prompb.TimeSeries, name string) string {
	for _, l := range s.Labels {
		if l.Name == name {
			return l.Value
		}
	}
	return ""
}

var ofRun = Labels{Instance: "here", Run: "smoke/20260102T030405Z"}

// The end of a run is sent, however soon it comes.
func TestPushgatewayGetsTheRunsGroup(t *testing.T) {
	r, url := receive(t, http.StatusOK)
	s := Send(measuring(sample(2)), Destinations{Pushgateway: url, Every: time.Hour}, ofRun, func(text string) { t.Errorf("warned: %s", text) })
	if warnings := s.Close(); len(warnings) > 0 {
		t.Error(warnings)
	}
	// The run holds a slash, so its value is in the encoding for that (base64, without padding).
	path := r.paths[0]
	if len(r.paths) != 1 || !strings.HasPrefix(path, "PUT /metrics/job/barrage_harness/") ||
		!strings.Contains(path, "/instance/here") || !strings.Contains(path, "/run@base64/c21va2UvMjAyNjAxMDJUMDMwNDA1Wg") {
		t.Errorf("requests: %q", r.paths)
	}
	if v := r.pushed[namespace+"deliveries_total"].GetMetric()[0].GetCounter().GetValue(); v != 2000 {
		t.Errorf("%v deliveries were pushed, want 2000", v)
	}
	if h := r.pushed[namespace+"latency_seconds"].GetMetric()[0].Histogram; nativeUpTo(h, 60) != 200 || classicUpTo(h, 0.05) != 100 {
		t.Errorf("latency: %v", h)
	}
}

func TestRemoteWriteSendsSeries(t *testing.T) {
	r, url := receive(t, http.StatusOK)
	s := Send(measuring(sample(2)), Destinations{RemoteWrite: url + "/api/v1/write", Every: time.Hour}, ofRun, func(text string) { t.Errorf("warned: %s", text) })
	if warnings := s.Close(); len(warnings) > 0 {
		t.Error(warnings)
	}
	if !slices.Equal(r.paths, []string{"POST /api/v1/write", "POST /api/v1/write"}) {
		t.Errorf("requests: %q", r.paths)
	}
	for name, list := range r.written {
		for _, one := range list {
			if label(one, "job") != Job || label(one, "instance") != "here" || label(one, "run") != ofRun.Run {
				t.Errorf("labels of %s: %v", name, one.Labels)
			}
		}
	}
	if list := r.written[namespace+"deliveries_total"]; len(list) != 1 || list[0].Samples[0].Value != 2000 ||
		time.Since(time.UnixMilli(list[0].Samples[0].Timestamp)).Abs() > time.Minute {
		t.Errorf("deliveries: %v", list)
	}
	bounds := map[string]float64{}
	for _, b := range r.written[namespace+"latency_seconds_bucket"] {
		bounds[label(b, "le")] = b.Samples[0].Value
	}
	if len(bounds) != len(classicBounds)+1 || bounds["0.05"] != 100 || bounds["+Inf"] != 200 || r.written[namespace+"latency_seconds_count"][0].Samples[0].Value != 200 {
		t.Errorf("classic buckets %v, of %v", bounds, slices.Sorted(maps.Keys(r.written)))
	}
	native := r.written[namespace+"latency_seconds"]
	if len(native) != 1 || len(native[0].Histograms) != 1 {
		t.Fatalf("native: %v", native)
	}
	h := native[0].Histograms[0]
	total, n := int64(0), int64(0)
	for _, d := range h.PositiveDeltas {
		n += d
		total += n
	}
	if h.Schema != nativeSchema || h.GetCountInt() != 200 || total != 200 || math.Abs(h.Sum-2*5.05) > 0.3 || len(h.PositiveSpans) == 0 {
		t.Errorf("native: %+v", h)
	}
}

// A destination that fails is named, once while the run goes on and once at the end with how
// often; its password is not.
func TestFailuresAreWarnings(t *testing.T) {
	refusing, at := receive(t, http.StatusBadRequest)
	at = strings.Replace(at, "http://", "http://me:secret@", 1)
	var mu sync.Mutex
	var warned []string
	s := Send(measuring(sample(1)), Destinations{Pushgateway: at, RemoteWrite: at + "/write", Every: time.Millisecond}, ofRun, func(text string) {
		mu.Lock()
		defer mu.Unlock()
		warned = append(warned, text)
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		refusing.mu.Lock()
		n := len(refusing.paths)
		refusing.mu.Unlock()
		if n > 10 || time.Now().After(deadline) {
			break
		}
	}
	warnings := s.Close()
	if !maps.Equal(refusing.users, map[string]bool{"me:secret": true}) {
		t.Errorf("users %v", refusing.users)
	}
	if len(warned) != 3 || len(warnings) != 3 {
		t.Fatalf("warned %q, at the end %q; want one for the Pushgateway and one for each form of remote write", warned, warnings)
	}
	slices.Sort(warnings)
	for i, want := range []string{"Pushgateway http://me:xxxxx@", "remote write of native histograms to http://me:xxxxx@", "remote write to http://me:xxxxx@"} {
		if !strings.Contains(warnings[i], want) || !strings.Contains(warnings[i], "sends failed, the last with") || !strings.Contains(warnings[i], "not today") {
			t.Errorf("%q, want %q", warnings[i], want)
		}
	}
	if all := strings.Join(append(warned, warnings...), "\n"); strings.Contains(all, "secret") {
		t.Errorf("the password is in\n%s", all)
	}
	var none *Sender
	if none.Close() != nil {
		t.Error("nothing was sent, and something went wrong")
	}
}

// Nobody at the address is a warning too, and the run's end waits for it only for a while.
func TestNobodyListens(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	at := s.URL
	s.Close()
	sender := Send(measuring(sample(1)), Destinations{Pushgateway: at, RemoteWrite: at, Every: time.Hour}, ofRun, func(string) {})
	if warnings := sender.Close(); len(warnings) != 3 || !strings.Contains(warnings[0], "1 of 1 sends failed") {
		t.Errorf("%q", warnings)
	}
}
