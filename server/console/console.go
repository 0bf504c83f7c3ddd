// Package console serves the page on which a browser joins a room, shows what arrives and
// how long it took, and pushes. The page and its client are embedded; the page's requests
// to the push API come in at the page's own address and go out to logic unchanged, so that
// a browser needs no permission to talk to another origin.
package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	shutdownTimeout = 2 * time.Second
	headerTimeout   = 5 * time.Second
	requestTimeout  = time.Minute // for a request's body, and for the answer
)

// Deps is what the page needs of its process. API and WebSocket are asked at every
// request, so they may name ports that are bound later; both may be nil, and an empty
// string says that the process doesn't know.
type Deps struct {
	Log       *slog.Logger
	Metrics   prometheus.Registerer // nil for no metrics
	API       func() string         // address of the process's push API
	WebSocket func() string         // address or URL of the process's WebSocket listener
}

// A Server serves
//
//	/               the page: style.css, app.js and icon.svg belong to it
//	/barrage.js     the JavaScript client, made to be copied
//	/console.json   where the page finds the push API and a comet
//	/goim/          the push API's routes, passed on to logic
//
// to browsers that name it by an address or a name of this machine (see Config.Hosts), and
// takes pushes from its own page only.
type Server struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	hosts    map[string]bool // names in lower case; IP addresses are always good
	files    map[string]file // by path
	metrics  metrics
	apiAway  atomic.Bool // the last request to the push API failed
	handler  http.Handler
	listener net.Listener // set by Listen
}

// New makes the page. An error names the field of cfg that is wrong.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	files, err := loadFiles()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, deps: deps, log: deps.Log, files: files, hosts: map[string]bool{"localhost": true}}
	for _, host := range cfg.Hosts {
		s.hosts[strings.ToLower(host)] = true
	}
	if host, _, err := net.SplitHostPort(cfg.Addr); err == nil && host != "" {
		s.hosts[strings.ToLower(host)] = true
	}
	if name, err := os.Hostname(); err == nil {
		s.hosts[strings.ToLower(name)] = true
	}
	s.metrics = newMetrics(deps.Metrics)
	mux := http.NewServeMux()
	for path := range files {
		mux.HandleFunc("GET "+path, s.serveFile)
	}
	mux.HandleFunc("GET /console.json", s.serveSettings)
	s.handleAPI(mux)
	s.handler = s.guard(mux)
	return s, nil
}

// Handler serves the page; Run serves it too.
func (s *Server) Handler() http.Handler { return s.handler }

// Listen binds the port; without an address there is nothing to do.
func (s *Server) Listen() error {
	if s.cfg.Addr == "" {
		return nil
	}
	listener, err := net.Listen("tcp", s.cfg.Addr)
	if err != nil {
		return fmt.Errorf("demo page at %s: %w", s.cfg.Addr, err)
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
		Handler:           s.handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(s.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve the demo page at %s: %w", s.cfg.Addr, err)
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(stopCtx)
	if errors.Is(err, context.DeadlineExceeded) { // a push that logic doesn't answer
		err = server.Close()
	}
	<-failed
	return err
}

// api is the push API's address.
func (s *Server) api() string {
	return firstOf(s.cfg.API, s.deps.API, defaultAPI)
}

// webSocket is what a browser that opened the page by pageHost connects to; "" means that
// it is to ask the push API.
func (s *Server) webSocket(pageHost string) string {
	addr := firstOf(s.cfg.WebSocket, s.deps.WebSocket, "")
	if addr == "" {
		return ""
	}
	u, err := webSocketURL(addr, pageHost)
	if err != nil {
		s.log.Debug("the process's WebSocket address is not usable", "err", err)
		return ""
	}
	return u
}

func firstOf(configured string, known func() string, otherwise string) string {
	if configured != "" {
		return configured
	}
	if known != nil {
		if addr := known(); addr != "" {
			return addr
		}
	}
	return otherwise
}
