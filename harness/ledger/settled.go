package ledger

// settled is what clients were owed of a stream before they left it, and what of it they
// did not get.
type settled struct{ owed, missed spans }

// spans is a sum of spans, as a number for each sequence number. It is kept as the
// difference to the number before, so that a span of any length costs two additions; the
// rare spans that run over what the stream was to carry are kept as they are.
type spans struct {
	diff   []int32 // by sequence number - First, one more than the stream's pushes
	beyond []span
}

// settle enters what the cell's client was owed of its stream until now.
func (b *Book) settle(cell uint32, listed int32) {
	next := b.cells[cell]
	if next >= leaving {
		return
	}
	s := &b.streams.list[listed]
	t := &b.tallies[listed].settled
	t.owed.add(span{b.start(cell, s.First), next}, s)
	for _, gap := range b.missing[cell] {
		t.missed.add(gap, s)
	}
	delete(b.missing, cell)
}

func (x *spans) add(a span, s *Stream) {
	end := s.First + s.Pushes
	if a.to > end {
		x.beyond = append(x.beyond, span{max(a.from, end), a.to})
		a.to = end
	}
	if a.from >= a.to {
		return
	}
	if x.diff == nil {
		x.diff = make([]int32, s.Pushes+1)
	}
	x.diff[a.from-s.First]++
	x.diff[a.to-s.First]--
}

// shares is what the numbers of some spans are by a plan.
type shares struct{ known, unknown, outside int64 }

func (x *spans) count(p *plan, first uint32) (n shares) {
	at := int64(0)
	for i, d := range x.diff {
		at += int64(d)
		if at == 0 {
			continue
		}
		switch seq := first + uint32(i); {
		case seq >= p.end:
			n.outside += at
		case len(p.unknownIn(seq, seq+1)) > 0:
			n.unknown += at
		default:
			n.known += at
		}
	}
	for _, a := range x.beyond {
		end := min(max(a.from, p.end), a.to)
		unknown := int64(len(p.unknownIn(a.from, end)))
		n.unknown += unknown
		n.known += int64(end-a.from) - unknown
		n.outside += int64(a.to - end)
	}
	return n
}

// count adds what was settled to out, by what p's pushes became.
func (d *settled) count(p *plan, out *StreamCounts) {
	owed, missed := d.owed.count(p, out.First), d.missed.count(p, out.First)
	out.Expected += owed.known
	out.Delivered += owed.known - missed.known
	out.Lost += missed.known
	out.Unknown += owed.unknown - missed.unknown
	out.Unexpected[OutsidePlan] += owed.outside - missed.outside
}
