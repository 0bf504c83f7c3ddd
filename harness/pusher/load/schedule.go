// Package load says what a line of pushes offers: when each push is due, and how large its
// body is. Both are fixed before the run and depend on the push's number alone, so that a
// run can be repeated and its streams can share a schedule without talking to each other.
package load

import (
	"fmt"
	"math"
	"sort"
	"time"
)

// A Schedule is when the pushes of a line are due, counted from 0. It has no end of its own
// unless its At says so, never goes backwards, and may be used by any number of goroutines.
type Schedule interface {
	// Pushes returns how many pushes are due before length is over: those whose At is less.
	Pushes(length time.Duration) int
	// At returns when push i is due, from the schedule's start and to the nearest
	// nanosecond, or Never.
	At(i int) time.Duration
	// Peak returns the pushes a second where they come fastest, which is what the line's
	// senders must be able to carry. Pushes of a burst and random gaps count by their mean.
	Peak() float64
	// String says it in words that go on behind "pushes are sent": "at 20 a second".
	String() string
}

// Never is when a push is due that a schedule doesn't have.
const Never = time.Duration(math.MaxInt64)

// The rates that a schedule accepts, in pushes a second.
const (
	MinRate = 0.01
	MaxRate = 100_000
)

// The longest time that a schedule accepts for a part of it. Up to it a float64 tells
// nanoseconds apart.
const maxTime = 24 * time.Hour

// Part returns how many of the first pushes of a schedule a stream has that takes each
// step-th of them from first on. It deals out other things in turn as well.
func Part(pushes, first, step int) int {
	return max(0, (pushes-first+step-1)/step)
}

// dueBefore counts the pushes that are due before length; most is more than there can be.
func dueBefore(at func(i int) time.Duration, length time.Duration, most int) int {
	return sort.Search(most, func(i int) bool { return at(i) >= length })
}

// nanoseconds rounds t, in seconds, to the nearest one.
func nanoseconds(t float64) time.Duration {
	if t >= Never.Seconds() {
		return Never
	}
	return time.Duration(math.Round(t * 1e9))
}

// A Constant is a schedule of one rate, whose first push is due at once.
type Constant struct{ rate float64 }

// NewConstant returns the schedule of rate pushes a second, MinRate to MaxRate.
func NewConstant(rate float64) (Constant, error) {
	if err := checkRate("rate", rate); err != nil {
		return Constant{}, err
	}
	return Constant{rate}, nil
}

// Pushes implements Schedule.
func (c Constant) Pushes(length time.Duration) int {
	return dueBefore(c.At, length, int(length.Seconds()*c.rate)+2)
}

// At implements Schedule.
func (c Constant) At(i int) time.Duration { return nanoseconds(float64(i) / c.rate) }

// Peak implements Schedule.
func (c Constant) Peak() float64 { return c.rate }

// String implements Schedule.
func (c Constant) String() string { return fmt.Sprintf("at %g a second", c.rate) }

// A Burst is a schedule of several pushes at the same instant, again and again; the first
// are due at once.
type Burst struct {
	pushes int
	every  time.Duration
}

// maxBurst is the most pushes of one burst.
const maxBurst = 1_000_000

// NewBurst returns the schedule of so many pushes (1 to 1,000,000) every so often (1 ms to
// 24 h). Their mean rate must be one that a Constant could have.
func NewBurst(pushes int, every time.Duration) (Burst, error) {
	if pushes < 1 || pushes > maxBurst {
		return Burst{}, rangeError("pushes", pushes, 1, maxBurst)
	}
	if every < time.Millisecond || every > maxTime {
		return Burst{}, rangeError("every", every, time.Millisecond, maxTime)
	}
	b := Burst{pushes, every}
	if b.Peak() > MaxRate {
		return Burst{}, rangeError("pushes", pushes, 1, int(MaxRate*every.Seconds()))
	}
	return b, nil
}

// Pushes implements Schedule.
func (b Burst) Pushes(length time.Duration) int {
	if length <= 0 {
		return 0
	}
	return int((length-1)/b.every+1) * b.pushes
}

// At implements Schedule.
func (b Burst) At(i int) time.Duration { return time.Duration(i/b.pushes) * b.every }

// Peak implements Schedule: it is the mean.
func (b Burst) Peak() float64 { return float64(b.pushes) / b.every.Seconds() }

// String implements Schedule.
func (b Burst) String() string { return fmt.Sprintf("%d at once every %v", b.pushes, b.every) }
