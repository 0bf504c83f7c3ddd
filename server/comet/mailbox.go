package comet

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// A command is something for a shard to do, in the order of arrival.
type command interface{ run(*shard) }

// A mailbox is the one way into a shard: a FIFO of commands from any goroutine. What
// concerns sessions is always taken at once, as it is bounded by their number; pushes
// wait until their bytes fit.
type mailbox struct {
	mu    sync.Mutex
	queue []command // mu guards

	wake  chan struct{} // holds a token while there may be something to do
	bell  *bell         // wakes the shard instead, where it waits for its table's input, too
	bytes *semaphore.Weighted
	limit int64
}

func newMailbox(limit int64) *mailbox {
	return &mailbox{
		wake:  make(chan struct{}, 1),
		bytes: semaphore.NewWeighted(limit),
		limit: limit,
	}
}

// put adds a command and never blocks.
func (m *mailbox) put(c command) {
	m.mu.Lock()
	m.queue = append(m.queue, c)
	m.mu.Unlock()
	m.rouse()
}

// rouse wakes the shard, which has something to do that is not in the mailbox.
func (m *mailbox) rouse() {
	if m.bell != nil {
		m.bell.ring()
		return
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// reserve waits until n bytes of pushes fit, first come first served, and returns the
// error of ctx when it ends before. What was reserved must be released.
func (m *mailbox) reserve(ctx context.Context, n int) error {
	return m.bytes.Acquire(ctx, m.weight(n))
}

func (m *mailbox) release(n int) { m.bytes.Release(m.weight(n)) }

// weight bounds what one push can ask for, or a large one would wait for ever.
func (m *mailbox) weight(n int) int64 { return min(int64(n), m.limit) }

// take swaps the queue for spare and returns it.
func (m *mailbox) take(spare []command) []command {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queue
	m.queue = spare[:0]
	return q
}
