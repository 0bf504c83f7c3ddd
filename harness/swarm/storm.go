package swarm

import (
	"context"
	"fmt"
	"time"

	"barrage/harness/ledger"
)

// A StormReport is what came of a storm.
type StormReport struct {
	Clients int64         // that lost their connection
	Back    int64         // of them, the ones that had joined again by the end
	Took    time.Duration // from the first loss until the last of them was back, or until the end
}

// Storm takes the connections of a fraction of the well-behaved clients that have joined,
// with a RST or a FIN, and has all of them come back at once, whatever rate Connect had. It
// returns when the last of them is back, or when ctx has ended, which is no error.
func (s *Swarm) Storm(ctx context.Context, fraction float64, reset bool) (StormReport, error) {
	began := ledger.Now()
	var out StormReport
	var stormed []*thread
	for _, t := range s.threads {
		var taken int
		// A thread that is busy with its own storm answers when it is through.
		if err := t.do(ctx, func() { taken = t.storm(fraction, reset) }); err != nil {
			if ctx.Err() != nil {
				break
			}
			return out, fmt.Errorf("storm: %w", err)
		}
		out.Clients += int64(taken)
		stormed = append(stormed, t)
	}
	tick := time.NewTicker(stormPoll)
	defer tick.Stop()
	for {
		out.Back, out.Took = 0, 0
		last := began
		for _, t := range stormed {
			out.Back += t.shared.stormBack.Load()
			last = max(last, t.shared.stormLast.Load())
		}
		if out.Back >= out.Clients {
			out.Took = time.Duration(last - began)
			return out, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			out.Took = time.Duration(ledger.Now() - began)
			return out, nil
		}
	}
}

// stormPoll is how often Storm looks for the last client.
const stormPoll = 10 * time.Millisecond

// storm takes connections and starts new ones, and returns how many.
func (t *thread) storm(fraction float64, reset bool) (n int) {
	t.shared.stormBack.Store(0)
	var out []int
	for i := range t.clients {
		// The same part of every thread, room and transport: the golden section again.
		at := uint32(uint64(t.global(i)) * 2654435769)
		if c := &t.clients[i]; c.state == joined && c.behaviour == WellBehaved && float64(at) < fraction*(1<<32) {
			t.leave(i, reset)
			c.flags |= flagStorm
			out = append(out, i)
		}
	}
	now := ledger.Now()
	for _, i := range out {
		t.connect(i, now)
	}
	return len(out)
}

// backFromStorm records that client i has joined again.
func (t *thread) backFromStorm(c *client, took, now int64) {
	c.flags &^= flagStorm
	ledger.Record(t.stormTime, took)
	t.shared.stormBack.Add(1)
	t.shared.stormLast.Store(now)
}
