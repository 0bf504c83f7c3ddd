package job

import (
	"sync"
	"sync/atomic"
)

// A partition is one assignment of a Kafka partition: it knows which of the records that
// were read from it are still under way, and so how far its offset may be stored. When the
// partition is revoked this value is left behind: records that finish later find it
// revoked and store nothing, and a new assignment starts with a new value.
type partition struct {
	id     int32
	notify func() // tells the reader that something here changed

	revoked  atomic.Bool
	blockers atomic.Int32  // lanes that are too full to take more from it
	flying   atomic.Int32  // batches in flight that hold records of it
	landed   chan struct{} // told when the last of them ends after revoked, buffer 1

	mu    sync.Mutex
	queue fifo[*record] // read and not known to be taken, in offset order
	taken int64         // every record below it was taken by all; -1 before the first

	// Owned by the reader.
	paused bool
	stored int64 // last offset given to the consumer, -1 before the first
	next   int64 // offset expected next, -1 before the first
}

func newPartition(id int32, notify func()) *partition {
	return &partition{id: id, notify: notify, landed: make(chan struct{}, 1), taken: -1, stored: -1, next: -1}
}

// add appends r, the next record read from the partition, with one hold for the caller. r
// is under way until its last hold is released. It returns the records that now are.
func (p *partition) add(r *record) int {
	r.part = p
	r.holds.Store(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.push(r)
	return p.queue.len()
}

// skip says that the record at offset needs no delivery.
func (p *partition) skip(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queue.len() == 0 {
		p.taken = offset + 1
		return
	}
	// It is behind records that are under way: it waits with them, held by nobody.
	p.queue.push(&record{part: p, offset: offset})
}

// advance moves taken over the records at the front that nobody holds any more.
func (p *partition) advance() {
	p.mu.Lock()
	n := 0
	for _, r := range p.queue.all() {
		if r.holds.Load() > 0 {
			break
		}
		p.taken = r.offset + 1
		n++
	}
	p.queue.drop(n)
	p.mu.Unlock()
	if n > 0 {
		p.notify()
	}
}

// progress returns the offset that may be stored, -1 for none yet, and how many records
// are under way.
func (p *partition) progress() (taken int64, underway int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken, p.queue.len()
}

func (p *partition) block() { p.blockers.Add(1) }

func (p *partition) unblock() {
	if p.blockers.Add(-1) == 0 {
		p.notify()
	}
}

func (p *partition) takeOff() { p.flying.Add(1) }

func (p *partition) land() {
	if p.flying.Add(-1) == 0 && p.revoked.Load() {
		select {
		case p.landed <- struct{}{}:
		default:
		}
	}
}

// release gives up one hold on each of the records. It costs one lock for each run of
// records of one partition, and a batch is nearly always one run.
func release(records ...*record) {
	var last *partition
	for _, r := range records {
		if r.holds.Add(-1) > 0 {
			continue
		}
		// Nobody else looks at these again; the record itself waits for its turn in the partition's queue.
		r.frame, r.keys = nil, nil
		if last != nil && last != r.part {
			last.advance()
		}
		last = r.part
	}
	if last != nil {
		last.advance()
	}
}
