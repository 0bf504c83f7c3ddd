package profile

import (
	"math"
	"slices"

	"github.com/aclements/go-moremath/stats"
)

// confidence is the level of every interval, and 1-confidence the part of false ones that
// is accepted among what is called a change.
const confidence = 0.95

// A measure is what several runs say of one cost. A run's value of it is a sample of what
// the version costs, and is itself known only as well as the profiler's samples allow.
type measure struct {
	values []float64 // one a run
	noise  []float64 // the sampling's variance of each
	// event is what a single event costs. One more or less is possible in any case, also
	// where none was seen.
	event float64
}

// mean returns the mean of the runs.
func (m measure) mean() float64 {
	sum := 0.0
	for _, v := range m.values {
		sum += v
	}
	return sum / float64(len(m.values))
}

// variance returns that of the mean, by the runs' spread and by the sampling alone. spread
// is NaN for a single run.
func (m measure) variance() (spread, sampling float64) {
	n := float64(len(m.values))
	sampling = m.event * m.event
	for _, v := range m.noise {
		sampling += v
	}
	sampling /= n * n
	if n < 2 {
		return math.NaN(), sampling
	}
	mean := m.mean()
	for _, v := range m.values {
		spread += (v - mean) * (v - mean)
	}
	return spread / (n - 1) / n, sampling
}

// A Difference is how a cost differs between two sides, per delivery or client.
type Difference struct {
	A     float64 `json:"a"`     // mean of A's runs
	B     float64 `json:"b"`     // mean of B's
	Delta float64 `json:"delta"` // B less A
	// Within is half the width of the interval at 95% around Delta.
	Within float64 `json:"within"`
	// P is how likely so large a difference is where nothing differs.
	P float64 `json:"p"`
	// Changed says that the difference is called one: among all that are, at most one in
	// twenty is expected to be noise (Benjamini and Hochberg's procedure).
	Changed bool `json:"changed"`
}

// difference holds b's runs against a's. With two runs or more on each side it is Welch's
// t-test, where a spread below what sampling alone brings about is taken for that: few runs
// may agree by chance. With a single run on a side the sampling error is all that is known,
// and the interval is the least that there can be.
func (t *test) difference(a, b measure) Difference {
	d := Difference{A: a.mean(), B: b.mean()}
	d.Delta = d.B - d.A
	spreadA, samplingA := a.variance()
	spreadB, samplingB := b.variance()
	variance, quantile, tail := samplingA+samplingB, normalQuantile, normalTail
	if enough(len(a.values), len(b.values)) {
		va, vb := max(spreadA, samplingA), max(spreadB, samplingB)
		variance = va + vb
		// Welch and Satterthwaite's degrees of freedom.
		free := variance * variance / (va*va/float64(len(a.values)-1) + vb*vb/float64(len(b.values)-1))
		if variance > 0 {
			quantile, tail = t.quantile(free), func(x float64) float64 { return stats.TDist{V: free}.CDF(-x) }
		}
	}
	if variance == 0 {
		d.P = 1
		if d.Delta != 0 {
			d.P = 0
		}
		return d
	}
	deviation := math.Sqrt(variance)
	d.Within = quantile * deviation
	d.P = min(1, 2*tail(math.Abs(d.Delta)/deviation))
	return d
}

// enough says whether the runs' own spread can be told on both sides.
func enough(a, b int) bool { return a >= 2 && b >= 2 }

// normalQuantile bounds confidence of a normal distribution, in standard deviations.
const normalQuantile = 1.959963984540054

func normalTail(x float64) float64 { return math.Erfc(x/math.Sqrt2) / 2 }

// A test compares measures. It keeps Student's quantiles, which take a search each, by
// tenths of degrees of freedom.
type test struct{ quantiles map[int]float64 }

func newTest() *test { return &test{quantiles: map[int]float64{}} }

// quantile returns the bound of confidence of Student's t with at most so many degrees of
// freedom.
func (t *test) quantile(free float64) float64 {
	key := int(free * 10)
	if key > 2000 {
		return normalQuantile * (1 + 1/(4*free)) // the series' next term, good to 1e-4 here
	}
	q, ok := t.quantiles[key]
	if !ok {
		q = stats.InvCDF(stats.TDist{V: float64(key) / 10})((1 + confidence) / 2)
		t.quantiles[key] = q
	}
	return q
}

// call marks the changes among differences, so that at most 1-confidence of what is marked
// is expected to be noise however many are looked at.
func call(all []*Difference) {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(x, y *Difference) int {
		switch {
		case x.P < y.P:
			return -1
		case x.P > y.P:
			return 1
		}
		return 0
	})
	last := -1
	for i, d := range sorted {
		if d.P <= (1-confidence)*float64(i+1)/float64(len(sorted)) {
			last = i
		}
	}
	for i, d := range sorted {
		d.Changed = i <= last && d.Delta != 0
	}
}
