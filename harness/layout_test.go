package harness

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/harness/pusher"
	"barrage/harness/pusher/load"
	"barrage/harness/scenario"
	"barrage/harness/swarm"
	"barrage/scenarios"
)

func parse(t *testing.T, text string) *scenario.Scenario {
	t.Helper()
	s, err := scenario.Parse("test.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const everyKind = `name: every-kind
clients:
  count: 24
  transport: {tcp: 0.25, ws: 0.75}
  rooms: {count: 3, type: live}
  members: 12
  accepts: [1000, 1001]
pushes:
  - {kind: room, operation: 2000, rate: 12/s, size: 64B, rooms: [1, 3], senders: 2}
  - {kind: keys, operation: 1000, rate: 3/s, size: 64B, targets: 2, groups: 3}
  - {kind: mids, operation: 1001, rate: 1/s, size: 64B, targets: 2, groups: 2}
  - {kind: all, operation: 1000, rate: 2/s, size: 64B, speed: 7}
  - {name: refused, kind: all, operation: 1002, rate: 1/s, size: 64B}
phases: {warmup: 1s, measure: 10s, drain: 1s}
`

// Who receives what follows from the request alone: the layout must agree with a naive
// reading of each request against each client.
func TestLayoutAgreesWithItsRequests(t *testing.T) {
	l, err := newLayout(parse(t, everyKind))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 24 {
		c := l.client(i)
		if want := fmt.Sprintf("live://%d", i%3+1); c.Room != want || c.Mid != int64(i%12+1) || c.Key != fmt.Sprintf("bench-%d", i) {
			t.Errorf("client %d is %+v", i, c)
		}
		for _, p := range l.pushes {
			path := p.Target.Path()
			kind := l.scenario.Pushes[p.Line].Kind
			want := false
			switch kind {
			case pusher.KindRoom:
				want = strings.Contains(path, fmt.Sprintf("room=%d&", i%3+1))
			case pusher.KindKeys:
				want = strings.Contains(path+"&", fmt.Sprintf("keys=bench-%d&", i))
			case pusher.KindMids:
				want = strings.Contains(path+"&", fmt.Sprintf("mids=%d&", i%12+1))
			case pusher.KindAll:
				want = strings.Contains(path, "operation=1000")
			}
			if got := subscribed(t, l, i, p.ID); got != want {
				t.Errorf("client %d receives %s: %v, want %v", i, path, got, want)
			}
		}
	}
}

// subscribed asks the ledger whether a push of the stream is owed to client i.
func subscribed(t *testing.T, l *layout, i int, stream uint16) bool {
	t.Helper()
	b := ledger.NewBook(l.streams, 1, 64)
	c := l.client(i)
	b.Join(b.Add(c.Subscription, c.Kind), nil)
	counts, err := b.Count([]ledger.Plan{{Stream: stream, Pushed: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return counts.Expected == 1
}

func TestLayoutSchedule(t *testing.T) {
	s := parse(t, everyKind)
	l, err := newLayout(s)
	if err != nil {
		t.Fatal(err)
	}
	// By line and phase: the pushes' times, merged, must be evenly spaced at the line's rate.
	for line, p := range s.Pushes {
		for _, warmUp := range []bool{true, false} {
			start, length := s.Phases.Warmup, s.Phases.Measure
			if warmUp {
				start, length = 0, s.Phases.Warmup
			}
			at := map[time.Duration]int{}
			streams := 0
			for _, st := range l.pushes {
				if st.Line != line || st.WarmUp != warmUp {
					continue
				}
				streams++
				for seq := range st.Pushes {
					at[(st.Due(seq)-start).Round(time.Microsecond)]++
				}
			}
			want := int(p.Rate * length.Seconds())
			if len(at) != want || streams != p.Streams() {
				t.Errorf("line %d, warm-up %v: %d pushes at %d times from %d streams, want %d", line, warmUp, len(at), len(at), streams, want)
			}
			for k := range want {
				due := time.Duration(float64(k) / p.Rate * 1e9).Round(time.Microsecond)
				if at[due] != 1 && at[due-time.Microsecond] != 1 && at[due+time.Microsecond] != 1 {
					t.Errorf("line %d, warm-up %v: no push at %s", line, warmUp, due)
				}
			}
		}
	}
}

// A line with steps has the pushes of its schedule, and each step has streams of its own.
func TestLayoutOfSteps(t *testing.T) {
	s := parse(t, everyKind)
	schedule, err := load.NewSteps([]load.Step{{Rate: 7, For: 300 * time.Millisecond}, {Rate: 50, For: 500 * time.Millisecond}, {Rate: 20, For: time.Hour}, {Rate: 1, For: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	s.Pushes[1].Schedule = schedule
	l, err := newLayout(s)
	if err != nil {
		t.Fatal(err)
	}
	want := []lineStep{{0, 0}, {1, 0}, {1, 1}, {1, 2}}
	for line := 2; line < len(s.Pushes); line++ {
		want = append(want, lineStep{line, 0})
	}
	if !slices.Equal(l.groups, want) {
		t.Errorf("groups %v, want %v", l.groups, want)
	}
	var due []time.Duration
	for _, st := range l.pushes {
		if st.Line != 1 || st.WarmUp {
			continue
		}
		for seq := range st.Pushes {
			at := st.Due(seq) - s.Phases.Warmup
			if step := l.groups[l.group[st.ID]].step; (at >= 300*time.Millisecond) != (step > 0) || (at >= 800*time.Millisecond) != (step > 1) {
				t.Errorf("step %d has a push at %s", step, at)
			}
			due = append(due, at)
		}
	}
	slices.Sort(due)
	if n := schedule.Pushes(s.Phases.Measure); len(due) != n {
		t.Fatalf("%d pushes, want %d", len(due), n)
	}
	for i, at := range due {
		if at != schedule.At(i) {
			t.Errorf("push %d is due at %s, want %s", i, at, schedule.At(i))
		}
	}
	many := make([]load.Step, 300)
	for i := range many {
		many[i] = load.Step{Rate: 1, For: time.Millisecond}
	}
	if s.Pushes[1].Schedule, err = load.NewSteps(many); err != nil {
		t.Fatal(err)
	}
	if _, err := newLayout(s); err == nil || !strings.Contains(err.Error(), "accepted: up to 256") {
		t.Errorf("300 steps: %v", err)
	}
}

func TestSpreadIsExactAndMixed(t *testing.T) {
	for _, c := range []struct {
		clients int
		ws      float64
	}{{1, 0}, {1, 1}, {2, 0.5}, {200, 0.5}, {1000, 0.1}, {10_000, 0.5}, {9973, 0.25}} {
		s := newCrowd(&scenario.Clients{Count: c.clients, Transport: scenario.Transport{WebSocket: c.ws, TCP: 1 - c.ws}})
		total := 0
		for _, rooms := range []int{1, 2, 4, 8} {
			n := make([]int, rooms)
			total = 0
			for i := range c.clients {
				if s.kind(i) == ledger.WebSocket {
					total++
					n[i%rooms]++
				}
			}
			for room, ws := range n {
				want := float64(c.clients) / float64(rooms) * c.ws
				if c.clients >= 200 && (float64(ws) < want*0.8-2 || float64(ws) > want*1.2+2) {
					t.Errorf("%d clients, %g on WebSocket: room %d of %d has %d, about %g wanted", c.clients, c.ws, room, rooms, ws, want)
				}
			}
		}
		if want := int(float64(c.clients)*c.ws + 0.5); total != want {
			t.Errorf("%d clients, %g on WebSocket: %d, want %d", c.clients, c.ws, total, want)
		}
	}
}

func TestBuiltInScenariosLayOut(t *testing.T) {
	for _, name := range []string{"smoke", "room-10k", "room-10k-calm", "room-10k-200", "room-10k-flood"} {
		s, err := scenario.Find(name, scenarios.Files, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newLayout(s); err != nil {
			t.Error(err)
		}
	}
}

// Where clients share keys, a push to a key is for all that have it.
func TestSharedKeys(t *testing.T) {
	l, err := newLayout(parse(t, strings.Replace(everyKind, "members: 12", "members: 12\n  keys: 8", 1)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 24 {
		c := l.client(i)
		if want := fmt.Sprintf("bench-%d", i%8); c.Key != want {
			t.Errorf("client %d has the key %s, want %s", i, c.Key, want)
		}
		for _, p := range l.pushes {
			if p.Target.Kind == pusher.KindKeys && subscribed(t, l, i, p.ID) != slices.Contains(p.Target.Keys, c.Key) {
				t.Errorf("client %d with the key %s and a push to %v", i, c.Key, p.Target.Keys)
			}
		}
	}
}

// Behaviours are dealt out exactly, and independently of transports and rooms; rooms have
// the sizes that Zipf's law gives them, and who changes rooms is owed what either has.
func TestCrowd(t *testing.T) {
	s := parse(t, strings.NewReplacer("count: 24", "count: 1000", "rooms: {count: 3, type: live}", "rooms: {count: 5, zipf: 1, change: 10s}\n"+
		"  slow: {fraction: 0.1, rate: 1KiB/s}\n  stalled: {fraction: 0.05}\n  churn: {fraction: 0.2, lives: 3s}\n  half_open: {fraction: 0.15, lives: 1m}").Replace(everyKind))
	l, err := newLayout(s)
	if err != nil {
		t.Fatal(err)
	}
	of, webSocket, rooms := map[swarm.Behaviour]int{}, map[swarm.Behaviour]int{}, map[string]int{}
	for i := range 1000 {
		c := l.client(i)
		of[c.Behaviour]++
		if c.Kind.WebSocket() {
			webSocket[c.Behaviour]++
		}
		rooms[c.Room]++
		for _, id := range c.Home.IDs() {
			if !slices.Contains(c.Subscription.IDs(), id) {
				t.Fatalf("client %d is owed stream %d at home, and not in all", i, id)
			}
		}
		if c.Subscription.Len() < c.Other.Len() || c.OtherRoom == c.Room {
			t.Fatalf("client %d: %d streams in all, %d in the other room %s", i, c.Subscription.Len(), c.Other.Len(), c.OtherRoom)
		}
	}
	for b, want := range map[swarm.Behaviour]int{swarm.SlowReader: 100, swarm.Stalled: 50, swarm.Churning: 200, swarm.HalfOpen: 150, swarm.WellBehaved: 500} {
		if of[b] != want || l.crowd.behaving(b) != want {
			t.Errorf("%d are %s, %d say the parts, want %d", of[b], b, l.crowd.behaving(b), want)
		}
		if got := float64(webSocket[b]) / float64(of[b]); got < 0.65 || got > 0.85 {
			t.Errorf("%.2f of the %s clients are on WebSocket, 0.75 of all", got, b)
		}
	}
	for i, size := range s.Clients.Rooms.Sizes(1000) {
		if got := rooms[s.Clients.Rooms.Key(i)]; got != size {
			t.Errorf("room %d has %d clients, want %d", i+1, got, size)
		}
	}
}

// A body counts as often as it is delivered: here ten times 100 bytes for each 1,000.
func TestMeanBody(t *testing.T) {
	l, err := newLayout(parse(t, `name: mean
clients: {count: 10, transport: {tcp: 1}, rooms: {count: 1}, members: 10, accepts: [1000]}
pushes:
  - {kind: room, operation: 1000, rate: 5/s, size: 100B}
  - {kind: mids, operation: 1000, rate: 5/s, size: 1000B, targets: 1, groups: 10}
phases: {warmup: 1s, measure: 10s, drain: 1s}
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := l.meanBody(); got != 182 {
		t.Errorf("%d bytes, want 182", got)
	}
}
