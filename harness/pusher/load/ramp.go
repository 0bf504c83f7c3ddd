package load

import (
	"fmt"
	"math"
	"time"
)

// A Ramp is a schedule whose rate goes evenly from one to another over some time, and then
// stays. Push i is due when the rate's integral reaches i, so the first is due at once.
type Ramp struct {
	from, to float64 // a second
	over     float64 // seconds
	pushes   float64 // of the ramp itself: the integral up to its end
}

// NewRamp returns the schedule that goes from a rate to another over a time of 1 ms to 24 h.
// The rates are 0 or MinRate to MaxRate a second, and not both 0. A ramp to 0 is the
// schedule's end.
func NewRamp(from, to float64, over time.Duration) (Ramp, error) {
	if from == 0 && to == 0 {
		return Ramp{}, checkRate("to", to)
	}
	for _, end := range []struct {
		field string
		rate  float64
	}{{"from", from}, {"to", to}} {
		if end.rate == 0 {
			continue
		}
		if err := checkRate(end.field, end.rate); err != nil {
			err.Accepted = "0/s, or " + err.Accepted
			return Ramp{}, err
		}
	}
	if over < time.Millisecond || over > maxTime {
		return Ramp{}, rangeError("over", over, time.Millisecond, maxTime)
	}
	return Ramp{from, to, over.Seconds(), (from + to) / 2 * over.Seconds()}, nil
}

// Pushes implements Schedule.
func (r Ramp) Pushes(length time.Duration) int {
	return dueBefore(r.At, length, int(length.Seconds()*r.Peak())+2)
}

// At implements Schedule.
func (r Ramp) At(i int) time.Duration {
	// A push that is due at the very end of the ramp may come out a little to either side of
	// it, and where the rate falls to 0 a little is much: within rounding it is the end.
	n := float64(i)
	left := r.pushes - n
	if math.Abs(left) < 1e-13*(1+r.pushes) {
		return nanoseconds(r.over)
	}
	if left < 0 {
		if r.to == 0 {
			return Never
		}
		return nanoseconds(r.over - left/r.to)
	}
	// From its slower end a ramp is a sum of positive terms: nothing cancels out.
	if r.to < r.from {
		return nanoseconds(max(0, r.over-reach(left, r.to, (r.from-r.to)/r.over)))
	}
	return nanoseconds(reach(n, r.from, (r.to-r.from)/r.over))
}

// reach returns the seconds until n pushes are due at a rate that grows by slope a second:
// the t of rate*t + slope*t*t/2 = n.
func reach(n, rate, slope float64) float64 {
	if n == 0 {
		return 0
	}
	return 2 * n / (rate + math.Sqrt(rate*rate+2*slope*n))
}

// Peak implements Schedule.
func (r Ramp) Peak() float64 { return max(r.from, r.to) }

// String implements Schedule.
func (r Ramp) String() string {
	return fmt.Sprintf("from %g to %g a second over %v", r.from, r.to, nanoseconds(r.over))
}
