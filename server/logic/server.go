// Package logic is the cluster's front: pushers' HTTP requests go through it to Kafka, and
// comets' calls register their sessions and room counts in Redis.
//
//	pusher ── HTTP ──▶ api ──▶ pusher ──▶ producer ──▶ Kafka
//	comet ─── gRPC ──▶ service ──▶ registrar ──▶ presence ──▶ Redis ──▶ online ──▶ api, comets
package logic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/hertz/pkg/app/server"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"barrage/server/discovery"
	"barrage/server/logic/nodes"
	"barrage/server/logic/presence"
	"barrage/server/logic/producer"
)

const (
	// shutdownWait is the time for requests under way when Run's context ends.
	shutdownWait = 5 * time.Second

	pingTimeout = time.Second
	pingWaiting = 500 * time.Millisecond // between pings while Redis can't be reached
	pingWorking = 5 * time.Second        // between pings while it can
)

// Deps is what a Server depends on.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Instances sends the comets' list whenever it changes. Nil: no comet is ever known.
	Instances <-chan []discovery.Instance
	// Register makes this process known, waiting until it is or ctx ends; closing what it
	// returns takes it back. Nil: it is not made known.
	Register func(ctx context.Context, instance discovery.Instance) (io.Closer, error)
	// Receive takes the frames of clients that comets don't know what to do with. Nil: they
	// are only counted.
	Receive Receiver
}

// A Server is one logic process.
type Server struct {
	cfg       Config
	deps      Deps
	log       *slog.Logger
	store     *presence.Store
	producer  *producer.Producer
	online    *online
	peers     *peers
	registrar *registrar
	balancer  *nodes.Balancer
	live      atomic.Pointer[live]
	api       *api
	rpc       *grpc.Server
	metrics   *metrics

	http         *server.Hertz // set by Listen
	httpListener *listener     // set by Listen
	rpcListener  net.Listener  // set by Listen

	reloading sync.Mutex // held by Reload
	applied   Config     // reloading guards; cfg with what Reload changed

	mu       sync.Mutex
	redis    error // why Redis can't be used, nil when it can
	register error // why discovery doesn't know us, nil when it does
}

// New returns a Server that has not opened any port yet. It waits for nothing.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	routeLogs(deps.Log)
	records, err := producer.New(cfg.Kafka, cfg.maxRecord(), deps.Log, deps.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:      cfg,
		applied:  cfg,
		deps:     deps,
		log:      deps.Log,
		store:    presence.Open(cfg.Redis, deps.Log, deps.Metrics),
		producer: records,
		metrics:  newMetrics(deps.Metrics),
		redis:    errors.New("redis: no answer yet"),
	}
	s.balancer = nodes.NewBalancer(deps.Log, deps.Metrics)
	now, err := newLive(&s.cfg, s.balancer, s.log)
	if err != nil {
		return nil, err
	}
	s.live.Store(now)
	s.store.SetBounds(cfg.Session.bounds())
	s.peers = newPeers(cfg.RPCServer.Timeout, s.log, s.metrics)
	s.registrar = newRegistrar(s.store, &s.cfg.Redis, cfg.RPCServer.Timeout, s.peers.dismiss, s.metrics, s.log)
	s.online = newOnline(s.store, &s.cfg, s.log, s.metrics)
	s.api = &api{
		cfg:     &s.cfg.HTTPServer,
		pusher:  &pusher{sender: s.producer, locator: s.store, lookup: cfg.RPCServer.Timeout},
		online:  s.online,
		live:    &s.live,
		log:     s.log,
		metrics: s.metrics,
	}
	s.rpc = newGRPC(&s.cfg.RPCServer, &service{
		registrar: s.registrar,
		reports:   s.store,
		peers:     s.peers,
		online:    s.online,
		live:      &s.live,
		receive:   deps.Receive,
		metrics:   s.metrics,
		log:       s.log,
	}, s.metrics, s.log)
	if deps.Register != nil {
		s.register = errors.New("discovery: not registered yet")
	}
	return s, nil
}

// Listen opens the ports of the push API and the gRPC service. Its error names the setting
// and wraps syscall.EADDRINUSE when the port is taken.
func (s *Server) Listen() error {
	listening, err := net.Listen(s.cfg.HTTPServer.Network, s.cfg.HTTPServer.Addr)
	if err != nil {
		return fmt.Errorf("httpServer.addr %s: %w", s.cfg.HTTPServer.Addr, err)
	}
	rpc, err := net.Listen(s.cfg.RPCServer.Network, s.cfg.RPCServer.Addr)
	if err != nil {
		listening.Close()
		return fmt.Errorf("rpcServer.addr %s: %w", s.cfg.RPCServer.Addr, err)
	}
	s.httpListener = newListener(listening, &s.cfg.HTTPServer, s.metrics)
	s.rpcListener = rpc
	s.http = newHTTP(s.api, s.httpListener)
	return nil
}

// HTTPAddr returns the address of the push API, after Listen.
func (s *Server) HTTPAddr() net.Addr { return s.httpListener.Addr() }

// RPCAddr returns the address of the gRPC service, after Listen.
func (s *Server) RPCAddr() net.Addr { return s.rpcListener.Addr() }

// Ready returns nil when pushes and comets' calls can be served, else what is missing.
func (s *Server) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.producer.Ready(), s.redis, s.register)
}

// Run serves until ctx ends, then stops in order: it leaves discovery, answers the requests
// and calls under way, writes what Kafka has not acknowledged yet and closes everything. It
// returns an error when it had to stop by itself.
func (s *Server) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// What requests under way depend on ends after them.
	backing, stopBacking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBacking()

	var serving, registering, working sync.WaitGroup
	working.Go(func() {
		if err := s.producer.Run(backing); err != nil {
			stop(err)
		}
	})
	comets := make(chan []discovery.Instance)
	working.Go(func() { s.online.run(backing, comets) })
	working.Go(func() { s.watchComets(backing, comets) })
	working.Go(func() { s.watchRedis(backing) })
	serving.Go(func() {
		if err := s.http.Run(); err != nil && ctx.Err() == nil {
			stop(fmt.Errorf("serve HTTP: %w", err))
		}
	})
	serving.Go(func() {
		if err := s.rpc.Serve(s.rpcListener); err != nil && ctx.Err() == nil {
			stop(fmt.Errorf("serve gRPC: %w", err))
		}
	})
	if s.deps.Register != nil {
		registering.Go(func() { s.keepRegistered(ctx) })
	}
	s.warnIfOpen(&s.cfg)
	s.log.Info("logic serves", "http", s.HTTPAddr().String(), "rpc", s.RPCAddr().String())

	<-ctx.Done()
	registering.Wait()
	s.stopServing()
	serving.Wait()
	stopBacking()
	working.Wait()
	s.registrar.stop(s.cfg.RPCServer.Timeout)
	s.peers.close()
	err := s.store.Close()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	if err != nil {
		s.log.Warn("stop logic", "err", err)
	}
	s.log.Info("logic stopped")
	return nil
}

// stopServing lets no new requests and calls in and waits for those under way, a while.
func (s *Server) stopServing() {
	var stopping sync.WaitGroup
	stopping.Go(func() {
		wait, cancel := context.WithTimeout(context.Background(), shutdownWait)
		defer cancel()
		var closing sync.WaitGroup
		closing.Go(func() { s.httpListener.closeIdle(wait) })
		if err := s.http.Shutdown(wait); err != nil {
			s.log.Debug("stop HTTP", "err", err)
		}
		cancel()
		closing.Wait()
		s.httpListener.Close() // when hertz had not begun yet
		s.httpListener.closeAll()
	})
	stopping.Go(func() {
		timer := time.AfterFunc(min(s.cfg.RPCServer.ForceCloseWait, shutdownWait), s.rpc.Stop)
		defer timer.Stop()
		s.rpc.GracefulStop()
	})
	stopping.Wait()
}

// watchComets tells those who need the list of comets of it, until ctx ends.
func (s *Server) watchComets(ctx context.Context, online chan<- []discovery.Instance) {
	for {
		select {
		case <-ctx.Done():
			return
		case list, more := <-s.deps.Instances:
			if !more {
				return
			}
			s.balancer.Update(list)
			s.peers.update(list)
			select {
			case online <- list:
			case <-ctx.Done():
				return
			}
		}
	}
}

// keepRegistered makes us known to discovery until ctx ends.
func (s *Server) keepRegistered(ctx context.Context) {
	registration, err := s.deps.Register(ctx, discovery.Instance{
		AppID:    discovery.AppLogic,
		Hostname: s.cfg.Env.Host,
		Region:   s.cfg.Env.Region,
		Zone:     s.cfg.Env.Zone,
		Env:      s.cfg.Env.DeployEnv,
		Addrs:    []string{discovery.SchemeGRPC + "://" + discovery.AdvertiseAddr(s.RPCAddr())},
		Metadata: map[string]string{"weight": strconv.FormatInt(s.cfg.Env.Weight, 10)},
	})
	s.mu.Lock()
	s.register = err
	s.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("comets can't find this logic", "err", err)
		}
		return
	}
	<-ctx.Done()
	if err := registration.Close(); err != nil {
		s.log.Warn("leave discovery", "err", err)
	}
}

// watchRedis pings Redis now and then for Ready, and logs when it comes or goes.
func (s *Server) watchRedis(ctx context.Context) {
	for {
		ping, cancel := context.WithTimeout(ctx, pingTimeout)
		err := s.store.Ping(ping)
		cancel()
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		before := s.redis
		s.redis = err
		s.mu.Unlock()
		wait := pingWorking
		switch {
		case before != nil && err == nil:
			s.log.Info("redis is reachable", "addr", s.cfg.Redis.Addr)
		case before == nil && err != nil:
			s.log.Warn("redis is out of reach, sessions can't connect until it is back", "err", err)
		}
		if err != nil {
			wait = pingWaiting
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
