package ledger

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Stray is why a push that arrived was not expected.
type Stray uint8

// The reasons. The first two can't be put down to a stream.
const (
	NoStamp       Stray = iota // the body has no stamp
	UnknownStream              // the stream is not declared
	NotSubscribed              // the stream is not one of the client's
	NotJoined                  // the client had not joined yet
	OutsidePlan                // the sequence number was never pushed
	strayReasons
)

// String returns the reason's name as reports show it.
func (s Stray) String() string {
	return [strayReasons]string{"no_stamp", "unknown_stream", "not_subscribed", "not_joined", "outside_plan"}[s]
}

// Strays counts unexpected pushes by reason.
type Strays [strayReasons]int64

// Total returns the sum over all reasons.
func (s Strays) Total() (n int64) {
	for _, v := range s {
		n += v
	}
	return n
}

func (s *Strays) add(o Strays) {
	for i, v := range o {
		s[i] += v
	}
}

// Counts are the exact figures of a stream, or of several. Expected is always
// Delivered + Lost.
type Counts struct {
	Expected   int64  // receipts that are owed: pushes of known fate times clients, from where each client started
	Delivered  int64  // of those, the ones that arrived
	Lost       int64  // and the ones that did not
	Duplicate  int64  // receipts of what had already arrived
	Reordered  int64  // first receipts that came after a later push of the same stream
	Unknown    int64  // first receipts of pushes of unknown fate: in none of the figures above
	Leftover   int64  // receipts of a stream that the client had asked to leave, before it was told that it has: in none of them either
	Unexpected Strays // receipts that no plan accounts for
}

// Add adds o to c.
func (c *Counts) Add(o Counts) {
	c.Expected += o.Expected
	c.Delivered += o.Delivered
	c.Lost += o.Lost
	c.Duplicate += o.Duplicate
	c.Reordered += o.Reordered
	c.Unknown += o.Unknown
	c.Leftover += o.Leftover
	c.Unexpected.add(o.Unexpected)
}

// String returns the figures in one line.
func (c Counts) String() string {
	return fmt.Sprintf("expected %d, delivered %d, lost %d, duplicate %d, reordered %d, unknown %d, unexpected %d",
		c.Expected, c.Delivered, c.Lost, c.Duplicate, c.Reordered, c.Unknown, c.Unexpected.Total())
}

// StreamCounts are the figures of one stream.
type StreamCounts struct {
	Stream
	Counts
}

// A Report is what one or more Books add up to.
type Report struct {
	Streams []StreamCounts // in the order in which the streams were declared
	Strays  Strays         // pushes that belong to no declared stream

	// Latency is arrival minus intended time, in nanoseconds, of every first receipt on
	// streams that are not warm-up; nil for a kind without clients.
	Latency [Kinds]*hdrhistogram.Histogram

	// Groups is the same by Stream.Group, over all kinds.
	Groups []*hdrhistogram.Histogram

	receipts [][]receipt  // by stream
	waits    []clientWait // of the clients that received something that is measured, in any order
}

// Total returns the figures of all streams together, strays included.
func (r *Report) Total() Counts {
	total := Counts{Unexpected: r.Strays}
	for _, s := range r.Streams {
		total.Add(s.Counts)
	}
	return total
}

// Measured returns the figures of the streams that are not warm-up.
func (r *Report) Measured() (c Counts) {
	for _, s := range r.Streams {
		if !s.WarmUp {
			c.Add(s.Counts)
		}
	}
	return c
}

// AllLatency returns one histogram over all kinds.
func (r *Report) AllLatency() *hdrhistogram.Histogram {
	all := NewHistogram()
	for _, h := range r.Latency {
		if h != nil {
			all.Merge(h)
		}
	}
	return all
}

// Receipts returns when the pushes of a stream first and last arrived anywhere, in the
// order of their sequence numbers, without those that never did.
func (r *Report) Receipts(stream uint16) []Receipt {
	var list []Receipt
	for i, s := range r.Streams {
		if s.ID != stream {
			continue
		}
		for k, e := range r.receipts[i] {
			if e.intended != 0 {
				list = append(list, Receipt{
					Stream: stream, Seq: s.First + uint32(k), Intended: e.intended,
					First: time.Duration(e.first) * time.Microsecond, Last: time.Duration(e.last) * time.Microsecond,
				})
			}
		}
	}
	return list
}

// LastReceipt returns a histogram of the time from a push's intended time to its last
// client's receipt, one value a push, in nanoseconds, over the streams that are not
// warm-up. A push that some client lost counts with the clients that got it.
func (r *Report) LastReceipt() *hdrhistogram.Histogram {
	return r.perPush(func(e receipt) int64 { return int64(e.last) * 1000 })
}

// FirstReceipt is LastReceipt for the first client.
func (r *Report) FirstReceipt() *hdrhistogram.Histogram {
	return r.perPush(func(e receipt) int64 { return int64(e.first) * 1000 })
}

// Spread is LastReceipt for the time from the first client's receipt to the last one's.
func (r *Report) Spread() *hdrhistogram.Histogram {
	return r.perPush(func(e receipt) int64 { return int64(e.last-e.first) * 1000 })
}

func (r *Report) perPush(value func(receipt) int64) *hdrhistogram.Histogram {
	h := NewHistogram()
	for i, s := range r.Streams {
		if s.WarmUp {
			continue
		}
		for _, e := range r.receipts[i] {
			if e.intended != 0 {
				Record(h, value(e))
			}
		}
	}
	return h
}

// Merge adds o, a report on other clients over the same streams, to r.
func (r *Report) Merge(o *Report) error {
	if len(r.Streams) != len(o.Streams) {
		return fmt.Errorf("merge reports: one is on %d streams, the other on %d", len(r.Streams), len(o.Streams))
	}
	for i, s := range o.Streams {
		if r.Streams[i].Stream != s.Stream {
			return fmt.Errorf("merge reports: stream %d of one is stream %d of the other", r.Streams[i].ID, s.ID)
		}
	}
	for i, s := range o.Streams {
		r.Streams[i].Add(s.Counts)
		for k, e := range o.receipts[i] {
			r.receipts[i][k].merge(e)
		}
	}
	r.Strays.add(o.Strays)
	if len(r.Groups) != len(o.Groups) {
		return fmt.Errorf("merge reports: one has %d groups of streams, the other %d", len(r.Groups), len(o.Groups))
	}
	for g, h := range o.Groups {
		if dropped := r.Groups[g].Merge(h); dropped > 0 {
			return fmt.Errorf("merge reports: %d latencies are out of the histogram's range", dropped)
		}
	}
	r.waits = append(r.waits, o.waits...)
	for k, h := range o.Latency {
		if h == nil {
			continue
		}
		if r.Latency[k] == nil {
			r.Latency[k] = NewHistogram()
		}
		if dropped := r.Latency[k].Merge(h); dropped > 0 {
			return fmt.Errorf("merge reports: %d latencies are out of the histogram's range", dropped)
		}
	}
	return nil
}

// Count returns what the book's clients received of plans so far: the cheap part of
// Report, to find out whether everything is there.
func (b *Book) Count(plans []Plan) (Counts, error) {
	streams, err := b.count(plans)
	if err != nil {
		return Counts{}, err
	}
	total := Counts{Unexpected: b.strays}
	for _, s := range streams {
		total.Add(s.Counts)
	}
	return total, nil
}

// Report returns the book's figures, as a copy: the book may go on.
func (b *Book) Report(plans []Plan) (*Report, error) {
	b.disperseAll()
	streams, err := b.count(plans)
	if err != nil {
		return nil, err
	}
	r := &Report{Streams: streams, Strays: b.strays, receipts: make([][]receipt, len(b.tallies)), waits: b.waits()}
	for i := range b.tallies {
		r.receipts[i] = append([]receipt(nil), b.tallies[i].receipts...)
	}
	for _, group := range b.latency {
		all := NewHistogram()
		for k, counts := range group {
			if counts == nil {
				continue
			}
			if r.Latency[k] == nil {
				r.Latency[k] = NewHistogram()
			}
			counts.addTo(r.Latency[k])
			counts.addTo(all)
		}
		r.Groups = append(r.Groups, all)
	}
	return r, nil
}

// count goes over all cells. Of a cell without gaps the figures follow from where it
// started and stands.
func (b *Book) count(plans []Plan) ([]StreamCounts, error) {
	resolved, err := b.streams.resolve(plans)
	if err != nil {
		return nil, err
	}
	out := make([]StreamCounts, len(b.tallies))
	for i := range out {
		t := &b.tallies[i]
		out[i] = StreamCounts{Stream: b.streams.list[i], Counts: Counts{
			Duplicate: t.duplicates, Reordered: t.reordered, Leftover: t.leftovers, Unexpected: t.strays,
		}}
	}
	for _, a := range b.clients {
		for slot, i := range b.sets[a.set>>kindBits].listed {
			b.countCell(a.cell+uint32(slot), &resolved[i], &out[i])
		}
	}
	for i := range out {
		b.tallies[i].settled.count(&resolved[i], &out[i])
	}
	return out, nil
}

func (b *Book) countCell(cell uint32, p *plan, out *StreamCounts) {
	next := b.cells[cell]
	if next >= leaving { // or lateJoin, or notJoined
		return
	}
	start := b.start(cell, out.First)
	missing := b.missing[cell]

	// What lies behind the plan's end was never pushed.
	if from := max(start, p.end); next > from {
		out.Unexpected[OutsidePlan] += int64(next-from) - missing.within(from, next)
	}
	if start >= p.end {
		return
	}
	stand := min(next, p.end)
	arrived := int64(stand-start) - missing.within(start, stand)
	unknown := int64(0)
	for _, seq := range p.unknownIn(start, stand) {
		if !missing.has(seq) {
			unknown++
		}
	}
	expected := int64(p.end-start) - int64(len(p.unknownIn(start, p.end)))
	out.Unknown += unknown
	out.Expected += expected
	out.Delivered += arrived - unknown
	out.Lost += expected - (arrived - unknown)
}
