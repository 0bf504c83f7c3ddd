package job

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"barrage/server/discovery"
)

// A pace is the speed of a broadcast that is not to go out at once: messages a second over
// the whole cluster, and each comet's part of them.
type pace struct {
	speed  int32
	shares map[*link]int32 // set once, before the first lane gets the record
}

// newPace returns the pace of a broadcast of that speed, nil for at once.
func newPace(speed int32) *pace {
	if speed <= 0 {
		return nil
	}
	return &pace{speed: speed}
}

// divide gives each comet its share.
func (p *pace) divide(to *roster) {
	p.shares = make(map[*link]int32, len(to.links))
	for i, n := range share(p.speed, to.sessions) {
		p.shares[to.links[i]] = n
	}
}

// on returns k's share in messages a second, 0 for at once.
func (p *pace) on(k *link) int32 {
	if p == nil {
		return 0
	}
	return p.shares[k]
}

// unknown is the number of sessions of a comet that doesn't say.
const unknown = -1

// leastPart is the part of the mean that a comet with fewer sessions counts for: the counts
// in discovery are some seconds old, and on a comet that was empty then, and has its share of
// the sessions now, a broadcast shall not crawl.
const leastPart = 10

// sessionsOf returns how many sessions an instance says that it holds.
func sessionsOf(in discovery.Instance) int64 {
	n, err := strconv.ParseInt(in.Metadata["conn_count"], 10, 32)
	if err != nil || n < 0 {
		return unknown
	}
	return n
}

// share divides a speed, in messages a second, over comets by the sessions that they hold,
// so that all of them end at about the same time. A comet that doesn't say how many counts as
// the mean of the others. The shares' sum is the speed; but a share is 1 at least, since 0
// would mean at once, and so the sum is the number of comets where that is more than speed.
func share(speed int32, sessions []int64) []int32 {
	shares := make([]int32, len(sessions))
	if len(sessions) >= int(speed) {
		for i := range shares {
			shares[i] = 1
		}
		return shares
	}
	weights := weigh(sessions)
	var total int64
	order := make([]int, len(weights)) // the lightest first
	for i, w := range weights {
		total += w
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(weights[a], weights[b]) })

	// Those whose share would be less than 1 take 1, and the others divide what is left.
	left := int64(speed)
	for len(order) > 0 && left*weights[order[0]] < total {
		i := order[0]
		shares[i] = 1
		left--
		total -= weights[i]
		order = order[1:]
	}
	// Whole parts first, then one more for the largest remainders.
	remainder := make([]int64, len(weights))
	rest := left
	for _, i := range order {
		whole := left * weights[i] / total
		shares[i], remainder[i] = int32(whole), left*weights[i]%total
		rest -= whole
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(remainder[b], remainder[a]) })
	for _, i := range order[:rest] {
		shares[i]++
	}
	return shares
}

// weigh returns what each comet counts for, 1 to 2^31-1: times a speed it fits into 63 bits.
func weigh(sessions []int64) []int64 {
	var sum, known int64
	for _, n := range sessions {
		if n != unknown {
			sum += n
			known++
		}
	}
	mean := sum / max(1, known)
	weights := make([]int64, len(sessions))
	for i, n := range sessions {
		if n == unknown {
			n = mean
		}
		weights[i] = min(max(n, mean/leastPart, 1), math.MaxInt32)
	}
	return weights
}
