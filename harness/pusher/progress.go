package pusher

import (
	"sort"
	"sync/atomic"
	"time"
)

// A Progress is what became of a schedule's pushes so far. Run counts, and any goroutine
// may read meanwhile. A nil Progress counts nothing.
type Progress struct {
	sent, acknowledged, failed, unknown atomic.Int64
	late                                atomic.Int64 // the most since the last Lag, ns
}

// add counts pushes whose requests began lag after their intended time.
func (p *Progress) add(c Counts, lag int64) {
	if p == nil {
		return
	}
	p.sent.Add(c.Sent)
	p.acknowledged.Add(c.Acknowledged)
	p.failed.Add(c.Failed)
	p.unknown.Add(c.Unknown)
	for most := p.late.Load(); lag > most && !p.late.CompareAndSwap(most, lag); {
		most = p.late.Load()
	}
}

// Counts returns what has an end so far; Intended is left 0, see Due. Its figures are read
// one after the other, so while Run is under way they may differ by the pushes in between.
func (p *Progress) Counts() Counts {
	return Counts{Sent: p.sent.Load(), Acknowledged: p.acknowledged.Load(), Failed: p.failed.Load(), Unknown: p.unknown.Load()}
}

// Lag returns by how much the latest push since the last call of Lag was late, 0 when there
// was none. It is for one reader alone.
func (p *Progress) Lag() time.Duration { return time.Duration(p.late.Swap(0)) }

// Due returns how many pushes of streams the schedule wanted within at of its start.
func Due(streams []Stream, at time.Duration) (n int64) {
	for i := range streams {
		s := &streams[i]
		n += int64(sort.Search(int(s.Pushes), func(seq int) bool { return s.Due(uint32(seq)) > at }))
	}
	return n
}
