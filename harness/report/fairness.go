package report

import (
	"fmt"
	"strings"
)

// Fairness is how unequally the clients waited for what was measured, and whether it is
// always the same ones that wait longest. Slow and stalled clients are not in it. A client
// that leaves and comes back is one.
type Fairness struct {
	Clients int         `json:"clients"` // that received something
	Means   Percentiles `json:"means"`   // of the clients' mean latencies

	// One client in a hundred is called slow, but ten at least; none where they are too few.
	Slow     int          `json:"slow"`
	SlowMean float64      `json:"slow_mean"` // the mean latency of the slow ones
	Slowest  []SlowClient `json:"slowest"`   // the first of them, slowest first

	Halves *FairHalves `json:"halves,omitempty"` // absent where there is no second half, or too few clients
}

// A SlowClient is one of the slowest clients.
type SlowClient struct {
	Client    int     `json:"client"` // its number, from 0
	Transport string  `json:"transport"`
	Room      string  `json:"room"`
	Receipts  int64   `json:"receipts"`
	Mean      float64 `json:"mean"`
}

// FairHalves hold the first half of each stream's pushes against the second, over the
// clients that received something in both.
type FairHalves struct {
	Clients     int     `json:"clients"`
	Slow        int     `json:"slow"`        // how many are called slow in a half
	Same        int     `json:"same"`        // of those slow in the first half, the ones that are in the second too
	Chance      float64 `json:"chance"`      // what Same would be in the mean by chance
	P           float64 `json:"p"`           // the probability of so many, or more, by chance
	Again       float64 `json:"again"`       // the wait in the second half of those slow in the first, by its median client's
	Correlation float64 `json:"correlation"` // Spearman's, of the clients' ranks in both halves
}

// fairDoubt is the probability above which it is called chance that the same clients are
// slow.
const fairDoubt = 0.01

// fraction is the part of the slow clients of one half that are so in the other.
func (h *FairHalves) fraction() float64 { return ratio(int64(h.Same), int64(h.Slow)) }

// factor is how much longer the slow clients wait than the median one.
func (f *Fairness) factor() float64 {
	if f.Means.P50 == 0 {
		return 0
	}
	return f.SlowMean / f.Means.P50
}

// answer says whether the slow clients are always the same ones.
func (h *FairHalves) answer() string {
	switch {
	case h.P > fairDoubt:
		return "no more than chance, so not always the same ones"
	case 2*h.Same >= h.Slow:
		return "mostly the same ones"
	default:
		return "more than chance, so some are slow again and again"
	}
}

// lines says it, a sentence each; the last one names some of the slowest clients.
func (f *Fairness) lines() []string {
	if f.Slow == 0 {
		return []string{fmt.Sprintf("%s: too few to call some of them slow", Plural(f.Clients, "client"))}
	}
	list := []string{
		fmt.Sprintf("the slowest %s of %s clients wait %s in the mean, %sx the median client", slowName(f.Slow, f.Clients), count(f.Clients), span(f.SlowMean), digits(f.factor())),
		"whether they are always the same ones can't be told: too few clients received something in both halves of the pushes",
	}
	if h := f.Halves; h != nil {
		list[1] = fmt.Sprintf("%s of the slowest in the first half of the pushes are so in the second (%s by chance), where they wait %sx the median: %s; rank correlation %.2f",
			percent(h.fraction()), percent(h.Chance/float64(h.Slow)), digits(h.Again), h.answer(), h.Correlation)
	}
	var names []string
	for _, c := range f.Slowest[:min(3, len(f.Slowest))] {
		names = append(names, fmt.Sprintf("%s %s", c.name(), span(c.Mean)))
	}
	return append(list, "slowest: "+strings.Join(names, "; "))
}

// slowName is the slow clients as a part of all: 1%, or their number.
func slowName(slow, clients int) string {
	if slow*100 > clients+99 {
		return count(slow)
	}
	return fmt.Sprintf("1%% (%s)", count(slow))
}

func (c *SlowClient) name() string {
	room := ""
	if c.Room != "" {
		room = fmt.Sprintf(", room %q", c.Room)
	}
	return fmt.Sprintf("client %d (%s%s)", c.Client, c.Transport, room)
}

func fairnessFigures() []Figure {
	return []Figure{
		{Name: "fairness.slow", Help: "mean latency of the slowest 1% of clients, by the median client's", Unit: Factor, Better: Less,
			has: func(r *Run) bool { return r.Fairness != nil && r.Fairness.Slow > 0 && r.Fairness.Means.P50 > 0 },
			of:  func(r *Run) float64 { return r.Fairness.factor() }},
		{Name: "fairness.same", Help: "of the slowest 1% of clients in the first half of the pushes, those that are so in the second too; 1% by chance", Unit: Fraction, Better: Less,
			has: func(r *Run) bool { return r.Fairness != nil && r.Fairness.Halves != nil },
			of:  func(r *Run) float64 { return r.Fairness.Halves.fraction() }},
	}
}
