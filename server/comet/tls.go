package comet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"barrage/server/comet/secure"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// certificateCheck is how often the certificates' files are looked at.
const certificateCheck = 10 * time.Second

// A tlsListener accepts TLS connections. crypto/tls needs a goroutine that reads, so these
// don't go through netpoll; everything above the stream is the same.
type tlsListener struct {
	server    *Server
	websocket bool
	ln        *net.TCPListener
	cfg       *tls.Config
	closing   atomic.Bool
}

// listenTLS binds address, which the configuration names field.
func (s *Server) listenTLS(field, address string, websocket bool) (*tlsListener, error) {
	lc := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: s.cfg.TCP.KeepAlive},
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			control := c.Control(func(fd uintptr) { err = setBuffers(int(fd), s.cfg.TCP) })
			return errors.Join(control, err)
		},
	}
	if !s.cfg.TCP.KeepAlive {
		lc.KeepAlive = -1
	}
	ln, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", field, address, err)
	}
	l := &tlsListener{server: s, websocket: websocket, ln: ln.(*net.TCPListener)}
	if websocket {
		l.cfg = s.certificates[websocket].TLS("http/1.1")
	} else {
		l.cfg = s.certificates[websocket].TLS()
	}
	return l, nil
}

// setBuffers sets the sizes of a listening socket's buffers, which accepted ones inherit.
func setBuffers(fd int, cfg TCPConfig) error {
	for _, o := range []struct{ option, bytes int }{{unix.SO_RCVBUF, cfg.RcvBuf}, {unix.SO_SNDBUF, cfg.SndBuf}} {
		if o.bytes > 0 {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.option, o.bytes); err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
		}
	}
	return nil
}

// serve accepts connections that the limits allow, until stop.
func (l *tlsListener) serve() error {
	wait := time.Duration(0)
	for {
		conn, err := l.ln.AcceptTCP()
		if l.closing.Load() {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) && !errors.Is(err, syscall.ECONNABORTED) {
				return fmt.Errorf("accept on %v: %w", l.ln.Addr(), err)
			}
			// Out of descriptors: those that wait stay in the kernel's queue for a while.
			l.server.refused(refusedDescriptors, netip.Addr{})
			wait = min(max(5*time.Millisecond, 2*wait), time.Second)
			time.Sleep(wait)
			continue
		}
		wait = 0
		addr := netip.Addr{}
		if client, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			addr = client.AddrPort().Addr().Unmap()
		}
		if why, ok := l.server.limits.enter(addr, time.Now()); !ok {
			l.server.refused(why, addr)
			_ = conn.SetLinger(0)
			conn.Close()
			continue
		}
		l.server.open.Add(1)
		go l.converse(conn, addr)
	}
}

// stop makes serve return.
func (l *tlsListener) stop() {
	l.closing.Store(true)
	l.ln.Close()
}

// converse is a connection's goroutine: the handshake, and then its input.
func (l *tlsListener) converse(tcp *net.TCPConn, addr addrKey) {
	s := l.server
	ss := &session{server: s, addr: addr, websocket: l.websocket, tls: true, number: s.numbers.Add(1)}
	if !l.websocket {
		ss.in.phase = phaseAuth
	}
	s.metrics.accepted.Inc()
	s.metrics.connections.Inc()
	defer tcp.Close()
	defer ss.gone() // before the socket is closed, so that nothing is written any more
	conn, err := secure.NewConn(tcp, l.cfg)
	if err != nil {
		ss.failed(reasonBadTLS, err)
		return
	}
	ss.mu.Lock()
	ss.out.stream = tlsStream{conn}
	ss.mu.Unlock()
	defer ss.closeOnPanic()
	s.handshakes.add(handshake{session: ss, deadline: time.Now().Add(s.cfg.Protocol.HandshakeTimeout)})
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Protocol.HandshakeTimeout)
	err = conn.Handshake(ctx)
	cancel()
	if err != nil {
		why := reasonBadTLS
		if errors.Is(err, context.DeadlineExceeded) {
			why = reasonAuthTimeout
		}
		ss.failed(why, err)
		return
	}
	ss.read(conn)
}

// failed notes why a connection ends that nobody else ended.
func (s *session) failed(why reason, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.out.closed {
		s.out.closed, s.out.reason = true, why
	}
	s.server.log.Debug("connection failed", "addr", s.addr, "reason", why, "err", err)
}

// read takes all input of a TLS connection, until it ends.
func (s *session) read(conn *secure.Conn) {
	b := make([]byte, 512) // clients send little, and this is held all the time
	for {
		n, err := conn.Read(b)
		if n > 0 {
			s.feed(b[:n])
		}
		if err != nil {
			return
		}
	}
}

// tlsStream sends on a TLS connection.
type tlsStream struct{ conn *secure.Conn }

func (t tlsStream) send(b []byte) (int, error)      { return t.conn.Send(b) }
func (t tlsStream) sendChunk(c *chunk) (int, error) { return t.conn.Send(c.data) }
func (t tlsStream) shutdown()                       { t.conn.Shutdown() }

// tlsSettings are what the configuration says of TLS for one kind of clients.
type tlsSettings struct {
	kind      string // in the counters of certificates
	websocket bool
	open      bool
	bind      []string
	section   string // that names the files
	files     secure.Files
}

// tlsListeners are those for TCP and for WebSocket, open or not.
func tlsListeners(c *Config) []tlsSettings {
	ws := tlsSettings{kind: "websocket", websocket: true, open: c.WebSocket.TLSOpen, bind: c.WebSocket.TLSBind, section: "websocket",
		files: secure.Files{Certificates: c.WebSocket.CertFile, Keys: c.WebSocket.PrivateFile}}
	tcp := tlsSettings{kind: "tcp", open: c.TCP.TLSOpen, bind: c.TCP.TLSBind, section: "websocket", files: ws.files}
	if len(c.TCP.CertFile)+len(c.TCP.PrivateFile) > 0 {
		tcp.section, tcp.files = "tcp", secure.Files{Certificates: c.TCP.CertFile, Keys: c.TCP.PrivateFile}
	}
	return []tlsSettings{tcp, ws}
}

// loadCertificates reads the certificates of the listeners that are open.
func (s *Server) loadCertificates(cfg *Config, reg prometheus.Registerer) error {
	s.certificates = make(map[bool]*secure.Certificates)
	for _, l := range tlsListeners(cfg) {
		if !l.open {
			continue
		}
		reg := prometheus.WrapRegistererWith(prometheus.Labels{"listener": l.kind}, reg)
		c, err := secure.NewCertificates(l.files, s.log, reg)
		if err != nil {
			return fmt.Errorf("%[1]s.certFile, %[1]s.privateFile: %w", l.section, err)
		}
		s.certificates[l.websocket] = c
	}
	return nil
}

// useCertificates reads those of another configuration, also from files of the same names, so
// that nobody has to wait until the change is noticed. On an error the old ones stay.
func (s *Server) useCertificates(cfg *Config) error {
	before := tlsListeners(&s.applied)
	for i, l := range tlsListeners(cfg) {
		c := s.certificates[l.websocket]
		if c == nil {
			continue
		}
		if err := c.Use(l.files); err != nil {
			for _, done := range before[:i] {
				if c := s.certificates[done.websocket]; c != nil {
					_ = c.Use(done.files) // or, where these have gone, the new ones stay
				}
			}
			return fmt.Errorf("%[1]s.certFile, %[1]s.privateFile: %w", l.section, err)
		}
	}
	return nil
}
