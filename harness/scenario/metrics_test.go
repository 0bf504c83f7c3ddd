package scenario

import (
	"strings"
	"testing"
	"time"
)

const withoutMetrics = `name: small
clients: {count: 1, rooms: {count: 1}}
pushes: [{kind: room, operation: 1000, rate: 1/s, size: 64B}]
phases: {measure: 1s}
`

func TestMetrics(t *testing.T) {
	for _, c := range []struct {
		text string
		want Metrics
	}{
		{"", Metrics{Every: 10 * time.Second}},
		{"metrics: {pushgateway: 'http://localhost:9091'}", Metrics{Pushgateway: "http://localhost:9091", Every: 10 * time.Second}},
		{"metrics: {remote_write: 'https://u:p@prom.example/api/v1/write', every: 1s}",
			Metrics{RemoteWrite: "https://u:p@prom.example/api/v1/write", Every: time.Second}},
	} {
		s, err := Parse("small.yaml", []byte(withoutMetrics+c.text), nil)
		if err != nil || s.Metrics != c.want {
			t.Errorf("%s: %+v, %v", c.text, s, err)
		}
	}
	s, err := Parse("small.yaml", []byte(withoutMetrics), []string{"metrics.pushgateway=http://localhost:9091", "metrics.every=2s"})
	if err != nil || s.Metrics != (Metrics{Pushgateway: "http://localhost:9091", Every: 2 * time.Second}) {
		t.Errorf("with -set: %+v, %v", s, err)
	}
}

func TestMetricsRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"metrics: {every: 5s}", "small.yaml:5: metrics: names no destination; set pushgateway or remote_write"},
		{"metrics: {pushgateway: 'localhost:9091'}", "metrics.pushgateway: is no URL; accepted: http://HOST:PORT/PATH"},
		{"metrics: {remote_write: 'ftp://u:secret@host'}", "metrics.remote_write: is no URL"},
		{"metrics: {pushgateway: 'http://h', every: 10ms}", "metrics.every: 10ms is out of range; accepted: 1s to 1h0m0s"},
		{"metrics: {pushgatewy: 'http://h'}", "did you mean pushgateway?"},
	} {
		_, err := Parse("small.yaml", []byte(withoutMetrics+c.text), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
}
