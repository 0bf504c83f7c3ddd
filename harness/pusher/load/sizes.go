package load

import (
	"fmt"
	"math"
	"math/rand/v2"

	"barrage/harness/ledger"
)

// Sizes are the bytes that the bodies of a line's pushes have, from ledger.BodyMin on. They
// may be used by any number of goroutines.
type Sizes interface {
	// Of returns the size of a push's body, the same whenever it is asked for.
	Of(stream uint16, seq uint32) int
	// Mean returns the mean of all of them.
	Mean() float64
	// Largest returns the most that Of returns.
	Largest() int
	// String says it in words that go on behind "bodies are": "of 64 bytes".
	String() string
}

// MaxBody is the largest size of a body that is accepted, in bytes.
const MaxBody = 1 << 20

// Fixed is one size for all bodies.
type Fixed int

// NewFixed returns the one size, ledger.BodyMin to MaxBody.
func NewFixed(size int) (Fixed, error) {
	return Fixed(size), checkSize("size", size, ledger.BodyMin, MaxBody)
}

// Of implements Sizes.
func (f Fixed) Of(uint16, uint32) int { return int(f) }

// Mean implements Sizes.
func (f Fixed) Mean() float64 { return float64(f) }

// Largest implements Sizes.
func (f Fixed) Largest() int { return int(f) }

// String implements Sizes.
func (f Fixed) String() string { return fmt.Sprintf("of %d bytes", int(f)) }

// Uniform draws sizes that are all as likely.
type Uniform struct {
	min, max int
	seed     uint64
}

// NewUniform draws from min (ledger.BodyMin to MaxBody) to max (min to MaxBody), both
// included.
func NewUniform(min, max int, seed uint64) (Uniform, error) {
	u := Uniform{min, max, seed}
	if err := checkSize("min", min, ledger.BodyMin, MaxBody); err != nil {
		return u, err
	}
	return u, checkSize("max", max, min, MaxBody)
}

// Of implements Sizes.
func (u Uniform) Of(stream uint16, seq uint32) int {
	return u.min + int(drawn(u.seed, stream, seq)*float64(u.max-u.min+1))
}

// Mean implements Sizes.
func (u Uniform) Mean() float64 { return float64(u.min+u.max) / 2 }

// Largest implements Sizes.
func (u Uniform) Largest() int { return u.max }

// String implements Sizes.
func (u Uniform) String() string { return fmt.Sprintf("of %d to %d bytes", u.min, u.max) }

// Exponential draws sizes of which the small ones are many and the large ones few: what is
// above ledger.BodyMin is exponential, cut off at a bound and scaled so that the mean with
// the bound is the one that was asked for.
type Exponential struct {
	mean, max int
	scale     float64 // bytes: the mean that there would be without the bound, less ledger.BodyMin
	below     float64 // the part of the distribution that is below the bound
	seed      uint64
}

// NewExponential draws with a mean and up to max, at most MaxBody. With a bound the mean
// must lie in the lower half of ledger.BodyMin to max.
func NewExponential(mean, max int, seed uint64) (Exponential, error) {
	e := Exponential{mean: mean, max: max, seed: seed}
	if err := checkSize("max", max, ledger.BodyMin+4, MaxBody); err != nil {
		return e, err
	}
	if err := checkSize("mean", mean, ledger.BodyMin+1, (ledger.BodyMin+max-1)/2); err != nil {
		return e, err
	}
	bound := float64(max - ledger.BodyMin)
	e.scale = scaleFor(float64(mean-ledger.BodyMin), bound)
	e.below = -math.Expm1(-bound / e.scale)
	return e, nil
}

// scaleFor returns the scale s of the exponential distribution that has the mean if what is
// above bound is left out, where mean = s - bound/(exp(bound/s)-1). That grows with s, from 0
// towards bound/2.
func scaleFor(mean, bound float64) float64 {
	// Near the middle, where the distribution is all but flat, s grows without end.
	low, high := 0.0, 1e9*bound
	for range 200 { // halves the interval down to one float64
		s := (low + high) / 2
		if s-bound/math.Expm1(bound/s) < mean {
			low = s
		} else {
			high = s
		}
	}
	return high
}

// Of implements Sizes.
func (e Exponential) Of(stream uint16, seq uint32) int {
	u := drawn(e.seed, stream, seq) * e.below
	return min(e.max, ledger.BodyMin+int(math.Round(e.scale*exponential(u))))
}

// Mean implements Sizes.
func (e Exponential) Mean() float64 { return float64(e.mean) }

// Largest implements Sizes.
func (e Exponential) Largest() int { return e.max }

// String implements Sizes.
func (e Exponential) String() string {
	return fmt.Sprintf("of %d to %d bytes, %d on average, most of them small", ledger.BodyMin, e.max, e.mean)
}

// drawn returns the number in [0, 1) that belongs to a push.
func drawn(seed uint64, stream uint16, seq uint32) float64 {
	var p rand.PCG
	p.Seed(seed^sizesStream, uint64(stream)<<32|uint64(seq))
	return unit(p.Uint64())
}

// checkSize returns an error where size, in bytes, is not one from lowest to highest.
func checkSize(field string, size, lowest, highest int) error {
	if size >= lowest && size <= highest {
		return nil
	}
	return rangeError(field, byteCount(size), byteCount(lowest), byteCount(highest))
}
