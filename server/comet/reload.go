package comet

import (
	"fmt"

	"barrage/server/config"
)

// reloadable are the settings that Reload takes over.
var reloadable = []string{"whitelist", "limit.connections", "limit.perAddress", "limit.perAddressRate", "limit.memory", "env.weight", "env.offline", "env.addrs", "tcp.certFile", "tcp.privateFile", "websocket.certFile", "websocket.privateFile"}

// Reload takes over what may change while the comet runs: the whitelist, for live sessions
// too; the limits and the certificates, for new connections; and weight, offline and addrs, of
// which discovery hears at once. It returns the paths of the settings that changed and hold
// now. Where others changed too the error is a config.RestartError; with any other error
// nothing changed. The file of the whitelist's log is opened anew in any case, so that it can
// be rotated.
func (s *Server) Reload(cfg Config) (changed []string, err error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("comet configuration: %w", err)
	}
	paths, err := config.Diff(&s.applied, &cfg)
	if err != nil {
		return nil, err
	}
	white, err := s.openWhitelist(cfg.Whitelist)
	if err != nil {
		return nil, err
	}
	if err := s.useCertificates(&cfg); err != nil {
		white.close()
		return nil, err
	}
	s.setWhitelist(white)
	s.limits.set(cfg.Limit)
	s.envMu.Lock()
	s.env.Weight, s.env.Offline, s.env.Addrs = cfg.Env.Weight, cfg.Env.Offline, cfg.Env.Addrs
	s.envMu.Unlock()
	select {
	case s.renew <- struct{}{}:
	default:
	}
	changed, later := config.Split(paths, reloadable)
	if err := config.Copy(&s.applied, &cfg, changed); err != nil {
		return changed, err
	}
	if len(later) > 0 {
		return changed, &config.RestartError{Paths: later}
	}
	return changed, nil
}
