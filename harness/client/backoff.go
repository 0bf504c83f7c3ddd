package client

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// A Backoff says how long to wait before each attempt to connect, by the formula of gRPC:
// BaseDelay, then Factor times more each time up to MaxDelay, give or take Jitter times it.
type Backoff struct {
	BaseDelay time.Duration
	MaxDelay  time.Duration
	Factor    float64
	Jitter    float64
}

// DefaultBackoff is that of goim's example configuration.
func DefaultBackoff() Backoff {
	return Backoff{BaseDelay: 3 * time.Second, MaxDelay: 300 * time.Second, Factor: 1.8, Jitter: 0.3}
}

// Delay returns the wait after retries attempts that failed since the last that didn't, or
// since a session ended.
func (b Backoff) Delay(retries int) time.Duration {
	return b.delay(retries, rand.Float64())
}

// delay is Delay with a random number in [0, 1).
func (b Backoff) delay(retries int, random float64) time.Duration {
	if retries <= 0 {
		return b.BaseDelay
	}
	wait, most := float64(b.BaseDelay), float64(b.MaxDelay)
	for ; wait < most && retries > 0 && b.Factor > 1; retries-- {
		wait *= b.Factor
	}
	wait = min(wait, most)
	wait *= 1 + b.Jitter*(random*2-1)
	return time.Duration(min(max(wait, 0), 1<<62))
}

// maxJitter is beyond all use.
const maxJitter = 10

func (b Backoff) validate() error {
	switch {
	case b == Backoff{}: // as advised
	case b.BaseDelay <= 0:
		return fmt.Errorf("backoff: BaseDelay is %v, accepted is more than 0", b.BaseDelay)
	case b.MaxDelay < b.BaseDelay:
		return fmt.Errorf("backoff: MaxDelay is %v, accepted is BaseDelay (%v) and more", b.MaxDelay, b.BaseDelay)
	case !(b.Factor >= 1):
		return fmt.Errorf("backoff: Factor is %v, accepted is 1 and more", b.Factor)
	case !(b.Jitter >= 0 && b.Jitter <= maxJitter):
		return fmt.Errorf("backoff: Jitter is %v, accepted is 0 to %v", b.Jitter, maxJitter)
	}
	return nil
}
