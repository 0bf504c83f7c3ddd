package logic

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

func TestRequestStart(t *testing.T) {
	for text, want := range map[string]int64{
		"t=1512379167.574":        1512379167_574_000_000, // as nginx
		"t=1512379167.574123456":  1512379167_574_123_456,
		"t=1512379167":            1512379167_000_000_000,
		"t=1512379167.":           1512379167_000_000_000,
		"t=0.5":                   500_000_000,
		"":                        -1,
		"t=":                      -1,
		"t=.5":                    -1,
		"t=-1.5":                  -1,
		"t=+1.5":                  -1,
		"t=1.-5":                  -1,
		"t=1.5e3":                 -1,
		"t=1512379167574":         -1, // milliseconds
		"t=1512379167.5741234567": -1,
		"1512379167.574":          -1,
	} {
		ns, ok := requestStart(text)
		if want < 0 && ok || want >= 0 && (ns != want || !ok) {
			t.Errorf("%q: %d, %v, want %d", text, ns, ok, want)
		}
	}
}

// All metrics follow Prometheus' conventions of names, units and help.
func TestMetricsConventions(t *testing.T) {
	c := startCluster(t, nil)
	problems, err := testutil.GatherAndLint(c.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Pushes that say when they were sent are seen, others and those of a clock that is far off
// are not.
func TestArrival(t *testing.T) {
	c := startCluster(t, nil)
	c.ready(t)
	for _, start := range []time.Duration{0, -time.Second, time.Hour, -24 * time.Hour} {
		req, err := http.NewRequest(http.MethodPost, "http://"+c.server.HTTPAddr().String()+roomPath, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		if start != 0 {
			at := time.Now().Add(start)
			req.Header.Set("X-Request-Start", fmt.Sprintf("t=%d.%09d", at.Unix(), at.Nanosecond()))
		}
		resp, err := http.DefaultClient.Do(req)
		if got, err := readAnswer(resp, err); err != nil || got != success {
			t.Fatalf("push: %s, %v", got, err)
		}
	}
	var m dto.Metric
	if err := c.server.metrics.arrival.Write(&m); err != nil {
		t.Fatal(err)
	}
	// One took a second and a bit, and one is of a clock that is ahead.
	if h := m.GetHistogram(); h.GetSampleCount() != 2 || h.GetSampleSum() < 1 {
		t.Errorf("%d pushes within %g s", h.GetSampleCount(), h.GetSampleSum())
	}
}
