package job

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"barrage/server/wire"
)

// newRecord makes a record of the given target with body as its frame's.
func newRecord(p *partition, offset int64, kind kind, name, body string) *record {
	r := &record{kind: kind, op: 1000, part: p, offset: offset,
		frame: wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 1000, Body: []byte(body)})}
	switch kind {
	case kindRoom:
		r.room = name
	case kindPush:
		r.keys = strings.Split(name, ",")
	}
	r.size = len(r.frame)
	r.holds.Store(1)
	return r
}

// bodies returns the frames' bodies in a batch's body.
func bodies(t *testing.T, body []byte) []string {
	t.Helper()
	var out []string
	for b := wire.Batch(body); len(b) > 0; {
		f, err := b.Next()
		if err != nil {
			t.Fatalf("batch: %v", err)
		}
		out = append(out, string(f.Body))
	}
	return out
}

func openLane(limits LaneConfig) *lane {
	l := newLane(limits)
	l.open(context.Background())
	return l
}

// takeOne returns the next batch alone, encoded, or nil.
func (l *lane) takeOne() *batch {
	c := l.take(false)
	if c == nil {
		return nil
	}
	b := c.batches[0]
	b.encode()
	l.end(c)
	return b
}

func TestLaneBatches(t *testing.T) {
	type add struct {
		kind       kind
		name, body string
		op, speed  int32
	}
	tests := []struct {
		name   string
		limits LaneConfig
		add    []add
		want   []string // "target: bodies" of each batch
	}{
		{
			name: "what waits for a room is one batch, and rooms go by their oldest record",
			add: []add{{kind: kindRoom, name: "a", body: "1"}, {kind: kindRoom, name: "b", body: "2"},
				{kind: kindRoom, name: "a", body: "3"}, {kind: kindRoom, name: "c", body: "4"}},
			want: []string{"a: 1 3", "b: 2", "c: 4"},
		},
		{
			name:   "a busy room takes turns with the others",
			limits: LaneConfig{BatchFrames: 2},
			add: []add{{kind: kindRoom, name: "a", body: "1"}, {kind: kindRoom, name: "a", body: "2"}, {kind: kindRoom, name: "a", body: "3"},
				{kind: kindRoom, name: "a", body: "4"}, {kind: kindRoom, name: "a", body: "5"}, {kind: kindRoom, name: "b", body: "6"}},
			want: []string{"a: 1 2", "b: 6", "a: 3 4", "a: 5"},
		},
		{
			name:   "bytes are capped, a larger frame travels alone",
			limits: LaneConfig{BatchBytes: 2 * (wire.HeaderLen + 1)},
			add: []add{{kind: kindRoom, name: "a", body: "1"}, {kind: kindRoom, name: "a", body: "2"}, {kind: kindRoom, name: "a", body: "3"},
				{kind: kindRoom, name: "a", body: strings.Repeat("x", 40)}, {kind: kindRoom, name: "a", body: "4"}},
			want: []string{"a: 1 2", "a: 3", "a: " + strings.Repeat("x", 40), "a: 4"},
		},
		{
			name: "rooms merge whatever the operation is",
			add:  []add{{kind: kindRoom, name: "a", body: "1"}, {kind: kindRoom, name: "a", body: "2", op: 7}},
			want: []string{"a: 1 2"},
		},
		{
			name: "pushes merge only with equal keys and operation, and keep their order",
			add: []add{{kind: kindPush, name: "k", body: "1"}, {kind: kindPush, name: "k", body: "2"}, {kind: kindPush, name: "k,l", body: "3"},
				{kind: kindPush, name: "k", body: "4"}, {kind: kindPush, name: "k", body: "5", op: 7}},
			want: []string{"k: 1 2", "k: 3", "k: 4", "k: 5"},
		},
		{
			name: "broadcasts merge only with equal operation and no speed, and keep their order",
			add: []add{{kind: kindBroadcast, body: "1"}, {kind: kindBroadcast, body: "2"}, {kind: kindBroadcast, body: "3", op: 7},
				{kind: kindBroadcast, body: "4", speed: 5}, {kind: kindBroadcast, body: "5", speed: 5}, {kind: kindBroadcast, body: "6"}},
			want: []string{": 1 2", ": 3", ": 4", ": 5", ": 6"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			limits := DefaultConfig().Lane
			if tt.limits.BatchFrames > 0 {
				limits.BatchFrames = tt.limits.BatchFrames
			}
			if tt.limits.BatchBytes > 0 {
				limits.BatchBytes = tt.limits.BatchBytes
			}
			l, p := openLane(limits), newPartition(0, func() {})
			for i, a := range tt.add {
				r := newRecord(p, int64(i), a.kind, a.name, a.body)
				r.op += a.op
				r.pace = newPace(a.speed)
				if !l.add(r, 0) {
					t.Fatal("an open lane refused a record")
				}
			}
			var got []string
			for b := l.takeOne(); b != nil; b = l.takeOne() {
				got = append(got, b.target.name+": "+strings.Join(bodies(t, b.frames.Body), " "))
				l.finish(b)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("batches %q, want %q", got, tt.want)
			}
			if n, bytes := l.load(); n != 0 || bytes != 0 || p.flying.Load() != 0 || len(l.queues) != 0 {
				t.Errorf("left: %d records, %d bytes, %d in flight, %d queues", n, bytes, p.flying.Load(), len(l.queues))
			}
		})
	}
}

func TestLaneMergesWhileABatchIsInFlight(t *testing.T) {
	l, p := openLane(DefaultConfig().Lane), newPartition(0, func() {})
	l.add(newRecord(p, 0, kindRoom, "a", "1"), 0)
	first := l.takeOne()
	if first == nil {
		t.Fatal("no batch")
	}
	l.add(newRecord(p, 1, kindRoom, "a", "2"), 0)
	l.add(newRecord(p, 2, kindRoom, "a", "3"), 0)
	if p.flying.Load() != 1 {
		t.Errorf("%d batches in flight, want 1", p.flying.Load())
	}
	if l.takeOne() != nil {
		t.Fatal("a second batch of the room while the first is in flight")
	}
	<-l.wake
	l.finish(first)
	select {
	case <-l.wake:
	default:
		t.Error("nobody is told that the room has its turn again")
	}
	b := l.takeOne()
	if b == nil {
		t.Fatal("no second batch")
	}
	if got := bodies(t, b.frames.Body); !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("second batch %q, want what came meanwhile", got)
	}
}

func TestFullLaneBlocksItsPartitionsUntilHalfIsGone(t *testing.T) {
	limits := DefaultConfig().Lane
	limits.QueueBytes = 10 * (wire.HeaderLen + 1)
	limits.BatchFrames = 1
	notified := 0
	l, p, other := openLane(limits), newPartition(0, func() { notified++ }), newPartition(1, func() {})
	for i := range 10 {
		if p.blockers.Load() != 0 {
			t.Fatalf("blocked after %d of 10 records", i)
		}
		l.add(newRecord(p, int64(i), kindRoom, "a", "x"), 0)
	}
	l.add(newRecord(p, 10, kindRoom, "a", "x"), 0) // already read when it was blocked
	if p.blockers.Load() != 1 || other.blockers.Load() != 0 {
		t.Fatalf("blockers %d and %d, want 1 and 0", p.blockers.Load(), other.blockers.Load())
	}
	for left := 10; left >= 6; left-- {
		l.finish(l.takeOne())
		if p.blockers.Load() != 1 || notified != 0 {
			t.Fatalf("unblocked with %d of 10 records left", left)
		}
	}
	l.finish(l.takeOne())
	if p.blockers.Load() != 0 || notified != 1 {
		t.Errorf("with half of the limit left: blockers %d, notified %d; want 0 and 1", p.blockers.Load(), notified)
	}
}

func TestClosedLaneTakesNothing(t *testing.T) {
	l, p := newLane(DefaultConfig().Lane), newPartition(0, func() {})
	if l.add(newRecord(p, 0, kindRoom, "a", "x"), 0) {
		t.Error("a lane that was never opened took a record")
	}
	life, end := context.WithCancel(context.Background())
	l.open(life)
	l.add(newRecord(p, 0, kindRoom, "a", "x"), 0)
	end()
	if l.add(newRecord(p, 1, kindRoom, "a", "x"), 0) {
		t.Error("a lane took a record after its life")
	}
	if got := l.clear(); len(got) != 1 {
		t.Errorf("clear returned %d records, want 1", len(got))
	}
}

func TestLaneDiscardsOnePartition(t *testing.T) {
	l := openLane(DefaultConfig().Lane)
	p, q := newPartition(0, func() {}), newPartition(1, func() {})
	for i, room := range []string{"a", "b", "a", "c", "b"} {
		part := p
		if room == "b" {
			part = q
		}
		l.add(newRecord(part, int64(i), kindRoom, room, fmt.Sprint(i)), 0)
	}
	if got := l.discard(func(r *record) bool { return r.part == p }); len(got) != 3 {
		t.Errorf("discarded %d records, want 3", len(got))
	}
	b := l.takeOne()
	if got := bodies(t, b.frames.Body); !slices.Equal(got, []string{"1", "4"}) {
		t.Errorf("left %q, want the other partition's", got)
	}
	l.finish(b)
	if n, bytes := l.load(); l.takeOne() != nil || n != 0 || bytes != 0 {
		t.Errorf("%d records, %d bytes left", n, bytes)
	}
}

func TestParkedRecordsWaitForTheirQuestion(t *testing.T) {
	l, p := openLane(DefaultConfig().Lane), newPartition(0, func() {})
	add := func(offset int64, room string, question uint64) {
		l.add(newRecord(p, offset, kindRoom, room, fmt.Sprint(offset)), question)
	}
	add(0, "a", 5)
	add(1, "a", 6)
	add(2, "b", 5)
	if l.takeOne() != nil {
		t.Fatal("a parked record was taken")
	}
	if got := l.answer(4, map[string]bool{}); len(got) != 0 {
		t.Errorf("an answer from before let %d records go", len(got))
	}
	if got := l.answer(5, map[string]bool{"b": true}); len(got) != 1 || got[0].offset != 0 {
		t.Errorf("answer 5 returned %d records, want the one that waited for it", len(got))
	}
	b := l.takeOne()
	if b.target.name != "b" {
		t.Errorf("took %q, want the room that is held", b.target.name)
	}
	l.finish(b)
	add(3, "a", 0) // by now the room is held: what was parked goes first
	b = l.takeOne()
	if got := bodies(t, b.frames.Body); !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("took %q, want 1 3", got)
	}
	l.finish(b)
	add(4, "c", 7)
	l.answer(7, nil) // the comet does not say
	if b = l.takeOne(); b == nil || b.target.name != "c" {
		t.Fatal("an unknown answer kept a room back")
	}
	l.finish(b)
	if l.parked != 0 || len(l.queues) != 0 {
		t.Errorf("%d parked, %d queues left", l.parked, len(l.queues))
	}
}

func TestDiscardFromParkedKeepsTheOthersWaiting(t *testing.T) {
	l, p, q := openLane(DefaultConfig().Lane), newPartition(0, func() {}), newPartition(1, func() {})
	l.add(newRecord(p, 0, kindRoom, "a", "0"), 1)
	l.add(newRecord(q, 0, kindRoom, "a", "1"), 2)
	l.add(newRecord(p, 1, kindRoom, "a", "2"), 3)
	l.discard(func(r *record) bool { return r.part == p })
	if got := l.answer(2, map[string]bool{}); len(got) != 0 {
		t.Errorf("%d records let go by a question that may be too early", len(got))
	}
	if got := l.answer(3, map[string]bool{}); len(got) != 1 || got[0].part != q {
		t.Errorf("%d records let go, want 1", len(got))
	}
}

// A batch says of each of its frames when logic accepted it, and nothing where logic doesn't
// say it of any.
func TestBatchCarriesWhenItsPushesWereAccepted(t *testing.T) {
	l, p := openLane(DefaultConfig().Lane), newPartition(0, func() {})
	for _, c := range []struct {
		name     string
		accepted []int64
		want     []int64
	}{
		{"of our logic", []int64{5, 7}, []int64{5, 7}},
		{"of both logics", []int64{0, 7, 0}, []int64{0, 7, 0}},
		{"of goim's logic", []int64{0, 0}, nil},
		{"one behind them", []int64{9}, []int64{9}},
	} {
		for i, at := range c.accepted {
			r := newRecord(p, int64(i), kindRoom, "live://1", "x")
			r.accepted = at
			l.add(r, 0)
		}
		b := l.takeOne()
		if b == nil {
			t.Fatal("there is no batch")
		}
		if !slices.Equal(b.frames.Accepted, c.want) {
			t.Errorf("%s: %v, want %v", c.name, b.frames.Accepted, c.want)
		}
		l.finish(b)
	}
}

// What waits for several targets shares a call, as far as its limits go.
func TestBatchesShareACall(t *testing.T) {
	frame := wire.HeaderLen + 1
	names := len("live://1")
	room := func(n int) target { return target{kindRoom, fmt.Sprintf("live://%d", n)} }
	for _, tt := range []struct {
		name   string
		limits LaneConfig
		add    []target
		want   [][]int // records in each batch of each call
	}{
		{name: "all that waits, in turns", add: []target{room(1), room(2), room(1), {kindPush, "k"}}, want: [][]int{{2, 1, 1}}},
		{name: "so many frames", limits: LaneConfig{BatchFrames: 3}, add: []target{room(1), room(2), room(2), room(2), room(3)}, want: [][]int{{1, 2}, {1, 1}}},
		{name: "so many bytes, with the names", limits: LaneConfig{BatchBytes: 2 * (frame + names)}, add: []target{room(1), room(2), room(3)}, want: [][]int{{1, 1}, {1}}},
		{name: "what is too large goes alone", limits: LaneConfig{BatchBytes: 10}, add: []target{room(1), room(2)}, want: [][]int{{1}, {1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			limits := DefaultConfig().Lane
			if tt.limits.BatchFrames > 0 {
				limits.BatchFrames = tt.limits.BatchFrames
			}
			if tt.limits.BatchBytes > 0 {
				limits.BatchBytes = tt.limits.BatchBytes
			}
			l, p := openLane(limits), newPartition(0, func() {})
			for i, to := range tt.add {
				l.add(newRecord(p, int64(i), to.kind, to.name, "x"), 0)
			}
			var got [][]int
			for c := l.take(true); c != nil; c = l.take(true) {
				var sizes []int
				for _, b := range c.batches {
					sizes = append(sizes, len(b.records))
					l.finish(b)
				}
				got = append(got, sizes)
				l.end(c)
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("calls %v, want %v", got, tt.want)
			}
			if n, bytes := l.load(); n != 0 || bytes != 0 || p.flying.Load() != 0 || len(l.queues) != 0 {
				t.Errorf("left: %d records, %d bytes, %d in flight, %d queues", n, bytes, p.flying.Load(), len(l.queues))
			}
		})
	}
}

// A comet that is given up leaves its batches in flight behind: what the next life gets for
// the same room waits for their end.
func TestClearLeavesWhatIsInFlight(t *testing.T) {
	l, p := openLane(DefaultConfig().Lane), newPartition(0, func() {})
	l.add(newRecord(p, 0, kindRoom, "a", "1"), 0)
	b := l.takeOne()
	l.add(newRecord(p, 1, kindRoom, "a", "2"), 0)
	if got := l.clear(); len(got) != 1 || got[0].offset != 1 {
		t.Errorf("clear returned %d records, want the one that waited", len(got))
	}
	l.add(newRecord(p, 2, kindRoom, "a", "3"), 0)
	if l.takeOne() != nil {
		t.Fatal("two batches of one room are in flight")
	}
	l.finish(b)
	if b = l.takeOne(); b == nil || b.records[0].offset != 2 {
		t.Fatal("the next life's record is not there")
	}
	l.finish(b)
	if n, bytes := l.load(); n != 0 || bytes != 0 || len(l.queues) != 0 {
		t.Errorf("%d records, %d bytes, %d queues left", n, bytes, len(l.queues))
	}
}

// BenchmarkLane is the hot path for one comet: add, take, encode and finish, with 16
// records merged into each batch of 64 rooms.
func BenchmarkLane(b *testing.B) {
	const merged, rooms = 16, 64
	l, p := openLane(DefaultConfig().Lane), newPartition(0, func() {})
	records := make([]*record, merged*rooms)
	body := strings.Repeat("x", 64)
	for i := range records {
		records[i] = newRecord(p, int64(i), kindRoom, fmt.Sprintf("live://%d", i%rooms), body)
		records[i].accepted = int64(i + 1)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		for _, r := range records {
			l.add(r, 0)
		}
		for c := l.take(true); c != nil; c = l.take(true) {
			for _, out := range c.batches {
				out.encode()
				n += len(out.records)
				l.finish(out)
			}
			l.end(c)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
}
