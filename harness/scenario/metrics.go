package scenario

import (
	"net/url"
	"time"
)

// Metrics say where a run's metrics are sent to while it goes on. Empty ones get nothing.
type Metrics struct {
	Pushgateway string        // URL of a Prometheus Pushgateway, without /metrics/job
	RemoteWrite string        // URL that takes Prometheus' remote write
	Every       time.Duration // between two sends
}

func readMetrics(o *object) Metrics {
	m := Metrics{
		Pushgateway: readURL(o, "pushgateway"),
		RemoteWrite: readURL(o, "remote_write"),
		Every:       scalar(o, "every", duration),
	}
	if o.node != nil && o.fields["pushgateway"] == nil && o.fields["remote_write"] == nil {
		o.r.problem(o.node, o.path, "names no destination; set pushgateway or remote_write to a URL")
	}
	o.done()
	return m
}

// readURL reads the field name, which may be absent, as the URL of an HTTP server.
func readURL(o *object, name string) string {
	text := o.text(name, "")
	if o.fields[name] == nil {
		return ""
	}
	if u, err := url.Parse(text); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		// The text may hold a password, so it is not repeated.
		o.problem(name, "is no URL; accepted: http://HOST:PORT/PATH, or https")
		return ""
	}
	return text
}
