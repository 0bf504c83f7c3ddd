package ledger

import "slices"

// A span is the sequence numbers from (included) to (excluded).
type span struct{ from, to uint32 }

// gaps are the sequence numbers that a client is missing on a stream: sorted, neither
// empty nor touching each other.
type gaps []span

// take removes seq and says whether it was there.
func (g *gaps) take(seq uint32) bool {
	i, found := slices.BinarySearchFunc(*g, seq, func(s span, seq uint32) int {
		switch {
		case seq < s.from:
			return 1
		case seq >= s.to:
			return -1
		}
		return 0
	})
	if !found {
		return false
	}
	s := (*g)[i]
	switch {
	case s.from+1 == s.to:
		*g = slices.Delete(*g, i, i+1)
	case seq == s.from:
		(*g)[i].from++
	case seq+1 == s.to:
		(*g)[i].to--
	default:
		(*g)[i].to = seq
		*g = slices.Insert(*g, i+1, span{seq + 1, s.to})
	}
	return true
}

// within returns how many missing numbers lie in [from, to).
func (g gaps) within(from, to uint32) (n int64) {
	for _, s := range g {
		if lo, hi := max(s.from, from), min(s.to, to); lo < hi {
			n += int64(hi - lo)
		}
	}
	return n
}

// has says whether seq is missing.
func (g gaps) has(seq uint32) bool { return g.within(seq, seq+1) == 1 }
