package ledger

import "time"

// A wait sums up how long a client waited for some pushes: in the upper bits the sum of the
// latencies in units of 1.024 us, in the lower ones their number. Both in one word make it
// one addition a receipt, and 8 bytes.
type wait uint64

const (
	waitUnit  = 10 // bits of a nanosecond count that are left out
	waitCount = 21 // bits of the number
	// A word with one of these set takes no more: its mean stays that of the first million
	// receipts, and neither part runs over.
	waitFull = wait(1<<63 | 1<<(waitCount-1))
)

// add enters a latency in [0, LatencyHighest].
func (w *wait) add(ns int64) {
	if *w&waitFull == 0 {
		*w += wait(ns)>>waitUnit<<waitCount | 1
	}
}

// addAll enters n latencies, 4096 at most, whose sum in nanoseconds is known.
func (w *wait) addAll(n, sum int64) {
	if *w&waitFull == 0 {
		// What add leaves out is half a unit each, in the mean.
		*w += wait(max(sum-n<<(waitUnit-1), 0))>>waitUnit<<waitCount | wait(n)
	}
}

func (w wait) count() int64 { return int64(w & (1<<waitCount - 1)) }

// sum returns the time in nanoseconds, taking each latency as the middle of its unit.
func (w wait) sum() float64 {
	return (float64(w>>waitCount) + float64(w.count())/2) * (1 << waitUnit)
}

// A clientWait is how long a client of a Report waited, in the first and in the second half
// of the pushes that were measured.
type clientWait struct {
	client int // by its book, or by Renumber
	halves [2]wait
}

// mean returns the client's mean latency in nanoseconds.
func (c *clientWait) mean() float64 {
	return (c.halves[0].sum() + c.halves[1].sum()) / float64(c.halves[0].count()+c.halves[1].count())
}

// A ClientMean is the mean latency of one client over what it received of the streams that
// are not warm-up.
type ClientMean struct {
	Client   int
	Receipts int64 // that the mean is of: at most about a million a half
	Mean     time.Duration
}

// waits returns the clients that received something that is measured.
func (b *Book) waits() []clientWait {
	list := make([]clientWait, 0, len(b.clients))
	for i := range b.clients {
		if h := b.clients[i].waits; h[0]|h[1] != 0 {
			list = append(list, clientWait{i, h})
		}
	}
	return list
}

// Renumber gives the clients of r, which a Book counts from 0, the numbers by which
// reports of several books, once they are merged, tell them apart.
func (r *Report) Renumber(number func(client int) int) {
	for i := range r.waits {
		r.waits[i].client = number(r.waits[i].client)
	}
}
