package ceiling

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// The tests' binary is its own sending side.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "ceiling" {
		os.Exit(Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func TestRunMeasuresAndBalances(t *testing.T) {
	for name, cfg := range map[string]Config{
		"half WebSocket": {Clients: 300, WSFraction: 0.5, BodySize: 64, WriteSize: 8000},
		"TCP alone":      {Clients: 100, BodySize: 16, WriteSize: 1},
		"WebSocket":      {Clients: 100, WSFraction: 1, BodySize: 64, WriteSize: 200_000},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Sweeps, cfg.Pause, cfg.Duration = 5, time.Millisecond, 200*time.Millisecond
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			r, err := Run(ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if s := r.Sweep; s.Sweeps != 5 || s.Median <= 0 || s.Median > s.P99 || s.P99 > s.Max || s.SendMedian <= 0 || s.Threads < 1 {
				t.Errorf("sweep %+v", s)
			}
			want := max(1, cfg.WriteSize/(16+cfg.BodySize))
			if f := r.Throughput; f.FramesPerSend != want || f.Sends == 0 || f.SendsPerSecond <= 0 || f.BytesPerSend < float64(want*(16+cfg.BodySize)) || f.Drained < 0 {
				t.Errorf("throughput %+v", f)
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := Run(ctx, Config{Clients: 50, BodySize: 64, WriteSize: 64, Sweeps: 1000})
	if err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestConfigErrorsNameTheField(t *testing.T) {
	for want, cfg := range map[string]Config{
		"clients":  {},
		"ulimit":   {Clients: 1 << 40, BodySize: 64},
		"fraction": {Clients: 1, WSFraction: 2},
		"BodySize": {Clients: 1, BodySize: 3},
		"start":    {Clients: 1, BodySize: 64, Exe: "/does/not/exist"},
	} {
		if _, err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestSenderEndsWithItsInput(t *testing.T) {
	var out bytes.Buffer
	if err := serve(strings.NewReader(""), &out); err != nil || !strings.HasPrefix(out.String(), `{"tcp":"127.0.0.1:`) {
		t.Errorf("%q, %v", out.String(), err)
	}
	// Even while it waits for connections.
	if err := serve(strings.NewReader(`{"accept":{"tcp":1,"ws":0}}`), io.Discard); err != nil {
		t.Error(err)
	}
	if err := serve(strings.NewReader("nonsense"), io.Discard); err == nil {
		t.Error("nonsense gave no error")
	}
}

// BenchmarkRun measures the ceiling itself, for 10,000 clients, half of them WebSocket.
func BenchmarkRun(b *testing.B) {
	for _, size := range []int{80, 8000} {
		b.Run(fmt.Sprintf("write=%d", size), func(b *testing.B) {
			for range b.N {
				r, err := Run(context.Background(), Config{Clients: 10_000, WSFraction: 0.5, BodySize: 64, WriteSize: size})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(r.Sweep.Median.Microseconds())/1e3, "ms-sweep-p50")
				b.ReportMetric(float64(r.Sweep.P99.Microseconds())/1e3, "ms-sweep-p99")
				b.ReportMetric(r.Throughput.SendsPerSecond, "sends/s")
				b.ReportMetric(r.Throughput.CPUSecondsPerSend*1e6, "cpu-us/send")
				b.ReportMetric(float64(r.Throughput.Skipped), "skipped")
				b.Logf("%+v", r)
			}
		})
	}
}
