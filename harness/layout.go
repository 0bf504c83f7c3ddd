package harness

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"time"

	"barrage/harness/ledger"
	"barrage/harness/pusher"
	"barrage/harness/scenario"
	"barrage/harness/swarm"
)

// A layout is a scenario as the pusher, the swarm and the ledger need it: numbered
// streams, who receives each of them, and who the clients are.
type layout struct {
	scenario *scenario.Scenario
	streams  *ledger.Streams
	pushes   []pusher.Stream
	line     []int // by stream id: the scenario's line

	spread spread
	// receivers is which streams a client receives, by its position (see position). It is
	// made once and then only read.
	receivers map[string]*ledger.Subscription
}

// nobody is the target of a line that a client receives nothing of.
const nobody = math.MaxUint32

// newLayout numbers the streams: those of the warm-up first, then as many of the measured
// phase. A line's pushes go to its targets and their senders in turn, so each stream has
// every n-th push of the line, at its part of the line's rate.
func newLayout(s *scenario.Scenario) (*layout, error) {
	l := &layout{scenario: s, spread: newSpread(s.Clients.Count, s.Clients.WebSocket), receivers: map[string]*ledger.Subscription{}}
	phases := []struct {
		start, length time.Duration
		warmUp        bool
	}{{0, s.Phases.Warmup, true}, {s.Phases.Warmup, s.Phases.Measure, false}}
	var list []ledger.Stream
	ids := make([][][]uint16, len(s.Pushes)) // by line and target: the streams
	for i, p := range s.Pushes {
		ids[i] = make([][]uint16, p.TargetCount())
	}
	for _, phase := range phases {
		lane := 0
		for i, p := range s.Pushes {
			n := p.Streams()
			total := int(math.Round(p.Rate * phase.length.Seconds()))
			for k := range n {
				target := k % p.TargetCount()
				stream := pusher.Stream{
					ID: uint16(len(list)), Lane: lane % maxLanes, Target: l.request(p, target), Size: p.Size,
					Start:  phase.start + time.Duration(float64(k)/p.Rate*1e9),
					Period: time.Duration(float64(n) / p.Rate * 1e9),
					Pushes: uint32(max(0, total-k+n-1) / n),
					WarmUp: phase.warmUp,
				}
				lane++
				l.pushes = append(l.pushes, stream)
				l.line = append(l.line, i)
				list = append(list, ledger.Stream{ID: stream.ID, Pushes: stream.Pushes, WarmUp: stream.WarmUp})
				ids[i][target] = append(ids[i][target], stream.ID)
			}
		}
	}
	var err error
	if l.streams, err = ledger.NewStreams(list); err != nil {
		return nil, fmt.Errorf("lay out %s: %w", s.Name, err)
	}
	var key []byte
	for i := range s.Clients.Count {
		key = l.position(key[:0], i)
		if l.receivers[string(key)] != nil {
			continue
		}
		var receives []uint16
		for line := range s.Pushes {
			if target := binary.BigEndian.Uint32(key[4*line:]); target != nobody {
				receives = append(receives, ids[line][target]...)
			}
		}
		if l.receivers[string(key)], err = l.streams.Subscribe(receives...); err != nil {
			return nil, fmt.Errorf("lay out %s: %w", s.Name, err)
		}
	}
	return l, nil
}

// maxLanes bounds the pusher's connections. Where there are more streams some share one.
const maxLanes = 256

// position appends, for each line of pushes, which of its targets client i is one of.
func (l *layout) position(dst []byte, i int) []byte {
	c := &l.scenario.Clients
	for _, p := range l.scenario.Pushes {
		target := uint32(nobody)
		switch p.Kind {
		case scenario.KindRoom: // whatever the client accepts
			if k := slices.Index(p.Rooms, i%c.Rooms.Count); k >= 0 {
				target = uint32(k)
			}
		case scenario.KindKeys:
			target = group(p, i, c.Accepts)
		case scenario.KindMids:
			target = group(p, i%c.Members, c.Accepts)
		case scenario.KindAll:
			if slices.Contains(c.Accepts, p.Operation) {
				target = 0
			}
		}
		dst = binary.BigEndian.AppendUint32(dst, target)
	}
	return dst
}

// group returns the group of a key or member, of which each holds p.Targets in a row.
func group(p scenario.Push, number int, accepts []int32) uint32 {
	if g := number / p.Targets; g < p.Groups && slices.Contains(accepts, p.Operation) {
		return uint32(g)
	}
	return nobody
}

// request returns the path and query that push to a line's target.
func (l *layout) request(p scenario.Push, target int) string {
	q := url.Values{"operation": {strconv.Itoa(int(p.Operation))}}
	switch p.Kind {
	case scenario.KindRoom:
		rooms := l.scenario.Clients.Rooms
		q.Set("type", rooms.Type)
		q.Set("room", rooms.ID(p.Rooms[target]))
	case scenario.KindKeys:
		for i := range p.Targets {
			q.Add("keys", clientKey(target*p.Targets+i))
		}
	case scenario.KindMids:
		for i := range p.Targets {
			q.Add("mids", strconv.FormatInt(memberID(target*p.Targets+i), 10))
		}
	case scenario.KindAll:
		q.Set("speed", strconv.Itoa(p.Speed))
	}
	return "/goim/push/" + string(p.Kind) + "?" + q.Encode()
}

func clientKey(i int) string { return "bench-" + strconv.Itoa(i) }
func memberID(n int) int64   { return int64(n) + 1 }

// client describes client i to the swarm.
func (l *layout) client(i int) swarm.Client {
	c := &l.scenario.Clients
	var buf [64]byte
	client := swarm.Client{
		Kind: l.spread.kind(i), Key: clientKey(i), Accepts: c.Accepts,
		Subscription: l.receivers[string(l.position(buf[:0], i))],
	}
	if c.Members > 0 {
		client.Mid = memberID(i % c.Members)
	}
	if c.Rooms.Count > 0 {
		client.Room = c.Rooms.Key(i % c.Rooms.Count)
	}
	return client
}

// A spread says which clients are on WebSocket: an exact part of them, mixed so that every
// room and every group has about the same part.
type spread struct {
	clients   int
	webSocket int
	step      int // coprime to clients, so that i*step mod clients is a permutation
}

func newSpread(clients int, webSocket float64) spread {
	s := spread{clients: clients, webSocket: int(math.Round(float64(clients) * webSocket)), step: 1}
	// The golden section spreads the members of every arithmetic series evenly.
	for step := max(1, int(float64(clients)*0.6180339887)); step < clients; step++ {
		if gcd(step, clients) == 1 {
			s.step = step
			break
		}
	}
	return s
}

func (s spread) kind(i int) ledger.Kind {
	if i*s.step%s.clients < s.webSocket {
		return ledger.WebSocket
	}
	return ledger.TCP
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
