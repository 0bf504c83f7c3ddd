package job

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// All metrics follow Prometheus' conventions of names, units and help.
func TestMetricsConventions(t *testing.T) {
	y := newYard(t, quick())
	y.reg.MustRegister(y.fleet)
	y.list("comet-1")                               // which has series of its own
	y.fleet.metrics.lag.WithLabelValues("0").Set(1) // as has a partition
	problems, err := testutil.GatherAndLint(y.reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
