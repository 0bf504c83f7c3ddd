package console

import "github.com/prometheus/client_golang/prometheus"

// A result is what became of a request that is no file of the page.
type result int

const (
	passedOn result = iota
	apiUnreachable
	browserLeft
	foreignHost
	foreignOrigin
	results // how many there are
)

func (r result) String() string {
	return [results]string{"passed_on", "api_unreachable", "browser_left", "foreign_host", "foreign_origin"}[r]
}

type metrics [results]prometheus.Counter

// newMetrics registers the counters with registry; nil means that nobody looks at them.
func newMetrics(registry prometheus.Registerer) metrics {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_console_requests_total",
		Help: "Requests of browsers to the demo page that were passed on to the push API or refused, by what became of them.",
	}, []string{"result"})
	if registry != nil {
		registry.MustRegister(requests)
	}
	var m metrics
	for r := range results {
		m[r] = requests.WithLabelValues(r.String())
	}
	return m
}
