package comet

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A roomRef is a room as the whole comet knows it: its key and how many are online. A
// room that nobody is in has none.
type roomRef struct {
	key     string
	online  atomic.Int32 // sessions on this comet
	parts   []roomPart   // roomRefs.mu guards
	cluster atomic.Int32 // sessions on all comets as logic last said, or unknownCount
}

// A roomPart is how many of a room's sessions a shard has. None has none.
type roomPart struct {
	shard  *shard
	online int32
}

const unknownCount = -1

// count returns what a heartbeat answers: the sessions on all comets, or on this one until
// logic has said.
func (r *roomRef) count() int32 {
	if n := r.cluster.Load(); n != unknownCount {
		return n
	}
	return r.online.Load()
}

// roomRefs finds rooms by their key. It is what joins and leaves count in before their
// command reaches the shard.
type roomRefs struct {
	mu   sync.RWMutex
	refs map[string]*roomRef // mu guards
}

// enter counts one session more, of a shard, in the room.
func (t *roomRefs) enter(key string, sh *shard) *roomRef {
	t.mu.Lock()
	defer t.mu.Unlock()
	ref, ok := t.refs[key]
	if !ok {
		ref = &roomRef{key: key}
		ref.cluster.Store(unknownCount)
		if t.refs == nil {
			t.refs = make(map[string]*roomRef)
		}
		t.refs[key] = ref
	}
	ref.online.Add(1)
	if i := ref.partOf(sh); i < len(ref.parts) {
		ref.parts[i].online++
	} else {
		ref.parts = append(ref.parts, roomPart{sh, 1})
	}
	return ref
}

// partOf returns the index of a shard's part, which is that of the next one where it has none.
// Those who come one behind the other are often of one shard, the latest.
func (r *roomRef) partOf(sh *shard) int {
	for i := len(r.parts) - 1; i >= 0; i-- {
		if r.parts[i].shard == sh {
			return i
		}
	}
	return len(r.parts)
}

// leave counts one session less, of a shard, and forgets the room behind the last.
func (t *roomRefs) leave(ref *roomRef, sh *shard) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, last := ref.partOf(sh), len(ref.parts)-1
	if ref.parts[i].online--; ref.parts[i].online == 0 {
		ref.parts[i] = ref.parts[last]
		ref.parts[last] = roomPart{}
		ref.parts = ref.parts[:last]
	}
	if ref.online.Add(-1) == 0 {
		delete(t.refs, ref.key)
	}
}

// holders returns the room and the shards that have sessions in it, none where nobody is.
func (t *roomRefs) holders(key string) (ref *roomRef, shards []*shard) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	ref = t.refs[key]
	if ref == nil {
		return nil, nil
	}
	shards = make([]*shard, len(ref.parts))
	for i := range ref.parts {
		shards[i] = ref.parts[i].shard
	}
	return ref, shards
}

// counts returns the sessions of every room on this comet.
func (t *roomRefs) counts() map[string]int32 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	m := make(map[string]int32, len(t.refs))
	for key, ref := range t.refs {
		m[key] = ref.online.Load()
	}
	return m
}

// setCluster stores what logic says of all comets. A room that it doesn't know yet keeps
// this comet's own count.
func (t *roomRefs) setCluster(counts map[string]int32) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for key, ref := range t.refs {
		n, ok := counts[key]
		if !ok {
			n = unknownCount
		}
		ref.cluster.Store(n)
	}
}

func (t *roomRefs) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.refs)
}

// A member is a session in a room, with how far it has read the room's log.
type member struct {
	session *session
	offset  uint64
}

// A room is one shard's part of a room: a log of recent frames and the members that read
// it, each at its own offset. A sweep brings the members to the head, one send each, in
// slices from the last member to the first: removal moves the last member into the gap, so
// it only moves members that were visited, and those who join stand at the head already.
// What arrives while a sweep runs is merged into the next one. It is owned by the shard.
type room struct {
	ref     *roomRef // nil for the room of everybody
	log     frameLog
	members []member

	waiting []*pushCommand // pushes for which the log has no space, in order
	coming  uint64         // frames of these
	behind  bool           // members have entered behind some of these, and stand past the log's head
	marks   []mark         // traced calls in the log that no sweep has written yet, in order
	queued  bool           // in the shard's queue of rooms to sweep

	sweep struct {
		next    int    // members below this index are still to be visited; 0 between sweeps
		head    uint64 // of the log when the sweep began
		bytes   uint64 // appended until then
		blocked int    // members that could not be brought to the head
		began   time.Time
		paced   int // members visited since began
	}
	// Every member that is not blocked has all frames before low; unswept bytes are those
	// appended behind it.
	low      uint64
	lowBytes uint64

	pace    float64 // members a second, 0 at once; only for the room of everybody
	pacedTo uint64  // offset at which pace ends

	skipped      uint64 // frames that members fell behind
	skippedSaid  uint64
	skippedLogAt time.Time
}

// unswept is the number of bytes that members who keep up have yet to get.
func (r *room) unswept() int { return int(r.log.appended - r.lowBytes) }

// takes reports whether p can be appended without taking the log away from members that
// keep up: when not, the push waits, and with it job and Kafka. A push with a speed also
// waits for the sweep that runs, which it would slow down.
func (r *room) takes(p *pushCommand) bool {
	if len(r.members) == 0 {
		return true
	}
	if p.speed > 0 && r.pace == 0 && r.low < r.log.head {
		return false
	}
	u := r.unswept()
	return u == 0 || u+len(p.batch) <= r.log.limit/2
}

// needsSweep reports whether somebody may lack frames.
func (r *room) needsSweep() bool {
	return r.sweep.next > 0 || r.low < r.log.head || len(r.waiting) > 0
}

// begin starts a sweep at the last member.
func (r *room) begin(now time.Time) {
	r.sweep.next = len(r.members)
	r.sweep.head = r.log.head
	r.sweep.bytes = r.log.appended
	r.sweep.blocked = 0
	r.sweep.paced = 0
	r.sweep.began = now
}

// finish ends a sweep: every member that isn't blocked has what there was at its
// beginning, and if none is blocked the log before that is of no more use.
func (r *room) finish(log *slog.Logger, now time.Time) {
	r.low, r.lowBytes = r.sweep.head, r.sweep.bytes
	r.written(now)
	if r.sweep.blocked == 0 {
		r.log.trim(r.low)
	} else {
		r.log.evict(r.low)
	}
	r.log.forget()
	if r.low >= r.pacedTo {
		r.pace = 0
	}
	if r.skipped > r.skippedSaid && now.Sub(r.skippedLogAt) > 10*time.Second {
		key := "*"
		if r.ref != nil {
			key = r.ref.key
		}
		log.Warn("slow sessions missed frames", "room", key, "frames", r.skipped-r.skippedSaid, "total", r.skipped)
		r.skippedSaid, r.skippedLogAt = r.skipped, now
	}
}

// mark has t told when what is in the log now has been written.
func (r *room) mark(t *trace, now func() time.Time) {
	if t != nil {
		t.hold(now())
		r.marks = append(r.marks, mark{head: r.log.head, trace: t})
	}
}

// wrote notes that a slice of a sweep has written what lies behind offset to somebody.
func (r *room) wrote(offset uint64, now func() time.Time) {
	if len(r.marks) == 0 || r.marks[len(r.marks)-1].head <= offset {
		return
	}
	at := now()
	for i := range r.marks {
		if r.marks[i].head > offset {
			r.marks[i].last = at
		}
	}
}

// written tells the traces of what lies before low when it was last written: those who had
// it already when the sweep began were visited by it too.
func (r *room) written(now time.Time) {
	n := 0
	for n < len(r.marks) && r.marks[n].head <= r.low {
		if r.marks[n].last.IsZero() {
			r.marks[n].last = now // to nobody but those who lag
		}
		r.marks[n].trace.write(r.marks[n].last)
		n++
	}
	if n == len(r.marks) {
		r.marks = nil
		return
	}
	clear(r.marks[:n])
	r.marks = r.marks[n:]
}

// chunk returns what the member has to be sent next.
func (r *room) chunk(m *member) *chunk {
	var set *acceptSet
	if r.log.tagged {
		set = m.session.accepts
	}
	return r.log.chunk(m.offset, set, m.session.websocket)
}

// add appends a member who gets what is pushed from now on, and not what waits, and returns its
// index.
func (r *room) add(s *session) int32 {
	r.members = append(r.members, member{s, r.log.head + r.coming})
	r.behind = r.behind || r.coming > 0
	return int32(len(r.members) - 1)
}

// remove takes out the member at index and returns the session that moved into its place,
// or nil.
func (r *room) remove(index int32) (moved *session) {
	last := len(r.members) - 1
	if int(index) != last {
		r.members[index] = r.members[last]
		moved = r.members[index].session
	}
	r.members[last] = member{}
	r.members = r.members[:last]
	if r.sweep.next > last {
		// All that remains lies below; the member that moved down had been visited, and
		// visiting it again sends nothing twice, as its offset says.
		r.sweep.next = last
	}
	if cap(r.members) > 64 && len(r.members) < cap(r.members)/4 {
		r.members = append(make([]member, 0, len(r.members)*2), r.members...)
	}
	return moved
}
