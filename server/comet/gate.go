package comet

import (
	"slices"
	"sync"
	"sync/atomic"
)

// A gate lets only so many shards sweep large rooms at a time, where there are many more shards
// than processors: all others would stand between a small room, or a call, and its turn on one.
// A nil gate lets all in.
type gate struct {
	mu      sync.Mutex
	free    int      // mu guards; shards more that may be in
	waiting []*shard // mu guards; first come first served
}

// A pass is a shard's place in a gate. But for granted, it is the shard's.
type pass struct {
	inside  bool
	asked   bool
	granted atomic.Bool // to a shard that has asked
}

// enter reports whether sh is in. If not, it will be roused when its turn has come.
func (g *gate) enter(sh *shard) bool {
	p := &sh.pass
	if g == nil || p.inside {
		return true
	}
	if p.asked {
		if !p.granted.CompareAndSwap(true, false) {
			return false
		}
		p.asked, p.inside = false, true
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.free == 0 {
		p.asked = true
		g.waiting = append(g.waiting, sh)
		return false
	}
	g.free--
	p.inside = true
	return true
}

// leave lets the next shard in instead of sh, if sh is in, or was to be.
func (g *gate) leave(sh *shard) {
	p := &sh.pass
	if g == nil || !p.inside && !(p.asked && p.granted.CompareAndSwap(true, false)) {
		return
	}
	p.inside, p.asked = false, false
	g.mu.Lock()
	if len(g.waiting) == 0 {
		g.waiting = nil
		g.free++
		g.mu.Unlock()
		return
	}
	next := g.waiting[0]
	g.waiting = g.waiting[1:]
	next.pass.granted.Store(true)
	g.mu.Unlock()
	next.mailbox.rouse()
}

// quit is leave for a shard that won't come again.
func (g *gate) quit(sh *shard) {
	if g == nil {
		return
	}
	g.mu.Lock()
	g.waiting = slices.DeleteFunc(g.waiting, func(w *shard) bool { return w == sh })
	g.mu.Unlock()
	g.leave(sh)
}
