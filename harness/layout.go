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

	crowd crowd
	// receivers is which streams a client receives, by its position (see position), and
	// either which one that changes rooms receives in both of them, by both positions. They
	// are made once and then only read.
	receivers, either map[string]*ledger.Subscription
}

// nobody is the target of a line that a client receives nothing of.
const nobody = math.MaxUint32

// newLayout numbers the streams: those of the warm-up first, then as many of the measured
// phase. A line's pushes go to its targets and their senders in turn, so each stream has
// every n-th push of the line, at its part of the line's rate.
func newLayout(s *scenario.Scenario) (*layout, error) {
	l := &layout{
		scenario: s, crowd: newCrowd(&s.Clients),
		receivers: map[string]*ledger.Subscription{}, either: map[string]*ledger.Subscription{},
	}
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
	if err := l.subscribe(ids); err != nil {
		return nil, fmt.Errorf("lay out %s: %w", s.Name, err)
	}
	return l, nil
}

// subscribe makes the subscriptions of all positions that clients have; ids are the streams
// by line and target.
func (l *layout) subscribe(ids [][][]uint16) error {
	at := func(key []byte) (*ledger.Subscription, error) {
		if set := l.receivers[string(key)]; set != nil {
			return set, nil
		}
		var receives []uint16
		for line := range l.scenario.Pushes {
			if target := binary.BigEndian.Uint32(key[4*line:]); target != nobody {
				receives = append(receives, ids[line][target]...)
			}
		}
		set, err := l.streams.Subscribe(receives...)
		l.receivers[string(key)] = set
		return set, err
	}
	var key []byte
	for i := range l.scenario.Clients.Count {
		room := l.room(i)
		key = l.position(key[:0], i, room)
		home, err := at(key)
		if err != nil {
			return err
		}
		if l.scenario.Clients.Rooms.Change == 0 {
			continue
		}
		one := len(key)
		key = l.position(key, i, l.crowd.otherRoom(room))
		if l.either[string(key)] != nil {
			continue
		}
		other, err := at(key[one:])
		if err != nil {
			return err
		}
		if l.either[string(key)], err = l.streams.Subscribe(slices.Concat(home.IDs(), other.IDs())...); err != nil {
			return err
		}
	}
	return nil
}

// room returns the room that client i is in at first, 0 where there are none.
func (l *layout) room(i int) int {
	if l.scenario.Clients.Rooms.Count == 0 {
		return 0
	}
	return l.crowd.room(i)
}

// maxLanes bounds the pusher's connections. Where there are more streams some share one.
const maxLanes = 256

// position appends, for each line of pushes, which of its targets client i is one of while
// it is in room.
func (l *layout) position(dst []byte, i, room int) []byte {
	c := &l.scenario.Clients
	for _, p := range l.scenario.Pushes {
		target := uint32(nobody)
		switch p.Kind {
		case scenario.KindRoom: // whatever the client accepts
			if k := slices.Index(p.Rooms, room); k >= 0 {
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
	var buf [128]byte
	room := l.room(i)
	key := l.position(buf[:0], i, room)
	client := swarm.Client{
		Kind: l.crowd.kind(i), Behaviour: l.crowd.behaviour(i), Key: clientKey(i), Accepts: c.Accepts,
		Subscription: l.receivers[string(key)],
	}
	if c.Members > 0 {
		client.Mid = memberID(i % c.Members)
	}
	if c.Rooms.Count > 0 {
		client.Room = c.Rooms.Key(room)
	}
	if c.Rooms.Change > 0 {
		other, one := l.crowd.otherRoom(room), len(key)
		key = l.position(key, i, other)
		client.Home, client.Other, client.OtherRoom = client.Subscription, l.receivers[string(key[one:])], c.Rooms.Key(other)
		client.Subscription = l.either[string(key)]
	}
	return client
}
