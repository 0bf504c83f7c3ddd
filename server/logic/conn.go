package logic

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A listener bounds what a client can do to a connection: hertz has no deadline for the
// first request nor for answers, and can't close what is idle at shutdown.
type listener struct {
	net.Listener
	cfg     *HTTPServerConfig
	metrics *metrics

	mu    sync.Mutex
	conns map[*conn]struct{} // open connections; nil once closed for good
}

func newListener(inner net.Listener, cfg *HTTPServerConfig, m *metrics) *listener {
	return &listener{Listener: inner, cfg: cfg, metrics: m, conns: make(map[*conn]struct{})}
}

// Accept waits for a connection, which may wait for its first request as for any later one.
func (l *listener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: accepted, listener: l, fresh: true}
	if err := accepted.SetReadDeadline(time.Now().Add(l.cfg.IdleTimeout)); err != nil {
		accepted.Close()
		return c, nil // hertz sees that it is closed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		accepted.Close()
		return c, nil
	}
	l.conns[c] = struct{}{}
	l.metrics.conns.Inc()
	return c, nil
}

// closeIdle closes the connections that wait for a request, again and again until ctx ends:
// some become idle only after hertz has decided to keep them.
func (l *listener) closeIdle(ctx context.Context) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		l.mu.Lock()
		for c := range l.conns {
			if !c.busy.Load() {
				c.Conn.Close()
			}
		}
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// closeAll closes every connection, and those still to be accepted.
func (l *listener) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if c.busy.Load() {
			l.metrics.cuts[cutStopping].Inc()
		}
		c.Conn.Close()
		l.metrics.conns.Dec()
	}
	l.conns = nil
}

func (l *listener) forget(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.conns[c]; open {
		delete(l.conns, c)
		l.metrics.conns.Dec()
	}
}

// A conn knows whether a request is under way, and counts deadlines that a client missed.
type conn struct {
	net.Conn
	listener *listener
	busy     atomic.Bool // between a request's first byte and its answer
	answered bool        // and no deadline set since; owned by hertz' goroutine
	fresh    bool        // nothing has come yet; owned by hertz' goroutine
	cut      atomic.Bool // a missed deadline was counted
}

// SetReadDeadline is what hertz calls twice a request, from the second one on: for its first
// bytes (which may be here already), then for the rest.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.busy.Store(!c.answered)
	c.answered = false
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.busy.Load() {
		c.busy.Store(true)
	}
	if n > 0 && c.fresh {
		// Of the first request hertz takes the deadline that is there.
		c.fresh = false
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.listener.cfg.ReadTimeout)); err != nil {
			return n, err
		}
	}
	if err != nil && c.busy.Load() {
		c.missed(err, cutReading)
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.listener.cfg.WriteTimeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	c.answered = true
	if err != nil {
		c.missed(err, cutWriting)
	}
	return n, err
}

func (c *conn) Close() error {
	c.listener.forget(c)
	return c.Conn.Close()
}

func (c *conn) missed(err error, reason cut) {
	if errors.Is(err, os.ErrDeadlineExceeded) && c.cut.CompareAndSwap(false, true) {
		c.listener.metrics.cuts[reason].Inc()
	}
}
