package load

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// A Step is a part of a schedule with one rate.
type Step struct {
	Rate float64       // pushes a second
	For  time.Duration // how long
}

// Steps is a schedule of one rate after the other. Each step is a Constant of its own, whose
// first push is due when it begins; the last one goes on without end.
type Steps struct{ steps []step }

// step is a Step and where it begins.
type step struct {
	Constant
	length time.Duration
	start  time.Duration
	first  int // its first push
}

// maxSteps is the most steps of a schedule.
const maxSteps = 1000

// NewSteps returns the schedule of the steps, 1 to 1000 of them, each with a rate of MinRate
// to MaxRate for 1 ms to 24 h.
func NewSteps(list []Step) (Steps, error) {
	if len(list) < 1 || len(list) > maxSteps {
		return Steps{}, &RangeError{"steps", fmt.Sprintf("a list of %d", len(list)), fmt.Sprintf("1 to %d steps", maxSteps)}
	}
	var s Steps
	var start time.Duration
	first := 0
	for i, one := range list {
		if err := checkRate(fmt.Sprintf("steps.%d.rate", i), one.Rate); err != nil {
			return Steps{}, err
		}
		if one.For < time.Millisecond || one.For > maxTime {
			return Steps{}, rangeError(fmt.Sprintf("steps.%d.for", i), one.For, time.Millisecond, maxTime)
		}
		c := Constant{one.Rate}
		s.steps = append(s.steps, step{c, one.For, start, first})
		start += one.For
		first += c.Pushes(one.For)
	}
	return s, nil
}

// Pushes implements Schedule.
func (s Steps) Pushes(length time.Duration) int {
	if length <= 0 {
		return 0
	}
	k := sort.Search(len(s.steps), func(i int) bool { return s.steps[i].start >= length }) - 1
	return s.steps[k].first + s.steps[k].Pushes(length-s.steps[k].start)
}

// At implements Schedule.
func (s Steps) At(i int) time.Duration {
	k := sort.Search(len(s.steps), func(k int) bool { return s.steps[k].first > i }) - 1
	return s.steps[k].start + s.steps[k].At(i-s.steps[k].first)
}

// A Span is a step of a schedule that has an end, and what of it lies before that.
type Span struct {
	Constant
	Start, Length time.Duration
}

// Spans returns the steps of a schedule that is over after length.
func (s Steps) Spans(length time.Duration) (list []Span) {
	for i, one := range s.steps {
		if one.start >= length {
			break
		}
		end := length
		if i+1 < len(s.steps) {
			end = min(end, s.steps[i+1].start)
		}
		list = append(list, Span{one.Constant, one.start, end - one.start})
	}
	return list
}

// Peak implements Schedule.
func (s Steps) Peak() float64 {
	peak := 0.0
	for _, one := range s.steps {
		peak = max(peak, one.rate)
	}
	return peak
}

// String implements Schedule.
func (s Steps) String() string {
	parts := make([]string, len(s.steps))
	for i, one := range s.steps {
		parts[i] = fmt.Sprintf("%v for %v", one.Constant, one.length)
	}
	return strings.Join(parts, ", then ")
}
