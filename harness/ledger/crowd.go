package ledger

// A crowd is clients that received runs of one stream's pushes within so short a time that the
// latencies of all are taken with the last one's arrival. Of each push it is known how many of
// them received it, by where runs begin and end, so the times are entered once for all: of a
// thousand pushes that each of a million clients reads at once, that is a fraction of the
// thousand million steps that it would be otherwise.
type crowd struct {
	tally    *tally
	runs     []int32 // by sequence number - tally.first: runs that begin there, less those that ended before
	low, end int     // where the first run begins, and behind the last one; equal where there is no crowd
	from, to int64   // the first and the last arrival
	until    int64   // whoever arrives at or after it is of another crowd
}

// A crowd is as short as the shortest latency in it makes it, so there are several, by the
// latency: what is fresh of a long run doesn't keep the rest from being entered together.
const (
	// crowdTime is by which part of the shortest of its latencies a client's may be taken too
	// long: less than half of a histogram's bucket.
	crowdTime = 1 << 12
	// crowdLeast is the shortest latency of which that is time enough for another client, and
	// the least of the first crowd. That of each further one is so many times as long.
	crowdLeast = 10_000 * crowdTime
	crowdStep  = 8
	crowdCount = 4
	// crowdMost bounds a run, so that its sums fit in a wait.
	crowdMost = 4096
	// crowdRun is how many pushes are worth it.
	crowdRun = 8
	// crowdStreams is how many streams can have crowds at a time: clients that receive the end of
	// one and the beginning of another would end each other's.
	crowdStreams = 64
)

// crowds are those of the clients of one kind and of one stream.
type crowds [crowdCount]crowd

// crowdsOf returns the crowds of a kind for the stream at a position.
func (b *Book) crowdsOf(kind Kind, listed int32) *crowds {
	c := &b.crowds[kind][listed%crowdStreams]
	if *c == nil {
		*c = new(crowds)
	}
	return *c
}

// of returns the crowd for what the run, which is not empty, begins with, and how much of
// it that is. What is too fresh or too short for any is for none.
func (cs *crowds) of(run Run, arrival int64) (c *crowd, n int) {
	latency, level, least := arrival-run.stamps[0].Intended, 0, int64(crowdLeast)
	if latency < least || run.Len() < crowdRun {
		return nil, run.Len()
	}
	for level < crowdCount-1 && latency >= least*crowdStep {
		level++
		least *= crowdStep
	}
	return &cs[level], run.until(arrival - least)
}

// join enters that a client of the crowd's kind received run at arrival. It enters nothing, and
// says so, where a run is none for a crowd.
func (b *Book) join(c *crowd, t *tally, kind Kind, run Run, arrival int64) bool {
	if c == nil || run.Len() < crowdRun {
		return false
	}
	first, last := run.stamps[0].Intended, run.stamps[run.Len()-1].Intended
	spare := (arrival - last) / crowdTime
	if spare < crowdLeast/crowdTime || arrival+spare-first > LatencyHighest {
		return false
	}
	at := int(run.stamps[0].Seq - t.first)
	if c.tally != t || arrival < c.to || arrival >= c.until {
		b.disperse(c, kind)
		if len(c.runs) <= len(t.receipts) {
			c.runs = make([]int32, len(t.receipts)+1)
		}
		c.tally, c.low, c.end, c.from, c.until = t, at, at, arrival, LatencyHighest+arrival
	}
	c.runs[at]++
	c.runs[at+run.Len()]--
	c.low, c.end = min(c.low, at), max(c.end, at+run.Len())
	c.to, c.until = arrival, min(c.until, arrival+spare)
	return true
}

// disperse enters what a crowd of the kind received.
func (b *Book) disperse(c *crowd, kind Kind) {
	if c.low == c.end {
		return
	}
	t, n := c.tally, int64(0)
	receipts, runs := t.receipts[c.low:c.end], c.runs[c.low:c.end+1]
	fine, live := t.latency[kind], b.live
	for i := range receipts {
		n += int64(runs[i])
		runs[i] = 0
		if n == 0 {
			continue
		}
		r := &receipts[i]
		latency := c.to - r.intended
		r.first, r.last = min(r.first, microseconds(c.from-r.intended)), max(r.last, microseconds(latency))
		if !t.warmUp {
			fine[fineIndex(latency)] += n
			live[liveIndex(latency)] += uint32(n)
		}
	}
	runs[len(receipts)] = 0
	c.end = c.low
}

func (b *Book) disperseAll() {
	for kind := range b.crowds {
		for _, crowds := range b.crowds[kind] {
			if crowds == nil {
				continue
			}
			for level := range crowds {
				b.disperse(&crowds[level], Kind(kind))
			}
		}
	}
}
