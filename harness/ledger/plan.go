package ledger

import (
	"fmt"
	"slices"
	"sort"
)

// A Plan is what one stream carried in the end, by the pusher's account.
type Plan struct {
	Stream uint16
	Pushed uint32 // pushes tried: their sequence numbers are Stream.First and the Pushed-1 after it

	// Unknown are the sequence numbers whose fate the pusher doesn't know, since the push
	// failed or timed out. Such a push is not lost when it is missing and not unexpected
	// when it arrives.
	Unknown []uint32
}

// plan is a Plan that was checked, with the unknown numbers sorted.
type plan struct {
	end     uint32 // one past the last sequence number
	unknown []uint32
}

// resolve returns the plans by the streams' position. A stream without a Plan pushed nothing.
func (s *Streams) resolve(plans []Plan) ([]plan, error) {
	resolved := make([]plan, len(s.list))
	for i, st := range s.list {
		resolved[i].end = st.First
	}
	seen := make([]bool, len(s.list))
	for _, p := range plans {
		i := s.position(p.Stream)
		if i < 0 {
			return nil, fmt.Errorf("plan of stream %d: the stream is not declared", p.Stream)
		}
		if seen[i] {
			return nil, fmt.Errorf("plan of stream %d is given twice", p.Stream)
		}
		seen[i] = true
		first := s.list[i].First
		if uint64(first)+uint64(p.Pushed) > MaxSeq {
			return nil, fmt.Errorf("plan of stream %d: %d pushes from sequence number %d run over %d", p.Stream, p.Pushed, first, uint32(MaxSeq))
		}
		r := plan{end: first + p.Pushed, unknown: slices.Clone(p.Unknown)}
		slices.Sort(r.unknown)
		r.unknown = slices.Compact(r.unknown)
		if n := len(r.unknown); n > 0 && (r.unknown[0] < first || r.unknown[n-1] >= r.end) {
			return nil, fmt.Errorf("plan of stream %d: sequence numbers of unknown fate %d to %d lie outside its pushes [%d, %d)",
				p.Stream, r.unknown[0], r.unknown[n-1], first, r.end)
		}
		resolved[i] = r
	}
	return resolved, nil
}

// unknownIn returns the numbers of unknown fate in [from, to).
func (p *plan) unknownIn(from, to uint32) []uint32 {
	if len(p.unknown) == 0 || from >= to {
		return nil
	}
	lo := sort.Search(len(p.unknown), func(i int) bool { return p.unknown[i] >= from })
	hi := sort.Search(len(p.unknown), func(i int) bool { return p.unknown[i] >= to })
	return p.unknown[lo:hi]
}
