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
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// linger is how long after Shutdown a connection still waits for its peer to take what
// Send has taken.
const linger = 2 * time.Second

const (
	// maxPlaintext is what is encrypted at a time: a record (RFC 8446 section 5.1).
	maxPlaintext = 16 << 10
	// maxPending bounds the ciphertext that waits. Send leaves at most a record; the rest
	// is for what TLS itself sends (key updates, alerts, a handshake's flight).
	maxPending = 64 << 10
)

var errPending = errors.New("the peer asks for more TLS messages than it reads")

// A Conn is the server's side of a TLS connection. While idle it takes about 9.5 KB, the
// stack of the one goroutine that reads included (BenchmarkMemory): 4 KB are that stack, the
// rest are keys and the buffers that crypto/tls keeps. One whose peer doesn't read takes a
// second goroutine and at most a record (16 KB), as long as that lasts.
type Conn struct {
	tcp   *net.TCPConn
	raw   syscall.RawConn
	tls   *tls.Conn   // set once
	ready atomic.Bool // the handshake is done

	mu       sync.Mutex
	pending  []byte // ciphertext that the kernel has not taken; mu guards
	flushing bool   // a goroutine waits until it takes more; mu guards
	ending   bool   // Shutdown was called; mu guards
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
// What arrives after Shutdown is discarded.
func (c *Conn) Read(b []byte) (int, error) {
	for {
		n, err := c.tls.Read(b)
		switch {
		case err == errNothing:
			if err := c.wait(); err != nil {
				return 0, err
			}
		case err != nil || !c.ended():
			return n, err
		}
	}
}

// wait returns when the socket may have something to read. Waiting here and not in
// crypto/tls, deep in calls, lets the goroutine's stack shrink to the least.
func (c *Conn) wait() error {
	asked := false
	err := c.raw.Read(func(fd uintptr) bool {
		if asked {
			return true
		}
		asked = true
		// Once more, since the poller tells only of what comes from now on.
		_, err := receive(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		return err != errNothing
	})
	if err != nil {
		return fmt.Errorf("wait for input of a TLS connection: %w", err)
	}
	return nil
}

func (c *Conn) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending
}

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
		if c.ending && err == nil {
			err = net.ErrClosed
		}
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

// Shutdown ends both directions, telling the peer so. It never blocks: what Send has taken
// and the kernel has not still goes out, within two seconds. Read then returns with an error.
func (c *Conn) Shutdown() {
	ready := c.ready.Load()
	if ready {
		_ = c.tls.CloseWrite()
	}
	c.mu.Lock()
	first := !c.ending
	c.ending = true
	waits := ready && c.flushing && c.err == nil
	c.mu.Unlock()
	switch {
	case !waits:
		c.end()
	case first:
		_ = c.tcp.SetWriteDeadline(time.Now().Add(linger)) // flush then ends it
	}
}

// end makes the socket's reads return.
func (c *Conn) end() {
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

// read waits for ciphertext during the handshake, and doesn't after it.
func (c *Conn) read(b []byte) (n int, err error) {
	if !c.ready.Load() {
		return c.tcp.Read(b)
	}
	if control := c.raw.Control(func(fd uintptr) { n, err = receive(int(fd), b, 0) }); control != nil {
		return 0, control
	}
	return n, err
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
	c.mu.Lock()
	if err != nil { // closed, or not within linger
		if c.err == nil {
			c.err = err
		}
		c.pending, c.flushing = nil, false
	}
	ending := c.ending
	c.mu.Unlock()
	if ending {
		c.end()
	}
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

// receive reads what is there; errNothing says that there is nothing, io.EOF that there will
// be no more.
func receive(fd int, b []byte, flags int) (int, error) {
	for {
		n, _, err := syscall.Recvfrom(fd, b, flags|syscall.MSG_DONTWAIT)
		switch {
		case err == nil && n == 0 && len(b) > 0:
			return 0, io.EOF
		case err == nil:
			return n, nil
		case errors.Is(err, syscall.EAGAIN):
			return 0, errNothing
		case errors.Is(err, syscall.EINTR):
		default:
			return 0, os.NewSyscallError("recv", err)
		}
	}
}

// errNothing passes through crypto/tls, which goes on after a temporary error.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing to read" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// A socket is what crypto/tls has for a connection: it reads as usual and writes without
// blocking.
type socket struct{ c *Conn }

func (s socket) Read(b []byte) (int, error)        { return s.c.read(b) }
func (s socket) Write(b []byte) (int, error)       { return s.c.write(b) }
func (s socket) Close() error                      { return s.c.Close() }
func (s socket) LocalAddr() net.Addr               { return s.c.tcp.LocalAddr() }
func (s socket) RemoteAddr() net.Addr              { return s.c.tcp.RemoteAddr() }
func (s socket) SetDeadline(t time.Time) error     { return s.c.tcp.SetReadDeadline(t) }
func (s socket) SetReadDeadline(t time.Time) error { return s.c.tcp.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes don't wait.
func (s socket) SetWriteDeadline(time.Time) error { return nil }
