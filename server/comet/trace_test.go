package comet

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	cometpb "barrage/server/api/comet"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// observed returns how many values a histogram has, and their sum in milliseconds.
func observed(t testing.TB, h prometheus.Histogram) (count uint64, ms float64) {
	t.Helper()
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetHistogram().GetSampleCount(), math.Round(m.GetHistogram().GetSampleSum()*1e6) / 1e3
}

// expectTrace fails unless so many pushes were seen, with these times on the way to comet and in
// it, in milliseconds and added up.
func expectTrace(t testing.TB, m *cometMetrics, pushes uint64, way, writing float64) {
	t.Helper()
	if n, ms := observed(t, m.untilAccepted); n != pushes || ms != way {
		t.Errorf("%d pushes on their way to comet for %g ms together, want %d, %g ms", n, ms, pushes, way)
	}
	if n, ms := observed(t, m.untilWritten); n != pushes || ms != writing {
		t.Errorf("%d pushes written within %g ms together, want %d, %g ms", n, ms, pushes, writing)
	}
}

// tracePush gives the shard a push of one frame for each time at which logic accepted it, and
// returns its trace.
func (sh *shard) tracePush(c pushCommand, accepted ...time.Time) *trace {
	var stamps []int64
	for range accepted {
		c.batch = append(c.batch, pushFrame(1000, "x")...)
	}
	for _, at := range accepted {
		if at.IsZero() {
			stamps = append(stamps, 0)
			continue
		}
		stamps = append(stamps, at.UnixNano())
	}
	c.trace, c.op = newTrace(sh.metrics, stamps, 1), 1000
	sh.putPush(c)
	return c.trace
}

// Each push of a call counts once: with its own time on the way to comet, and with the time
// until the last member of the room had it.
func TestTraceOfARoom(t *testing.T) {
	sh, now := newTestShard(t, nil)
	ref := sh.server.rooms.enter("live://1", sh)
	for i := range 2*sliceMembers + 10 { // three slices
		s, _ := newFakeSession(sh.server, fmt.Sprint(i), i%2 == 0)
		sh.mailbox.put(joinCommand{session: s, ref: ref})
	}
	slow, peer := newFakeSession(sh.server, "slow", false)
	peer.room = 5
	sh.mailbox.put(joinCommand{session: slow, ref: ref})
	sh.turn(*now)

	// The third push is of unknown age.
	first := sh.tracePush(pushCommand{kind: pushRoom, ref: ref}, now.Add(-30*time.Millisecond), now.Add(-10*time.Millisecond), time.Time{})
	for range 2 {
		sh.turn(*now)
		*now = now.Add(20 * time.Millisecond)
	}
	first.observe() // as the RPC does when all shards have them
	if n, ms := observed(t, sh.metrics.untilAccepted); n != 2 || ms != 40 {
		t.Errorf("%d pushes on their way to comet for %g ms together, want 2, 40 ms", n, ms)
	}
	if n, _ := observed(t, sh.metrics.untilWritten); n != 0 {
		t.Errorf("%d pushes are written before the sweep is over", n)
	}
	// What comes while a sweep runs is written by the next one.
	second := sh.tracePush(pushCommand{kind: pushRoom, ref: ref}, now.Add(-5*time.Millisecond))
	for sh.turn(*now) {
		*now = now.Add(time.Millisecond)
	}
	if second.written.Load() <= second.taken.Load() {
		t.Error("what came during a sweep was written by it")
	}
	if len(sh.rooms[ref].marks) != 0 {
		t.Errorf("%d marks are left", len(sh.rooms[ref].marks))
	}
	if n, ms := observed(t, sh.metrics.untilWritten); n != 3 || ms < 2*40 {
		t.Errorf("%d pushes written within %g ms together", n, ms)
	}
}

func TestTraceSeesWhatIsForSomebody(t *testing.T) {
	for _, c := range []struct {
		name     string
		accepted time.Duration // before it is taken; 0: logic doesn't say
		push     func(*shard, *roomRef) pushCommand
		want     uint64
	}{
		{"a push to a room", 7 * time.Millisecond, func(_ *shard, ref *roomRef) pushCommand { return pushCommand{kind: pushRoom, ref: ref} }, 1},
		{"one of goim's job", 0, func(_ *shard, ref *roomRef) pushCommand { return pushCommand{kind: pushRoom, ref: ref} }, 0},
		{"to a room that nobody in this shard is in", 7 * time.Millisecond, func(sh *shard, _ *roomRef) pushCommand {
			return pushCommand{kind: pushRoom, ref: sh.server.rooms.enter("live://2", sh)}
		}, 0},
		{"to a key", 7 * time.Millisecond, func(*shard, *roomRef) pushCommand { return pushCommand{kind: pushKeys, keys: []string{"gone", "k"}} }, 1},
		{"to a key that is gone", 7 * time.Millisecond, func(*shard, *roomRef) pushCommand { return pushCommand{kind: pushKeys, keys: []string{"gone"}} }, 0},
		{"to everybody", 7 * time.Millisecond, func(*shard, *roomRef) pushCommand { return pushCommand{kind: pushAll} }, 1},
		{"to everybody, in time", 7 * time.Millisecond, func(*shard, *roomRef) pushCommand { return pushCommand{kind: pushAll, speed: 1000} }, 1},
		{"of a clock that is ahead of ours", -time.Hour, func(_ *shard, ref *roomRef) pushCommand { return pushCommand{kind: pushRoom, ref: ref} }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			sh, now := newTestShard(t, nil)
			ref := sh.server.rooms.enter("live://1", sh)
			s, _ := newFakeSession(sh.server, "k", false)
			sh.mailbox.put(joinCommand{session: s, ref: ref, ops: []wire.Op{1000}})
			sh.turn(*now)
			at := now.Add(-c.accepted)
			if c.accepted == 0 {
				at = time.Time{}
			}
			tr := sh.tracePush(c.push(sh, ref), at)
			for sh.turn(*now) {
			}
			tr.observe()
			expectTrace(t, sh.metrics, c.want, float64(c.want)*max(0, float64(c.accepted.Milliseconds())), 0)
		})
	}
}

// The last of the shards counts, whatever the order in which they take and write, and only
// those that hold somebody.
func TestTraceOverShards(t *testing.T) {
	sh, now := newTestShard(t, nil)
	const shards, calls = 8, 200
	for range calls {
		tr := newTrace(sh.metrics, []int64{now.UnixNano(), now.UnixNano()}, shards)
		var wg sync.WaitGroup
		for i := range shards {
			wg.Go(func() {
				if i%2 == 0 { // nobody here
					tr.pass()
					return
				}
				tr.hold(now.Add(time.Duration(i) * time.Millisecond))
				tr.pass()
				tr.write(now.Add(time.Duration(10*i) * time.Millisecond))
			})
		}
		wg.Wait()
		tr.observe()
	}
	expectTrace(t, sh.metrics, 2*calls, 2*calls*7, 2*calls*(70-7))
}

// Over gRPC and a socket: job's times reach the histograms.
func TestTraceOverRPC(t *testing.T) {
	c := startComet(t, &fakeLogic{}, nil)
	client := c.login(t, false, `{"key":"k","room_id":"live://1","accepts":[1000]}`)
	ctx := context.Background()
	at := []int64{time.Now().Add(-time.Second).UnixNano(), 0}
	room := &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(1000, "one", "two"), Accepted: at}
	if _, err := c.rpc.BroadcastRoom(ctx, room); err != nil {
		t.Fatal(err)
	}
	if _, err := c.rpc.PushMsg(ctx, &cometpb.PushMsgReq{Keys: []string{"k"}, ProtoOp: 1000, Proto: raw(1000, "three", "four"), Accepted: at}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.rpc.Broadcast(ctx, &cometpb.BroadcastReq{ProtoOp: 1000, Proto: raw(1000, "five"), Accepted: at[:1]}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 5 {
		got = append(got, string(client.read().Body))
	}
	if text := strings.Join(got, " "); text != "one two three four five" {
		t.Errorf("the client got %s", text)
	}
	eventually(t, "all three were written", func() bool {
		n, _ := observed(t, c.metrics.untilWritten)
		return n == 3
	})
	if n, ms := observed(t, c.metrics.untilAccepted); n != 3 || ms < 3000 {
		t.Errorf("%d pushes on their way to comet for %g ms together, want 3 of a second each", n, ms)
	}
}

// A push is written when the last session that lacked it got it, and not when the sweep ends
// that visited, for newer pushes, those who had it already.
func TestMarksKnowTheLastWrite(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	first, second := newTrace(newMetrics(prometheus.NewRegistry()), []int64{1}, 1), newTrace(newMetrics(prometheus.NewRegistry()), []int64{1}, 1)
	var r room
	r.log.head = 10
	r.mark(first, func() time.Time { return at(1) })
	r.log.head = 20
	r.mark(second, func() time.Time { return at(1) })
	for _, slice := range []struct {
		lowest uint64
		at     int
	}{{0, 2}, {5, 3}, {10, 4}, {15, 5}, {math.MaxUint64, 6}} {
		r.wrote(slice.lowest, func() time.Time { return at(slice.at) })
	}
	r.low = 10
	r.written(at(7))
	if got := time.Unix(0, first.written.Load()); !got.Equal(at(3)) || len(r.marks) != 1 {
		t.Errorf("the first push was written at %v, %d marks are left", got, len(r.marks))
	}
	r.low = 20
	r.written(at(8))
	if got := time.Unix(0, second.written.Load()); !got.Equal(at(5)) || r.marks != nil {
		t.Errorf("the second push was written at %v, marks %v", got, r.marks)
	}
}
