package ledger

import "github.com/HdrHistogram/hdrhistogram-go"

// Disorder is what did not arrive once and in order so far. Unlike Counts it needs no plan,
// so it is known while a run goes on, and it can't tell what was lost at a stream's end.
type Disorder struct {
	Duplicate int64 // receipts of what had already arrived
	Reordered int64 // first receipts that came after a later push of the same stream
	Missing   int64 // pushes that a client jumped over and has not received since
}

// Add adds o to d.
func (d *Disorder) Add(o Disorder) {
	d.Duplicate += o.Duplicate
	d.Reordered += o.Reordered
	d.Missing += o.Missing
}

// Disorder returns the book's figures so far.
func (b *Book) Disorder() Disorder { return b.disorder }

// liveTotals are any number of liveCounts added up.
type liveTotals [len(liveCounts{})]int64

func (t *liveTotals) add(c *liveCounts) {
	for i, n := range c {
		t[i] += int64(n)
	}
}

// addTo adds the counts to h, each at the middle of its bucket.
func (t *liveTotals) addTo(h *hdrhistogram.Histogram) {
	for i, n := range t {
		recordLive(h, i, n)
	}
}
