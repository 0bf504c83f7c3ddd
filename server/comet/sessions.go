package comet

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"barrage/server/api/logic"
	"barrage/server/api/sessions"
	"barrage/server/wire"

	"github.com/gobwas/ws"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// newBoot draws what tells this life of the process from any other in the ids of sessions.
func newBoot() string { return strconv.FormatUint(rand.Uint64(), 36) }

// id is the session's name for logic, unique for ever: several sessions may have one key.
func (s *session) id() string { return s.server.boot + "-" + strconv.FormatUint(s.number, 36) }

// numberOf returns the number in an id of this process.
func (s *Server) numberOf(id string) (number uint64, ours bool) {
	rest, ok := strings.CutPrefix(id, s.boot+"-")
	if !ok {
		return 0, false
	}
	number, err := strconv.ParseUint(rest, 36, 64)
	return number, err == nil
}

// addKey makes s the newest session under its key.
func (sh *shard) addKey(s *session) {
	s.older = sh.keys[s.key]
	if s.older != nil {
		s.older.newer = s
	}
	sh.keys[s.key] = s
}

// removeKey takes s out of the sessions under its key. It costs the same for a crowd under
// one key.
func (sh *shard) removeKey(s *session) {
	switch {
	case s.newer != nil:
		s.newer.older = s.older
	case s.older == nil:
		delete(sh.keys, s.key)
	default:
		sh.keys[s.key] = s.older
	}
	if s.older != nil {
		s.older.newer = s.newer
	}
	s.older, s.newer = nil, nil
}

// find returns the session with the number under key, or nil.
func (sh *shard) find(key string, number uint64) *session {
	for s := sh.keys[key]; s != nil; s = s.older {
		if s.number == number {
			return s
		}
	}
	return nil
}

// A farewell is what a client is told before the server closes its session: a frame of
// operation 6, which goim reserves, with the reason as JSON.
type farewell struct{ tcp, websocket []byte }

// newFarewell encodes the reason; status closes a WebSocket connection behind it.
func newFarewell(code string, status ws.StatusCode) farewell {
	f := wire.Frame{Ver: wire.Version, Op: wire.OpDisconnectReply, Body: []byte(`{"code":"` + code + `"}`)}
	tcp := wire.AppendFrame(nil, f)
	return farewell{tcp: tcp, websocket: appendClose(append(wire.AppendWSHeader(nil, len(tcp)), tcp...), status)}
}

// The farewells, by the reason for which a session is closed.
var farewells = map[reason]farewell{
	reasonReplaced: newFarewell("replaced", ws.StatusNormalClosure),
	reasonRejected: newFarewell("rejected", ws.StatusNormalClosure),
	reasonDrain:    newFarewell("drained", ws.StatusGoingAway),
}

// dismiss closes the session after telling its client why. One whose window is full can't be
// told.
func (s *session) dismiss(r reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dismissLocked(r)
}

// dismissLocked is dismiss for callers that hold mu.
func (s *session) dismissLocked(r reason) {
	if s.out.closed {
		return
	}
	if on, ok := s.out.stream.(tableStream); ok && !s.shard.table.here() {
		s.shard.mailbox.put(onTableCommand{on, func() { s.dismissLocked(r) }})
		return
	}
	if f := farewells[r]; s.out.backlog == nil {
		b := f.tcp
		if s.websocket {
			b = f.websocket
		}
		if n, err := s.out.stream.send(b); err == nil {
			s.server.metrics.wrote(n)
		}
	}
	s.failLocked(r)
}

// connecting are the sessions that logic knows, or is being asked about, and that are not
// their shard's yet.
type connecting struct {
	mu sync.Mutex
	by map[uint64]*session
}

func (c *connecting) add(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = make(map[uint64]*session)
	}
	c.by[s.number] = s
}

func (c *connecting) remove(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.by, s.number)
}

// get returns the session with the number, or nil.
func (c *connecting) get(number uint64) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[number]
}

// dismissCommand closes one session of the shard, if it is there.
type dismissCommand struct {
	key    string
	number uint64
	reason reason
	found  *atomic.Bool    // set where it is there; may be nil
	done   *sync.WaitGroup // may be nil
}

func (c dismissCommand) run(sh *shard) {
	if s := sh.find(c.key, c.number); s != nil {
		s.dismiss(c.reason)
		if c.found != nil {
			c.found.Store(true)
		}
	}
	if c.done != nil {
		c.done.Done()
	}
}

// holdsCommand says whether the shard has a session.
type holdsCommand struct {
	key    string
	number uint64
	found  *atomic.Bool
	done   *sync.WaitGroup
}

func (c holdsCommand) run(sh *shard) {
	if sh.find(c.key, c.number) != nil {
		c.found.Store(true)
	}
	c.done.Done()
}

// dismissOwn closes sessions of this comet whose place another one has taken.
func (s *Server) dismissOwn(refs []*logic.SessionRef) {
	for _, ref := range refs {
		if number, ours := s.numberOf(ref.Session); ours {
			s.doom(number)
			s.shardOf(ref.Key).mailbox.put(dismissCommand{key: ref.Key, number: number, reason: reasonReplaced})
		}
	}
}

// doom has a session that is still connecting closed as replaced, and reports whether there
// is one.
func (s *Server) doom(number uint64) bool {
	c := s.connecting.get(number)
	if c == nil {
		return false
	}
	c.doomed.Store(true)
	return true
}

// sessionsService is the gRPC service by which logic asks about single sessions.
type sessionsService struct {
	sessions.UnimplementedSessionsServer
	server *Server
}

// Close ends sessions whose place others have taken and returns those that were there.
func (r *sessionsService) Close(ctx context.Context, q *sessions.CloseReq) (*sessions.CloseReply, error) {
	if q.Code != "replaced" {
		return nil, status.Errorf(codes.InvalidArgument, "code is %q, accepted is replaced", q.Code)
	}
	found, err := r.server.each(ctx, q.Sessions, func(ref *logic.SessionRef, number uint64, found *atomic.Bool, done *sync.WaitGroup) command {
		if r.server.doom(number) {
			found.Store(true)
		}
		return dismissCommand{key: ref.Key, number: number, reason: reasonReplaced, found: found, done: done}
	})
	return &sessions.CloseReply{Closed: found}, err
}

// Holds returns those of the sessions that are here, or about to be.
func (r *sessionsService) Holds(ctx context.Context, q *sessions.HoldsReq) (*sessions.HoldsReply, error) {
	found, err := r.server.each(ctx, q.Sessions, func(ref *logic.SessionRef, number uint64, found *atomic.Bool, done *sync.WaitGroup) command {
		if r.server.connecting.get(number) != nil {
			found.Store(true)
		}
		return holdsCommand{key: ref.Key, number: number, found: found, done: done}
	})
	return &sessions.HoldsReply{Sessions: found}, err
}

// each posts a command for every session of this process and returns those that it found.
func (s *Server) each(ctx context.Context, refs []*logic.SessionRef,
	command func(*logic.SessionRef, uint64, *atomic.Bool, *sync.WaitGroup) command) ([]*logic.SessionRef, error) {
	var done sync.WaitGroup
	found := make([]atomic.Bool, len(refs))
	for i, ref := range refs {
		if number, ours := s.numberOf(ref.Session); ours {
			done.Add(1)
			s.shardOf(ref.Key).mailbox.put(command(ref, number, &found[i], &done))
		}
	}
	all := make(chan struct{})
	go func() {
		done.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	var list []*logic.SessionRef
	for i, ref := range refs {
		if found[i].Load() {
			list = append(list, ref)
		}
	}
	return list, nil
}
