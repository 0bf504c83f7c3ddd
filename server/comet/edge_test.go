package comet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"barrage/server/api/logic"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A goneStream loses its connection at its first send.
type goneStream struct {
	session *session
	once    atomic.Bool
	done    chan struct{}
}

func (g *goneStream) send(b []byte) (int, error) {
	if g.once.CompareAndSwap(false, true) {
		go func() { g.session.gone(); close(g.done) }()
	}
	return len(b), nil
}

func (g *goneStream) sendChunk(c *chunk) (int, error) { return g.send(c.data) }
func (g *goneStream) shutdown()                       {}

// A connection that ends while the input that it sent before the auth reply is handled
// leaves nothing behind: its commands never come behind its leave.
func TestConnectionEndsDuringAuth(t *testing.T) {
	for _, f := range []wire.Frame{
		{Op: wire.OpChangeRoom, Body: []byte("live://2")},
		{Op: wire.OpSub, Body: []byte("1")},
	} {
		sh, _ := newTestShard(t, nil)
		s := sh.server
		ss := &session{server: s}
		out := &goneStream{session: ss, done: make(chan struct{})}
		ss.out.stream = out
		ss.in.phase = phaseConnect
		for range maxCommands {
			ss.in.partial = wire.AppendFrame(ss.in.partial, f)
		}
		s.limits.enter(ss.addr, time.Now())
		s.open.Add(1)
		s.admit(ss, wire.Frame{Ver: 1}, &logic.ConnectReply{Key: "k", RoomID: "live://1", Heartbeat: int64(time.Hour)})
		<-out.done
		sh.commands()
		if len(sh.rooms) != 0 || len(sh.keys) != 0 || len(sh.everyone.members) != 0 || s.rooms.len() != 0 || s.sessions.Load() != 0 {
			t.Errorf("op %d: left behind are %d rooms, %d keys, %d members, %d refs", f.Op, len(sh.rooms), len(sh.keys), len(sh.everyone.members), s.rooms.len())
		}
	}
}

// A session that floods its shard with commands is closed.
func TestCommandFlood(t *testing.T) {
	sh, _ := newTestShard(t, nil)
	s, out := newFakeSession(sh.server, "k", false)
	s.in.phase = phaseOpen
	sub := wire.AppendFrame(nil, wire.Frame{Op: wire.OpSub, Body: []byte("1")})
	s.feed(slices.Concat(slices.Repeat([][]byte{sub}, maxCommands)...))
	if out.shut {
		t.Fatal("closed at the bound")
	}
	s.feed(slices.Clone(sub))
	if !out.shut || s.out.reason != reasonInputOverflow {
		t.Errorf("closed %v for %v, want %v", out.shut, s.out.reason, reasonInputOverflow)
	}
}

// When a member that lagged leaves, the room lets go of what it kept for it.
func TestLaggardLeaves(t *testing.T) {
	sh, now := newTestShard(t, nil)
	ref := sh.server.rooms.enter("live://1", sh)
	fast, _ := newFakeSession(sh.server, "fast", false)
	slow, out := newFakeSession(sh.server, "slow", false)
	out.room = 10
	for _, s := range []*session{fast, slow} {
		sh.mailbox.put(joinCommand{session: s, ref: ref})
	}
	for range 100 {
		sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, string(make([]byte, 10_000)))})
		sh.turn(*now)
	}
	if sh.rooms[ref].log.size == 0 {
		t.Fatal("nothing was kept for the slow member")
	}
	slow.gone()
	settle(sh, now)
	if n := sh.rooms[ref].log.size; n != 0 {
		t.Errorf("%d bytes are kept for nobody", n)
	}
}

// A client of a small room that is slow at times must not make the shard walk everybody.
func TestCatchingUpSweepsNobodyElse(t *testing.T) {
	sh, now := newTestShard(t, nil)
	for i := range 5000 {
		s, _ := newFakeSession(sh.server, fmt.Sprint(i), false)
		sh.mailbox.put(joinCommand{session: s})
	}
	slow, out := newFakeSession(sh.server, "slow", false)
	ref := sh.server.rooms.enter("live://1", sh)
	sh.mailbox.put(joinCommand{session: slow, ref: ref})
	settle(sh, now)
	for range 50 {
		out.room = 10
		sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, "more than ten bytes")})
		for sh.turn(*now) {
		}
		out.room = unlimited
		for range 10 {
			*now = now.Add(maxRetry)
			sh.turn(*now)
			if sh.everyone.queued || sh.everyone.sweep.next > 0 {
				t.Fatal("the room of everybody is swept, and nothing was broadcast")
			}
		}
	}
	if n := len(decodeStream(t, out.got, false)); n != 50 {
		t.Errorf("%d frames arrived, want 50", n)
	}
}

// Pushes that wait for space reach a member that leaves the room meanwhile.
func TestRoomChangeWhilePushesWait(t *testing.T) {
	sh, now := newTestShard(t, func(c *Config) { c.Room.LogBytes = 4096 })
	s, out := newFakeSession(sh.server, "k", false)
	ref := sh.server.rooms.enter("live://1", sh)
	sh.mailbox.put(joinCommand{session: s, ref: ref})
	sh.turn(*now)
	for range 10 {
		sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, string(make([]byte, 1000)))})
	}
	sh.server.rooms.enter("live://1", sh)
	sh.mailbox.put(changeRoomCommand{session: s, ref: ref, reply: s.reply(wire.Frame{Ver: 1}, wire.OpChangeRoomReply, nil)})
	settle(sh, now)
	frames := decodeStream(t, out.got, false)
	if len(frames) != 11 || frames[10].Op != wire.OpChangeRoomReply {
		t.Errorf("%d frames arrived, want 10 pushes and the reply behind them", len(frames))
	}
}

// Who enters a room while pushes wait gets none of them, and who comes back none twice, whether
// their caller still waits or has given up.
func TestEnteringBehindPushesThatWait(t *testing.T) {
	for _, tc := range []struct {
		name    string
		through []string // rooms that the client changes to
		givenUp bool
	}{
		{name: "into the same room", through: []string{"live://1"}},
		{name: "to another and back", through: []string{"live://2", "live://1"}},
		{name: "thrice", through: []string{"live://1", "live://2", "live://1"}},
		{name: "pushes whose callers gave up", through: []string{"live://1"}, givenUp: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sh, now := newTestShard(t, func(c *Config) { c.Room.LogBytes = 4096 })
			join := func(key string) (*session, *fakeStream) {
				s, out := newFakeSession(sh.server, key, false)
				sh.mailbox.put(joinCommand{session: s, ref: sh.server.rooms.enter("live://1", sh)})
				sh.commands()
				return s, out
			}
			push := func(ctx context.Context, body string) {
				ref, _ := sh.server.rooms.holders("live://1")
				sh.putPush(pushCommand{ctx: ctx, kind: pushRoom, ref: ref, batch: pushFrame(1000, body)})
				sh.commands()
			}
			_, stays := join("stays")
			s, moves := join("moves")
			ctx, giveUp := context.WithCancel(t.Context())
			defer giveUp()
			body := func(i int) string { return fmt.Sprintf("%02d", i) + strings.Repeat("x", 1000) }
			for i := range 10 {
				push(ctx, body(i))
			}
			for _, room := range tc.through {
				sh.mailbox.put(changeRoomCommand{session: s, ref: sh.server.rooms.enter(room, sh), reply: s.reply(wire.Frame{Ver: 1}, wire.OpChangeRoomReply, nil)})
			}
			_, late := join("late")
			if tc.givenUp {
				giveUp()
			}
			push(t.Context(), body(10))
			settle(sh, now)
			for name, client := range map[string]struct {
				out   *fakeStream
				first int
			}{"stays": {stays, 0}, "moves": {moves, 0}, "late": {late, 10}} {
				next := client.first
				for _, f := range decodeStream(t, client.out.got, false) {
					if f.Op == 1000 {
						if string(f.Body) != body(next) {
							t.Fatalf("%s got push %.2s, want %d", name, f.Body, next)
						}
						next++
					}
				}
				if next != 11 {
					t.Errorf("%s got the pushes %d to %d, want them up to 10", name, client.first, next-1)
				}
			}
		})
	}
}

// A broadcast with a speed doesn't slow down the one before it.
func TestPacedBroadcastWaitsForTheSweep(t *testing.T) {
	sh, now := newTestShard(t, nil)
	var outs []*fakeStream
	for i := range 2000 {
		s, out := newFakeSession(sh.server, fmt.Sprint(i), false)
		sh.mailbox.put(joinCommand{session: s, ops: []wire.Op{1000}})
		outs = append(outs, out)
	}
	sh.server.sessions.Store(2000)
	sh.turn(*now)
	sh.turn(*now)
	sh.putPush(pushCommand{kind: pushAll, op: 1000, batch: pushFrame(1000, "urgent")})
	for range 3 {
		sh.turn(*now)
	}
	sh.putPush(pushCommand{kind: pushAll, op: 1000, speed: 10, batch: pushFrame(1000, "slow")})
	sh.putPush(pushCommand{kind: pushAll, op: 1000, batch: pushFrame(1000, "behind")})
	for range 20 {
		sh.turn(*now)
	}
	urgent, slow := 0, 0
	for _, out := range outs {
		frames := decodeStream(t, out.got, false)
		if len(frames) > 0 {
			urgent++
		}
		if len(frames) > 1 {
			slow++
		}
	}
	if urgent != 2000 || slow > 10 {
		t.Errorf("%d of 2000 have the urgent broadcast, %d the slow one at 10 a second", urgent, slow)
	}
}

// Of broadcasts that a session fell behind, those that it accepts count as skipped.
func TestOverrunCountsAcceptedFrames(t *testing.T) {
	sh, now := newTestShard(t, func(c *Config) { c.Room.LogBytes = 64 << 10; c.Room.SlowPolicy = slowClose })
	ref := sh.server.rooms.enter("live://1", sh)
	slow, out := newFakeSession(sh.server, "slow", false)
	fast, _ := newFakeSession(sh.server, "fast", false)
	sh.mailbox.put(joinCommand{session: slow, ref: ref, ops: []wire.Op{1000}})
	sh.mailbox.put(joinCommand{session: fast, ops: []wire.Op{1001}})
	sh.turn(*now)
	out.room = 1 // blocked by its room
	sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, "x")})
	for range 300 {
		sh.putPush(pushCommand{kind: pushAll, op: 1001, batch: pushFrame(1001, string(make([]byte, 1000)))})
		for sh.turn(*now) {
		}
	}
	out.room = unlimited
	settle(sh, now)
	if n := testutil.ToFloat64(sh.metrics.skipped[skipLogOverrun]); n != 0 || out.shut {
		t.Errorf("%v frames count as skipped, closed %v, though the session accepts none of them", n, out.shut)
	}
}

// Of broadcasts that have no space in a session's queue when it changes what it accepts, those
// that it accepts until then count as skipped.
func TestFullQueueCountsAcceptedFrames(t *testing.T) {
	sh, now := newTestShard(t, func(c *Config) { c.Session.MaxPending = 4096 })
	slow, out := newFakeSession(sh.server, "slow", false)
	sh.mailbox.put(joinCommand{session: slow, ops: []wire.Op{1000}})
	sh.turn(*now)
	out.room = 1
	sh.putPush(pushCommand{kind: pushAll, op: 1000, batch: pushFrame(1000, "in part")})
	sh.turn(*now)
	for range 20 {
		for _, op := range []wire.Op{1000, 1001, 1001} {
			sh.putPush(pushCommand{kind: pushAll, op: op, batch: pushFrame(op, string(make([]byte, 1000)))})
			sh.turn(*now)
		}
	}
	reply := slow.reply(wire.Frame{Ver: 1}, wire.OpSubReply, nil)
	sh.mailbox.put(subCommand{session: slow, ops: []wire.Op{1001}, reply: reply})
	sh.turn(*now)
	out.room = unlimited
	settle(sh, now)
	frames := decodeStream(t, out.got, false)
	if len(frames) != 2 || string(frames[0].Body) != "in part" || frames[1].Op != wire.OpSubReply {
		t.Fatalf("got %d frames, want a broadcast and the reply", len(frames))
	}
	if n := testutil.ToFloat64(sh.metrics.skipped[skipBackedUp]); n != 20 {
		t.Errorf("%v frames count as skipped, want the 20 that it accepts", n)
	}
}

// Registrations of sessions that ended before they joined are taken back, but not that of
// another session with the key.
func TestWithdraw(t *testing.T) {
	sh, now := newTestShard(t, nil)
	fake := sh.server.logic.(*fakeLogic)
	live, _ := newFakeSession(sh.server, "live", false)
	sh.mailbox.put(joinCommand{session: live})
	for _, key := range []string{"live", "ended"} {
		s, _ := newFakeSession(sh.server, key, false)
		sh.mailbox.put(withdrawCommand{s})
	}
	sh.turn(*now)
	sh.server.registrar.stop(time.Now().Add(wait))
	if fake.mu.Lock(); len(fake.gone) != 1 || fake.gone[0] != "ended" {
		t.Errorf("disconnected are %v, want [ended]", fake.gone)
	}
	fake.mu.Unlock()
}
