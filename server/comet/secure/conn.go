// Package secure is TLS for a server that must never wait for one client: connections whose
// writes don't block, and certificates that change without a restart.
//
// crypto/tls writes whole records and blocks until the kernel has taken them. Here it writes
// into the socket as far as that takes bytes at once, and what is left of a record waits
// in the connection; as long as something waits, no more plaintext is taken.
package secure

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxPlaintext is what is encrypted at a time: a record (RFC 8446 section 5.1).
	maxPlaintext = 16 << 10
	// maxPending bounds the ciphertext that waits. Send leaves at most a record; the rest
	// is for what TLS itself sends (key updates, alerts, a handshake's flight).
	maxPending = 64 << 10
)

var errPending = errors.New("the peer asks for more TLS messages than it reads")

// A Conn is the server's side of a TLS connection.
type Conn struct {
	tcp   *net.TCPConn
	raw   syscall.RawConn
	tls   *tls.Conn
	ready atomic.Bool // the handshake is done

	mu       sync.Mutex
	pending  []byte // ciphertext that the kernel has not taken; mu guards
	flushing bool   // a goroutine waits until it takes more; mu guards
	err      error  // of the socket; mu guards
}

// NewConn returns a connection whose handshake has not begun.
func NewConn(tcp *net.TCPConn, cfg *tls.Config) (*Conn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("take a TLS connection: %w", err)
	}
	c := &Conn{tcp: tcp, raw: raw}
	c.tls = tls.Server(socket{c}, cfg)
	return c, nil
}

// Handshake waits for the client's handshake until ctx ends, which closes the connection.
func (c *Conn) Handshake(ctx context.Context) error {
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.ready.Store(true)
	return nil
}

// Read waits for plaintext. An error ends the connection; io.EOF is the peer's orderly end.
func (c *Conn) Read(b []byte) (int, error) { return c.tls.Read(b) }

// Send encrypts and writes what can be written at once, and returns how much of b that was:
// none before the handshake is done, and as long as the kernel has not taken an earlier
// record whole. What was taken goes out without another call. Calls must not overlap.
func (c *Conn) Send(b []byte) (taken int, err error) {
	if !c.ready.Load() {
		return 0, nil
	}
	for taken < len(b) {
		c.mu.Lock()
		busy, err := len(c.pending) > 0, c.err
		c.mu.Unlock()
		if err != nil || busy {
			return taken, err
		}
		n, err := c.tls.Write(b[taken:min(len(b), taken+maxPlaintext)])
		taken += n
		if err != nil {
			return taken, fmt.Errorf("write to a TLS connection: %w", err)
		}
	}
	return taken, nil
}

// Shutdown ends both directions, telling the peer so where the socket takes it at once.
// Read returns with an error soon. It never blocks.
func (c *Conn) Shutdown() {
	if c.ready.Load() {
		_ = c.tls.CloseWrite()
	}
	_ = c.raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
}

// Close closes the socket and drops what waits.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.err == nil {
		c.err = net.ErrClosed
	}
	c.pending = nil
	c.mu.Unlock()
	return c.tcp.Close()
}

// write gives ciphertext to the kernel, and keeps what it doesn't take.
func (c *Conn) write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	rest := b
	if len(c.pending) == 0 {
		n, err := 0, error(nil)
		if control := c.raw.Control(func(fd uintptr) { n, err = send(int(fd), b) }); control != nil {
			err = control
		}
		if err != nil {
			c.err = err
			return n, err
		}
		rest = b[n:]
	}
	if len(rest) == 0 {
		return len(b), nil
	}
	if len(c.pending)+len(rest) > maxPending {
		c.err = errPending
		return 0, c.err
	}
	c.pending = append(c.pending, rest...) // crypto/tls uses b again
	if !c.flushing {
		c.flushing = true
		go c.flush()
	}
	return len(b), nil
}

// flush writes what waits, as the socket takes it. It is a goroutine only while something
// waits.
func (c *Conn) flush() {
	err := c.raw.Write(func(fd uintptr) (done bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for len(c.pending) > 0 && c.err == nil {
			n, err := send(int(fd), c.pending)
			if err != nil {
				c.err = err
				break
			}
			if n == 0 {
				return false
			}
			c.pending = c.pending[n:]
		}
		c.pending, c.flushing = nil, false
		return true
	})
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.pending, c.flushing = nil, false
}

// send writes what the socket takes at once; none is no error.
func send(fd int, b []byte) (int, error) {
	for {
		n, err := syscall.SendmsgN(fd, b, nil, nil, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOBUFS):
			return 0, nil
		case errors.Is(err, syscall.EINTR):
		default:
			return 0, os.NewSyscallError("send", err)
		}
	}
}

// A socket is what crypto/tls has for a connection: it reads as usual and writes without
// blocking.
type socket struct{ c *Conn }

func (s socket) Read(b []byte) (int, error)        { return s.c.tcp.Read(b) }
func (s socket) Write(b []byte) (int, error)       { return s.c.write(b) }
func (s socket) Close() error                      { return s.c.Close() }
func (s socket) LocalAddr() net.Addr               { return s.c.tcp.LocalAddr() }
func (s socket) RemoteAddr() net.Addr              { return s.c.tcp.RemoteAddr() }
func (s socket) SetDeadline(t time.Time) error     { return s.c.tcp.SetReadDeadline(t) }
func (s socket) SetReadDeadline(t time.Time) error { return s.c.tcp.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes don't wait.
func (s socket) SetWriteDeadline(time.Time) error { return nil }
