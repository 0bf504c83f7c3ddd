package ledger

import "slices"

// A crowd is clients that have received the same run of pushes within a time that is nothing
// beside their latencies. The run is entered once for all of them, by the last one's arrival:
// of a thousand pushes that each of a million clients reads at once, that is one of ten
// million passes over them where it would be a thousand million.
type crowd struct {
	clients int64 // how many; 0 where there is no crowd
	tally   *tally
	kind    Kind
	run     []Stamp
	sum     int64 // of their intended times behind the first one's
	from    int64 // the first client's arrival
	to      int64 // the last client's
	until   int64 // whoever arrives at or after it is of another crowd
}

const (
	// crowdTime is how much later than the first of a crowd the last one may arrive, as a part
	// of the shortest of their latencies: less than half of a histogram's bucket.
	crowdTime = 1 << 12
	// crowdLeast is the shortest latency of which that is time enough for another client.
	crowdLeast = 10_000 * crowdTime
	// crowdMost bounds a run, so that its sums fit in a wait.
	crowdMost = 4096
	// crowdRun is how many pushes are worth it.
	crowdRun = 8
)

// holds says whether a client that received run at arrival is one of the crowd.
func (c *crowd) holds(t *tally, kind Kind, run []Stamp, arrival int64) bool {
	last := len(run) - 1
	return c.clients > 0 && t == c.tally && kind == c.kind && len(run) == len(c.run) &&
		run[0] == c.run[0] && run[last] == c.run[last] && arrival >= c.to && arrival < c.until
}

// gather begins a crowd, of nobody yet, and says whether it's worth one.
func (c *crowd) gather(t *tally, kind Kind, run []Stamp, arrival int64) bool {
	if len(run) < crowdRun || int64(run[0].Seq-t.first)+int64(len(run)) > int64(len(t.receipts)) {
		return false
	}
	first, last, sum := run[0].Intended, run[0].Intended, int64(0)
	for i := range run {
		at := run[i].Intended
		sum += at - run[0].Intended
		first, last = min(first, at), max(last, at)
	}
	shortest := arrival - last
	if shortest < crowdLeast || arrival+shortest/crowdTime-first > LatencyHighest {
		return false
	}
	*c = crowd{
		tally: t, kind: kind, run: append(slices.Grow(c.run[:0], len(run)), run...), sum: sum,
		from: arrival, to: arrival, until: arrival + shortest/crowdTime,
	}
	return true
}

// join enters a client, and returns the sum of its latencies.
func (c *crowd) join(arrival int64) int64 {
	c.clients++
	c.to = arrival
	return int64(len(c.run))*(arrival-c.run[0].Intended) - c.sum
}

// disperse enters what the crowd received.
func (b *Book) disperse() {
	c := &b.crowd
	if c.clients == 0 {
		return
	}
	t := c.tally
	receipts := t.receipts[c.run[0].Seq-t.first:][:len(c.run)]
	fine, live := t.latency[c.kind], b.live
	for i := range receipts {
		at := c.run[i].Intended
		receipts[i].merge(receipt{at, microseconds(c.from - at), microseconds(c.to - at)})
		if !t.warmUp {
			fine[fineIndex(c.to-at)] += c.clients
			live[liveIndex(c.to-at)] += uint32(c.clients)
		}
	}
	c.clients = 0
}
