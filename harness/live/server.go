package live

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// A Server serves the metrics of the run that is under way, and of this process, at
// /metrics. It lives for as long as the harness does, over any number of runs.
type Server struct {
	listener net.Listener
	http     http.Server
	served   chan struct{} // closed when http is done
	run      atomic.Pointer[prometheus.Registry]
}

// Serve binds addr (host:port; port 0 is a free one) and serves until Close.
func Serve(addr string) (*Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	process := prometheus.NewRegistry()
	process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s := &Server{listener: listener, served: make(chan struct{})}
	s.run.Store(prometheus.NewRegistry())
	run := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return s.run.Load().Gather() })
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.Gatherers{run, process}, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	s.http = http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(listener) // ErrServerClosed, as Close wants it
	}()
	return s, nil
}

// URL is where the metrics are.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() + "/metrics" }

// Show serves m from now on, in place of the run before. A nil Server shows nothing.
func (s *Server) Show(m *Metrics) {
	if s != nil {
		s.run.Store(registry(m))
	}
}

func registry(m *Metrics) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(m)
	return r
}

// Close ends the server and waits for it.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.served
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("stop serving metrics: %w", err)
	}
	return nil
}
