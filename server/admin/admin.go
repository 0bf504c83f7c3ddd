// Package admin is the page that operators see of a process: metrics, health, readiness,
// profiles and the log level, over HTTP, on a port of its own.
package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const shutdownTimeout = 2 * time.Second

// Config says where the page is.
type Config struct {
	Addr string `toml:"addr" doc:"address (host:port) of metrics, health and profiles; empty turns them off"`
}

// DefaultConfig is role's usual address, on loopback.
func DefaultConfig(role string) Config {
	ports := map[string]string{"comet": "3190", "logic": "3191", "job": "3192", "discovery": "3193", "services": "3194"}
	port, ok := ports[role]
	if !ok {
		port = "3190"
	}
	return Config{Addr: "127.0.0.1:" + port}
}

// A Server serves
//
//	/metrics        Prometheus' text format
//	/healthz        200 as long as the process runs
//	/readyz         200 when every check passes, else 503; a line for each check
//	/debug/pprof/   profiles
//	/profilerates   PUT sets how much waiting the profiles mutex and block record
//	/loglevel       GET says the level, PUT sets it (debug, info, warn, error)
//
// and what Handle adds.
type Server struct {
	cfg      Config
	role     string
	level    *slog.LevelVar
	log      *slog.Logger
	registry *prometheus.Registry
	mux      *http.ServeMux
	listener net.Listener // set by Listen

	mu     sync.Mutex
	checks []check // mu guards
}

type check struct {
	name string
	run  func() error
}

// New makes the page of a role. level is what /loglevel reads and sets.
func New(cfg Config, role string, level *slog.LevelVar, log *slog.Logger) *Server {
	s := &Server{
		cfg:      cfg,
		role:     role,
		level:    level,
		log:      log,
		registry: prometheus.NewRegistry(),
		mux:      http.NewServeMux(),
	}
	s.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		Registry: s.registry, EnableOpenMetrics: true,
	}))
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.mux.HandleFunc("GET /loglevel", s.getLevel)
	s.mux.HandleFunc("PUT /loglevel", s.putLevel)
	s.mux.HandleFunc("PUT /profilerates", s.putRates)
	s.mux.HandleFunc("/debug/pprof/", pprof.Index)
	s.mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	s.mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	s.mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	s.mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return s
}

// Registry is what /metrics shows; it already has Go's and the process's own metrics.
func (s *Server) Registry() *prometheus.Registry { return s.registry }

// AddCheck makes /readyz depend on run, which returns nil when ready, else what it waits
// for. It must be quick and safe to call from any goroutine.
func (s *Server) AddCheck(name string, run func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = append(s.checks, check{name, run})
}

// Handle adds a page; call it before Run. pattern is one of http.ServeMux.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// Listen binds the port; without an address there is nothing to do.
func (s *Server) Listen() error {
	if s.cfg.Addr == "" {
		return nil
	}
	listener, err := net.Listen("tcp", s.cfg.Addr)
	if err != nil {
		return fmt.Errorf("admin.addr %s: %w", s.cfg.Addr, err)
	}
	s.listener = listener
	return nil
}

// Addr is the bound address; nil before Listen, and when the page is turned off.
func (s *Server) Addr() net.Addr {
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Run serves until ctx ends; Listen comes first.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		<-ctx.Done()
		return nil
	}
	server := &http.Server{
		Handler:           s.mux,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(s.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve admin.addr %s: %w", s.cfg.Addr, err)
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(stopCtx)
	if errors.Is(err, context.DeadlineExceeded) { // a profile is being taken
		err = server.Close()
	}
	<-failed
	return err
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	checks := slices.Clone(s.checks)
	s.mu.Unlock()
	var lines strings.Builder
	status := http.StatusOK
	for _, c := range checks {
		if err := c.run(); err != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&lines, "%s: %v\n", c.name, err)
			continue
		}
		fmt.Fprintf(&lines, "%s: ok\n", c.name)
	}
	if len(checks) == 0 {
		lines.WriteString("ok\n")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, lines.String()) // a client that left has nothing to be told
}

func (s *Server) getLevel(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, strings.ToLower(s.level.Level().String()))
}

func (s *Server) putLevel(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(strings.TrimSpace(string(body)))); err != nil {
		http.Error(w, fmt.Sprintf("the level %q is none of debug, info, warn, error", body), http.StatusBadRequest)
		return
	}
	s.level.Set(level)
	s.log.Info("log level set", "role", s.role, "level", level)
	s.getLevel(w, r)
}
