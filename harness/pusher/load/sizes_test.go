package load

import (
	"fmt"
	"math"
	"testing"

	"barrage/harness/ledger"
)

// The bounds are five standard errors, and the seed is fixed.
func TestSizesHaveTheirMeanAndBounds(t *testing.T) {
	const streams, pushes = 20, 20_000
	for _, c := range []struct {
		sizes             Sizes
		smallest, largest int
		mean              float64
	}{
		{must(NewFixed(64)), 64, 64, 64},
		{must(NewUniform(16, 17, 3)), 16, 17, 16.5},
		{must(NewUniform(100, 4095, 3)), 100, 4095, 2097.5},
		{must(NewUniform(ledger.BodyMin, MaxBody, 3)), ledger.BodyMin, MaxBody, (16 + 1<<20) / 2},
		{must(NewExponential(200, 100_000, 3)), 16, 100_000, 200},
		{must(NewExponential(200, 500, 3)), 16, 500, 200},
		{must(NewExponential(257, 500, 3)), 16, 500, 257},
	} {
		t.Run(c.sizes.String(), func(t *testing.T) {
			smallest, largest := math.MaxInt, 0
			var sum, squares, products float64
			last := c.mean
			for stream := range streams {
				for seq := range pushes {
					size := c.sizes.Of(uint16(stream), uint32(seq))
					smallest, largest = min(smallest, size), max(largest, size)
					d := float64(size) - c.mean
					sum += d
					squares += d * d
					products += d * last
					last = d
				}
			}
			n := float64(streams * pushes)
			deviation := math.Sqrt(squares / n)
			// Sizes are whole bytes: where a half is rounded makes a hundredth of one.
			if off := sum / n; math.Abs(off) > 5*deviation/math.Sqrt(n)+0.01 || c.sizes.Mean() != c.mean {
				t.Errorf("mean is off by %g of %g (said to be %g)", off, c.mean, c.sizes.Mean())
			}
			if smallest < c.smallest || largest > c.largest || c.sizes.Largest() != c.largest {
				t.Errorf("sizes are from %d to %d (said to be at most %d), want %d to %d", smallest, largest, c.sizes.Largest(), c.smallest, c.largest)
			}
			if deviation == 0 {
				return
			}
			if correlation := products / squares; math.Abs(correlation) > 5/math.Sqrt(n) {
				t.Errorf("sizes follow each other: correlation %g", correlation)
			}
		})
	}
}

// The exponential's quantiles, from its formula: a part of e^-k is larger than k means.
func TestExponentialSizesHaveTheirTail(t *testing.T) {
	const pushes = 200_000
	e := must(NewExponential(1016, MaxBody, 9))
	for k := range 6 {
		larger := 0
		for seq := range pushes {
			if e.Of(1, uint32(seq)) > 16+k*1000 {
				larger++
			}
		}
		want := math.Exp(-float64(k))
		// Up to half a byte of the first thousand is rounded down to it.
		if got := float64(larger) / pushes; math.Abs(got-want) > 5*math.Sqrt(want*(1-want)/pushes)+0.0006 {
			t.Errorf("%g are larger than %d bytes, want %g", got, 16+k*1000, want)
		}
	}
}

// All values of a small range are as likely.
func TestUniformSizesAreEven(t *testing.T) {
	const pushes = 80_000
	u := must(NewUniform(20, 27, 5))
	var n [8]float64
	for seq := range pushes {
		n[u.Of(0, uint32(seq))-20]++
	}
	square := 0.0
	for _, k := range n {
		square += (k - pushes/8) * (k - pushes/8) / (pushes / 8)
	}
	// With 7 degrees of freedom 1 in a million is above 41.
	if square > 41 {
		t.Errorf("chi-square is %g: %v", square, n)
	}
}

func TestASizeIsItsSeedStreamAndNumber(t *testing.T) {
	a, again, b := must(NewUniform(16, MaxBody, 1)), must(NewUniform(16, MaxBody, 1)), must(NewUniform(16, MaxBody, 2))
	same := 0
	for seq := range uint32(1000) {
		if size := a.Of(7, seq); again.Of(7, seq) != size {
			t.Fatalf("push %d has %d and %d bytes", seq, size, again.Of(7, seq))
		}
		for _, other := range []int{a.Of(8, seq), a.Of(7, seq+1), b.Of(7, seq)} {
			if a.Of(7, seq) == other {
				same++
			}
		}
	}
	if same > 5 {
		t.Errorf("%d of 3000 sizes are those of another seed, stream or number", same)
	}
	// A change of these would make runs with one seed differ between versions.
	if got := fmt.Sprint(a.Of(0, 0), a.Of(0, 1), a.Of(1, 0), b.Of(0, 0)); got != "581362 808329 976793 128077" {
		t.Errorf("the sizes of seeds 1 and 2 begin with %s", got)
	}
}

func TestEveryMeanThatIsAcceptedIsReached(t *testing.T) {
	for _, max := range []int{20, 21, 100, 4096, MaxBody} {
		for _, mean := range []int{ledger.BodyMin + 1, (ledger.BodyMin + max) / 4, (ledger.BodyMin + max - 1) / 2} {
			if mean <= ledger.BodyMin {
				continue
			}
			e := must(NewExponential(mean, max, 1))
			bound := float64(max - ledger.BodyMin)
			if got := 16 + e.scale - bound/math.Expm1(bound/e.scale); math.Abs(got-float64(mean)) > 1e-3 {
				t.Errorf("mean %d up to %d: the scale %g has the mean %g", mean, max, e.scale, got)
			}
		}
	}
}

func BenchmarkSize(b *testing.B) {
	for _, sizes := range []Sizes{must(NewFixed(64)), must(NewUniform(16, 4096, 1)), must(NewExponential(200, 4096, 1))} {
		b.Run(sizes.String(), func(b *testing.B) {
			b.ReportAllocs()
			seq := uint32(0)
			for b.Loop() {
				sizes.Of(3, seq)
				seq++
			}
		})
	}
}
