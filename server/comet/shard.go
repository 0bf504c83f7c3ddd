package comet

import (
	"container/heap"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"time"

	"barrage/server/wire"
)

const (
	// sliceMembers is how many members a room may visit before the shard looks at its mailbox
	// and at other rooms: about a millisecond of sends.
	sliceMembers = 256
	// smallRoom is up to how many members a room has in the shard that doesn't wait for large
	// ones.
	smallRoom = sliceMembers / 4
	// gateSlices is how many slices a shard has of its large rooms until it is another's turn,
	// where not all shards have it at once.
	gateSlices = 4
)

// Bounds of the time between two tries to write to a session whose peer doesn't read.
const (
	minRetry = time.Millisecond
	maxRetry = 200 * time.Millisecond
)

// A shard owns a part of the sessions, by the hash of their key, and its part of every
// room. One goroutine does everything that concerns them, in the order of its mailbox: no
// lock on rooms, and one order for each session.
type shard struct {
	cfg     RoomConfig
	close   bool // policy for slow sessions: close them, else skip frames
	server  *Server
	metrics *cometMetrics
	log     *slog.Logger
	mailbox *mailbox
	table   *table    // of its sessions' descriptors; nil where they are in the process's
	queue   []command // taken from the mailbox
	done    int       // of queue
	stopped bool
	now     func() time.Time

	keys     map[string]*session
	rooms    map[*roomRef]*room
	everyone room
	accepts  acceptSets
	wheel    wheel
	pages    pageFiles

	small    roomQueue // rooms to sweep
	large    roomQueue // and those with more than smallRoom members
	gate     *gate     // to sweep large rooms
	pass     pass
	slices   int // of large rooms, in this pass of the gate
	delayed  delayedRooms
	laggards []laggard
	drain    *drainPlan

	tally struct { // since the last slice
		writes, bytes, frames, eagain int
	}
	lowest uint64 // offset in its room's log from which the slice wrote, at the least
}

// A laggard is a session whose peer's window is full, and when to try again.
type laggard struct {
	session *session
	at      time.Time
	wait    time.Duration
}

func newShard(s *Server) *shard {
	sh := &shard{
		cfg:     s.cfg.Room,
		close:   s.cfg.Room.SlowPolicy == slowClose,
		server:  s,
		metrics: s.metrics,
		log:     s.log,
		mailbox: newMailbox(int64(s.cfg.Room.MailboxBytes)),
		now:     time.Now,
		keys:    make(map[string]*session),
		rooms:   make(map[*roomRef]*room),
	}
	sh.pages = pageFiles{least: s.cfg.Room.SendfileBytes, log: s.log}
	sh.everyone.log.limit, sh.everyone.log.pages = s.cfg.Room.LogBytes, &sh.pages
	sh.everyone.log.tagged = true
	return sh
}

// loop is the shard's goroutine. It ends with a stopCommand.
func (sh *shard) loop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := sh.now()
		busy := sh.turn(now)
		if sh.stopped {
			return
		}
		if busy {
			// Let a poller or an RPC run, which on a machine with few cores would
			// otherwise wait for the scheduler's next preemption. A shard with a table has
			// a thread and a place in the scheduler of its own, and holds up nobody.
			if sh.table == nil {
				runtime.Gosched()
			}
			continue
		}
		if sh.table != nil {
			sh.table.wait(sh.idleFor(now))
			continue
		}
		timer.Reset(sh.idleFor(now))
		select {
		case <-sh.mailbox.wake:
		case <-timer.C:
		}
	}
}

// turn runs what is in the mailbox and what has come in its table, what is due, small rooms as
// far as a slice goes, and one slice of the large room whose turn it is. It reports whether
// there may be more to do at once.
func (sh *shard) turn(now time.Time) bool {
	more := sh.commands()
	if sh.table != nil {
		more = sh.table.poll() || more
	}
	sh.tick(now)
	swept := sh.sweepSmall(now)
	return sh.sweepLarge(now) || swept || more
}

// maxTurn bounds the commands of one turn, so that a storm of them doesn't hold up sweeps.
const maxTurn = 1024

// commands runs what is in the mailbox, and reports whether there is more.
func (sh *shard) commands() (more bool) {
	if sh.done == len(sh.queue) {
		if cap(sh.queue) > 1<<14 {
			sh.queue = nil // it grew in a storm
		}
		sh.queue, sh.done = sh.mailbox.take(sh.queue), 0
	}
	for range min(maxTurn, len(sh.queue)-sh.done) {
		c := sh.queue[sh.done]
		sh.queue[sh.done] = nil
		sh.done++
		c.run(sh)
	}
	return sh.done < len(sh.queue)
}

// tick does what time asks for: overdue heartbeats, laggards, rooms whose least interval
// has passed, and the drain.
func (sh *shard) tick(now time.Time) {
	if second := now.Unix(); second > sh.wheel.now {
		sh.wheel.advance(second, func(s *session) { s.close(reasonHeartbeat) })
	}
	for len(sh.delayed) > 0 && !sh.delayed[0].at.After(now) {
		d := heap.Pop(&sh.delayed).(delayedRoom)
		sh.line(d.room)
	}
	sh.retryLaggards(now)
	if sh.drain != nil {
		sh.drain.step(sh, now)
	}
}

// idleFor is how long the shard may sleep when no room is ready.
func (sh *shard) idleFor(now time.Time) time.Duration {
	wait := time.Second - time.Duration(now.Nanosecond())
	if len(sh.delayed) > 0 {
		wait = min(wait, sh.delayed[0].at.Sub(now))
	}
	for i := range sh.laggards {
		wait = min(wait, sh.laggards[i].at.Sub(now))
	}
	if sh.drain != nil {
		wait = min(wait, 5*time.Millisecond)
	}
	return max(wait, 0)
}

// schedule queues the room for a sweep, unless it is queued already.
func (sh *shard) schedule(r *room) {
	if !r.queued {
		r.queued = true
		sh.line(r)
	}
}

// line puts a room that is to be swept at the end of its queue.
func (sh *shard) line(r *room) {
	if len(r.members) > smallRoom {
		sh.large = append(sh.large, r)
	} else {
		sh.small = append(sh.small, r)
	}
}

// scheduleAt queues the room for a sweep that begins, or goes on, no earlier than at.
func (sh *shard) scheduleAt(r *room, at time.Time) {
	r.queued = true
	heap.Push(&sh.delayed, delayedRoom{r, at})
}

// sweepSmall sweeps small rooms until they have had as many members as a slice, and reports
// whether there were any.
func (sh *shard) sweepSmall(now time.Time) (swept bool) {
	for left := sliceMembers; left > 0; {
		r := sh.nextRoom(&sh.small, now)
		if r == nil {
			break
		}
		left -= max(1, len(r.members))
		sh.sweepSlice(r, now)
		swept = true
	}
	return swept
}

// sweepLarge sweeps one slice of a large room, if there is one and the gate lets it.
func (sh *shard) sweepLarge(now time.Time) (swept bool) {
	if len(sh.large) > 0 && !sh.gate.enter(sh) {
		return false
	}
	r := sh.nextRoom(&sh.large, now)
	if r != nil {
		sh.sweepSlice(r, now)
		sh.slices++
	}
	if r == nil || sh.slices >= gateSlices {
		sh.slices = 0
		sh.gate.leave(sh)
	}
	return r != nil
}

// A roomQueue is rooms that wait for their turn, first come first served.
type roomQueue []*room

// nextRoom takes the first room of a queue that may be swept now, or returns nil.
func (sh *shard) nextRoom(q *roomQueue, now time.Time) *room {
	for len(*q) > 0 {
		r := (*q)[0]
		(*q)[0] = nil
		*q = (*q)[1:]
		r.queued = false
		if r.sweep.next == 0 && sh.cfg.MinInterval > 0 {
			if at := r.sweep.began.Add(sh.cfg.MinInterval); at.After(now) {
				sh.scheduleAt(r, at)
				continue
			}
		}
		return r
	}
	*q = nil
	return nil
}

// sweepSlice visits up to sliceMembers members of the room, and queues it again if there is
// more to do. This is the hot loop: BenchmarkSweep.
func (sh *shard) sweepSlice(r *room, now time.Time) {
	if r.sweep.next == 0 {
		sh.admit(r)
		r.begin(now)
	}
	budget := sliceMembers
	if r.pace > 0 {
		allowed := int(now.Sub(r.sweep.began).Seconds()*r.pace) + 1 - r.sweep.paced
		if allowed <= 0 {
			sh.scheduleAt(r, now.Add(time.Duration(float64(time.Second)/r.pace)))
			return
		}
		budget = min(budget, allowed)
	}
	stop := max(0, r.sweep.next-budget)
	r.sweep.paced += r.sweep.next - stop
	sh.lowest = math.MaxUint64
	for i := r.sweep.next - 1; i >= stop; i-- {
		if !sh.visit(r, &r.members[i]) {
			r.sweep.blocked++
		}
	}
	r.sweep.next = stop
	sh.report()
	r.wrote(sh.lowest, sh.now)
	if stop > 0 {
		sh.schedule(r)
		return
	}
	end := sh.now()
	sh.metrics.sweeps.Observe(end.Sub(r.sweep.began).Seconds())
	r.finish(sh.log, end)
	sh.admit(r)
	if r.needsSweep() {
		sh.schedule(r)
	}
}

// visit brings a member to the head of its room's log, if its peer takes it all, and
// reports whether it is there.
func (sh *shard) visit(r *room, m *member) bool {
	s := m.session
	s.mu.Lock()
	ok := sh.deliver(r, m)
	lag := s.out.backlog != nil && !s.out.closed
	s.mu.Unlock()
	if lag {
		sh.addLaggard(s)
	}
	return ok
}

// deliver is visit for callers that hold the session's mu and see to laggards.
func (sh *shard) deliver(r *room, m *member) bool {
	s := m.session
	o := &s.out
	if o.closed {
		return true
	}
	if o.backlog != nil {
		return false
	}
	l := &r.log
	for m.offset < l.head {
		if m.offset < l.tail && !sh.overrun(r, m) {
			return true
		}
		c := r.chunk(m)
		if len(c.data) > 0 {
			n, err := o.stream.sendChunk(c)
			if err != nil {
				s.failLocked(reasonWriteError)
				return true
			}
			if n > 0 {
				sh.tally.writes++
				sh.tally.bytes += n
				sh.lowest = min(sh.lowest, m.offset)
			}
			if n < len(c.data) {
				sh.tally.eagain++
				o.backlog = &backlog{}
				if n == 0 {
					// Nothing of the chunk went out: the offset alone remembers it.
					return false
				}
				o.backlog.rest = keepRest(c.data, n)
			}
			sh.tally.frames += c.frames
			if o.watched {
				sh.server.white.Load().sent(s, c.data)
			}
		}
		m.offset = c.next
		if o.backlog != nil {
			return m.offset == l.head
		}
	}
	return true
}

// settle gives a member all that was pushed before what it may see changes: what its peer
// doesn't take now waits in the session's queue, and what has no space there is skipped and
// counted.
func (sh *shard) settle(r *room, m *member) {
	defer sh.report()
	if !sh.visit(r, m) {
		sh.queueLogged(r, m)
	}
	sh.handWaiting(r, m)
}

// queueLogged brings a member to the head of the log by its session's queue.
func (sh *shard) queueLogged(r *room, m *member) {
	s := m.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.out.closed && m.offset < r.log.head {
		if m.offset < r.log.tail && !sh.overrun(r, m) {
			return
		}
		c := r.chunk(m)
		if len(c.data) > 0 {
			if _, err := s.writeLocked(c.data); err != nil {
				sh.metrics.skipped[skipBackedUp].Add(float64(r.log.accepted(m.offset, s.accepts)))
				m.offset = r.log.head
				return
			}
			sh.tally.frames += c.frames
		}
		m.offset = c.next
	}
}

// handWaiting gives a member the pushes that wait for space in the log and came since it entered. It
// stands behind them then.
func (sh *shard) handWaiting(r *room, m *member) {
	if len(r.waiting) == 0 {
		return
	}
	s, at := m.session, r.log.head
	for _, p := range r.waiting {
		from := at
		if at += uint64(p.n); from < m.offset || r.log.tagged && !s.accepts.has(p.op) {
			continue
		}
		b := []byte(p.batch)
		if s.websocket {
			b = append(wire.AppendWSBatchHeader(nil, len(b)), b...)
		}
		sh.hand(s, b, p.n, false)
	}
	m.offset, r.behind = at, true
}

// keepRest returns what is left of data behind n. A small rest is copied, so that it does
// not keep the whole chunk alive.
func keepRest(data []byte, n int) []byte {
	rest := data[n:]
	if len(rest) < len(data)/2 {
		return slices.Clone(rest)
	}
	return rest
}

// overrun deals with a member that fell off the log's tail. It reports whether the member
// goes on from there; with the policy close it doesn't. The session's mu must be held.
func (sh *shard) overrun(r *room, m *member) bool {
	lost := r.log.lost(m.offset, m.session.accepts)
	m.offset = r.log.tail
	if lost == 0 {
		return true
	}
	r.skipped += lost
	sh.metrics.skipped[skipLogOverrun].Add(float64(lost))
	if sh.close {
		m.session.failLocked(reasonSlow)
		return false
	}
	return true
}

// report adds the tally to the counters.
func (sh *shard) report() {
	t, m := &sh.tally, sh.metrics
	if t.writes > 0 {
		m.writes.Add(float64(t.writes))
		m.writtenBytes.Add(float64(t.bytes))
	}
	if t.frames > 0 {
		m.framesOut.Add(float64(t.frames))
	}
	if t.eagain > 0 {
		m.eagain.Add(float64(t.eagain))
	}
	*t = struct{ writes, bytes, frames, eagain int }{}
}

// admit appends the pushes that waited for space in the room's log.
func (sh *shard) admit(r *room) {
	for len(r.waiting) > 0 && r.takes(r.waiting[0]) {
		p := r.waiting[0]
		r.waiting[0] = nil
		r.waiting = r.waiting[1:]
		r.coming -= uint64(p.n)
		sh.appendPush(r, p)
	}
	if len(r.waiting) == 0 {
		r.waiting, r.behind = nil, false
	}
}

// push appends to the room's log, or has the push wait for space behind those that do.
func (sh *shard) push(r *room, p *pushCommand) {
	if len(r.waiting) > 0 || !r.takes(p) {
		r.waiting = append(r.waiting, p)
		r.coming += uint64(p.n)
	} else {
		sh.appendPush(r, p)
	}
	sh.schedule(r)
}

func (sh *shard) appendPush(r *room, p *pushCommand) {
	defer p.finish(sh)
	if p.ctx.Err() != nil && !r.behind {
		return // the caller was told that it failed, and will send it again
	}
	if len(r.members) == 0 {
		return
	}
	r.log.append(p.op, p.batch)
	r.mark(p.trace, sh.now)
	r.log.evict(r.low)
	if p.speed > 0 {
		share := float64(p.speed) * float64(len(r.members)) / float64(max(1, sh.server.sessions.Load()))
		if r.pace == 0 || share < r.pace {
			r.pace = max(share, 0.1)
		}
		r.pacedTo = r.log.head
	}
}

func (sh *shard) addLaggard(s *session) {
	if s.lagging {
		return
	}
	s.lagging = true
	sh.laggards = append(sh.laggards, laggard{s, sh.now().Add(minRetry), minRetry})
	sh.metrics.laggards.Inc()
}

// retryLaggards writes to the sessions whose time has come and drops those that are
// blocked no more, or gone.
func (sh *shard) retryLaggards(now time.Time) {
	if len(sh.laggards) == 0 {
		return
	}
	kept := sh.laggards[:0]
	for _, l := range sh.laggards {
		if l.at.After(now) {
			kept = append(kept, l)
			continue
		}
		if sh.catchUp(l.session) {
			l.session.lagging = false
			sh.metrics.laggards.Dec()
			continue
		}
		l.wait = min(2*l.wait, maxRetry)
		l.at = now.Add(l.wait)
		kept = append(kept, l)
	}
	clear(sh.laggards[len(kept):])
	sh.laggards = kept
	if len(kept) == 0 {
		sh.laggards = nil
	}
	sh.report()
}

// catchUp writes all that a blocked session lacks, and reports whether it is done with.
func (sh *shard) catchUp(s *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out.closed || !s.out.joined {
		return true
	}
	if !s.flushLocked() {
		// What goes out in small pieces must not keep a whole chunk alive.
		if l := s.out.backlog; l != nil && cap(l.rest) > 2*len(l.rest) {
			l.rest = slices.Clone(l.rest)
		}
		return s.out.closed
	}
	done := sh.deliver(&sh.everyone, &sh.everyone.members[s.allIndex])
	if s.room != nil && done && s.out.backlog == nil {
		done = sh.deliver(s.room, &s.room.members[s.roomIndex])
	}
	if !done || s.out.backlog != nil {
		return s.out.closed
	}
	sh.release(&sh.everyone)
	if s.room != nil {
		sh.release(s.room)
	}
	return true
}

// release has a room swept that may be able to let go of what it kept for a session that
// lagged. Where nothing is kept there is nothing to do.
func (sh *shard) release(r *room) {
	if r.log.size > 0 && len(r.members) > 0 {
		sh.schedule(r)
	}
}

// enter makes s a member of ref's room, which exists while it has members.
func (sh *shard) enter(s *session, ref *roomRef) {
	if ref == nil {
		return
	}
	r, ok := sh.rooms[ref]
	if !ok {
		r = &room{ref: ref}
		r.log.limit, r.log.pages = sh.cfg.LogBytes, &sh.pages
		sh.rooms[ref] = r
	}
	s.room, s.roomIndex = r, r.add(s)
}

// exit takes s out of its room, if it is in one.
func (sh *shard) exit(s *session) {
	r := s.room
	if r == nil {
		return
	}
	if moved := r.remove(s.roomIndex); moved != nil {
		moved.roomIndex = s.roomIndex
	}
	s.room = nil
	sh.release(r)
	if len(r.members) == 0 {
		for _, p := range r.waiting {
			p.finish(sh)
		}
		r.waiting = nil
		delete(sh.rooms, r.ref)
	}
}

// setAccepts gives s the operations that it accepts from broadcasts and pushes to keys.
func (sh *shard) setAccepts(s *session, ops []wire.Op) {
	old := s.accepts
	s.accepts = sh.accepts.intern(ops)
	if old != nil {
		sh.accepts.release(old)
	}
}

type delayedRoom struct {
	room *room
	at   time.Time
}

// delayedRooms is a heap, the earliest first.
type delayedRooms []delayedRoom

func (d delayedRooms) Len() int           { return len(d) }
func (d delayedRooms) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d delayedRooms) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *delayedRooms) Push(x any)        { *d = append(*d, x.(delayedRoom)) }
func (d *delayedRooms) Pop() any {
	old := *d
	x := old[len(old)-1]
	old[len(old)-1] = delayedRoom{}
	*d = old[:len(old)-1]
	return x
}
