package ledger

import (
	"math/rand/v2"
	"testing"
)

// naive keeps, for one client and stream, every sequence number in maps.
type naive struct {
	first, start uint32
	begun        bool // something arrived, or nothing need arrive for it to be owed from first on
	seen         map[uint32]bool
	highest      int64 // of what was received, or -1
	left         bool
	dup, reord   int64
	outside      int64
}

func (n *naive) account(seq uint32) {
	switch {
	case seq < n.first:
		n.outside++
		return
	case !n.begun:
		n.begun, n.start = true, seq
	case n.seen[seq]:
		n.dup++
		return
	}
	n.seen[seq] = true
	if int64(seq) < n.highest {
		n.reord++
	}
	n.highest = max(n.highest, int64(seq))
	n.start = min(n.start, seq)
}

func (n *naive) counts(p Plan) Counts {
	c := Counts{Duplicate: n.dup, Reordered: n.reord}
	c.Unexpected[OutsidePlan] = n.outside
	end := n.first + p.Pushed
	owedTo := end
	if n.left { // up to the last that it received
		owedTo = min(end, uint32(n.highest+1))
	}
	for seq := range n.seen {
		if seq >= end {
			c.Unexpected[OutsidePlan]++
		}
	}
	if !n.begun {
		return c
	}
	unknown := make(map[uint32]bool)
	for _, seq := range p.Unknown {
		unknown[seq] = true
	}
	for seq := n.start; seq < owedTo; seq++ {
		switch {
		case unknown[seq] && n.seen[seq]:
			c.Unknown++
		case unknown[seq]:
		case n.seen[seq]:
			c.Expected++
			c.Delivered++
		default:
			c.Expected++
			c.Lost++
		}
	}
	return c
}

// Random arrivals, with gaps, swaps, duplicates, late joiners and strange numbers: the
// book and a naive model agree on every figure.
func TestBookAgreesWithNaiveModel(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 7))
		list := []Stream{{ID: 3, First: r.Uint32N(5)}, {ID: 1000, First: r.Uint32N(1000), Pushes: 10}, {ID: 40000}}
		streams := mustStreams(t, list...)
		book := NewBook(streams, 0, 0)
		set := mustSubscribe(t, streams, 3, 1000, 40000)
		plans := make([]Plan, len(list))
		for i, s := range list {
			plans[i] = Plan{Stream: s.ID, Pushed: r.Uint32N(30)}
			for seq := range plans[i].Pushed {
				if r.IntN(6) == 0 {
					plans[i].Unknown = append(plans[i].Unknown, s.First+seq)
				}
			}
			if r.IntN(3) == 0 {
				streams.Start(s.ID)
			}
		}
		clients := 1 + r.IntN(3)
		models := make([][]*naive, clients)
		var past [][]*naive // of clients that left, and may be back
		join := func(c int) {
			models[c] = nil
			for i, s := range list {
				late := streams.running[i].Load()
				models[c] = append(models[c], &naive{first: s.First, start: s.First, begun: !late, seen: make(map[uint32]bool), highest: -1})
			}
		}
		for c := range clients {
			book.Join(book.Add(set, Kind(r.IntN(Kinds))), nil)
			join(c)
			if r.IntN(2) == 0 {
				streams.Start(list[r.IntN(len(list))].ID)
			}
		}
		spread := 1 + r.Uint32N(8)
		at := uint32(0)
		for range r.IntN(200) {
			c, i := r.IntN(clients), r.IntN(len(list))
			if r.IntN(30) == 0 {
				book.Leave(c)
				for _, m := range models[c] {
					m.left = true
				}
				past = append(past, models[c])
				book.Join(c, nil)
				join(c)
			}
			at += r.Uint32N(2)
			seq := list[i].First + at/3 + r.Uint32N(spread)
			if r.IntN(20) == 0 {
				seq = r.Uint32N(40)
			}
			if r.IntN(200) == 0 {
				seq = MaxSeq - r.Uint32N(2)
			}
			before := book.Accepted()
			seen := len(models[c][i].seen)
			book.Account(c, Stamp{Stream: list[i].ID, Seq: seq, Intended: 1}, 5)
			models[c][i].account(seq)
			if got, want := book.Accepted()-before, int64(len(models[c][i].seen)-seen); got != want {
				t.Fatalf("seed %d: accepting %d of stream %d counted %d, want %d", seed, seq, list[i].ID, got, want)
			}
		}
		figures, err := book.count(plans)
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			var want Counts
			for c := range clients {
				want.Add(models[c][i].counts(plans[i]))
			}
			for _, left := range past {
				want.Add(left[i].counts(plans[i]))
			}
			if got := figures[i].Counts; got != want {
				t.Fatalf("seed %d, stream %d from %d, plan %+v:\ngot  %+v\nwant %+v", seed, list[i].ID, list[i].First, plans[i], got, want)
			}
			if want.Expected != want.Delivered+want.Lost {
				t.Fatalf("seed %d: %+v does not balance", seed, want)
			}
		}
	}
}
