package job

import (
	"context"
	"slices"
	"sync"
)

// A lane is one ordered way to a comet. It has at most one batch in flight; what is added
// meanwhile waits in a queue for each target and is merged into that target's next batch.
// Targets take turns in the order in which their oldest record came; one whose records did
// not all fit into its batch goes to the end, so that a busy room does not starve others.
type lane struct {
	limits LaneConfig
	wake   chan struct{} // told that something waits, buffer 1

	mu      sync.Mutex
	life    context.Context // the comet's life that the lane works for; ended or nil: nothing is accepted
	queues  map[target]*queue
	turns   fifo[*queue] // queues that hold records, each once
	parked  int          // queues that wait for an answer about their room
	bytes   int          // size of the records that wait or are in flight
	waiting int          // records that wait or are in flight
	blocked []*partition // paused until bytes has fallen to half of the limit
	free    []*queue     // emptied queues for reuse
}

// A queue holds what waits for one target, oldest first.
type queue struct {
	target  target
	records fifo[*record]
	parked  bool         // not in turns: it is not known whether the comet holds the room
	asked   fifo[uint64] // parked: for each record the number of the question that will say so
}

// maxFree and maxSpare bound the memory that a lane keeps for reuse: queues, and records
// that a kept queue has room for.
const (
	maxFree  = 1024
	maxSpare = 4096
)

func newLane(limits LaneConfig) *lane {
	return &lane{limits: limits, wake: make(chan struct{}, 1), queues: make(map[target]*queue)}
}

// open makes the lane accept records until life ends.
func (l *lane) open(life context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.life = life
}

// add appends r and reports whether the lane took it: a closed lane takes nothing. When
// the lane is full after it, r's partition is blocked until there is room again. A
// question other than 0 parks r: it is not sent before that question is answered.
//
// The lane.add and lane.take pair is the hot path of a job: BenchmarkLane.
func (l *lane) add(r *record, question uint64) bool {
	l.mu.Lock()
	if l.life == nil || l.life.Err() != nil {
		l.mu.Unlock()
		return false
	}
	t := r.target()
	q := l.queues[t]
	if q == nil {
		q = l.newQueue(t)
		if question == 0 {
			l.turns.push(q)
		} else {
			q.parked = true
			l.parked++
		}
	}
	q.records.push(r)
	if q.parked {
		if question != 0 {
			q.asked.push(question)
		} else { // the room is held by now: what was parked goes first
			l.unpark(q)
		}
	}
	l.bytes += r.size
	l.waiting++
	if l.bytes >= l.limits.QueueBytes && !slices.Contains(l.blocked, r.part) {
		r.part.block()
		l.blocked = append(l.blocked, r.part)
	}
	l.mu.Unlock()
	l.signal()
	return true
}

// take moves the next batch into b and reports whether there was one. The records stay
// charged to the lane until finish.
func (l *lane) take(b *batch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.reset()
	if l.turns.len() == 0 {
		return false
	}
	q := l.turns.pop()
	n := l.fitting(q.records.all())
	b.life = l.life
	b.set(q.target, q.records.all()[:n])
	q.records.drop(n)
	if q.records.len() > 0 {
		l.turns.push(q)
	} else {
		l.recycle(q)
	}
	return true
}

// fitting returns how many of the records, from the first, may travel in one call: at
// least one.
func (l *lane) fitting(records []*record) int {
	first := records[0]
	bytes := len(first.frame)
	for i, r := range records[1:] {
		bytes += len(r.frame)
		if i+1 == l.limits.BatchFrames || bytes > l.limits.BatchBytes || !mergeable(first, r) {
			return i + 1
		}
	}
	return len(records)
}

// mergeable reports whether two records of one target can share a call.
func mergeable(a, b *record) bool {
	switch a.kind {
	case kindRoom:
		return true
	case kindPush:
		// One call has one operation for the filter of accepted operations.
		return a.op == b.op && slices.Equal(a.keys, b.keys)
	default:
		return a.op == b.op && a.pace == nil && b.pace == nil
	}
}

// finish takes b's records off the lane's account, after the caller released those that
// are done.
func (l *lane) finish(b *batch) {
	l.mu.Lock()
	l.discharge(b.records)
	l.mu.Unlock()
	b.land()
}

// clear empties the lane and returns what waited, for the caller to release. Batches in
// flight are not touched.
func (l *lane) clear() []*record {
	return l.discard(func(*record) bool { return true })
}

// discard takes out the waiting records that match, and returns them.
func (l *lane) discard(match func(*record) bool) []*record {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*record
	for _, q := range l.queues {
		q.records.keep(func(r *record) bool {
			if match(r) {
				out = append(out, r)
				return false
			}
			return true
		})
		if q.parked {
			// Questions only grow: what is left waits for the last ones, never for too early a one.
			q.asked.drop(q.asked.len() - q.records.len())
		}
	}
	l.turns.keep(func(q *queue) bool { return q.records.len() > 0 })
	for _, q := range l.queues {
		if q.records.len() == 0 {
			l.recycle(q)
		}
	}
	l.discharge(out)
	return out
}

// answer settles parked queues with the answer to the question of that number: rooms that
// the comet holds get their turn; of the others, the records that the question was asked
// for are returned for the caller to release, and later ones stay parked. A nil held means
// that nothing is known: all get their turn.
func (l *lane) answer(question uint64, held map[string]bool) []*record {
	l.mu.Lock()
	if l.parked == 0 {
		l.mu.Unlock()
		return nil
	}
	var unheld []*record
	sent := false
	for _, q := range l.queues {
		switch {
		case !q.parked:
		case held == nil || held[q.target.name]:
			l.unpark(q)
			sent = true
		default:
			n := 0
			for n < q.asked.len() && q.asked.all()[n] <= question {
				n++
			}
			unheld = append(unheld, q.records.all()[:n]...)
			q.records.drop(n)
			q.asked.drop(n)
			if q.records.len() == 0 {
				l.recycle(q)
			}
		}
	}
	l.discharge(unheld)
	l.mu.Unlock()
	if sent {
		l.signal()
	}
	return unheld
}

// load returns the records and bytes that wait or are in flight.
func (l *lane) load() (records, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting, l.bytes
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// discharge takes records off the account and lets partitions go on. mu must be held.
func (l *lane) discharge(records []*record) {
	for _, r := range records {
		l.bytes -= r.size
	}
	l.waiting -= len(records)
	if l.bytes <= l.limits.QueueBytes/2 && len(l.blocked) > 0 {
		for _, p := range l.blocked {
			p.unblock()
		}
		clear(l.blocked)
		l.blocked = l.blocked[:0]
	}
}

// newQueue puts an empty queue under t. mu must be held.
func (l *lane) newQueue(t target) *queue {
	var q *queue
	if n := len(l.free); n > 0 {
		q = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		q = new(queue)
	}
	q.target = t
	l.queues[t] = q
	return q
}

// recycle takes the emptied q away; it is in no turn any more. mu must be held.
func (l *lane) recycle(q *queue) {
	delete(l.queues, q.target)
	if q.parked {
		l.parked--
	}
	*q = queue{records: q.records}
	if len(l.free) < maxFree && cap(q.records.items) <= maxSpare {
		l.free = append(l.free, q)
	}
}

// unpark gives the parked q its turn. mu must be held.
func (l *lane) unpark(q *queue) {
	q.parked, q.asked = false, fifo[uint64]{}
	l.parked--
	l.turns.push(q)
}
