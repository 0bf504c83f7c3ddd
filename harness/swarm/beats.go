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
	rota          // of the slots
	first []int32 // by slot: 1 + the client that was put in last, or 0
	next  []int32 // by client: 1 + the one that was in its slot before it, or 0
}

// beatSlots is how many slots the wheel has: with a period of 4 minutes one is 58 ms.
const beatSlots = 4096

func newBeats(period time.Duration, clients int, now int64) beats {
	if period <= 0 || clients == 0 {
		return beats{}
	}
	return beats{rota: rota{period: period, from: now}, first: make([]int32, beatSlots), next: make([]int32, clients)}
}

// enter puts client i, which joins now for the first time, in its slot. number tells it from
// all others of the swarm.
func (b *beats) enter(i int, number uint64, now int64) {
	if b.first == nil {
		return
	}
	drawn := float64(ledger.Scatter(number)) / (1 << 64)
	passed := float64(now-b.from)/float64(b.period) + drawn
	slot := int64(passed*beatSlots) % beatSlots
	b.next[i] = b.first[slot]
	b.first[slot] = int32(i) + 1
}

// due gives the turns that are due.
func (b *beats) due(now int64, turn func(client int)) {
	b.rota.due(now, beatSlots, func(slot int) {
		for i := b.first[slot]; i > 0; i = b.next[i-1] {
			turn(int(i) - 1)
		}
	})
}

// soonest returns when the next turn of a client is due, or, where none is for a while, when to
// ask again.
func (b *beats) soonest() int64 {
	if b.first == nil {
		return math.MaxInt64
	}
	const ahead = 64
	n := b.turns
	for n < b.turns+ahead && b.first[n%beatSlots] == 0 {
		n++
	}
	return b.at(n, beatSlots)
}
