package load

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"
)

// must returns what a constructor made.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const (
	us = time.Microsecond
	ms = time.Millisecond
	s  = time.Second
)

// The times are computed by hand from what each schedule says of itself.
func TestTimes(t *testing.T) {
	type times map[int]time.Duration
	type counts map[time.Duration]int
	for _, c := range []struct {
		name     string
		schedule Schedule
		at       times
		pushes   counts
	}{
		{"ten a second", must(NewConstant(10)),
			times{0: 0, 1: 100 * ms, 10: s, 864_000: 24 * time.Hour},
			counts{-1: 0, 0: 0, 1: 1, 100 * ms: 1, 100*ms + 1: 2, s: 10, 24 * time.Hour: 864_000}},
		{"a rate that no nanosecond divides", must(NewConstant(3)),
			times{1: 333_333_333, 2: 666_666_667, 3: s, 240_001: 80_000*s + 333_333_333},
			counts{s: 3, 10 * s: 30}},
		{"a hundred a minute", must(NewConstant(100. / 60)),
			times{1: 600 * ms, 5: 3 * s, 100: 60 * s},
			counts{60 * s: 100, 24 * time.Hour: 144_000}},
		{"one in a minute and a half", must(NewConstant(1. / 90)),
			times{1: 90 * s}, counts{s: 1, 90 * s: 1, 90*s + 1: 2}},
		{"the fastest", must(NewConstant(MaxRate)),
			times{1: 10 * us, 8_640_000_000: 24 * time.Hour}, counts{s: 100_000}},

		// 0 to 10 a second over 10 s: t*t/2 pushes until t.
		{"ramp from nothing", must(NewRamp(0, 10, 10*s)),
			times{0: 0, 1: 1_414_213_562, 2: 2 * s, 8: 4 * s, 18: 6 * s, 32: 8 * s, 50: 10 * s, 51: 10_100 * ms, 60: 11 * s},
			counts{s: 1, 2 * s: 2, 2*s + 1: 3, 10 * s: 50, 10*s + 1: 51, 11 * s: 60}},
		// 10 to 30 a second over 4 s: 10t + 2.5t*t until t.
		{"ramp up", must(NewRamp(10, 30, 4*s)),
			times{1: 97_617_696, 30: 2 * s, 80: 4 * s, 110: 5 * s},
			counts{2 * s: 30, 4 * s: 80, 5 * s: 110}},
		// 30 to 10 over 4 s is the same from behind: push 80-k is due as long before the end.
		{"ramp down", must(NewRamp(30, 10, 4*s)),
			times{0: 0, 50: 2 * s, 79: 4*s - 97_617_696, 80: 4 * s, 90: 5 * s},
			counts{2 * s: 50, 4 * s: 80, 5 * s: 90}},
		{"ramp to nothing", must(NewRamp(10, 0, 10*s)),
			times{0: 0, 18: 2 * s, 32: 4 * s, 42: 6 * s, 48: 8 * s, 49: 10*s - 1_414_213_562, 50: 10 * s, 51: Never, 1000: Never},
			counts{2 * s: 18, 10 * s: 50, 10*s + 1: 51, 24 * time.Hour: 51}},
		{"ramp to nothing whose last push is not at its end", must(NewRamp(1, 0, 3*s)),
			times{0: 0, 1: 3*s - 1_732_050_808, 2: Never}, counts{3 * s: 2, 10 * s: 2}},
		{"ramp that stays", must(NewRamp(4, 4, s)), times{1: 250 * ms, 4: s, 9: 2250 * ms}, counts{s: 4}},

		{"bursts", must(NewBurst(3, 500*ms)),
			times{0: 0, 2: 0, 3: 500 * ms, 5: 500 * ms, 6: s, 3_000_000: 500_000 * s},
			counts{0: 0, 1: 3, 500 * ms: 3, 500*ms + 1: 6, s: 6}},
		{"bursts of one", must(NewBurst(1, s)), times{7: 7 * s}, counts{7 * s: 7}},

		// 5 pushes at 2 a second until 2.5 s, then 3 at 1 a second until 5.5 s, then 4 a second.
		{"steps", must(NewSteps([]Step{{2, 2500 * ms}, {1, 3 * s}, {4, s}})),
			times{0: 0, 4: 2 * s, 5: 2500 * ms, 6: 3500 * ms, 7: 4500 * ms, 8: 5500 * ms, 9: 5750 * ms, 12: 6500 * ms, 20: 8500 * ms},
			counts{2 * s: 4, 2500 * ms: 5, 2500*ms + 1: 6, 5500 * ms: 8, 6500 * ms: 12, 7500 * ms: 16}},
		{"steps of no whole number of pushes", must(NewSteps([]Step{{1, 1500 * ms}, {1, 1500 * ms}})),
			times{1: s, 2: 1500 * ms, 3: 2500 * ms, 4: 3500 * ms}, counts{3 * s: 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, want := range c.at {
				if got := c.schedule.At(i); got != want {
					t.Errorf("push %d is due at %d ns, want %d", i, got, want)
				}
			}
			for length, want := range c.pushes {
				if got := c.schedule.Pushes(length); got != want {
					t.Errorf("%d pushes in %d ns, want %d", got, length, want)
				}
			}
		})
	}
}

// various are schedules of every kind, with rates and times that no nanosecond divides.
func various() map[string]Schedule {
	return map[string]Schedule{
		"constant, slow":          must(NewConstant(0.37)),
		"constant":                must(NewConstant(777.7)),
		"constant, fastest":       must(NewConstant(MaxRate)),
		"ramp up":                 must(NewRamp(3.3, 7001.1, 7*s+13)),
		"ramp up from nothing":    must(NewRamp(0, 1234.5, 11*s+1)),
		"ramp down":               must(NewRamp(7001.1, 3.3, 7*s+13)),
		"ramp down, deep":         must(NewRamp(MaxRate, MinRate, 3*s)),
		"ramp down to nothing":    must(NewRamp(1234.5, 0, 11*s+1)),
		"ramp of fractions":       must(NewRamp(100./60, 0, 300*ms)),
		"ramp, fastest and long":  must(NewRamp(0, MaxRate, 24*time.Hour)),
		"ramp, longest, downward": must(NewRamp(MaxRate, 0, 24*time.Hour)),
		"burst":                   must(NewBurst(17, 333*ms+333)),
		"steps":                   must(NewSteps([]Step{{9.9, 1234567 * us}, {99.9, 7654321 * us}, {0.99, 5 * s}, {1000, 1111111 * us}})),
		"poisson":                 must(NewPoisson(321.1, 30*s, 7)),
	}
}

func TestTimesNeverGoBackwardsAndCountsAgree(t *testing.T) {
	for name, schedule := range various() {
		t.Run(name, func(t *testing.T) {
			last, most := time.Duration(0), 200_000
			for i := range most {
				at := schedule.At(i)
				if at < last {
					t.Fatalf("push %d is due at %d ns, the one before at %d", i, at, last)
				}
				last = at
				// At a push's own time it is not yet counted, and just behind it is.
				if i%97 == 0 && at < Never-1 {
					if before, behind := schedule.Pushes(at), schedule.Pushes(at+1); before > i || behind <= i ||
						before > 0 && schedule.At(before-1) >= at || schedule.At(behind) <= at {
						t.Fatalf("push %d at %d ns: %d are due before it, %d with it", i, at, before, behind)
					}
				}
			}
			// Where the ramps meet what follows, and near the largest numbers.
			for _, i := range []int{8_639_999_990, 4_319_999_990, 4_320_000_000, 1 << 40} {
				last := schedule.At(i)
				for k := range 30 {
					at := schedule.At(i + k)
					if at < last {
						t.Fatalf("push %d is due at %d ns, the one before at %d", i+k, at, last)
					}
					last = at
				}
			}
		})
	}
}

// Streams that take turns have every push of the line exactly once.
func TestPartsCoverEveryPushOnce(t *testing.T) {
	for _, pushes := range []int{0, 1, 2, 5, 6, 7, 100} {
		for _, streams := range []int{1, 2, 3, 6, 7, 200} {
			seen := make([]int, pushes)
			for first := range streams {
				n := Part(pushes, first, streams)
				for seq := range n {
					seen[first+seq*streams]++
				}
				if next := first + n*streams; next < pushes {
					t.Errorf("stream %d of %d ends before push %d of %d", first, streams, next, pushes)
				}
			}
			if slices.ContainsFunc(seen, func(n int) bool { return n != 1 }) {
				t.Errorf("%d pushes over %d streams: %v", pushes, streams, seen)
			}
		}
	}
}

// The bounds are five standard errors, and the seed is fixed.
func TestPoissonIsExponential(t *testing.T) {
	const rate, length = 1000., 1000 * s
	p := must(NewPoisson(rate, length, 1))
	n := p.Pushes(length)
	if want := rate * length.Seconds(); math.Abs(float64(n)-want) > 5*math.Sqrt(want) {
		t.Errorf("%d pushes, about %g are wanted", n, want)
	}
	var sum, squares, products float64
	last, lastGap := 0., 1/rate
	below := 0 // gaps below the median
	for i := range n {
		at := p.At(i).Seconds()
		gap := at - last
		sum += gap
		squares += gap * gap
		products += (gap - 1/rate) * (lastGap - 1/rate)
		if gap < math.Ln2/rate {
			below++
		}
		last, lastGap = at, gap
	}
	root := math.Sqrt(float64(n))
	mean := sum / float64(n)
	if math.Abs(mean*rate-1) > 5/root {
		t.Errorf("mean gap is %g s, want %g", mean, 1/rate)
	}
	// The variance is 1/rate², its standard error sqrt(8/n) of that.
	if variance := squares/float64(n) - mean*mean; math.Abs(variance*rate*rate-1) > 5*math.Sqrt(8)/root {
		t.Errorf("variance is %g, want %g", variance, 1/rate/rate)
	}
	if correlation := products / float64(n) * rate * rate; math.Abs(correlation) > 5/root {
		t.Errorf("gaps follow each other: correlation %g", correlation)
	}
	if part := float64(below) / float64(n); math.Abs(part-0.5) > 5*0.5/root {
		t.Errorf("%g of the gaps are below the median", part)
	}
	// The counts of a second have the variance of a Poisson distribution: their mean.
	var spread float64
	for second := range 1000 {
		from := time.Duration(second) * s
		d := float64(p.Pushes(from+s)-p.Pushes(from)) - rate
		spread += d * d
	}
	if spread /= 1000; math.Abs(spread/rate-1) > 5*math.Sqrt(2./1000) {
		t.Errorf("variance of a second's count is %g, want %g", spread, rate)
	}
}

func TestPoissonIsItsSeed(t *testing.T) {
	a, b, other := must(NewPoisson(100, 10*s, 42)), must(NewPoisson(100, 10*s, 42)), must(NewPoisson(100, 10*s, 43))
	if !slices.Equal(a.times, b.times) {
		t.Error("two schedules of one seed differ")
	}
	if slices.Equal(a.times, other.times) || a.At(0) == other.At(0) {
		t.Error("two schedules of two seeds don't")
	}
	// A longer one begins as the shorter one does.
	long := must(NewPoisson(100, 20*s, 42))
	if n := len(a.times); !slices.Equal(long.times[:n], a.times) || long.At(n) < 10*s {
		t.Error("a longer schedule begins otherwise")
	}
	if n := len(a.times); a.At(n) != Never || a.Pushes(time.Hour) != n || a.At(n-1) >= 10*s {
		t.Errorf("behind its length there is push %d at %s", n, a.At(n))
	}
	// A change of these would make runs with one seed differ between versions.
	if got := []time.Duration{a.At(0), a.At(1), a.At(2)}; !slices.Equal(got, []time.Duration{4_092_247, 25_121_406, 26_027_122}) {
		t.Errorf("the schedule of seed 42 begins with %d", got)
	}
}

func TestWhatAScheduleSays(t *testing.T) {
	for _, c := range []struct {
		schedule Schedule
		text     string
		peak     float64
	}{
		{must(NewConstant(20)), "at 20 a second", 20},
		{must(NewRamp(0, 12.5, 90*s)), "from 0 to 12.5 a second over 1m30s", 12.5},
		{must(NewRamp(40, 12.5, 90*s)), "from 40 to 12.5 a second over 1m30s", 40},
		{must(NewBurst(100, 2*s)), "100 at once every 2s", 50},
		{must(NewSteps([]Step{{10, s}, {20, 2 * s}, {5, s}})), "at 10 a second for 1s, then at 20 a second for 2s, then at 5 a second for 1s", 20},
		{must(NewPoisson(20, s, 1)), "at random times, 20 a second on average", 20},
	} {
		if got := c.schedule.String(); got != c.text || c.schedule.Peak() != c.peak {
			t.Errorf("got %q with a peak of %g, want %q with %g", got, c.schedule.Peak(), c.text, c.peak)
		}
	}
}

func TestArgumentsOutOfRange(t *testing.T) {
	fails := func(_ any, err error) error { return err }
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"constant, too slow", fails(NewConstant(0.001)), "rate: 0.001/s is out of range; accepted: 0.01/s to 100000/s"},
		{"constant, too fast", fails(NewConstant(100_001)), "rate: 100001/s is out of range; accepted: 0.01/s to 100000/s"},
		{"constant, no number", fails(NewConstant(math.NaN())), "rate: NaN/s is out of range; accepted: 0.01/s to 100000/s"},
		{"ramp from below 0", fails(NewRamp(-1, 5, s)), "from: -1/s is out of range; accepted: 0/s, or 0.01/s to 100000/s"},
		{"ramp to infinity", fails(NewRamp(1, math.Inf(1), s)), "to: +Inf/s is out of range; accepted: 0/s, or 0.01/s to 100000/s"},
		{"ramp from 0 to 0", fails(NewRamp(0, 0, s)), "to: 0/s is out of range; accepted: 0.01/s to 100000/s"},
		{"ramp over nothing", fails(NewRamp(1, 2, 0)), "over: 0s is out of range; accepted: 1ms to 24h0m0s"},
		{"burst of nothing", fails(NewBurst(0, s)), "pushes: 0 is out of range; accepted: 1 to 1000000"},
		{"burst without end", fails(NewBurst(1, 0)), "every: 0s is out of range; accepted: 1ms to 24h0m0s"},
		{"burst that is too much", fails(NewBurst(101, ms)), "pushes: 101 is out of range; accepted: 1 to 100"},
		{"no steps", fails(NewSteps(nil)), "steps: a list of 0 is out of range; accepted: 1 to 1000 steps"},
		{"step without a rate", fails(NewSteps([]Step{{1, s}, {0, s}})), "steps.1.rate: 0/s is out of range; accepted: 0.01/s to 100000/s"},
		{"step without a length", fails(NewSteps([]Step{{1, s}, {1, 0}})), "steps.1.for: 0s is out of range; accepted: 1ms to 24h0m0s"},
		{"poisson, too slow", fails(NewPoisson(0, s, 1)), "rate: 0/s is out of range; accepted: 0.01/s to 100000/s"},
		{"poisson, too long", fails(NewPoisson(1, 25*time.Hour, 1)), "length: 25h0m0s is out of range; accepted: 0s to 24h0m0s"},
		{"poisson, too much to draw", fails(NewPoisson(100_000, time.Hour, 1)),
			"rate: 100000/s is out of range; accepted: 0.01/s to 5555/s, since the times of 1h0m0s are drawn before"},

		{"size below a stamp's", fails(NewFixed(15)), "size: 15B is out of range; accepted: 16B to 1048576B"},
		{"size too large", fails(NewFixed(1<<20 + 1)), "size: 1048577B is out of range; accepted: 16B to 1048576B"},
		{"uniform, low", fails(NewUniform(0, 100, 1)), "min: 0B is out of range; accepted: 16B to 1048576B"},
		{"uniform, upside down", fails(NewUniform(100, 99, 1)), "max: 99B is out of range; accepted: 100B to 1048576B"},
		{"exponential, bound too low", fails(NewExponential(17, 19, 1)), "max: 19B is out of range; accepted: 20B to 1048576B"},
		{"exponential, mean too low", fails(NewExponential(16, 1000, 1)), "mean: 16B is out of range; accepted: 17B to 507B"},
		{"exponential, mean too near the bound", fails(NewExponential(508, 1000, 1)), "mean: 508B is out of range; accepted: 17B to 507B"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.err == nil || c.err.Error() != c.want {
				t.Errorf("got %v, want %s", c.err, c.want)
			}
			if !errors.As(c.err, new(*RangeError)) {
				t.Errorf("%T is no RangeError", c.err)
			}
		})
	}
}

func BenchmarkAt(b *testing.B) {
	for name, schedule := range various() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				schedule.At(i)
				i = (i + 37) % 8000
			}
		})
	}
}

// What a drawn schedule costs before the run, and what it holds.
func BenchmarkDrawPoisson(b *testing.B) {
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n = len(must(NewPoisson(1000, 100*s, 1)).times)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/push")
}
