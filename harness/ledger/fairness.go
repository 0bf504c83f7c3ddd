package ledger

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/aclements/go-moremath/stats"
)

// Fairness says how unequally clients wait, and whether it is always the same ones that
// wait longest. Chance alone makes some client the slowest; one that is slow for a reason
// is slow again. So the pushes are parted into a first and a second half, and the slowest
// clients of the one are held against the slowest of the other.
type Fairness struct {
	Clients int                     // that received something that is measured
	Means   *hdrhistogram.Histogram // the mean latency of each, in nanoseconds

	// The slowest clients over both halves: how many are called slow (one in a hundred, but
	// ten at least; 0 where there are too few clients), their mean latency, and the first of
	// them, slowest first.
	Slow     int
	SlowMean time.Duration
	Slowest  []ClientMean

	Halves *Halves // nil where there is no second half, or too few clients
}

// Halves hold the first half of the pushes against the second, over the clients that
// received something in both.
type Halves struct {
	Clients int
	Slow    int     // how many of them are called slow in a half
	Same    int     // of the slow ones of the first half, those of the second too
	Chance  float64 // what Same would be in the mean if it were chance
	P       float64 // the probability of so many, or more, by chance

	// Again is the mean latency, in the second half, of those that were slow in the first,
	// by the median client's in it: near 1 where their slowness was chance.
	Again float64
	// Correlation is Spearman's, of the clients' ranks in both halves: 0 for none, 1 where
	// the order is the same.
	Correlation float64
}

// Of clients one in slowPart is called slow, but slowLeast at least; of fewer than
// fairClients nothing is said.
const (
	slowPart    = 100
	slowLeast   = 10
	fairClients = 4 * slowLeast
)

func slowOf(clients int) int {
	if clients < fairClients {
		return 0
	}
	return max(slowLeast, clients/slowPart)
}

// Fairness returns how unequally the clients waited, with the slowest of them, most many.
func (r *Report) Fairness(most int) Fairness {
	f := Fairness{Clients: len(r.waits), Means: NewHistogram(), Slow: slowOf(len(r.waits))}
	means := make([]ranked, len(r.waits))
	for i := range r.waits {
		c := &r.waits[i]
		means[i] = ranked{of: i, mean: c.mean(), tie: Scatter(uint64(c.client))}
		Record(f.Means, int64(means[i].mean))
	}
	slices.SortFunc(means, slowestFirst)
	sum := 0.0
	for _, m := range means[:f.Slow] {
		sum += m.mean / float64(f.Slow)
	}
	f.SlowMean = time.Duration(sum)
	for _, m := range means[:min(most, len(means))] {
		c := &r.waits[m.of]
		f.Slowest = append(f.Slowest, ClientMean{c.client, c.halves[0].count() + c.halves[1].count(), time.Duration(m.mean)})
	}
	f.Halves = r.halves()
	return f
}

// A ranked is a client that is to be put in order.
type ranked struct {
	of   int // position in the list that it is from
	mean float64
	// tie decides between equal means, another way in each list: an order of the clients'
	// numbers would make the same ones slow in both halves.
	tie uint64
}

func slowestFirst(a, b ranked) int {
	return cmp.Or(cmp.Compare(b.mean, a.mean), cmp.Compare(a.tie, b.tie), cmp.Compare(a.of, b.of))
}

// Scatter returns a number like a random one, for each n another (splitmix64's finish).
func Scatter(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

func (r *Report) halves() *Halves {
	var lists [2][]ranked
	for i := range r.waits {
		c := &r.waits[i]
		if c.halves[0].count() == 0 || c.halves[1].count() == 0 {
			continue
		}
		n := len(lists[0])
		for k, w := range c.halves {
			tie := Scatter(Scatter(uint64(c.client)) + uint64(k))
			lists[k] = append(lists[k], ranked{of: n, mean: w.sum() / float64(w.count()), tie: tie})
		}
	}
	h := &Halves{Clients: len(lists[0]), Slow: slowOf(len(lists[0]))}
	if h.Slow == 0 {
		return nil
	}
	second := slices.Clone(lists[1]) // by client, as long as lists[1] isn't
	for k := range lists {
		slices.SortFunc(lists[k], slowestFirst)
	}
	slow := make([]bool, h.Clients)
	again := 0.0
	for _, c := range lists[0][:h.Slow] {
		slow[c.of] = true
		again += second[c.of].mean
	}
	for _, c := range lists[1][:h.Slow] {
		if slow[c.of] {
			h.Same++
		}
	}
	if median := lists[1][h.Clients/2].mean; median > 0 {
		h.Again = again / float64(h.Slow) / median
	}
	h.Chance = float64(h.Slow) * float64(h.Slow) / float64(h.Clients)
	dist := stats.HypergeometicDist{N: h.Clients, K: h.Slow, Draws: h.Slow}
	h.P = min(1, max(0, 1-dist.CDF(float64(h.Same-1))))
	h.Correlation = correlation(midRanks(lists[0]), midRanks(lists[1]))
	return h
}

// midRanks returns each client's rank in a sorted list; those with the same mean share the
// middle of their ranks.
func midRanks(list []ranked) []float64 {
	ranks := make([]float64, len(list))
	for from := 0; from < len(list); {
		to := from + 1
		for to < len(list) && list[to].mean == list[from].mean {
			to++
		}
		for _, c := range list[from:to] {
			ranks[c.of] = float64(from+to-1) / 2
		}
		from = to
	}
	return ranks
}

// correlation is Pearson's; of ranks it is Spearman's. Where one list has one value alone
// there is none.
func correlation(a, b []float64) float64 {
	middle := float64(len(a)-1) / 2 // of ranks
	var ab, aa, bb float64
	for i := range a {
		x, y := a[i]-middle, b[i]-middle
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	if aa == 0 || bb == 0 {
		return 0
	}
	return ab / math.Sqrt(aa*bb)
}
