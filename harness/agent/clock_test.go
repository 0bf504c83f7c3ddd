package agent

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestExchange(t *testing.T) {
	const ms = int64(time.Millisecond)
	for _, c := range []struct {
		name   string
		x      exchange
		offset time.Duration
		err    time.Duration
	}{
		{"equal ways", exchange{sent: 0, received: 101 * ms, answered: 102 * ms, returned: 3 * ms}, 100 * time.Millisecond, time.Millisecond},
		{"all of it on the way there", exchange{sent: 0, received: 102 * ms, answered: 102 * ms, returned: 2 * ms}, 101 * time.Millisecond, time.Millisecond},
		{"a clock behind", exchange{sent: 1000 * ms, received: 1 * ms, answered: 501 * ms, returned: 1502 * ms}, -1000 * time.Millisecond, time.Millisecond},
		{"no way at all", exchange{sent: 5, received: 7, answered: 9, returned: 7}, 2, 0},
	} {
		if e := c.x.estimate(); e.offset != c.offset || e.err != c.err || e.at != c.x.returned {
			t.Errorf("%s: %+v, want %v ± %v", c.name, e, c.offset, c.err)
		}
	}
}

// Whatever the ways and the drift are, the true offset lies within the stated error.
func TestClockHoldsTheTrueOffset(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 7))
		drift := (r.Float64() - 0.5) * 2 * maxDrift
		began := time.Duration(r.Int64N(int64(time.Hour))) - 30*time.Minute
		agents := func(at int64) int64 { return at + int64(began) + int64(drift*float64(at)) }
		var c clock
		at := int64(0)
		for range 200 {
			there, work, back := r.Int64N(2_000_000), r.Int64N(100_000), r.Int64N(2_000_000)
			x := exchange{sent: at, received: agents(at + there), answered: agents(at + there + work), returned: at + there + work + back}
			before := c.best
			c.take(x.estimate())
			truth := time.Duration(agents(x.returned) - x.returned)
			// Half of the drift over the round trip is beyond the model; it is less than 1 us.
			if off := (truth - c.best.offset).Abs(); off > c.best.later(x.returned).err+time.Microsecond || off > c.state().Error+time.Microsecond {
				t.Fatalf("seed %d: the offset is %v, the estimate %+v, stated is %+v, before %+v", seed, truth, c.best, c.state(), before)
			}
			at = x.returned + r.Int64N(int64(time.Second))
		}
		if got := c.state().Drift; got < drift-100e-6 || got > drift+100e-6 {
			t.Errorf("seed %d: drift %g, measured %g", seed, drift, got)
		}
	}
}

// A clock that jumps is followed, and the error says by how much latencies were wrong.
func TestClockThatJumps(t *testing.T) {
	var c clock
	c.take(estimate{at: 0, offset: time.Second, err: 50 * time.Microsecond})
	c.forget()
	c.take(estimate{at: 1e9, offset: time.Second + 30*time.Millisecond, err: 100 * time.Microsecond})
	if got := c.correction(); got != -time.Second-30*time.Millisecond {
		t.Errorf("corrected by %v", got)
	}
	if s := c.state(); s.Error < 30*time.Millisecond || s.Error > 31*time.Millisecond {
		t.Errorf("%+v", s)
	}
	// What lay before the schedule is no latency's business.
	c.forget()
	if s := c.state(); s.Error != 100*time.Microsecond {
		t.Errorf("%+v", s)
	}
	// A wide estimate doesn't replace a narrow one.
	c.take(estimate{at: 2e9, offset: time.Second + 31*time.Millisecond, err: 5 * time.Millisecond})
	if got := c.correction(); got != -time.Second-30*time.Millisecond {
		t.Errorf("corrected by %v", got)
	}
}
