package harness

import (
	"math"
	"slices"
	"sort"

	"barrage/harness/ledger"
	"barrage/harness/scenario"
	"barrage/harness/swarm"
)

// A spread deals parts of the clients out, exactly as large as they are to be, and mixed so
// that every room and every group has about the same part of each.
type spread struct {
	clients int
	ends    []int // of each part, in the order of the shuffled clients; the rest is behind the last
	step    int   // coprime to clients, so that i*step mod clients is a permutation
}

// The steps of two spreads, as parts of the clients. Irrational ones, and not each other's
// complement, spread the members of every arithmetic series evenly, and independently.
const (
	transportStep = 0.6180339887 // the golden section
	behaviourStep = 0.4142135624 // the square root of two, less one
)

func newSpread(clients int, by float64, fractions ...float64) spread {
	s := spread{clients: clients, step: 1}
	for step := max(1, int(float64(clients)*by)); step < clients; step++ {
		if gcd(step, clients) == 1 {
			s.step = step
			break
		}
	}
	sum := 0.0
	for _, f := range fractions {
		sum += f
		s.ends = append(s.ends, int(math.Round(float64(clients)*sum)))
	}
	return s
}

// part returns which part client i belongs to, len(ends) for the rest.
func (s spread) part(i int) int {
	at := i * s.step % s.clients
	for k, end := range s.ends {
		if at < end {
			return k
		}
	}
	return len(s.ends)
}

// size returns how many clients part k has.
func (s spread) size(k int) int {
	switch {
	case k == len(s.ends):
		return s.clients - s.ends[k-1]
	case k == 0:
		return s.ends[0]
	}
	return s.ends[k] - s.ends[k-1]
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// The parts of the clients by transport, and by behaviour.
var (
	transportParts = []ledger.Kind{ledger.WebSocket, ledger.WSS, ledger.TCPTLS, ledger.TCP}
	behaviourParts = []swarm.Behaviour{swarm.SlowReader, swarm.Stalled, swarm.Churning, swarm.HalfOpen, swarm.WellBehaved}
)

// A crowd is who the clients are: their transport, behaviour and room.
type crowd struct {
	transports spread
	behaviours spread
	rooms      scenario.Rooms
	roomEnds   []int // with Zipf sizes: one past the last client of each room
}

func newCrowd(c *scenario.Clients) crowd {
	t := c.Transport
	w := crowd{
		transports: newSpread(c.Count, transportStep, t.WebSocket, t.WSS, t.TCPTLS),
		behaviours: newSpread(c.Count, behaviourStep, c.Slow.Fraction, c.Stalled, c.Churn.Fraction, c.HalfOpen.Fraction),
		rooms:      c.Rooms,
	}
	if c.Rooms.Zipf > 0 {
		end := 0
		for _, size := range c.Rooms.Sizes(c.Count) {
			end += size
			w.roomEnds = append(w.roomEnds, end)
		}
	}
	return w
}

func (w *crowd) kind(i int) ledger.Kind { return transportParts[w.transports.part(i)] }

func (w *crowd) behaviour(i int) swarm.Behaviour { return behaviourParts[w.behaviours.part(i)] }

// of returns how many clients are on a transport.
func (w *crowd) of(kind ledger.Kind) int {
	return w.transports.size(slices.Index(transportParts, kind))
}

// behaving returns how many clients behave so.
func (w *crowd) behaving(b swarm.Behaviour) int {
	return w.behaviours.size(slices.Index(behaviourParts, b))
}

// secure returns how many clients are inside TLS.
func (w *crowd) secure() int { return w.of(ledger.TCPTLS) + w.of(ledger.WSS) }

// room returns the room that client i is in at first, 0 where there are none.
func (w *crowd) room(i int) int {
	switch {
	case w.rooms.Count == 0:
		return 0
	case w.roomEnds == nil:
		return i % w.rooms.Count
	}
	return sort.SearchInts(w.roomEnds, i+1) // the first end behind i
}

// otherRoom returns the room that a client of room changes to.
func (w *crowd) otherRoom(room int) int { return (room + 1) % w.rooms.Count }
