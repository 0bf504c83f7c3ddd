package harness

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"barrage/harness/ledger"
	"barrage/harness/pusher"
	"barrage/harness/pusher/load"
	"barrage/harness/scenario"
	"barrage/harness/swarm"
)

// A layout is a scenario as the pusher, the swarm and the ledger need it: numbered
// streams, who receives each of them, and who the clients are.
type layout struct {
	scenario *scenario.Scenario
	streams  *ledger.Streams
	pushes   []pusher.Stream // by stream id

	crowd  crowd
	groups []lineStep       // by ledger.Stream.Group
	group  []int            // by stream id
	turns  []map[int]uint32 // by line: which in turn a room is
	// receivers is which streams a client receives, by its position (see position), and
	// either which one that changes rooms receives in both of them, by both positions. They
	// are made once and then only read.
	receivers, either map[string]*ledger.Subscription
}

// lineStep is a line of pushes, and which of its steps, 0 of one that has none.
type lineStep struct{ line, step int }

// maxGroups is how many lines and steps have figures of their own: those that a ledger.Stream.Group
// can tell apart.
const maxGroups = 256

// A segment is a part of a line's schedule with figures of its own.
type segment struct {
	start, length time.Duration // from the beginning of the warm-up
	load.Schedule               // from start on
	group         int
}

// segments returns those of a line's measured phase, of groups from first on: one for each step.
func segments(schedule load.Schedule, phases scenario.Phases, first int) (list []segment) {
	steps, ok := schedule.(load.Steps)
	if !ok {
		return []segment{{phases.Warmup, phases.Measure, schedule, first}}
	}
	for k, span := range steps.Spans(phases.Measure) {
		list = append(list, segment{phases.Warmup + span.Start, span.Length, span.Constant, first + k})
	}
	return list
}

// nobody is the target of a line that a client receives nothing of.
const nobody = math.MaxUint32

// newLayout numbers the streams: those of the warm-up first, then those of the measured phase, as many
// for each step of a line. A line's pushes go to its targets and their senders in turn, so each stream has
// every n-th push of the line, at its part of the line's rate.
func newLayout(s *scenario.Scenario) (*layout, error) {
	l := &layout{
		scenario: s, crowd: newCrowd(&s.Clients),
		receivers: map[string]*ledger.Subscription{}, either: map[string]*ledger.Subscription{},
	}
	for _, p := range s.Pushes {
		turns := make(map[int]uint32, len(p.Rooms))
		for k, room := range p.Rooms {
			turns[room] = uint32(k)
		}
		l.turns = append(l.turns, turns)
	}
	warmUp := make([][]segment, len(s.Pushes)) // by line
	measured := make([][]segment, len(s.Pushes))
	for i, p := range s.Pushes {
		warmUp[i] = []segment{{0, s.Phases.Warmup, p.WarmUp, len(l.groups)}}
		measured[i] = segments(p.Schedule, s.Phases, len(l.groups))
		for k := range measured[i] {
			l.groups = append(l.groups, lineStep{i, k})
		}
	}
	if len(l.groups) > maxGroups {
		return nil, fmt.Errorf("lay out %s: pushes has %d lines and steps within phases.measure; accepted: up to %d", s.Name, len(l.groups), maxGroups)
	}
	var list []ledger.Stream
	ids := make([][][]uint16, len(s.Pushes)) // by line and target: the streams
	for i, p := range s.Pushes {
		ids[i] = make([][]uint16, p.TargetCount())
	}
	lines := newLines(s)
	for phase, segments := range [][][]segment{warmUp, measured} {
		lanes := 0 // of the lines before
		for i, p := range s.Pushes {
			n, line := p.Streams(), lines[i]
			for _, seg := range segments[i] {
				total := seg.Pushes(seg.length)
				for k := range n {
					target := k % len(line)
					stream := pusher.Stream{
						ID: uint16(len(list)), Line: i, Lane: (lanes + k) % maxLanes, Via: p.Via, Target: line[target], Sizes: p.Sizes,
						Schedule: seg.Schedule, Start: seg.start, First: k, Step: n,
						// More than a stream can number is refused below.
						Pushes: uint32(min(load.Part(total, k, n), math.MaxUint32)),
						WarmUp: phase == 0,
					}
					l.pushes, l.group = append(l.pushes, stream), append(l.group, seg.group)
					list = append(list, ledger.Stream{ID: stream.ID, Pushes: stream.Pushes, WarmUp: stream.WarmUp, Group: uint8(seg.group)})
					ids[i][target] = append(ids[i][target], stream.ID)
				}
			}
			lanes += n
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
		room := l.crowd.room(i)
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

// newLines returns, for each line of pushes, whom they are for in turn.
func newLines(s *scenario.Scenario) [][]pusher.Target {
	lines := make([][]pusher.Target, len(s.Pushes))
	for i, p := range s.Pushes {
		for k := range p.TargetCount() {
			lines[i] = append(lines[i], newTarget(s, p, k))
		}
	}
	return lines
}

// maxLanes bounds the pusher's connections. Where there are more streams some share one.
const maxLanes = 256

// position appends, for each line of pushes, which of its targets client i is one of while
// it is in room.
func (l *layout) position(dst []byte, i, room int) []byte {
	c := &l.scenario.Clients
	for line, p := range l.scenario.Pushes {
		target := uint32(nobody)
		switch p.Kind {
		case pusher.KindRoom: // whatever the client accepts
			if k, ok := l.turns[line][room]; ok {
				target = k
			}
		case pusher.KindKeys:
			target = group(p, i%c.Keys, c.Accepts)
		case pusher.KindMids:
			target = group(p, i%c.Members, c.Accepts)
		case pusher.KindAll:
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

// newTarget returns a line's target for the pusher.
func newTarget(s *scenario.Scenario, p scenario.Push, target int) pusher.Target {
	t := pusher.Target{Kind: p.Kind, Operation: p.Operation}
	switch p.Kind {
	case pusher.KindRoom:
		rooms := s.Clients.Rooms
		t.RoomType, t.RoomID = rooms.Type, rooms.ID(p.Rooms[target])
	case pusher.KindKeys:
		for i := range p.Targets {
			t.Keys = append(t.Keys, clientKey(target*p.Targets+i))
		}
	case pusher.KindMids:
		for i := range p.Targets {
			t.Mids = append(t.Mids, memberID(target*p.Targets+i))
		}
	case pusher.KindAll:
		t.Speed = int32(p.Speed)
	}
	return t
}

func clientKey(i int) string { return "bench-" + strconv.Itoa(i) }
func memberID(n int) int64   { return int64(n) + 1 }

// client describes client i to the swarm.
func (l *layout) client(i int) swarm.Client {
	c := &l.scenario.Clients
	var buf [128]byte
	room := l.crowd.room(i)
	key := l.position(buf[:0], i, room)
	client := swarm.Client{
		Kind: l.crowd.kind(i), Behaviour: l.crowd.behaviour(i), Key: clientKey(i % c.Keys), Accepts: c.Accepts,
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

// meanBody returns how many bytes the body of a measured delivery has in the mean, and of a push where
// nothing is delivered.
func (l *layout) meanBody() int {
	sum, n := 0.0, 0.0
	for i, deliveries := range l.deliveries() {
		sum += float64(deliveries) * l.scenario.Pushes[i].Sizes.Mean()
		n += float64(deliveries)
	}
	if n == 0 {
		return int(l.scenario.Pushes[0].Sizes.Mean() + 0.5)
	}
	return int(sum/n + 0.5)
}
