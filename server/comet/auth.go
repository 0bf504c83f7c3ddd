package comet

import (
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

// connect has logic asked about the token in auth, which lets the session in or closes it. The
// client's time for that begins here, with its frame: while others are before it, it waits, and
// when the time is over before its turn or logic's answer comes it is closed.
func (s *Server) connect(c *session, auth wire.Frame, cookie string) {
	now := time.Now()
	s.handshakes.add(handshake{session: c, asked: true, deadline: now.Add(s.cfg.Protocol.HandshakeTimeout)})
	s.registrar.connects.Add(&arrival{session: c, auth: auth, cookie: cookie, deadline: now.Add(s.batchTime())})
}

// answered does what logic says of a session. Its error is why logic could not be asked.
func (s *Server) answered(a *arrival, r answer[*logic.ConnectReply]) error {
	c := a.session
	defer c.closeOnPanic()
	if r.err != nil { // else it is letIn's to say
		defer s.connecting.remove(c)
	}
	switch status.Code(r.err) {
	case codes.OK:
	case codes.AlreadyExists:
		s.log.Debug("session rejected", "addr", c.addr, "err", r.err)
		c.dismiss(reasonRejected)
		return nil
	case codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied:
		s.log.Debug("auth refused", "addr", c.addr, "err", r.err)
		c.close(reasonAuthRefused)
		return nil
	default:
		c.close(reasonAuthFailed)
		return r.err
	}
	s.front.run(func() { s.letIn(a, r.reply) })
	return nil
}

// letIn makes the session a member of its shard, instead of those that it replaces.
func (s *Server) letIn(a *arrival, r *logic.ConnectReply) {
	c := a.session
	defer c.closeOnPanic()
	defer s.connecting.remove(c) // also where something panics
	// Before it joins, so that none of them gets what is pushed from then on.
	s.dismissOwn(r.Replaced)
	s.admit(c, a.auth, r)
	s.connecting.remove(c)
	// Whoever wanted it closed until now found it connecting, and left it to us.
	if c.doomed.Load() {
		c.shard.mailbox.put(dismissCommand{key: c.key, number: c.number, reason: reasonReplaced})
	}
}

// admit makes the session a member of its shard, unless its connection has ended.
func (s *Server) admit(c *session, auth wire.Frame, r *logic.ConnectReply) {
	now := time.Now()
	c.inMu.Lock()
	defer c.inMu.Unlock()
	c.mid, c.key, c.managed = r.Mid, r.Key, r.Managed
	c.heartbeat = time.Duration(r.Heartbeat)
	c.shard = s.shardFor(r.Key)
	c.deadline.Store(deadlineAfter(now, c.heartbeat))
	c.in.phase = phaseOpen
	c.in.reportAt = uint32(nextReport(now, c.heartbeat))
	joined, lag := s.join(c, auth, r)
	if !joined {
		return
	}
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

// join has the shard take the session, and writes the reply to its auth frame; lag is writeLocked's.
// A session whose connection has ended doesn't join, and its registration is taken back. Where
// something panics that holds too, and mu is let go of: closeOnPanic needs it.
func (s *Server) join(c *session, auth wire.Frame, r *logic.ConnectReply) (joined, lag bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		if !joined {
			c.shard.mailbox.put(withdrawCommand{c})
		}
	}()
	if c.out.closed {
		return false, false
	}
	join := joinCommand{session: c}
	for _, op := range r.Accepts[:min(len(r.Accepts), s.cfg.Session.MaxAccepts)] {
		join.ops = append(join.ops, wire.Op(op))
	}
	if r.RoomID != "" {
		join.ref = s.rooms.enter(r.RoomID, c.shard)
		c.online.Store(join.ref)
	}
	if c.out.watched = s.watches(c.mid); c.out.watched {
		s.white.Load().frame("in", c, auth)
	}
	if s.front != nil {
		s.front.passLocked(c)
	}
	joined, c.out.joined = true, true
	s.sessions.Add(1)
	s.metrics.session(c, 1)
	// The shard can't write before the reply is out, and misses nothing pushed behind it.
	c.shard.mailbox.put(join)
	lag, _ = c.writeLocked(c.reply(auth, wire.OpAuthReply, nil))
	return true, lag
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
		s.rooms.leave(ref, c.shard)
	}
}

// disconnect has logic told that a session has ended.
func (s *Server) disconnect(c *session) { s.registrar.ends.Add(c) }

// heartbeat has logic told that a session lives.
func (s *Server) heartbeat(c *session) { s.registrar.beats.Add(c) }

// called counts a call to logic that failed.
func (s *Server) called(method string, err error) {
	if err != nil {
		s.metrics.rpcErrors[method].Inc()
		s.log.Debug("call logic", "method", method, "err", err)
	}
}
