package comet

import (
	"context"
	"io"
	"strconv"
	"strings"
	"time"

	"barrage/server/discovery"
)

// A Registration is a comet's entry in discovery.
type Registration interface {
	Update(metadata map[string]string) error
	io.Closer
}

// stayRegistered enters the comet into discovery and renews what it says of its load. When
// ctx ends it is offline there, for logic to send no new clients, and leaves once drained:
// until then job must know it, as its sessions live on.
func (s *Server) stayRegistered(ctx context.Context, drained <-chan struct{}) {
	if s.register == nil {
		return
	}
	reg, err := s.register(ctx, s.instance(false))
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("register in discovery", "err", err)
		}
		return
	}
	s.registered.Store(true)
	defer func() {
		if err := reg.Close(); err != nil {
			s.log.Warn("leave discovery", "err", err)
		}
	}()
	tick := time.NewTicker(s.cfg.Online.Period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if err := reg.Update(s.instance(true).Metadata); err != nil {
				s.log.Warn("go offline in discovery", "err", err)
			}
			<-drained
			return
		case <-tick.C:
		case <-s.renew:
		}
		if ctx.Err() != nil {
			continue
		}
		if err := reg.Update(s.instance(false).Metadata); err != nil {
			s.log.Warn("renew the metadata in discovery", "err", err)
		}
	}
}

// instance is what discovery says of this comet, as goim's does.
func (s *Server) instance(draining bool) discovery.Instance {
	s.envMu.Lock()
	env := s.env
	s.envMu.Unlock()
	connections, addresses := s.limits.counts()
	return discovery.Instance{
		AppID:    discovery.AppComet,
		Hostname: s.name,
		Region:   env.Region,
		Zone:     env.Zone,
		Env:      env.DeployEnv,
		Addrs:    []string{"grpc://" + discovery.AdvertiseAddr(s.rpcLn.Addr())},
		Metadata: map[string]string{
			"weight":     strconv.FormatInt(env.Weight, 10),
			"offline":    strconv.FormatBool(env.Offline || draining),
			"addrs":      strings.Join(env.Addrs, ","),
			"conn_count": strconv.Itoa(connections),
			"ip_count":   strconv.Itoa(addresses),
		},
	}
}
