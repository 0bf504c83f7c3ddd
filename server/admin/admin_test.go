package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func start(t *testing.T) (*Server, *slog.LevelVar) {
	t.Helper()
	level := new(slog.LevelVar)
	s := New(Config{Addr: "127.0.0.1:0"}, "comet", level, slog.New(slog.DiscardHandler))
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	s.Handle("GET /services", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "added") }))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	return s, level
}

func ask(t *testing.T, s *Server, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr().String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestPages(t *testing.T) {
	s, _ := start(t)
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "barrage_test_total", Help: "Counts this test."})
	s.Registry().MustRegister(counter)
	counter.Inc()
	for _, c := range []struct {
		path     string
		contains string
	}{
		{"/healthz", "ok"},
		{"/readyz", "ok"},
		{"/metrics", "barrage_test_total 1"},
		{"/metrics", "go_memstats_heap_inuse_bytes"},
		{"/metrics", "process_resident_memory_bytes"},
		{"/debug/pprof/", "goroutine"},
		{"/debug/pprof/heap?gc=1", ""},
		{"/debug/pprof/cmdline", "admin.test"},
		{"/services", "added"},
		{"/loglevel", "info"},
	} {
		status, text := ask(t, s, "GET", c.path, "")
		if status != http.StatusOK || !strings.Contains(text, c.contains) {
			t.Errorf("GET %s: status %d without %q", c.path, status, c.contains)
		}
	}
}

func TestReadinessSaysWhatIsMissing(t *testing.T) {
	s, _ := start(t)
	waiting := errors.New("waiting for the first list of comets")
	s.AddCheck("kafka", func() error { return nil })
	s.AddCheck("job", func() error { return waiting })
	if status, text := ask(t, s, "GET", "/readyz", ""); status != http.StatusServiceUnavailable || text != "kafka: ok\njob: "+waiting.Error()+"\n" {
		t.Errorf("status %d, %q", status, text)
	}
	if status, _ := ask(t, s, "GET", "/healthz", ""); status != http.StatusOK {
		t.Errorf("healthz has status %d while not ready", status)
	}
}

func TestLogLevelIsSetAtRunTime(t *testing.T) {
	s, level := start(t)
	if status, text := ask(t, s, "PUT", "/loglevel", "debug\n"); status != http.StatusOK || text != "debug\n" || level.Level() != slog.LevelDebug {
		t.Errorf("status %d, %q, level %v", status, text, level)
	}
	for _, body := range []string{"loud", strings.Repeat("x", 100)} {
		if status, _ := ask(t, s, "PUT", "/loglevel", body); status != http.StatusBadRequest {
			t.Errorf("the level %q is accepted with status %d", body, status)
		}
	}
	if level.Level() != slog.LevelDebug {
		t.Errorf("a wrong level changed it to %v", level)
	}
}

func TestProfileRates(t *testing.T) {
	s, _ := start(t)
	defer runtime.SetMutexProfileFraction(runtime.SetMutexProfileFraction(-1))
	defer runtime.SetBlockProfileRate(0)
	if status, text := ask(t, s, "PUT", "/profilerates", `{"mutex_fraction": 7, "block_rate_ns": 1000000}`); status != http.StatusOK {
		t.Errorf("status %d, %q", status, text)
	}
	if got := runtime.SetMutexProfileFraction(-1); got != 7 {
		t.Errorf("the fraction is %d", got)
	}
	for _, body := range []string{"", "many", `{"mutex_fraction": -1}`, strings.Repeat(" ", 2000)} {
		if status, _ := ask(t, s, "PUT", "/profilerates", body); status != http.StatusBadRequest {
			t.Errorf("%.20q is accepted with status %d", body, status)
		}
	}
}

func TestTakenAddressIsNamed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := New(Config{Addr: listener.Addr().String()}, "comet", new(slog.LevelVar), slog.New(slog.DiscardHandler))
	if err := s.Listen(); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "admin.addr "+listener.Addr().String()) {
		t.Errorf("error is %v", err)
	}
}

func TestWithoutAddressNothingIsServed(t *testing.T) {
	s := New(Config{}, "comet", new(slog.LevelVar), slog.New(slog.DiscardHandler))
	if err := s.Listen(); err != nil || s.Addr() != nil {
		t.Fatalf("Listen: %v, address %v", err, s.Addr())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}
