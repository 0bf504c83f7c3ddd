package logic

import (
	"fmt"
	"log/slog"
	"net"

	"barrage/server/config"
	"barrage/server/logic/auth"
	"barrage/server/logic/nodes"
)

// A live is what may change while logic runs. It is replaced as a whole.
type live struct {
	advice nodes.Advice
	auth   *auth.Checker
}

// newLive makes what cfg says.
func newLive(cfg *Config, balancer *nodes.Balancer, log *slog.Logger) (*live, error) {
	checker, err := auth.New(cfg.HTTPServer.Auth)
	if err != nil {
		return nil, err
	}
	return &live{
		advice: nodes.Advice{Node: cfg.Node, Backoff: cfg.Backoff, Regions: nodes.NewRegions(cfg.Regions, log), Balancer: balancer},
		auth:   checker,
	}, nil
}

// reloadable are the settings that Reload takes over.
var reloadable = []string{"node", "backoff", "regions", "session", "httpServer.auth"}

// Reload takes over what may change while logic runs: what clients are told (and the
// heartbeat of sessions that connect from now on), the bounds of sessions, and who may push,
// whose files are read again in any case. It returns the paths of the settings that changed
// and hold now. Where others changed too the error is a config.RestartError; with any other
// error nothing changed.
func (s *Server) Reload(cfg Config) (changed []string, err error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("logic configuration: %w", err)
	}
	paths, err := config.Diff(&s.applied, &cfg)
	if err != nil {
		return nil, err
	}
	now, err := newLive(&cfg, s.balancer, s.log)
	if err != nil {
		return nil, err
	}
	s.live.Store(now)
	s.store.SetBounds(cfg.Session.bounds())
	s.warnIfOpen(&cfg)
	changed, later := config.Split(paths, reloadable)
	if err := config.Copy(&s.applied, &cfg, changed); err != nil {
		return changed, err
	}
	if len(later) > 0 {
		return changed, &config.RestartError{Paths: later}
	}
	return changed, nil
}

// warnIfOpen says that everybody may push, where others than this machine can.
func (s *Server) warnIfOpen(cfg *Config) {
	host, _, err := net.SplitHostPort(cfg.HTTPServer.Addr)
	if err != nil || !s.live.Load().auth.Open() {
		return
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return
	}
	s.log.Warn("whoever reaches the push API may push; httpServer.auth.keys asks for a key", "addr", cfg.HTTPServer.Addr)
}
