package load

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"time"
)

// A Poisson is a schedule of pushes that come independently of each other, as those of many
// users do: the gaps between them are exponential. All times are drawn before, for a given
// length, and are the same whenever the seed is: 8 bytes a push.
type Poisson struct {
	rate   float64
	length time.Duration
	times  []time.Duration
}

// maxDrawn is the most pushes that a Poisson schedule is drawn for: 160 MB.
const maxDrawn = 20_000_000

// NewPoisson draws the schedule of rate pushes a second, MinRate to MaxRate, for a length of
// up to 24 h and 20,000,000 pushes. It has none behind its length.
func NewPoisson(rate float64, length time.Duration, seed uint64) (*Poisson, error) {
	if length < 0 || length > maxTime {
		return nil, rangeError("length", length, 0, maxTime)
	}
	if err := checkRate("rate", rate); err != nil {
		return nil, err
	}
	if rate*length.Seconds() > maxDrawn {
		err := rangeError("rate", perSecond(rate), perSecond(MinRate), perSecond(math.Floor(maxDrawn/length.Seconds())))
		err.Accepted += fmt.Sprintf(", since the times of %v are drawn before", length)
		return nil, err
	}
	// Room for four standard deviations: it is hardly ever made larger.
	mean := rate * length.Seconds()
	p := &Poisson{rate, length, make([]time.Duration, 0, int(mean+4*math.Sqrt(mean))+1)}
	draw := rand.NewPCG(seed, poissonStream)
	for t := 0.0; ; {
		t += exponential(unit(draw.Uint64())) / rate
		at := nanoseconds(t)
		if at >= length {
			return p, nil
		}
		p.times = append(p.times, at)
	}
}

// The second half of the generators' seeds, so that a schedule and the bodies of one seed
// don't follow each other.
const (
	poissonStream = 0x9E3779B97F4A7C15
	sizesStream   = 0xD1B54A32D192ED03
)

// unit makes a number in [0, 1) of random bits.
func unit(bits uint64) float64 { return float64(bits>>11) / (1 << 53) }

// exponential returns the quantile u of the exponential distribution with the mean 1.
func exponential(u float64) float64 { return -math.Log1p(-u) }

// Pushes implements Schedule.
func (p *Poisson) Pushes(length time.Duration) int {
	return sort.Search(len(p.times), func(i int) bool { return p.times[i] >= length })
}

// At implements Schedule.
func (p *Poisson) At(i int) time.Duration {
	if i >= len(p.times) {
		return Never
	}
	return p.times[i]
}

// Peak implements Schedule: it is the mean.
func (p *Poisson) Peak() float64 { return p.rate }

// String implements Schedule.
func (p *Poisson) String() string {
	return fmt.Sprintf("at random times, %g a second on average", p.rate)
}
