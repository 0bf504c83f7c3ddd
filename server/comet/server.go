// Package comet holds the client connections and fans pushes out to them. Connections come
// in over netpoll, as goim frames on TCP or WebSocket; pushes come from job over gRPC; each
// goes through the mailbox of a shard, which owns its sessions and its part of every room
// and writes to the sockets without blocking.
package comet

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	cometpb "barrage/server/api/comet"
	"barrage/server/api/logic"
	"barrage/server/api/protocol"
	"barrage/server/api/pushes"
	"barrage/server/api/sessions"
	"barrage/server/comet/secure"
	"barrage/server/discovery"
	"barrage/server/fdtable"
	"barrage/server/gather"

	"github.com/cloudwego/netpoll"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// maxWorkers bounds the calls to logic with clients' frames that run at a time.
const maxWorkers = 128

// reservedDescriptors are kept for what is not a client: listeners, RPCs, files.
const reservedDescriptors = 200

// tableDescriptors is how many of a table's descriptors are not a client's: its chunks' files, and
// what it shares with the process, which has an epoll and an eventfd for each of the tables.
func tableDescriptors(tables int) int { return maxPageFiles + 48 + 2*tables }

// Deps are what a comet depends on.
type Deps struct {
	Logic   logic.LogicClient     // who checks tokens and registers sessions
	Log     *slog.Logger          // nil for slog.Default
	Metrics prometheus.Registerer // where the counters are registered
	// Register makes the comet known to job and logic and keeps it so until closed. It is
	// called once, from Run, may take as long as discovery does, and may be nil.
	Register func(context.Context, discovery.Instance) (Registration, error)
}

// A Server is one comet.
type Server struct {
	cfg       Config
	name      string // the comet's host name, by which logic and job know it
	logic     logic.LogicClient
	log       *slog.Logger
	register  func(context.Context, discovery.Instance) (Registration, error)
	metrics   *cometMetrics
	limits    limits
	rooms     roomRefs
	ws        wsProfile
	workers   *gather.Group[func()] // calls to logic with clients' frames, off the poller's goroutine
	registrar *registrar
	seed      maphash.Seed
	shards    []*shard
	open      atomic.Int64  // connections
	sessions  atomic.Int64  // authenticated connections
	boot      string        // of this process, in the ids of its sessions
	numbers   atomic.Uint64 // the last session's

	directory  *directory // where the key's hash doesn't tell the shard
	front      *front     // where sessions are in tables of their own, from Run on
	aside      *aside     // then, too
	connecting connecting
	white      atomic.Pointer[whitelist]

	reloading sync.Mutex // held by Reload
	applied   Config     // reloading guards; cfg with what Reload changed
	envMu     sync.Mutex
	env       discovery.Env // envMu guards; what may change while we run
	renew     chan struct{} // asks for a renewal in discovery at once

	handshakes   handshakes
	listeners    []*listener
	secure       []*tlsListener
	certificates map[bool]*secure.Certificates // of the listeners with TLS, true for WebSocket; set once
	rpcLn        net.Listener
	rpc          *grpc.Server
	refusedLog   lineLimit
	serving      atomic.Bool
	registered   atomic.Bool
	drained      chan struct{} // closed when all sessions were given their end
}

// New makes a comet, which does nothing until Listen and Run.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("comet configuration: %w", err)
	}
	log := deps.Log
	if log == nil {
		log = slog.Default()
	}
	var others *aside
	if cfg.Limit.DescriptorTables > 0 {
		others = newAside()
		log = slog.New(others.handler(log.Handler()))
	} else if err := configureNetpoll(); err != nil {
		return nil, fmt.Errorf("configure netpoll: %w", err)
	}
	s := &Server{
		cfg:      cfg,
		name:     cfg.Env.Host,
		logic:    deps.Logic,
		log:      log,
		aside:    others,
		register: deps.Register,
		ws:       frameProfile,
		drained:  make(chan struct{}),
		workers:  gather.New(gather.Bounds{Calls: maxWorkers, Items: 1}, nil, func(task []func()) { task[0]() }),
		seed:     maphash.MakeSeed(),
		boot:     newBoot(),
		env:      cfg.Env,
		applied:  cfg,
		renew:    make(chan struct{}, 1),
	}
	if err := s.loadCertificates(&cfg, deps.Metrics); err != nil {
		return nil, fmt.Errorf("comet configuration: %w", err)
	}
	white, err := s.openWhitelist(cfg.Whitelist)
	if err != nil {
		return nil, fmt.Errorf("comet configuration: %w", err)
	}
	s.white.Store(white)
	s.metrics = newMetrics(deps.Metrics)
	s.registrar = newRegistrar(s)
	s.registerGauges(deps.Metrics)
	s.limits.set(cfg.Limit)
	n := cfg.Room.Shards
	switch {
	case cfg.Limit.DescriptorTables > 0:
		n = cfg.Limit.DescriptorTables
	case n == 0:
		n = runtime.GOMAXPROCS(0)
	}
	for range n {
		s.shards = append(s.shards, newShard(s))
	}
	if cfg.Limit.DescriptorTables > 0 {
		s.directory = newDirectory(s.shards)
		g := &gate{free: min(n, processors())}
		for _, sh := range s.shards {
			sh.gate = g
		}
	}
	s.metrics.shards.Set(float64(n))
	s.rpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(protocol.MaxMessage), grpc.MaxSendMsgSize(protocol.MaxMessage),
		// Job asks whether the connection lives while a push waits.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	cometpb.RegisterCometServer(s.rpc, &rpcService{server: s})
	sessions.RegisterSessionsServer(s.rpc, &sessionsService{server: s})
	pushes.RegisterPushesServer(s.rpc, &pushService{server: s})
	return s, nil
}

// descriptorLimit is how many descriptors the process may hold.
func descriptorLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 1024
	}
	return int(min(r.Cur, 1<<30))
}

// Listen binds all addresses. Its error names the field and wraps syscall.EADDRINUSE for
// an address that is taken.
func (s *Server) Listen() (err error) {
	defer func() {
		if err != nil {
			for _, l := range s.listeners {
				l.release()
			}
			for _, l := range s.secure {
				l.stop()
			}
			s.listeners, s.secure = nil, nil
		}
	}()
	for _, b := range []struct {
		field     string
		addresses []string
		websocket bool
	}{
		{"tcp.bind", s.cfg.TCP.Bind, false},
		{"websocket.bind", s.cfg.WebSocket.Bind, true},
	} {
		for _, a := range b.addresses {
			l, err := s.listen(b.field, a, b.websocket)
			if err != nil {
				return err
			}
			s.listeners = append(s.listeners, l)
		}
	}
	for _, t := range tlsListeners(&s.cfg) {
		if !t.open {
			continue
		}
		for _, a := range t.bind {
			l, err := s.listenTLS(t.kind+".tlsBind", a, t.websocket)
			if err != nil {
				return err
			}
			s.secure = append(s.secure, l)
		}
	}
	s.rpcLn, err = net.Listen("tcp", s.cfg.RPCServer.Addr)
	if err != nil {
		return fmt.Errorf("rpcServer.addr %s: %w", s.cfg.RPCServer.Addr, err)
	}
	return nil
}

// TCPAddrs returns the addresses that TCP clients connect to, after Listen.
func (s *Server) TCPAddrs() []net.Addr { return s.addrs(false) }

// WebSocketAddrs returns the addresses that WebSocket clients connect to, after Listen.
func (s *Server) WebSocketAddrs() []net.Addr { return s.addrs(true) }

// TCPTLSAddrs returns the addresses that TCP clients connect to over TLS, after Listen.
func (s *Server) TCPTLSAddrs() []net.Addr { return s.tlsAddrs(false) }

// WebSocketTLSAddrs returns the addresses that WebSocket clients connect to over TLS, after
// Listen.
func (s *Server) WebSocketTLSAddrs() []net.Addr { return s.tlsAddrs(true) }

func (s *Server) tlsAddrs(websocket bool) (list []net.Addr) {
	for _, l := range s.secure {
		if l.websocket == websocket {
			list = append(list, l.ln.Addr())
		}
	}
	return list
}

// RPCAddr returns the address of the gRPC service, after Listen.
func (s *Server) RPCAddr() net.Addr { return s.rpcLn.Addr() }

func (s *Server) addrs(websocket bool) (list []net.Addr) {
	for _, l := range s.listeners {
		if l.websocket == websocket {
			list = append(list, l.addr)
		}
	}
	return list
}

// Ready returns nil when clients can connect and pushes arrive, else what is missing.
func (s *Server) Ready() error {
	switch {
	case !s.serving.Load():
		return errors.New("not listening yet")
	case s.register != nil && !s.registered.Load():
		return errors.New("not registered in discovery yet")
	}
	if s.limits.full() {
		return errFull
	}
	return nil
}

// Run serves until ctx ends and then drains: it is offline in discovery, accepts no more
// connections, and closes the sessions, which get pushes to the last, over the drain window.
func (s *Server) Run(ctx context.Context) error {
	var shards, pollers, others sync.WaitGroup
	failed := make(chan error, len(s.listeners)+len(s.secure)+2)
	serve := s.serveNetpoll
	if s.cfg.Limit.DescriptorTables > 0 {
		front, err := newFront(s)
		if err != nil {
			return fmt.Errorf("make tables of descriptors: %w", err)
		}
		defer front.close()
		s.front, serve = front, front.serve
	}
	if err := serve(&shards, &pollers, failed); err != nil {
		return err
	}
	for _, l := range s.secure {
		others.Go(func() {
			if err := l.serve(); err != nil {
				failed <- err
			}
		})
	}
	others.Go(func() {
		if err := s.rpc.Serve(s.rpcLn); err != nil {
			failed <- fmt.Errorf("serve gRPC: %w", err)
		}
	})
	life, stop := context.WithCancel(ctx)
	defer stop()
	others.Go(func() { s.handshakes.watch(life, s.cfg.Protocol.HandshakeTimeout) })
	for _, c := range s.certificates {
		others.Go(func() { c.Watch(life, certificateCheck) })
	}
	others.Go(func() { s.reportOnline(life) })
	others.Go(func() { s.watchMemory(life) })
	others.Go(func() { s.stayRegistered(life, s.drained) })
	s.serving.Store(true)
	s.log.Info("comet serves", "tcp", s.TCPAddrs(), "websocket", s.WebSocketAddrs(),
		"tcp_tls", s.TCPTLSAddrs(), "websocket_tls", s.WebSocketTLSAddrs(), "rpc", s.RPCAddr().String(),
		"shards", len(s.shards), "connections", s.limits.connections())

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.serving.Store(false)
	stop()
	s.drain()
	close(s.drained)
	stopRPC(s.rpc, s.cfg.Drain.Window+time.Second)
	others.Wait()
	if s.front != nil {
		s.front.stop()
	}
	pollers.Wait()
	for _, l := range s.listeners {
		l.release()
	}
	if s.front != nil {
		s.front.cut()
	}
	for _, sh := range s.shards {
		sh.mailbox.put(stopCommand{})
	}
	shards.Wait()
	s.aside.run(s.white.Load().close)
	deadline := time.Now().Add(s.cfg.RPCClient.Timeout + 2*time.Second)
	n := s.registrar.stop(deadline)
	if n += s.workers.Stop(time.Until(deadline)); n > 0 {
		s.log.Warn("logic was not told of every session's end in time", "sessions", n)
	}
	s.aside.stop(time.Second)
	return err
}

// processors is how many shards may sweep large rooms at a time.
func processors() int { return min(runtime.GOMAXPROCS(0), runtime.NumCPU()) }

// serveNetpoll runs the shards, and has netpoll accept and read connections.
func (s *Server) serveNetpoll(shards, pollers *sync.WaitGroup, failed chan<- error) error {
	for _, sh := range s.shards {
		shards.Go(sh.loop)
	}
	for _, l := range s.listeners {
		loop, err := netpoll.NewEventLoop(onRequest, netpoll.WithOnPrepare(s.onPrepare(l.websocket)))
		if err != nil {
			return fmt.Errorf("make an event loop: %w", err)
		}
		pollers.Go(func() {
			if err := loop.Serve(l); err != nil && !l.closing.Load() {
				failed <- fmt.Errorf("serve %v: %w", l.addr, err)
			}
		})
	}
	return nil
}

// drain stops accepting and closes the sessions over the window.
func (s *Server) drain() {
	for _, l := range s.listeners {
		l.stop()
	}
	for _, l := range s.secure {
		l.stop()
	}
	if n := s.open.Load(); n > 0 {
		s.log.Info("comet drains", "connections", n, "window", s.cfg.Drain.Window)
	}
	for _, sh := range s.shards {
		sh.mailbox.put(drainCommand{s.cfg.Drain.Window})
	}
	deadline := time.Now().Add(s.cfg.Drain.Window + 3*time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.open.Load() > 0 && time.Now().Before(deadline) {
		if s.sessions.Load() == 0 {
			s.handshakes.closeAll()
		}
		<-tick.C
	}
	if n := s.open.Load(); n > 0 {
		s.log.Warn("connections are still open at the end of the drain", "connections", n)
	}
}

// stopRPC lets running calls end, for at most wait.
func stopRPC(rpc *grpc.Server, wait time.Duration) {
	done := make(chan struct{})
	go func() {
		rpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(wait):
		rpc.Stop()
		<-done
	}
}

// shardOf returns the shard that owns the sessions of key, if there are any.
func (s *Server) shardOf(key string) *shard {
	if s.directory != nil {
		if sh := s.directory.find(key); sh != nil {
			return sh
		}
	}
	return s.shards[maphash.String(s.seed, key)%uint64(len(s.shards))]
}

// shardFor returns the shard that a new session under key is to join, and counts it there.
func (s *Server) shardFor(key string) *shard {
	if s.directory != nil {
		return s.directory.enter(key)
	}
	return s.shardOf(key)
}

// release counts a session of a shard less, which has left it.
func (s *Server) release(c *session) {
	if s.directory != nil {
		s.directory.leave(c.key)
	}
}

// refused counts a refused connection, with a log line a second at most.
func (s *Server) refused(why refusal, addr netip.Addr) {
	s.metrics.refused[why].Inc()
	if s.refusedLog.allow(time.Now()) {
		s.log.Warn("connection refused", "reason", refusalNames[why], "addr", addr)
	}
}

// watchMemory refuses connections while more memory is in use than the limit allows.
func (s *Server) watchMemory(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.limits.sweep(now)
			metrics.Read(sample)
			s.limits.memory(int64(sample[0].Value.Uint64() - sample[1].Value.Uint64()))
		}
	}
}

// sendNonblock writes what the socket takes at once. The call never blocks, so the
// scheduler need not be told of it: that saves the cost of a system call's bookkeeping,
// and the processor is not taken away in the midst of a sweep.
func sendNonblock(fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return written(func() (int, syscall.Errno) { return fdtable.Send(int32(fd), b) })
}

// written makes what one of the raw calls returns a stream's.
func written(call func() (int, syscall.Errno)) (int, error) {
	for {
		n, errno := call()
		switch errno {
		case 0:
			return n, nil
		case syscall.EAGAIN, syscall.ENOBUFS:
			return 0, nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
