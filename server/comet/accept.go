package comet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cloudwego/netpoll"
	"golang.org/x/sys/unix"
)

// addrKey is a client's address, by which connections are limited.
type addrKey = netip.Addr

// configureNetpoll makes netpoll keep small buffers, run this package's handlers on the
// poller's goroutine (they never block, and need no goroutine of their own), and log where
// we do. It must run before netpoll's first use, and sets what is global there.
var configureNetpoll = sync.OnceValue(func() error {
	netpoll.LinkBufferCap = 128
	return netpoll.Configure(netpoll.Config{
		BufferSize: 128,
		Runner: func(ctx context.Context, task func()) {
			if _, ours := ctx.(connContext); ours {
				task()
				return
			}
			go task()
		},
		LoggerOutput: netpollLog{},
	})
})

// netpollLog passes netpoll's lines on at debug level.
type netpollLog struct{}

func (netpollLog) Write(b []byte) (int, error) {
	slog.Debug(strings.TrimSpace(string(b)))
	return len(b), nil
}

// A listener accepts connections for netpoll. Netpoll's own closes its descriptor twice
// and, out of descriptors, spins; and limits are best checked before anything is built.
type listener struct {
	server    *Server
	websocket bool
	file      *os.File
	fd        int
	addr      net.Addr
	spare     atomic.Int32 // a descriptor given up to refuse a connection when there is none left
	closing   atomic.Bool
}

// listen binds address, which the configuration names field.
func (s *Server) listen(field, address string, websocket bool) (*listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", field, address, err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", field, address, err)
	}
	l := &listener{server: s, websocket: websocket, file: file, fd: int(file.Fd()), addr: ln.Addr()}
	if err := l.prepare(); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s %s: %w", field, address, err)
	}
	return l, nil
}

// prepare sets what accepted sockets inherit.
func (l *listener) prepare() error {
	if err := syscall.SetNonblock(l.fd, true); err != nil {
		return os.NewSyscallError("set non-blocking", err)
	}
	if err := setBuffers(l.fd, l.server.cfg.TCP); err != nil {
		return err
	}
	spare, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open a spare descriptor", err)
	}
	l.spare.Store(int32(spare))
	return nil
}

// Accept returns the next connection that the limits allow, or nil when none waits.
func (l *listener) Accept() (net.Conn, error) {
	for {
		if l.closing.Load() {
			return nil, net.ErrClosed // netpoll looks for "closed" and ends
		}
		fd, sa, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == unix.EAGAIN:
			return nil, nil
		case err == unix.EINTR || err == unix.ECONNABORTED:
			continue
		case err == unix.EMFILE || err == unix.ENFILE:
			l.refuseWithSpare()
			return nil, nil
		case l.closing.Load():
			if err == nil {
				refuse(fd)
			}
			return nil, net.ErrClosed
		case err != nil:
			return nil, os.NewSyscallError("accept", err)
		}
		addr := clientAddr(sa)
		if why, ok := l.server.limits.enter(addr, time.Now()); !ok {
			l.server.refused(why, addr)
			refuse(fd)
			return nil, nil // the poller comes back if there are more
		}
		l.server.open.Add(1)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if l.server.cfg.TCP.KeepAlive {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		}
		return &accepted{fd: fd, addr: l.addr, client: addr}, nil
	}
}

// refuseWithSpare closes the connection that waits, which takes a descriptor: without one
// it would wait, and wake the poller, for ever.
func (l *listener) refuseWithSpare() {
	l.server.refused(refusedDescriptors, netip.Addr{})
	if spare := l.spare.Swap(-1); spare >= 0 {
		unix.Close(int(spare))
	}
	if fd, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC); err == nil {
		refuse(fd)
	}
	if spare, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		l.spare.Store(int32(spare))
	}
}

// refuse closes with a reset, so that neither side keeps state.
func refuse(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(fd)
}

// stop makes the kernel refuse connections and the poller let go of the listener. The
// descriptor stays until release, since the poller still knows it.
func (l *listener) stop() {
	l.closing.Store(true)
	_ = unix.Shutdown(l.fd, unix.SHUT_RDWR)
}

// release closes the descriptor, when the poller has let go of it.
func (l *listener) release() {
	l.file.Close()
	if spare := l.spare.Swap(-1); spare >= 0 {
		unix.Close(int(spare))
	}
}

func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return l.addr }
func (l *listener) Fd() int        { return l.fd }

// accepted is a new connection on its way into netpoll, which takes its descriptor and
// addresses and uses nothing else of it.
type accepted struct {
	net.Conn
	fd     int
	addr   net.Addr
	client addrKey
}

func (a *accepted) Fd() int              { return a.fd }
func (a *accepted) LocalAddr() net.Addr  { return a.addr }
func (a *accepted) RemoteAddr() net.Addr { return remoteAddr(a.client) }

// remoteAddr is a client's address on its way from the listener to the session.
type remoteAddr netip.Addr

func (remoteAddr) Network() string  { return "tcp" }
func (r remoteAddr) String() string { return netip.Addr(r).String() }

func clientAddr(sa unix.Sockaddr) addrKey {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr).Unmap()
	}
	return netip.Addr{}
}

// errFull is returned to a health check of a comet that takes no more connections.
var errFull = errors.New("connection limit reached")

// limits decides which connections are accepted and counts addresses.
type limits struct {
	highMem atomic.Bool // memory is over the limit

	mu        sync.Mutex
	cfg       LimitConfig
	total     int
	addresses map[addrKey]*addressUse
}

// addressUse is what one address holds, and its tokens for new connects.
type addressUse struct {
	connections int
	tokens      float64
	refilled    time.Time
}

// set makes cfg hold from now on, for new connections.
func (l *limits) set(cfg LimitConfig) {
	if cfg.Connections == 0 {
		cfg.Connections = descriptorLimit() - reservedDescriptors
		if n := cfg.DescriptorTables; n > 0 {
			cfg.Connections = n * (descriptorLimit() - tableDescriptors(n))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg = cfg
}

// connections is how many connections are accepted.
func (l *limits) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cfg.Connections
}

// full says whether no connection more is accepted.
func (l *limits) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total >= l.cfg.Connections
}

// memory says how many bytes are in use.
func (l *limits) memory(used int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.highMem.Store(l.cfg.Memory > 0 && used > l.cfg.Memory)
}

// enter counts a connection from addr, or says which limit forbids it.
func (l *limits) enter(addr addrKey, now time.Time) (why refusal, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.total >= l.cfg.Connections:
		return refusedConnections, false
	case l.highMem.Load():
		return refusedMemory, false
	}
	use := l.addresses[addr]
	if use == nil {
		use = &addressUse{tokens: float64(l.cfg.PerAddressRate), refilled: now}
		if l.addresses == nil {
			l.addresses = make(map[addrKey]*addressUse)
		}
		l.addresses[addr] = use
	}
	if l.cfg.PerAddress > 0 && use.connections >= l.cfg.PerAddress {
		return refusedAddress, false
	}
	if rate := float64(l.cfg.PerAddressRate); rate > 0 {
		use.tokens = min(rate, use.tokens+now.Sub(use.refilled).Seconds()*rate)
		use.refilled = now
		if use.tokens < 1 {
			return refusedRate, false
		}
		use.tokens--
	}
	use.connections++
	l.total++
	return 0, true
}

// leave counts a connection from addr less.
func (l *limits) leave(addr addrKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	use := l.addresses[addr]
	if use == nil {
		return
	}
	use.connections--
	// With a rate limit the tokens must outlive the connection; sweep forgets them.
	if use.connections == 0 && l.cfg.PerAddressRate == 0 {
		delete(l.addresses, addr)
	}
}

// sweep forgets addresses that hold nothing and whose tokens are full again.
func (l *limits) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for addr, use := range l.addresses {
		if use.connections == 0 && now.Sub(use.refilled) > time.Second {
			delete(l.addresses, addr)
		}
	}
}

// counts returns the connections and the addresses that they come from.
func (l *limits) counts() (connections, addresses int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, use := range l.addresses {
		if use.connections > 0 {
			n++
		}
	}
	return l.total, n
}
