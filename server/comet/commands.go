package comet

import (
	"context"
	"sync/atomic"
	"time"

	"barrage/server/wire"
)

// joinCommand makes an authenticated session part of its shard. It gets what is pushed
// from then on. Where logic doesn't bound the sessions of a key, it takes the place of those
// that have it.
type joinCommand struct {
	session *session
	ref     *roomRef
	ops     []wire.Op
}

func (c joinCommand) run(sh *shard) {
	s := c.session
	if sh.table != nil {
		sh.table.adopt(s)
	}
	if !s.managed {
		for old := sh.keys[s.key]; old != nil; old = old.older {
			old.replaced = true
			old.dismiss(reasonReplaced)
		}
	}
	sh.addKey(s)
	sh.watch(s) // the list may have changed since it was admitted
	sh.setAccepts(s, c.ops)
	s.allIndex = sh.everyone.add(s)
	sh.enter(s, c.ref)
	sh.wheel.add(s, s.deadline.Load()+1)
}

// leaveCommand takes a session out of its shard, after its connection is gone.
type leaveCommand struct{ session *session }

func (c leaveCommand) run(sh *shard) {
	s := c.session
	sh.exit(s)
	if moved := sh.everyone.remove(s.allIndex); moved != nil {
		moved.allIndex = s.allIndex
	}
	sh.release(&sh.everyone)
	sh.accepts.release(s.accepts)
	sh.wheel.remove(s)
	sh.removeKey(s)
	// Without ids a session that was replaced has no registration to take back: it is the
	// new one's, also if that ended first.
	if !s.replaced || s.managed {
		sh.server.disconnect(s)
	}
	sh.server.release(s)
}

// withdrawCommand takes back the registration of a session that ended before it could join,
// unless it is another session's that has the key.
type withdrawCommand struct{ session *session }

func (c withdrawCommand) run(sh *shard) {
	if _, ok := sh.keys[c.session.key]; !ok || c.session.managed {
		sh.server.disconnect(c.session)
	}
	sh.server.release(c.session)
}

// lagCommand tells the shard of a session that became blocked outside of it.
type lagCommand struct{ session *session }

func (c lagCommand) run(sh *shard) { sh.addLaggard(c.session) }

// changeRoomCommand moves a session to another room, or to none, and answers it: the old
// room's frames come before the reply, the new one's behind it.
type changeRoomCommand struct {
	session *session
	ref     *roomRef // nil for no room
	reply   []byte
}

func (c changeRoomCommand) run(sh *shard) {
	s := c.session
	s.commands.Add(-1)
	if r := s.room; r != nil {
		sh.settle(r, &r.members[s.roomIndex])
	}
	sh.exit(s)
	sh.enter(s, c.ref)
	sh.answer(s, c.reply)
}

// subCommand adds operations to those that a session accepts, or removes them.
type subCommand struct {
	session *session
	ops     []wire.Op
	remove  bool
	reply   []byte
}

func (c subCommand) run(sh *shard) {
	s := c.session
	s.commands.Add(-1)
	// What was broadcast before is for the old set.
	sh.settle(&sh.everyone, &sh.everyone.members[s.allIndex])
	sh.setAccepts(s, changeOps(s.accepts.ops, c.ops, c.remove, sh.server.cfg.Session.MaxAccepts))
	sh.answer(s, c.reply)
}

// changeOps returns have with ops added, up to limit, or removed.
func changeOps(have, ops []wire.Op, remove bool, limit int) []wire.Op {
	set := make(map[wire.Op]bool, len(have)+len(ops))
	for _, op := range have {
		set[op] = true
	}
	for _, op := range ops {
		switch {
		case remove:
			delete(set, op)
		case len(set) < limit:
			set[op] = true
		}
	}
	out := make([]wire.Op, 0, len(set))
	for op := range set {
		out = append(out, op)
	}
	return out
}

// pushKind is whom a push is for.
type pushKind uint8

const (
	pushKeys pushKind = iota
	pushRoom
	pushAll
)

// A pushCommand carries frames to the sessions of one shard.
type pushCommand struct {
	ctx   context.Context
	kind  pushKind
	keys  []string
	ref   *roomRef
	op    wire.Op
	speed int32
	batch wire.Batch
	ws    []byte // batch as a WebSocket message, for pushes to keys
	n     int    // frames in batch
	trace *trace // nil where nothing is known of the pushes' way
	done  *pushDone
}

// A pushDone counts the shards that have yet to take a push, and tells its call when all have.
type pushDone struct {
	pending atomic.Int32
	item    int // of the call
	call    settler
}

// A settler is told by a shard which item of its call is taken. It must not block.
type settler interface{ settle(item int) }

func newPushDone(shards, item int, call settler) *pushDone {
	d := &pushDone{item: item, call: call}
	d.pending.Store(int32(shards))
	return d
}

// pass says that a shard has taken its part, or is done with it.
func (d *pushDone) pass() {
	if d.pending.Add(-1) == 0 {
		d.call.settle(d.item)
	}
}

// A single is the settler of a call with one item.
type single chan struct{}

func (s single) settle(int) { close(s) }

// finish tells the RPC that this shard's part is done with.
func (c *pushCommand) finish(sh *shard) {
	sh.mailbox.release(len(c.batch))
	c.trace.pass()
	c.done.pass()
}

// A triedCommand comes behind the pushes of a call: when all shards have run it, those that
// are not done wait for space in the log of their room.
type triedCommand struct{ done *pushDone }

func (c triedCommand) run(*shard) { c.done.pass() }

func (c *pushCommand) run(sh *shard) {
	switch c.kind {
	case pushRoom:
		if r, ok := sh.rooms[c.ref]; ok {
			sh.push(r, c)
			return
		}
		c.finish(sh)
	case pushAll:
		sh.push(&sh.everyone, c)
	case pushKeys:
		began, reached := sh.now(), false
		for _, key := range c.keys {
			reached = sh.pushKey(key, c) || reached
		}
		sh.report()
		if reached {
			c.trace.hold(began)
			c.trace.write(sh.now())
		}
		c.finish(sh)
	}
}

// pushKey hands the frames to the sessions of key that accept the operation, and reports
// whether there is one.
func (sh *shard) pushKey(key string, c *pushCommand) bool {
	missed := true
	for s := sh.keys[key]; s != nil; s = s.older {
		if !s.accepts.has(c.op) {
			continue
		}
		missed = false
		b := []byte(c.batch)
		if s.websocket {
			b = c.ws
		}
		sh.hand(s, b, c.n, sh.close)
	}
	if missed {
		sh.metrics.pushMissed.Inc()
	}
	return !missed
}

// write sends b to a session of this shard, as writeLocked does. A session without space for
// it is closed if closeFull says so.
func (sh *shard) write(s *session, b []byte, closeFull bool) error {
	s.mu.Lock()
	lag, err := s.writeLocked(b)
	if err == errBackedUp && closeFull {
		s.failLocked(reasonBackedUp)
	}
	s.mu.Unlock()
	if lag {
		sh.addLaggard(s)
	}
	return err
}

// hand writes b, which carries n pushed frames, and counts them as sent or as skipped.
func (sh *shard) hand(s *session, b []byte, n int, closeFull bool) {
	switch sh.write(s, b, closeFull) {
	case nil:
		sh.tally.frames += n
	case errBackedUp:
		sh.metrics.skipped[skipBackedUp].Add(float64(n))
	}
}

// answer sends a reply to a session of this shard. A session whose queue is full doesn't
// read its replies either and is closed.
func (sh *shard) answer(s *session, reply []byte) { _ = sh.write(s, reply, true) }

// stopCommand ends the shard's loop.
type stopCommand struct{}

func (stopCommand) run(sh *shard) {
	sh.stopped = true
	sh.gate.quit(sh)
	sh.pages.close()
}

// drainCommand closes the shard's sessions, spread evenly over the window.
type drainCommand struct{ window time.Duration }

func (c drainCommand) run(sh *shard) {
	sh.drain = &drainPlan{began: sh.now(), window: c.window, total: len(sh.everyone.members)}
}

// A drainPlan is how far a drain has come.
type drainPlan struct {
	began  time.Time
	window time.Duration
	total  int
	closed int
}

// step closes as many sessions as the time since the beginning asks for, each after what
// its rooms still have for it. Sessions leave the list on their own, so it is walked from
// its end.
func (d *drainPlan) step(sh *shard, now time.Time) {
	want := d.total
	if d.window > 0 {
		want = min(want, int(float64(d.total)*now.Sub(d.began).Seconds()/d.window.Seconds()))
	}
	done := want >= d.total
	members := sh.everyone.members
	for i := len(members) - 1; i >= 0 && (d.closed < want || done); i-- {
		s := members[i].session
		sh.visit(&sh.everyone, &members[i])
		if s.room != nil {
			sh.visit(s.room, &s.room.members[s.roomIndex])
		}
		sh.report()
		s.mu.Lock()
		if !s.out.closed {
			d.closed++
			s.dismissLocked(reasonDrain)
		}
		s.mu.Unlock()
	}
}
