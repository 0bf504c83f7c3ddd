package comet

import (
	"slices"
	"sync/atomic"
	"time"
)

// A trace tells how long the pushes of one call were under way: from logic, which accepted
// them, to the logs of this comet, and from there to the last session that keeps up. It costs
// a shard two stores a call, however many sessions get it. Nil is a trace of nothing.
//
// Its clock is the wall's, as it is held against logic's.
type trace struct {
	metrics  *cometMetrics
	accepted []int64 // by logic, one a push, in Unix nanoseconds, 0 for unknown; constant

	open    atomic.Int32 // shards that have yet to take the pushes, and to write them
	taken   atomic.Int64 // when the last shard took them that holds somebody they are for, 0 for none
	written atomic.Int64 // when the last of these had written them
}

// newTrace returns a trace for pushes that so many shards get, nil where logic didn't say when
// it accepted any of them.
func newTrace(m *cometMetrics, accepted []int64, shards int) *trace {
	if !slices.ContainsFunc(accepted, func(at int64) bool { return at != 0 }) {
		return nil
	}
	t := &trace{metrics: m, accepted: accepted}
	t.open.Store(int32(shards))
	return t
}

// hold says that a shard has somebody to write to, and took the pushes at the time now. It
// comes before this shard's pass, and a write must follow.
func (t *trace) hold(now time.Time) {
	if t != nil {
		t.open.Add(1)
		raise(&t.taken, now.UnixNano())
	}
}

// pass says that a shard has taken the pushes, or has nobody for them.
func (t *trace) pass() {
	if t != nil {
		t.close()
	}
}

// write says that a shard that held the pushes has written them, at the time now.
func (t *trace) write(now time.Time) {
	if t != nil {
		raise(&t.written, now.UnixNano())
		t.close()
	}
}

// close observes how long the writing took when all is done. It is the same for all pushes.
func (t *trace) close() {
	if t.open.Add(-1) > 0 {
		return
	}
	taken := t.taken.Load()
	if taken == 0 {
		return
	}
	took := time.Duration(max(0, t.written.Load()-taken)).Seconds()
	for _, at := range t.accepted {
		if at != 0 {
			t.metrics.untilWritten.Observe(took)
		}
	}
}

// observe notes how old the pushes were when the shards had them. All must have taken them.
func (t *trace) observe() {
	if t == nil {
		return
	}
	taken := t.taken.Load()
	if taken == 0 {
		return // nobody here gets them
	}
	for _, at := range t.accepted {
		if at != 0 {
			// Less than 0 where logic's clock and ours disagree by more than it took.
			t.metrics.untilAccepted.Observe(max(0, time.Duration(taken-at).Seconds()))
		}
	}
}

// raise sets v to at, unless it is later already.
func raise(v *atomic.Int64, at int64) {
	for old := v.Load(); at > old && !v.CompareAndSwap(old, at); old = v.Load() {
		// Another shard was in between.
	}
}

// A mark is where in a room's log a traced call ends.
type mark struct {
	head  uint64 // one past its last frame
	trace *trace
	last  time.Time // of the last slice that wrote some of it to somebody, zero for none
}
