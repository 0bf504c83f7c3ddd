package job

import (
	"context"
	"slices"
	"sync"
)

// A lane is one ordered way to a comet. A target has at most one batch in flight; what is
// added meanwhile waits in its queue and is merged into its next batch. Batches of targets
// that wait share a call. Targets take turns in the order in which their oldest record came;
// one whose records did not all fit into its batch goes to the end, so that a busy room does
// not starve others.
type lane struct {
	limits LaneConfig
	wake   chan struct{} // told that something waits, buffer 1

	mu      sync.Mutex
	life    context.Context // the comet's life that the lane works for; ended or nil: nothing is accepted
	queues  map[target]*queue
	turns   fifo[*queue] // queues that hold records and have no batch in flight, each once
	parked  int          // queues that wait for an answer about their room
	bytes   int          // size of the records that wait or are in flight
	waiting int          // records that wait or are in flight
	blocked []*partition // paused until bytes has fallen to half of the limit
	free    []*queue     // emptied queues for reuse
	calls   []*call      // settled calls for reuse
	batches []*batch     // settled batches for reuse
}

// A queue holds what waits for one target, oldest first.
type queue struct {
	target  target
	records fifo[*record]
	away    bool         // not in turns: a batch is in flight
	parked  bool         // not in turns: it is not known whether the comet holds the room
	asked   fifo[uint64] // parked: for each record the number of the question that will say so
}

// What a lane keeps for reuse is bounded: queues, records that a kept queue has room for,
// calls and batches, and the bytes of a batch that is one of many.
const (
	maxFree    = 1024
	maxSpare   = 4096
	maxCalls   = 64
	maxBatches = 256
	maxBytes   = 4096
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

// take returns what to call the comet with next, nil when nothing waits: the batch of the
// next target, and if several are asked for also those behind it that fit into one call. The
// records stay charged to the lane until finish, and a target's next batch waits until then.
func (l *lane) take(several bool) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.turns.len() == 0 {
		return nil
	}
	c := pop(&l.calls)
	c.life = l.life
	frames, bytes := l.limits.BatchFrames, l.limits.BatchBytes
	for l.turns.len() > 0 {
		q := l.turns.front()
		names := 0 // of its target: the first one's have space in a call of any size
		if len(c.batches) > 0 {
			names = q.records.front().names()
		}
		n, size := fitting(q.records.all(), frames, bytes-names)
		if n == 0 {
			if len(c.batches) > 0 {
				break
			}
			n = 1 // larger than a call should be: it travels alone
		}
		l.turns.drop(1)
		b := pop(&l.batches)
		b.set(q, q.records.all()[:n])
		q.records.drop(n)
		q.away = true
		c.batches = append(c.batches, b)
		frames, bytes = frames-n, bytes-names-size
		if !several {
			break
		}
	}
	return c
}

// pop takes a value from those that are kept for reuse, or makes one.
func pop[T any](kept *[]*T) *T {
	n := len(*kept)
	if n == 0 {
		return new(T)
	}
	v := (*kept)[n-1]
	(*kept)[n-1] = nil
	*kept = (*kept)[:n-1]
	return v
}

// fitting returns how many of the records, from the first, may travel together in a call
// that has space for so many frames and bytes, and the bytes of their frames.
func fitting(records []*record, frames, bytes int) (n, size int) {
	for i, r := range records {
		if i == frames || size+len(r.frame) > bytes || i > 0 && !mergeable(records[0], r) {
			return i, size
		}
		size += len(r.frame)
	}
	return len(records), size
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
// are done, and gives b's target its next turn.
func (l *lane) finish(b *batch) {
	b.land()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.discharge(b.records)
	q := b.queue
	q.away = false
	if q.records.len() == 0 {
		l.recycle(q)
	} else {
		l.turns.push(q)
		l.signal()
	}
	b.reset()
	if len(l.batches) == 0 || len(l.batches) < maxBatches && cap(b.buf) <= maxBytes {
		l.batches = append(l.batches, b)
	}
}

// end takes back a call all of whose batches are finished.
func (l *lane) end(c *call) {
	clear(c.batches)
	*c = call{batches: c.batches[:0]}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.calls) < maxCalls {
		l.calls = append(l.calls, c)
	}
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
		if q.records.len() == 0 && !q.away {
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

// recycle takes the emptied q out; it is in no turn any more. mu must be held.
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
