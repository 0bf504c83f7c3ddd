// Package gather is group commit: what comes while calls are under way waits in order and
// goes along with the next one. A call carries the more the longer calls take, and with
// nothing under way nothing waits, without a timer or a window to tune. What is not urgent may
// wait for company all the same.
package gather

import (
	"sync"
	"time"
)

// Bounds are what a Group's calls may be. Calls and Items must be above 0.
type Bounds struct {
	Calls int // under way at a time
	Items int // in one call
	Bytes int // in one call, 0 for any; an item above it has a call of its own
	// Linger is how long an item waits for others to fill its call. With 0, which is for what is
	// urgent, no item waits while a call may be made.
	Linger time.Duration
}

// A Group makes calls for items. Its methods may be called from any goroutine. With nothing
// to do it holds no goroutine and no memory to speak of.
type Group[T any] struct {
	bounds Bounds
	size   func(T) int // nil without a bound of bytes
	call   func([]T)

	mu      sync.Mutex
	queue   []T // mu guards; oldest first
	running int // mu guards; calls under way
	calling int // mu guards; items in them
	idle    chan struct{}
	timer   *time.Timer // mu guards; runs while items linger
	late    bool        // mu guards; what is in the queue has lingered
	stopped bool        // mu guards; nothing lingers any more
}

// New returns a Group that has call make the calls: on a goroutine of its own, in the order in
// which the items came, and with no more than the bounds allow. size tells an item's bytes.
func New[T any](b Bounds, size func(T) int, call func([]T)) *Group[T] {
	return &Group[T]{bounds: b, size: size, call: call}
}

// Add hands items over, one behind the other. It never blocks.
func (g *Group[T]) Add(items ...T) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = append(g.queue, items...)
	g.startLocked()
}

// startLocked begins the calls that may be made. mu must be held.
func (g *Group[T]) startLocked() {
	for g.running < g.bounds.Calls && g.dueLocked() {
		g.running++
		go g.work(g.takeLocked())
	}
}

// dueLocked reports whether there are items that need not wait for others. The first of those
// that do starts the time. mu must be held.
func (g *Group[T]) dueLocked() bool {
	if len(g.queue) == 0 {
		return false
	}
	if g.bounds.Linger == 0 || g.stopped || g.late || len(g.queue) >= g.bounds.Items {
		return true
	}
	if g.timer == nil {
		g.timer = time.AfterFunc(g.bounds.Linger, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.timer, g.late = nil, len(g.queue) > 0
			g.startLocked()
		})
	}
	return false
}

// Waiting returns how many items are in no call yet.
func (g *Group[T]) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.queue)
}

// Stop returns when all items are done with, or after wait: then it drops those that are in no
// call yet, and returns how many are not done. Nothing may be added behind it.
func (g *Group[T]) Stop(wait time.Duration) (undone int) {
	g.mu.Lock()
	g.stopped = true
	g.startLocked()
	if g.running == 0 {
		g.mu.Unlock()
		return 0
	}
	idle := make(chan struct{})
	g.idle = idle
	g.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-idle:
		return 0
	case <-timer.C:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	undone = g.calling + len(g.queue)
	g.queue = nil
	return undone
}

func (g *Group[T]) work(items []T) {
	for items != nil {
		g.call(items)
		items = g.next(len(items))
	}
}

// next takes the items of the next call, when that with so many is done; nil when there are none.
func (g *Group[T]) next(done int) []T {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calling -= done
	if g.dueLocked() {
		return g.takeLocked()
	}
	if g.running--; g.running == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
	return nil
}

// takeLocked removes what one call may carry from the queue's front. mu must be held.
func (g *Group[T]) takeLocked() []T {
	n, bytes := 0, 0
	for n < len(g.queue) && n < g.bounds.Items {
		if g.bounds.Bytes > 0 {
			bytes += g.size(g.queue[n])
			if n > 0 && bytes > g.bounds.Bytes {
				break
			}
		}
		n++
	}
	g.calling += n
	items := make([]T, n)
	copy(items, g.queue)
	clear(g.queue[:n])
	if g.queue = g.queue[n:]; len(g.queue) == 0 {
		g.queue, g.late = nil, false
	}
	return items
}
