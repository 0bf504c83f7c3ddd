package swarm

import (
	"math"
	"time"

	"barrage/harness/ledger"
)

// beats say when clients send their heartbeats: the first one within a period of the client's
// joining, drawn by its number so that the clients' are spread evenly however they came, and
// from then on once a period. It is a wheel of one period: a client stays in the slot that it
// is put in. The zero beats have no clients and are never due.
type beats struct {
	period int64
	from   int64   // when slot 0 has its first turn
	turns  int64   // of slots, that were given or missed
	first  []int32 // by slot: 1 + the client that was put in last, or 0
	next   []int32 // by client: 1 + the one that was in its slot before it, or 0
}

// beatSlots is how many slots the wheel has: with a period of 4 minutes one is 58 ms.
const beatSlots = 4096

func newBeats(period time.Duration, clients int, now int64) beats {
	if period <= 0 || clients == 0 {
		return beats{}
	}
	return beats{period: int64(period), from: now, first: make([]int32, beatSlots), next: make([]int32, clients)}
}

// at returns when the wheel's turn number n is due.
func (b *beats) at(n int64) int64 {
	return b.from + int64(float64(b.period)/beatSlots*float64(n))
}

// enter puts client i, which joins now for the first time, in its slot. number tells it from
// all others of the swarm.
func (b *beats) enter(i int, number uint64, now int64) {
	if b.period == 0 {
		return
	}
	drawn := float64(ledger.Scatter(number)) / (1 << 64)
	passed := float64(now-b.from)/float64(b.period) + drawn
	slot := max(int64(passed*beatSlots), b.turns) % beatSlots
	b.next[i] = b.first[slot]
	b.first[slot] = int32(i) + 1
}

// due gives the turns that are due.
func (b *beats) due(now int64, turn func(client int)) {
	if b.period == 0 {
		return
	}
	due := int64(float64(now-b.from)/float64(b.period)*beatSlots) + 1
	// After a stall of more than a period, once a client is enough.
	b.turns = max(b.turns, due-beatSlots)
	for ; b.turns < due; b.turns++ {
		for i := b.first[b.turns%beatSlots]; i > 0; i = b.next[i-1] {
			turn(int(i) - 1)
		}
	}
}

// soonest returns when the next turn of a client is due, or, where none is for a while, when to
// ask again.
func (b *beats) soonest() int64 {
	if b.period == 0 {
		return math.MaxInt64
	}
	const ahead = 64
	n := b.turns
	for n < b.turns+ahead && b.first[n%beatSlots] == 0 {
		n++
	}
	return b.at(n)
}
