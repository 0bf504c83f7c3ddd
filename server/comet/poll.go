package comet

import (
	"context"
	"runtime"
	"time"

	"github.com/cloudwego/netpoll"
)

// onPrepare gives an accepted connection its session, before netpoll polls it.
func (s *Server) onPrepare(websocket bool) netpoll.OnPrepare {
	return func(c netpoll.Connection) context.Context {
		shareBarrier(c)
		client, _ := c.RemoteAddr().(remoteAddr)
		ss := s.newSession(addrKey(client), websocket, fdStream{c.(netpoll.Conn).Fd()})
		// Callbacks run last added first, so this one before the descriptor is closed.
		if err := c.AddCloseCallback(func(netpoll.Connection) error { ss.gone(); return nil }); err != nil {
			s.log.Error("watch a connection's end", "err", err)
		}
		return connContext{ss}
	}
}

// newSession returns the session of an accepted connection, whose time to authenticate begins.
func (s *Server) newSession(client addrKey, websocket bool, out stream) *session {
	ss := &session{server: s, addr: client, websocket: websocket, number: s.numbers.Add(1)}
	ss.out.stream = out
	if !websocket {
		ss.in.phase = phaseAuth
	}
	s.metrics.accepted.Inc()
	s.metrics.connections.Inc()
	s.handshakes.add(handshake{session: ss, deadline: time.Now().Add(s.cfg.Protocol.HandshakeTimeout)})
	return ss
}

// onRequest takes all input of a connection. It runs on the poller's goroutine.
func onRequest(ctx context.Context, c netpoll.Connection) (err error) {
	ss := ctx.(connContext).session
	defer ss.closeOnPanic()
	r := c.Reader()
	n := r.Len()
	b, err := r.Next(n)
	if err != nil {
		ss.close(reasonPeer)
		return err
	}
	ss.feed(b)
	return r.Release()
}

// closeOnPanic is deferred where a session's input is handled: a bug there ends the session,
// not the process.
func (s *session) closeOnPanic() {
	if p := recover(); p != nil {
		s.server.log.Error("handler panicked", "addr", s.addr, "panic", p, "stack", stack())
		s.close(reasonPanic)
	}
}

func stack() string {
	b := make([]byte, 4<<10)
	return string(b[:runtime.Stack(b, false)])
}
