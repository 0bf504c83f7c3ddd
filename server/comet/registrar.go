package comet

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"barrage/server/api/logic"
	"barrage/server/gather"
	"barrage/server/wire"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// batchBytes bounds the tokens and cookies of one call for many sessions.
	batchBytes = 1 << 20

	// singles is how many calls for one session each are made at a time in the place of one for
	// many, where logic is goim's.
	singles = 32

	// tries is how often logic is asked about a session that it can't be asked about, and
	// retryPause the time before the second of them; each after that is twice as long.
	tries      = 3
	retryPause = 100 * time.Millisecond

	// beatLinger is how long a session that is renewed waits for others. It has minutes left.
	beatLinger = time.Second
)

// A registrar tells logic of sessions that connect, live and end. One call is for as many as
// have come while others were under way. A session that connects waits for its turn until its
// client's time is over; those that end are told of in calls of their own, so that a storm in
// which all leave and come back holds nobody up who comes.
type registrar struct {
	connects *gather.Group[*arrival]
	ends     *gather.Group[*session]
	beats    *gather.Group[*session]
}

// An arrival is a session that logic has to be asked about.
type arrival struct {
	session  *session
	auth     wire.Frame
	cookie   string
	deadline time.Time // by which logic has to have answered
}

// size is about what it takes in a call.
func (a *arrival) size() int { return len(a.auth.Body) + len(a.cookie) + 128 }

func newRegistrar(s *Server) *registrar {
	b := gather.Bounds{Calls: s.cfg.RPCClient.Batches, Items: s.cfg.RPCClient.Batch}
	connects, beats := b, b
	connects.Bytes, beats.Linger = batchBytes, beatLinger
	return &registrar{
		connects: gather.New(connects, (*arrival).size, s.connectAll),
		ends:     gather.New(b, nil, s.disconnectAll),
		beats:    gather.New(beats, nil, s.heartbeatAll),
	}
}

// stop returns when logic has been told of everything, or at the deadline, and of how many
// sessions it has not.
func (r *registrar) stop(deadline time.Time) (undone int) {
	undone += r.connects.Stop(time.Until(deadline))
	undone += r.ends.Stop(time.Until(deadline))
	undone += r.beats.Stop(time.Until(deadline))
	return undone
}

// batchTime is the time of a call for many sessions, which wait for their turn in logic too.
func (s *Server) batchTime() time.Duration {
	return max(s.cfg.RPCClient.Timeout, s.cfg.Protocol.HandshakeTimeout)
}

// connectAll asks logic about sessions, and lets each in or closes it. It asks again, while
// there is time, about those that logic could not be asked about: a logic that restarts, or a
// Redis that stumbles, costs nobody the connection.
func (s *Server) connectAll(list []*arrival) {
	for try, pause := 1, retryPause; len(list) > 0; try, pause = try+1, 2*pause {
		until := time.Now().Add(pause)
		list = s.connectOnce(list, func(a *arrival) bool { return try < tries && a.deadline.After(until) })
		if len(list) > 0 {
			time.Sleep(pause)
		}
	}
}

// connectOnce asks logic about sessions. Of those that it could not be asked about now it
// returns the ones to ask about again, and closes the others.
func (s *Server) connectOnce(list []*arrival, retry func(*arrival) bool) (again []*arrival) {
	due := make([]*arrival, 0, len(list))
	reqs := make([]*logic.ConnectReq, 0, len(list))
	for _, a := range list {
		if a.session.closed() { // while it waited
			s.connecting.remove(a.session)
			continue
		}
		s.connecting.add(a.session)
		due = append(due, a)
		reqs = append(reqs, &logic.ConnectReq{Server: s.name, Cookie: a.cookie, Token: a.auth.Body, Session: a.session.id()})
	}
	if len(due) == 0 {
		return nil
	}
	// Who has waited for longest is closed by then if need be; the others have some time yet.
	ctx, cancel := context.WithDeadline(context.Background(), due[len(due)-1].deadline)
	defer cancel()
	s.metrics.batches["Connect"].Observe(float64(len(due)))
	answers := ask(len(due), func() ([]*logic.ConnectResult, error) {
		r, err := s.logic.ConnectAll(ctx, &logic.ConnectAllReq{Sessions: reqs})
		return r.GetResults(), err
	}, func(i int) (*logic.ConnectReply, error) {
		ctx, cancel := context.WithDeadline(ctx, due[i].deadline)
		defer cancel()
		return s.logic.Connect(ctx, reqs[i])
	})
	failed, why := 0, error(nil)
	for i, a := range due {
		if err := answers[i].err; status.Code(err) == codes.Unavailable && retry(a) {
			again, why = append(again, a), err
		} else if err := s.answered(a, answers[i]); err != nil {
			failed, why = failed+1, err
		}
	}
	if failed+len(again) > 0 {
		s.metrics.rpcErrors["Connect"].Add(float64(failed))
		s.log.Warn("ask logic to connect sessions", "sessions", len(due), "failed", failed, "again", len(again), "err", why)
	}
	return again
}

// disconnectAll tells logic that sessions have ended.
func (s *Server) disconnectAll(list []*session) {
	reqs := make([]*logic.DisconnectReq, len(list))
	for i, c := range list {
		reqs[i] = &logic.DisconnectReq{Mid: c.mid, Key: c.key, Server: s.name, Session: c.id()}
	}
	s.metrics.batches["Disconnect"].Observe(float64(len(list)))
	answers := ask(len(list), func() ([]*logic.DisconnectResult, error) {
		ctx, cancel := context.WithTimeout(context.Background(), s.batchTime())
		defer cancel()
		r, err := s.logic.DisconnectAll(ctx, &logic.DisconnectAllReq{Sessions: reqs})
		return r.GetResults(), err
	}, func(i int) (*logic.DisconnectReply, error) {
		ctx, cancel := context.WithTimeout(context.Background(), s.cfg.RPCClient.Timeout)
		defer cancel()
		return s.logic.Disconnect(ctx, reqs[i])
	})
	for _, a := range answers {
		s.called("Disconnect", a.err)
	}
}

// heartbeatAll tells logic that sessions live, and closes those whose place others have taken
// without our being told.
func (s *Server) heartbeatAll(list []*session) {
	reqs := make([]*logic.HeartbeatReq, len(list))
	for i, c := range list {
		reqs[i] = &logic.HeartbeatReq{Mid: c.mid, Key: c.key, Server: s.name, Session: c.id()}
	}
	s.metrics.batches["Heartbeat"].Observe(float64(len(list)))
	answers := ask(len(list), func() ([]*logic.HeartbeatResult, error) {
		ctx, cancel := context.WithTimeout(context.Background(), s.batchTime())
		defer cancel()
		r, err := s.logic.HeartbeatAll(ctx, &logic.HeartbeatAllReq{Sessions: reqs})
		return r.GetResults(), err
	}, func(i int) (*logic.HeartbeatReply, error) {
		ctx, cancel := context.WithTimeout(context.Background(), s.cfg.RPCClient.Timeout)
		defer cancel()
		return s.logic.Heartbeat(ctx, reqs[i])
	})
	for i, a := range answers {
		s.called("Heartbeat", a.err)
		if a.err == nil && a.reply.Replaced {
			list[i].dismiss(reasonReplaced)
		}
	}
}

// An answer is what logic says of one session.
type answer[R any] struct {
	reply R
	err   error // a gRPC status
}

// A result is an answer in the reply to a call for many sessions.
type result[R comparable] interface {
	GetReply() R
	GetError() *logic.Failure
}

// ask has many make one call for n sessions. Where logic doesn't know that, it has one make a
// call for each.
func ask[R comparable, T result[R]](n int, many func() ([]T, error), one func(i int) (R, error)) []answer[R] {
	answers := make([]answer[R], n)
	results, err := many()
	switch {
	case status.Code(err) == codes.Unimplemented:
		askEach(answers, one)
		return answers
	case err == nil && len(results) != n:
		err = status.Errorf(codes.Internal, "logic has %d results for %d sessions", len(results), n)
	}
	var none R
	for i := range answers {
		a := &answers[i]
		switch {
		case err != nil:
			a.err = err
			continue
		case results[i].GetError() != nil:
			f := results[i].GetError()
			if a.err = status.Error(codes.Code(f.GetCode()), f.GetMessage()); a.err == nil {
				a.err = status.Error(codes.Internal, "logic has an error that is none: "+f.GetMessage())
			}
		case results[i].GetReply() == none:
			a.err = status.Error(codes.Internal, "logic has an empty result for the session")
		default:
			a.reply = results[i].GetReply()
		}
	}
	return answers
}

// askEach makes a call for each session, in their order and some at a time.
func askEach[R any](answers []answer[R], one func(i int) (R, error)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(singles, len(answers)) {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(answers) {
					return
				}
				answers[i].reply, answers[i].err = one(i)
			}
		})
	}
	all.Wait()
}
