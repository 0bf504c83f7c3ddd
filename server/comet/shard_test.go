package comet

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// newTestShard returns a shard of a server that nothing connects to, with a clock of the
// test's own.
func newTestShard(t testing.TB, change func(*Config)) (*shard, *time.Time) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Room.Shards = 1
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg, Deps{Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Logic: &fakeLogic{}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	sh := s.shards[0]
	sh.now = func() time.Time { return now }
	return sh, &now
}

// fakeStream is a peer that takes as many bytes as it has room for.
type fakeStream struct {
	got  []byte
	room int // bytes that the window still takes
	shut bool
	sent int // calls
}

func (f *fakeStream) send(b []byte) (int, error) {
	if len(b) > 0 {
		f.sent++
	}
	n := min(f.room, len(b))
	f.room -= n
	f.got = append(f.got, b[:n]...)
	return n, nil
}

func (f *fakeStream) sendChunk(c *chunk) (int, error) { return f.send(c.data) }

func (f *fakeStream) shutdown() { f.shut = true }

const unlimited = 1 << 40

func newFakeSession(s *Server, key string, websocket bool) (*session, *fakeStream) {
	out := &fakeStream{room: unlimited}
	ss := &session{server: s, key: key, websocket: websocket, shard: s.shards[0], heartbeat: time.Hour, number: s.numbers.Add(1)}
	ss.out.stream = out
	ss.out.joined = true
	ss.deadline.Store(1 << 40)
	return ss, out
}

// decodeStream returns the frames that a client sees in b, op-9 batches opened.
func decodeStream(t testing.TB, b []byte, websocket bool) (frames []wire.Frame) {
	t.Helper()
	for len(b) > 0 {
		payload := b
		if websocket {
			if b[0] != 0x82 {
				t.Fatalf("WebSocket frame begins with %#x, want a final binary one", b[0])
			}
			n, head := int(b[1]), 2
			switch n {
			case 126:
				n, head = int(binary.BigEndian.Uint16(b[2:])), 4
			case 127:
				n, head = int(binary.BigEndian.Uint64(b[2:])), 10
			}
			payload = b[head : head+n]
			b = b[head+n:]
		} else {
			b = nil
		}
		batch := wire.Batch(payload)
		for len(batch) > 0 {
			f, err := batch.Next()
			if err != nil {
				t.Fatalf("client sees a broken stream: %v", err)
			}
			if websocket && f.Op == wire.OpRaw {
				inner := wire.Batch(f.Body)
				for len(inner) > 0 {
					g, err := inner.Next()
					if err != nil {
						t.Fatalf("client sees a broken batch: %v", err)
					}
					frames = append(frames, g)
				}
				continue
			}
			frames = append(frames, f)
		}
	}
	return frames
}

func pushFrame(op wire.Op, body string) wire.Batch {
	return wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: op, Body: []byte(body)})
}

// putPush sends a push to the shard as the RPCs do, without waiting for it. The channel is
// closed when it is taken.
func (sh *shard) putPush(c pushCommand) single {
	if c.ctx == nil {
		c.ctx = context.Background()
	}
	settled := make(single)
	c.done = newPushDone(1, 0, settled)
	if c.n == 0 {
		c.n, _ = c.batch.Count()
	}
	c.ws = append(wire.AppendWSBatchHeader(nil, len(c.batch)), c.batch...)
	if err := sh.mailbox.reserve(context.Background(), len(c.batch)); err != nil {
		panic(err)
	}
	sh.mailbox.put(&c)
	return settled
}

// settle turns the shard until nothing is left to do, moving the clock past every retry.
func settle(sh *shard, now *time.Time) {
	for range 10_000 {
		busy := sh.turn(*now)
		if !busy && len(sh.laggards) == 0 && len(sh.delayed) == 0 && len(sh.mailbox.queue) == 0 {
			return
		}
		*now = now.Add(50 * time.Millisecond)
	}
}

// modelClient is what the naive model knows of a client.
type modelClient struct {
	session *session
	out     *fakeStream
	room    string
	accepts map[wire.Op]bool
	left    bool
	ending  bool              // the shard was told to close it
	want    map[byte][]string // by source: r oom, a ll, k eys
}

// A modelRun is how a shard is driven against the model.
type modelRun struct {
	logBytes   int
	maxPending int
	stay       bool // no client leaves
	lazy       bool // the shard seldom gets its turn, so that pushes wait for space in the logs
}

// TestModel drives a shard with random joins, leaves, ends by logic's word, room changes,
// subscriptions, pushes, short writes and full windows, of sessions that share keys, and
// compares what every client sees with a naive model.
// The log is large here, so nothing may be missing.
func TestModel(t *testing.T) {
	modelSeeds(t, modelRun{logBytes: 4 << 20, maxPending: 1 << 30})
}

// TestModelOverrun is TestModel with logs so small that slow clients fall off: what they
// see is in order and complete but for the frames that were counted.
func TestModelOverrun(t *testing.T) {
	modelSeeds(t, modelRun{logBytes: 4096, maxPending: 1 << 30})
}

// TestModelCountsSkips is TestModelOverrun with clients that stay to the end, whose queues are
// small, too: what they lack is exactly what was counted, by both reasons.
func TestModelCountsSkips(t *testing.T) {
	total := modelSeeds(t, modelRun{logBytes: 4096, maxPending: 1024, stay: true})
	for i, n := range total {
		if n == 0 {
			t.Errorf("no frame was skipped for %s in all seeds", skipNames[i])
		}
	}
}

// TestModelPushesWait is TestModelOverrun where pushes wait for space in the logs, and clients come,
// change rooms and subscribe meanwhile: none gets what was pushed before it came, nor anything twice.
func TestModelPushesWait(t *testing.T) {
	modelSeeds(t, modelRun{logBytes: 4096, maxPending: 1 << 30, stay: true, lazy: true})
}

// modelSeeds makes the run with many seeds, and returns the frames that were skipped, by reason,
// where the model could tell how many must be.
func modelSeeds(t *testing.T, run modelRun) (total [numSkips]int) {
	if tables > 0 {
		t.Skip("this shard has no table in either run")
	}
	seeds := 1000
	if testing.Short() {
		seeds = 200
	}
	for seed := range seeds {
		skipped := runModel(t, uint64(seed), run)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		for i, n := range skipped {
			total[i] += n
		}
	}
	return total
}

func runModel(t *testing.T, seed uint64, run modelRun) (skipped [numSkips]int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	sh, now := newTestShard(t, func(c *Config) {
		c.Room.LogBytes = run.logBytes
	})
	sh.server.cfg.Session.MaxPending = run.maxPending
	s := sh.server
	complete := run.logBytes > 1<<20 // nothing is skipped
	var clients []*modelClient
	rooms := []string{"", "live://1", "live://2", "live://3"}
	ops := []wire.Op{1000, 1001, 1002}
	alive := func() *modelClient {
		var list []*modelClient
		for _, c := range clients {
			if !c.left {
				list = append(list, c)
			}
		}
		if len(list) == 0 {
			return nil
		}
		return list[rng.IntN(len(list))]
	}
	refOf := func(key string) *roomRef {
		if key == "" {
			return nil
		}
		return s.rooms.enter(key, sh)
	}
	largest := 300
	if run.lazy {
		largest = 1500
	}
	pad := func() string { return fmt.Sprintf("%0*d", 1+rng.IntN(largest), 0) }
	id := 0
	for range 150 {
		switch rng.IntN(13) {
		case 0, 1, 2: // join
			c := &modelClient{room: rooms[rng.IntN(len(rooms))], accepts: map[wire.Op]bool{}, want: map[byte][]string{}}
			c.session, c.out = newFakeSession(s, fmt.Sprint("k", rng.IntN(8)), rng.IntN(2) == 0)
			c.session.managed = true
			var accepts []wire.Op
			for _, op := range ops {
				if rng.IntN(2) == 0 {
					accepts = append(accepts, op)
					c.accepts[op] = true
				}
			}
			ref := refOf(c.room)
			c.session.online.Store(ref)
			sh.mailbox.put(joinCommand{c.session, ref, accepts})
			clients = append(clients, c)
		case 3: // leave
			switch c := alive(); {
			case c == nil || run.stay:
			case rng.IntN(3) == 0:
				c.left = true
				c.session.gone()
			case rng.IntN(3) == 0:
				c.left, c.ending = true, true
				sh.mailbox.put(dismissCommand{key: c.session.key, number: c.session.number, reason: reasonReplaced})
			}
		case 4: // change room
			if c := alive(); c != nil {
				c.room = rooms[rng.IntN(len(rooms))]
				ref := refOf(c.room)
				if old := c.session.online.Swap(ref); old != nil {
					s.rooms.leave(old, sh)
				}
				sh.mailbox.put(changeRoomCommand{c.session, ref, c.session.reply(wire.Frame{Ver: 1}, wire.OpChangeRoomReply, []byte(c.room))})
			}
		case 5: // subscribe or unsubscribe
			if c := alive(); c != nil {
				op, remove := ops[rng.IntN(len(ops))], rng.IntN(2) == 0
				c.accepts[op] = !remove
				sh.mailbox.put(subCommand{c.session, []wire.Op{op}, remove, c.session.reply(wire.Frame{Ver: 1}, wire.OpSubReply, nil)})
			}
		case 6, 7, 8: // push to a room
			id++
			key, body := rooms[1+rng.IntN(3)], fmt.Sprint("r", id, " ", pad())
			if ref, _ := s.rooms.holders(key); ref != nil {
				sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, body)})
			}
			for _, c := range clients {
				if !c.left && c.room == key {
					c.want['r'] = append(c.want['r'], body)
				}
			}
		case 9: // push to all
			id++
			op, body := ops[rng.IntN(len(ops))], fmt.Sprint("a", id, " ", pad())
			sh.putPush(pushCommand{kind: pushAll, op: op, batch: pushFrame(op, body)})
			for _, c := range clients {
				if !c.left && c.accepts[op] {
					c.want['a'] = append(c.want['a'], body)
				}
			}
		case 10: // push to a key
			if c := alive(); c != nil {
				id++
				op, body := ops[rng.IntN(len(ops))], fmt.Sprint("k", id, " ", pad())
				key := c.session.key
				sh.putPush(pushCommand{kind: pushKeys, keys: []string{key}, op: op, batch: pushFrame(op, body)})
				for _, c := range clients {
					if !c.left && c.session.key == key && c.accepts[op] {
						c.want['k'] = append(c.want['k'], body)
					}
				}
			}
		case 11: // a client stops or goes on reading
			if c := alive(); c != nil {
				c.out.room = rng.IntN(700)
				if rng.IntN(3) == 0 {
					c.out.room = unlimited
				}
			}
		case 12:
			*now = now.Add(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
		turns := rng.IntN(3)
		if run.lazy && rng.IntN(10) > 0 {
			turns = 0
			sh.commands()
		}
		for range turns {
			sh.turn(*now)
		}
		for _, c := range clients {
			if c.ending && c.out.shut && rng.IntN(2) == 0 {
				c.ending = false
				c.session.gone()
			}
		}
	}
	for _, c := range clients {
		c.out.room = unlimited
	}
	settle(sh, now)

	missing, counted := 0, run.stay
	for i, c := range clients {
		if c.left {
			continue
		}
		if c.out.shut && !c.ending && run.maxPending < 1<<20 {
			counted = false // closed for a full queue: what was in it is not skipped
			continue
		}
		got := map[byte][]string{}
		frames := decodeStream(t, c.out.got, c.session.websocket)
		for _, f := range frames {
			if f.Op >= 1000 {
				got[f.Body[0]] = append(got[f.Body[0]], string(f.Body))
			}
		}
		for _, source := range []byte("rak") {
			lacks, ok := subsequence(got[source], c.want[source])
			if !ok {
				t.Errorf("client %d, source %c: got %d frames that are not in order among the %d pushed", i, source, len(got[source]), len(c.want[source]))
			}
			if complete && lacks > 0 {
				t.Errorf("client %d, source %c: lacks %d frames", i, source, lacks)
			}
			missing += lacks
		}
	}
	all := 0
	for i, c := range s.metrics.skipped {
		skipped[i] = int(testutil.ToFloat64(c))
		all += skipped[i]
	}
	// What clients missed before they left is counted, too.
	if missing > all || counted && missing != all {
		t.Errorf("clients lack %d frames, counted are %d, for the same clients: %v", missing, all, counted)
	}
	present := map[string][]*session{} // by key, oldest first
	for _, c := range clients {
		if c.ending && !c.out.shut {
			t.Errorf("session %d of %s is not closed", c.session.number, c.session.key)
		}
		if c.ending || !c.left {
			present[c.session.key] = append(present[c.session.key], c.session)
		}
	}
	for key := range sh.keys {
		var have []*session
		for s := sh.keys[key]; s != nil; s = s.older {
			have = append(have, s)
			if sh.find(key, s.number) != s {
				t.Errorf("session %d of %s is not found", s.number, key)
			}
		}
		slices.Reverse(have)
		if !slices.Equal(have, present[key]) {
			t.Errorf("%d sessions have the key %s, in the model %d", len(have), key, len(present[key]))
		}
	}
	for _, c := range clients {
		if c.ending || !c.left {
			c.session.gone()
		}
	}
	settle(sh, now)
	s.registrar.stop(time.Now().Add(wait))
	logic := s.logic.(*fakeLogic)
	for _, c := range clients {
		if !slices.Contains(logic.goneIDs, c.session.id()) {
			t.Errorf("logic was not told that session %d of %s has ended", c.session.number, c.session.key)
		}
	}
	if len(logic.goneIDs) != len(clients) {
		t.Errorf("logic was told of %d ends of %d sessions", len(logic.goneIDs), len(clients))
	}
	if len(sh.rooms) != 0 || len(sh.everyone.members) != 0 || len(sh.accepts.sets) != 0 || len(sh.keys) != 0 || s.rooms.len() != 0 {
		t.Errorf("left behind: %d rooms, %d members, %d sets, %d keys, %d refs",
			len(sh.rooms), len(sh.everyone.members), len(sh.accepts.sets), len(sh.keys), s.rooms.len())
	}
	if !counted {
		return [numSkips]int{}
	}
	return skipped
}

// subsequence reports whether got is want with some elements left out, and how many.
func subsequence(got, want []string) (lacks int, ok bool) {
	i := 0
	for _, w := range want {
		if i < len(got) && got[i] == w {
			i++
		}
	}
	return len(want) - i, i == len(got)
}

func TestFrameLogChunks(t *testing.T) {
	set := &acceptSet{ops: []wire.Op{1000}}
	for _, tc := range []struct {
		name   string
		sizes  []int
		tagged bool
	}{
		{"one frame", []int{10}, false},
		{"frames over several segments", slices.Repeat([]int{1500}, 100), false},
		{"a frame larger than a segment", []int{10, maxSegment + 5, 10}, false},
		{"filtered", slices.Repeat([]int{40}, 300), true},
		{"empty bodies", slices.Repeat([]int{0}, 9000), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := frameLog{limit: 1 << 30, tagged: tc.tagged}
			var want [][]byte
			for i, n := range tc.sizes {
				op := wire.Op(1000 + i%2)
				batch := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: op, Body: bytes.Repeat([]byte{byte(i)}, n)})
				l.append(op, batch)
				if !tc.tagged || set.has(op) {
					want = append(want, batch)
				}
			}
			for _, websocket := range []bool{false, true} {
				var got []byte
				for at := uint64(0); at < l.head; {
					c := l.chunk(at, set, websocket)
					if c.next <= at {
						t.Fatalf("chunk from %d ends at %d", at, c.next)
					}
					if n := len(c.data); n > maxChunk+wire.MaxWSBatchHeader && c.frames > 1 {
						t.Errorf("chunk of %d frames has %d bytes", c.frames, n)
					}
					at = c.next
					got = append(got, c.data...)
				}
				var all []byte
				for _, f := range decodeStream(t, got, websocket) {
					all = wire.AppendFrame(all, f)
				}
				if !bytes.Equal(all, bytes.Join(want, nil)) {
					t.Errorf("websocket %v: the chunks are not the frames pushed", websocket)
				}
			}
		})
	}
}

// A room that is swept keeps nothing, and one with a slow member no more than its limit.
func TestFrameLogIsBounded(t *testing.T) {
	sh, now := newTestShard(t, func(c *Config) { c.Room.LogBytes = 64 << 10 })
	ref := sh.server.rooms.enter("live://1", sh)
	fast, _ := newFakeSession(sh.server, "fast", false)
	slow, out := newFakeSession(sh.server, "slow", true)
	for _, s := range []*session{fast, slow} {
		sh.mailbox.put(joinCommand{session: s, ref: ref})
	}
	sh.turn(*now)
	r := sh.rooms[ref]
	out.room = 100
	body := string(make([]byte, 1000))
	for range 1000 {
		sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, body)})
		for sh.turn(*now) {
		}
		if r.log.size > 64<<10+maxSegment {
			t.Fatalf("the log holds %d bytes", r.log.size)
		}
	}
	out.room = unlimited
	settle(sh, now)
	if r.log.size != 0 {
		t.Errorf("the log holds %d bytes when all are at its head", r.log.size)
	}
	if n := testutil.ToFloat64(sh.metrics.skipped[skipLogOverrun]); n == 0 {
		t.Error("no frame was counted as skipped")
	}
	if slow.out.closed {
		t.Error("the slow session was closed, the policy is skip")
	}
}

func TestSlowPolicyClose(t *testing.T) {
	sh, now := newTestShard(t, func(c *Config) { c.Room.LogBytes = 8192; c.Room.SlowPolicy = slowClose })
	ref := sh.server.rooms.enter("live://1", sh)
	slow, out := newFakeSession(sh.server, "slow", false)
	sh.mailbox.put(joinCommand{session: slow, ref: ref})
	sh.turn(*now)
	out.room = 100
	for range 100 {
		sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, string(make([]byte, 1000)))})
		for sh.turn(*now) {
		}
	}
	out.room = unlimited
	settle(sh, now)
	if !out.shut || slow.out.reason != reasonSlow {
		t.Errorf("closed %v for %v, want closed for %v", out.shut, slow.out.reason, reasonSlow)
	}
}

// While members that keep up have yet to be swept, pushes wait instead of pushing frames
// out of the log.
func TestPushesWaitForSweeps(t *testing.T) {
	sh, now := newTestShard(t, func(c *Config) { c.Room.LogBytes = 8192 })
	ref := sh.server.rooms.enter("live://1", sh)
	s, out := newFakeSession(sh.server, "k", false)
	sh.mailbox.put(joinCommand{session: s, ref: ref})
	sh.turn(*now)
	var dones []single
	for range 100 {
		dones = append(dones, sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, string(make([]byte, 1000)))}))
	}
	sh.commands()
	select {
	case <-dones[99]:
		t.Error("the last push was taken though the log has no space for it")
	default:
	}
	settle(sh, now)
	for i, d := range dones {
		select {
		case <-d:
		default:
			t.Fatalf("push %d was never answered", i)
		}
	}
	if n := len(decodeStream(t, out.got, false)); n != 100 {
		t.Errorf("%d frames arrived, want 100", n)
	}
}

// A room of many must not hold up a room of one: its sweep is cut into slices.
func TestRoomsTakeTurns(t *testing.T) {
	sh, now := newTestShard(t, nil)
	large, small := sh.server.rooms.enter("live://large", sh), sh.server.rooms.enter("live://small", sh)
	var outs []*fakeStream
	for i := range 10 * sliceMembers {
		s, out := newFakeSession(sh.server, fmt.Sprint(i), false)
		sh.mailbox.put(joinCommand{session: s, ref: large})
		outs = append(outs, out)
	}
	one, oneOut := newFakeSession(sh.server, "one", false)
	sh.mailbox.put(joinCommand{session: one, ref: small})
	settle(sh, now)
	sh.putPush(pushCommand{kind: pushRoom, ref: large, batch: pushFrame(1000, "x")})
	sh.turn(*now)
	sh.putPush(pushCommand{kind: pushRoom, ref: small, batch: pushFrame(1000, "x")})
	sh.turn(*now)
	sh.turn(*now)
	if oneOut.sent != 1 {
		t.Errorf("the small room was swept %d times after the large room's third slice, want 1", oneOut.sent)
	}
	settle(sh, now)
	for i, out := range outs {
		if out.sent != 1 {
			t.Fatalf("member %d of the large room got %d sends, want 1", i, out.sent)
		}
	}
}

// With a least interval, what arrives between two sweeps goes out in one send.
func TestMinInterval(t *testing.T) {
	sh, now := newTestShard(t, func(c *Config) { c.Room.MinInterval = 100 * time.Millisecond })
	ref := sh.server.rooms.enter("live://1", sh)
	s, out := newFakeSession(sh.server, "k", false)
	sh.mailbox.put(joinCommand{session: s, ref: ref})
	sh.turn(*now)
	for range 100 {
		sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, "x")})
		sh.turn(*now)
		*now = now.Add(10 * time.Millisecond)
	}
	settle(sh, now)
	if n := len(decodeStream(t, out.got, false)); n != 100 {
		t.Errorf("%d frames arrived, want 100", n)
	}
	if out.sent < 9 || out.sent > 12 {
		t.Errorf("%d sends in 1 s, want about 10", out.sent)
	}
}

// The speed of a broadcast is a bound on members a second.
func TestBroadcastSpeed(t *testing.T) {
	sh, now := newTestShard(t, nil)
	var outs []*fakeStream
	for i := range 1000 {
		s, out := newFakeSession(sh.server, fmt.Sprint(i), false)
		sh.mailbox.put(joinCommand{session: s, ops: []wire.Op{1000}})
		outs = append(outs, out)
	}
	sh.server.sessions.Store(1000)
	sh.turn(*now)
	sh.putPush(pushCommand{kind: pushAll, op: 1000, speed: 100, batch: pushFrame(1000, "x")})
	count := func() (n int) {
		for _, out := range outs {
			if len(out.got) > 0 {
				n++
			}
		}
		return n
	}
	for second := 1; second <= 10; second++ {
		for range 100 {
			for sh.turn(*now) {
			}
			*now = now.Add(10 * time.Millisecond)
		}
		if n := count(); n < second*100-5 || n > second*100+5 {
			t.Fatalf("after %d s %d sessions have it, want about %d", second, n, second*100)
		}
	}
}

func TestHeartbeatWheel(t *testing.T) {
	sh, now := newTestShard(t, nil)
	late, lateOut := newFakeSession(sh.server, "late", false)
	beats, beatsOut := newFakeSession(sh.server, "beats", false)
	for _, s := range []*session{late, beats} {
		s.deadline.Store(now.Unix() + 700) // more than a turn of the wheel
		sh.mailbox.put(joinCommand{session: s})
	}
	for range 1500 {
		sh.turn(*now)
		*now = now.Add(time.Second)
		if !beatsOut.shut {
			beats.deadline.Store(now.Unix() + 10)
		}
	}
	if !lateOut.shut || late.out.reason != reasonHeartbeat {
		t.Error("the session without heartbeats was not closed")
	}
	if beatsOut.shut {
		t.Error("the session with heartbeats was closed")
	}
}

func TestKeyReplacedByNewSession(t *testing.T) {
	sh, now := newTestShard(t, nil)
	old, oldOut := newFakeSession(sh.server, "k", false)
	sh.mailbox.put(joinCommand{session: old, ops: []wire.Op{1000}})
	sh.turn(*now)
	young, youngOut := newFakeSession(sh.server, "k", false)
	sh.mailbox.put(joinCommand{session: young, ops: []wire.Op{1000}})
	sh.turn(*now)
	if !oldOut.shut || old.out.reason != reasonReplaced {
		t.Error("the old session was not closed")
	}
	old.gone()
	sh.putPush(pushCommand{kind: pushKeys, keys: []string{"k"}, op: 1000, batch: pushFrame(1000, "x")})
	settle(sh, now)
	if len(youngOut.got) == 0 {
		t.Error("the new session did not get the push to its key")
	}
}
