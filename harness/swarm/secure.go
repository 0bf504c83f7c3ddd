package swarm

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A link is a client's end of TLS: crypto/tls over a socket that lies in a thread's own
// table of descriptors, and never waits.
//
// The handshake runs in a goroutine, which can't touch the socket: the thread feeds it what
// arrives, and sends what it writes. From then on only the thread uses the link: Read finds
// what was fed, and a temporary error where there is no more, after which crypto/tls goes on
// where it stopped.
type link struct {
	conn   *tls.Conn
	thread *thread
	client int
	fd     int32

	mu     sync.Mutex
	more   sync.Cond // in has grown, or ended has been set
	in     bytes.Buffer
	ended  error
	inside bool // the handshake is over, and all calls come from the thread
}

// errNothing is the temporary error of a link that has nothing to read now.
var errNothing = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing to read now" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// tlsFor returns what the clients of the target host (host:port) open TLS with: one for all of
// them, since each connection keeps it.
func (c *Config) tlsFor(host string) *tls.Config {
	if c.TLS == nil || c.TLS.ServerName != "" || c.TLS.InsecureSkipVerify {
		return c.TLS
	}
	own := c.TLS.Clone()
	// A target was resolved, so it has a host.
	own.ServerName, _, _ = net.SplitHostPort(host)
	return own
}

// startTLS begins the handshake of client i, whose end comes as a command of the thread.
func (t *thread) startTLS(i int) {
	c := &t.clients[i]
	l := &link{thread: t, client: i, fd: c.fd}
	l.more.L = &l.mu
	l.conn = tls.Client(l, t.addrs.targets[c.kind][c.target].tls)
	t.links[int32(i)] = l
	t.move(c, securing)
	go func() {
		err := l.conn.HandshakeContext(context.Background())
		t.post(func() { t.secured(l, err) })
	}()
}

// post has the thread run f, unless it ends before.
func (t *thread) post(f func()) {
	select {
	case t.cmds <- f:
		t.wakeup.signal()
	case <-t.ended:
	}
}

// secured takes the end of a handshake.
func (t *thread) secured(l *link, err error) {
	if t.links[int32(l.client)] != l {
		return // the client was given up
	}
	l.mu.Lock()
	l.inside = true
	l.mu.Unlock()
	var off *cutOff
	switch {
	case errors.As(err, &off):
		t.drop(l.client, off.cause, off.err)
		return
	case err != nil:
		t.drop(l.client, HandshakeFailed, fmt.Errorf("TLS handshake: %w", err))
		return
	}
	if t.greet(l.client) {
		t.decrypted(l.client) // what came behind the handshake
	}
}

// A cutOff is the end of a connection in its handshake.
type cutOff struct {
	cause Cause
	err   error
}

func (c *cutOff) Error() string { return c.err.Error() }
func (c *cutOff) Unwrap() error { return c.err }

// cutOff takes the end of client i's connection while its handshake runs. A server hangs up
// when the client doesn't like it, too: what the handshake comes to says which of them it was.
func (t *thread) cutOff(i int, cause Cause, err error) {
	if gone := unix.EpollCtl(t.epfd, unix.EPOLL_CTL_DEL, int(t.clients[i].fd), nil); gone != nil && !errors.Is(gone, unix.ENOENT) {
		t.drop(i, cause, err)
		return
	}
	t.links[int32(i)].feed(nil, &cutOff{cause: cause, err: err})
}

// feed gives the link what was read of its socket.
func (l *link) feed(b []byte, ended error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in.Write(b)
	if l.ended == nil {
		l.ended = ended
	}
	l.more.Signal()
}

// Read is net.Conn's, for crypto/tls.
func (l *link) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.in.Len() == 0 {
		switch {
		case l.ended != nil:
			return 0, l.ended
		case l.inside:
			return 0, errNothing
		}
		l.more.Wait()
	}
	n, err := l.in.Read(b)
	if l.in.Len() == 0 && l.inside {
		l.in = bytes.Buffer{} // an idle client keeps no buffer
	}
	return n, err
}

// Write is net.Conn's. During the handshake the thread sends b; its success is not waited for.
func (l *link) Write(b []byte) (int, error) {
	l.mu.Lock()
	inside := l.inside
	l.mu.Unlock()
	if inside {
		return send(l.fd, b)
	}
	b = bytes.Clone(b)
	l.thread.post(func() {
		if l.thread.links[int32(l.client)] != l {
			return
		}
		if _, err := send(l.fd, b); err != nil {
			l.thread.cutOff(l.client, WriteFailed, err)
		}
	})
	return len(b), nil
}

// Close ends a handshake that still runs.
func (l *link) Close() error {
	l.feed(nil, net.ErrClosed)
	return nil
}

// LocalAddr, RemoteAddr and the deadlines are no concern of crypto/tls.
func (l *link) LocalAddr() net.Addr              { return nil }
func (l *link) RemoteAddr() net.Addr             { return nil }
func (l *link) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (l *link) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (l *link) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// encrypt sends b as client i's, and says whether the client is still there.
func (t *thread) encrypt(i int, b []byte) bool {
	if _, err := t.links[int32(i)].conn.Write(b); err != nil {
		t.drop(i, WriteFailed, err)
		return false
	}
	return true
}

// sealed takes in what was read of client i's socket, n bytes of t.sealedBuf.
func (t *thread) sealed(i, n int) {
	l := t.links[int32(i)]
	l.feed(t.sealedBuf[:n], nil)
	if t.clients[i].state != securing {
		t.decrypted(i)
	}
}

// decrypted takes in what can be decrypted of client i's bytes.
func (t *thread) decrypted(i int) {
	l := t.links[int32(i)]
	for {
		kept := t.resume(&t.clients[i])
		n, err := l.conn.Read(t.buf[kept:])
		if n > 0 && !t.input(i, kept, n) {
			return
		}
		var alert tls.AlertError
		switch {
		case err == nil:
		case errors.Is(err, errNothing):
			return // what resume loaded is still stored
		case errors.As(err, &alert):
			t.drop(i, ProtocolError, err)
			return
		default: // close_notify is io.EOF
			t.drop(i, ServerClosed, err)
			return
		}
	}
}

// hangUp closes client i's socket, and forgets its TLS.
func (t *thread) hangUp(i int) {
	c := &t.clients[i]
	if c.fd >= 0 {
		t.left.leave(c.fd)
		_ = unix.Close(int(c.fd))
		c.fd = -1
	}
	if c.kind.TLS() {
		if l := t.links[int32(i)]; l != nil {
			l.Close()
			delete(t.links, int32(i))
		}
	}
}
