package comet

import (
	"log/slog"
	"testing"

	"barrage/server/comet/secure/securetest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// All metrics follow Prometheus' conventions of names, units and help.
func TestMetricsConventions(t *testing.T) {
	cert, key, _ := securetest.Pair(t, t.TempDir(), "comet", "127.0.0.1")
	cfg := DefaultConfig()
	cfg.TCP.TLSOpen, cfg.WebSocket.TLSOpen = true, true
	cfg.WebSocket.CertFile, cfg.WebSocket.PrivateFile = []string{cert}, []string{key}
	reg := prometheus.NewRegistry()
	if _, err := New(cfg, Deps{Logic: &fakeLogic{}, Metrics: reg, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
