// Package capacity looks for the highest rate that a scenario still holds: not one lucky
// figure, but a bracket of two rates, each confirmed by repeats, between which the limit
// lies.
package capacity

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
)

// An Outcome is what came of one trial at a rate.
type Outcome int

// The outcomes.
const (
	Held    Outcome = iota // everything expected holds
	Broke                  // something does not
	Unclear                // the harness or the machine may have made the figures: the trial says nothing of the server
)

// String returns the outcome as reports show it.
func (o Outcome) String() string { return [...]string{"held", "broke", "unclear"}[o] }

// A Trial is one run at a rate.
type Trial struct {
	Rate    float64 // pushes a second
	Outcome Outcome
	Reason  string // the first one, where it did not hold
}

// Config is what Search needs.
type Config struct {
	From, To  float64 // the rates to look between, a second
	Precision float64 // the bracket is close enough when its upper end is at most so much above the lower, as a fraction
	Confirm   int     // trials that each end of the bracket must have had, all alike
	Most      int     // trials in all
	// Try runs the scenario at a rate. An error ends the search.
	Try func(ctx context.Context, rate float64) (Trial, error)
}

// A Result is what was found.
type Result struct {
	// Holds is the highest rate below every one that broke at which each trial held, 0 for
	// none. Breaks is the lowest rate above it at which each trial broke, 0 for none: then
	// the range's upper end held, or what is above could not be measured.
	Holds, Breaks float64

	Confirmed bool    // both ends have had their trials, and lie close enough together
	Unclear   float64 // the lowest rate at which no trial said anything, 0 for none
	Trials    []Trial // in their order
}

// unclearTries is how often a rate is tried whose trials are unclear.
const unclearTries = 2

// verdict is what all trials of a rate say together.
type verdict int

const (
	untried verdict = iota
	holds           // each clear trial held
	breaks          // each clear trial broke
	mixed           // they disagree: the rate is within what the trials spread over
	unclear         // there is no clear one, after unclearTries
)

// search is one Search under way.
type search struct {
	cfg    Config
	trials []Trial
}

// Search tries rates until it has a bracket, has used up its trials, or ctx ends; then the
// result is what was found so far, with the error of ctx.
func Search(ctx context.Context, cfg Config) (*Result, error) {
	if cfg.From <= 0 || cfg.To < cfg.From || cfg.Precision <= 0 || cfg.Confirm < 1 || cfg.Most < 1 || cfg.Try == nil {
		return nil, errors.New("capacity: From, To, Precision, Confirm and Most must be positive, To at least From, and Try set")
	}
	s := &search{cfg: cfg}
	for len(s.trials) < cfg.Most {
		rate, more := s.next()
		if !more {
			break
		}
		t, err := cfg.Try(ctx, rate)
		if err != nil {
			return s.result(), fmt.Errorf("try %g a second: %w", rate, err)
		}
		t.Rate = rate
		s.trials = append(s.trials, t)
	}
	return s.result(), nil
}

// rates returns the tried rates, ascending.
func (s *search) rates() []float64 {
	var list []float64
	for _, t := range s.trials {
		list = append(list, t.Rate)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// of returns what the trials of a rate say, and how many clear ones there are.
func (s *search) of(rate float64) (v verdict, clear int) {
	held, broke, dim := 0, 0, 0
	for _, t := range s.trials {
		switch {
		case t.Rate != rate:
		case t.Outcome == Held:
			held++
		case t.Outcome == Broke:
			broke++
		default:
			dim++
		}
	}
	switch {
	case held > 0 && broke > 0:
		return mixed, held + broke
	case held > 0:
		return holds, held
	case broke > 0:
		return breaks, broke
	case dim >= unclearTries:
		return unclear, 0
	}
	return untried, 0
}

// bracket returns the highest rate that holds below all that break, and the lowest that
// breaks above it, with whether it is there because nothing clear was found.
func (s *search) bracket() (low, high float64, dim bool) {
	rates := s.rates()
	for _, r := range rates {
		switch v, _ := s.of(r); {
		case v == breaks && high == 0:
			high, dim = r, false
		case v == unclear && high == 0:
			high, dim = r, true
		}
	}
	for _, r := range rates {
		if v, _ := s.of(r); v == holds && (high == 0 || r < high) {
			low = r
		}
	}
	return low, high, dim
}

// next returns the rate to try next; more is false when the bracket stands.
func (s *search) next() (rate float64, more bool) {
	// A rate whose trials have said nothing yet is tried again first.
	if n := len(s.trials); n > 0 {
		last := s.trials[n-1].Rate
		if v, _ := s.of(last); v == untried {
			return last, true
		}
	}
	low, high, dim := s.bracket()
	switch {
	case len(s.trials) == 0:
		return s.cfg.From, true
	case low == 0:
		return s.downFrom(high)
	}
	if rates := s.rates(); high == 0 && rates[len(rates)-1] < s.cfg.To {
		return min(s.cfg.To, s.round(2*rates[len(rates)-1])), true
	}
	if high > 0 && high > low*(1+s.cfg.Precision) {
		if middle := s.round(math.Sqrt(low * high)); middle > low && middle < high {
			if v, _ := s.of(middle); v == untried {
				return middle, true
			}
			// The trials disagree at the middle: the limit is spread over more than the
			// precision, and the ends stand where they are.
		}
	}
	if _, n := s.of(low); n < s.cfg.Confirm {
		return low, true
	}
	if high > 0 && !dim {
		if _, n := s.of(high); n < s.cfg.Confirm {
			return high, true
		}
	}
	return 0, false
}

// downFrom returns a rate below the lowest that was tried, down to From.
func (s *search) downFrom(high float64) (float64, bool) {
	lowest := s.rates()[0]
	if lowest <= s.cfg.From {
		// From itself does not hold. One more trial tells bad luck from a limit below it.
		v, n := s.of(lowest)
		return lowest, v == breaks && high == lowest && n < s.cfg.Confirm
	}
	return max(s.cfg.From, s.round(lowest/math.Sqrt2)), true
}

// round returns rate with three significant digits, so that a person may read it.
func (s *search) round(rate float64) float64 {
	digits := math.Pow(10, 2-math.Floor(math.Log10(rate)))
	return math.Round(rate*digits) / digits
}

func (s *search) result() *Result {
	low, high, dim := s.bracket()
	r := &Result{Holds: low, Trials: s.trials}
	if dim {
		r.Unclear = high
	} else {
		r.Breaks = high
	}
	_, lowTrials := s.of(low)
	_, highTrials := s.of(high)
	r.Confirmed = low > 0 && high > 0 && !dim && lowTrials >= s.cfg.Confirm && highTrials >= s.cfg.Confirm && high <= low*(1+s.cfg.Precision)
	return r
}
