package agent

import (
	"sync"
	"time"
)

// An exchange is one question for an agent's time and its answer.
type exchange struct {
	sent     int64 // by the coordinator's clock, as all without another word
	received int64 // by the agent's clock
	answered int64 // by the agent's clock
	returned int64
}

// estimate is what an exchange says of the agent's clock. Each way took no less than
// nothing, so the offset that follows from two equal ways is off by half the round trip at
// most.
func (x exchange) estimate() estimate {
	onTheWay := (x.returned - x.sent) - (x.answered - x.received)
	ahead := (x.received - x.sent) + (x.answered - x.returned)
	return estimate{at: x.returned, offset: time.Duration(ahead / 2), err: time.Duration(max(0, onTheWay)+1) / 2}
}

// An estimate is where an agent's clock stood.
type estimate struct {
	at     int64
	offset time.Duration // of the agent's clock, ahead of the coordinator's
	err    time.Duration // the true offset is at most this far away
}

// later is e as it holds at another time: two clocks drift apart.
func (e estimate) later(at int64) estimate {
	e.err += time.Duration(float64(max(0, at-e.at)) * maxDrift)
	e.at = at
	return e
}

// maxDrift is how fast two clocks are taken to part at most: a quartz is wrong by up to
// 100 parts in a million. A pair that does worse is found out by the next exchange.
const maxDrift = 200e-6

// A clock follows the offset of an agent's clock.
type clock struct {
	mu    sync.Mutex // guards all
	first estimate
	last  estimate // the newest of all
	best  estimate // the one that corrects the agent's arrivals
	worst time.Duration
	taken int
}

// take enters an estimate. It replaces the best one where it is the narrower by now, or
// contradicts it.
func (c *clock) take(e estimate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = e
	c.taken++
	if c.taken == 1 {
		c.first, c.best, c.worst = e, e, e.err
		return
	}
	held := c.best.later(e.at)
	c.worst = max(c.worst, held.err)
	switch apart := (e.offset - held.offset).Abs(); {
	case apart > e.err+held.err: // faster than maxDrift, or a jump
		c.worst = max(c.worst, apart+e.err)
		c.best = e
	case e.err <= held.err:
		c.best = e
	}
}

// correction is what the agent adds to its clock.
func (c *clock) correction() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return -c.best.offset
}

// forget has worst count from now on.
func (c *clock) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.worst = c.best.err
}

// state returns what was found out so far.
func (c *clock) state() Clock {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Clock{Offset: c.best.offset, Error: c.worst}
	if took := c.last.at - c.first.at; took > 0 {
		s.Drift = float64(c.last.offset-c.first.offset) / float64(took)
	}
	return s
}

// Clock is how an agent's clock stood to the coordinator's while pushes were under way.
type Clock struct {
	Offset time.Duration // how far it was ahead, at last; every arrival was corrected by it
	Error  time.Duration // a latency is off by this much at most
	Drift  float64       // seconds a second by which it went away, from the first estimate to the last
}
