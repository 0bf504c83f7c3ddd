package comet

import (
	"context"
	"math/rand/v2"
	"time"

	"barrage/server/api/logic"
	"barrage/server/wire"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// minReport and maxReport bound the time after which logic is told that a session lives.
const (
	minReport = 10 * time.Minute
	maxReport = 30 * time.Minute
)

// nextReport draws the unix second from which on a heartbeat is passed on to logic, which
// forgets a session that it hears nothing of for maxReport. Between two heartbeats may pass
// as much as the session's deadline, so it is drawn so much earlier.
func nextReport(now time.Time, deadline time.Duration) int64 {
	latest := max(maxReport-deadline, minReport+time.Minute)
	return now.Add(minReport + rand.N(latest-minReport)).Unix()
}

// connect asks logic about the token in auth, off the poller's goroutine, and then lets the
// session in or closes it.
func (s *Server) connect(c *session, auth wire.Frame, cookie string) {
	// In a storm of connects logic may take its time; what bounds a session's wait is its own
	// deadline, after which it is closed anyway.
	deadline := time.Now().Add(max(s.cfg.RPCClient.Timeout, s.cfg.Protocol.HandshakeTimeout))
	s.workers.run(func() {
		defer c.closeOnPanic()
		if c.closed() {
			return // while it waited for a worker
		}
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		s.connecting.add(c)
		defer s.connecting.remove(c)
		r, err := s.logic.Connect(ctx, &logic.ConnectReq{Server: s.name, Cookie: cookie, Token: auth.Body, Session: c.id()})
		if err != nil {
			why := reasonAuthFailed
			switch status.Code(err) {
			case codes.AlreadyExists:
				s.log.Debug("session rejected", "addr", c.addr, "err", err)
				c.dismiss(reasonRejected)
				return
			case codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied:
				why = reasonAuthRefused
				s.log.Debug("auth refused", "addr", c.addr, "err", err)
			default:
				s.metrics.rpcErrors["Connect"].Inc()
				s.log.Warn("ask logic to connect a session", "addr", c.addr, "err", err)
			}
			c.close(why)
			return
		}
		// Before it joins, so that none of them gets what is pushed from then on.
		s.dismissOwn(r.Replaced)
		s.admit(c, auth, r)
		s.connecting.remove(c)
		// Whoever wanted it closed until now found it connecting, and left it to us.
		if c.doomed.Load() {
			c.shard.mailbox.put(dismissCommand{key: c.key, number: c.number, reason: reasonReplaced})
		}
	})
}

// admit makes the session a member of its shard, unless its connection has ended.
func (s *Server) admit(c *session, auth wire.Frame, r *logic.ConnectReply) {
	now := time.Now()
	c.inMu.Lock()
	defer c.inMu.Unlock()
	c.mid, c.key, c.managed = r.Mid, r.Key, r.Managed
	c.heartbeat = time.Duration(r.Heartbeat)
	c.shard = s.shardOf(r.Key)
	c.deadline.Store(deadlineAfter(now, c.heartbeat))
	join := joinCommand{session: c}
	for _, op := range r.Accepts[:min(len(r.Accepts), s.cfg.Session.MaxAccepts)] {
		join.ops = append(join.ops, wire.Op(op))
	}
	c.in.phase = phaseOpen
	c.in.reportAt = uint32(nextReport(now, c.heartbeat))

	c.mu.Lock()
	if c.out.closed {
		c.mu.Unlock()
		c.shard.mailbox.put(withdrawCommand{c})
		return
	}
	if r.RoomID != "" {
		join.ref = s.rooms.enter(r.RoomID)
		c.online.Store(join.ref)
	}
	c.out.joined = true
	if c.out.watched = s.watches(c.mid); c.out.watched {
		s.white.Load().frame("in", c, auth)
	}
	s.sessions.Add(1)
	s.metrics.session(c, 1)
	// The shard can't write before the reply is out, and misses nothing pushed behind it.
	c.shard.mailbox.put(join)
	lag, _ := c.writeLocked(c.reply(auth, wire.OpAuthReply, nil))
	c.mu.Unlock()
	if lag {
		c.lag()
	}

	// What the client sent without waiting for the reply.
	held := c.in.partial
	c.in.partial = nil
	if len(held) > 0 {
		c.feedLocked(held)
	}
}

// forget takes a session whose connection is gone out of all that is not its shard's.
func (s *Server) forget(c *session, r reason, joined bool) {
	s.metrics.closed[r].Inc()
	s.metrics.connections.Dec()
	s.limits.leave(c.addr)
	s.open.Add(-1)
	if joined {
		s.sessions.Add(-1)
		s.metrics.session(c, -1)
	}
	if ref := c.online.Swap(nil); ref != nil {
		s.rooms.leave(ref)
	}
}

// disconnect tells logic that a session has ended.
func (s *Server) disconnect(c *session) {
	s.call("Disconnect", func(ctx context.Context) error {
		_, err := s.logic.Disconnect(ctx, &logic.DisconnectReq{Mid: c.mid, Key: c.key, Server: s.name, Session: c.id()})
		return err
	})
}

// heartbeat tells logic that a session lives, and closes it when others have taken its place
// without our being told.
func (s *Server) heartbeat(c *session) {
	s.call("Heartbeat", func(ctx context.Context) error {
		r, err := s.logic.Heartbeat(ctx, &logic.HeartbeatReq{Mid: c.mid, Key: c.key, Server: s.name, Session: c.id()})
		if err == nil && r.Replaced {
			c.dismiss(reasonReplaced)
		}
		return err
	})
}

// call runs one call to logic on a worker and counts its failure.
func (s *Server) call(method string, do func(context.Context) error) {
	s.workers.run(func() { s.callNow(method, do) })
}

func (s *Server) callNow(method string, do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.RPCClient.Timeout)
	defer cancel()
	if err := do(ctx); err != nil {
		s.metrics.rpcErrors[method].Inc()
		s.log.Debug("call logic", "method", method, "err", err)
	}
}
