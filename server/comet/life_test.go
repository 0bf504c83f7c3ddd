package comet

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cometpb "barrage/server/api/comet"
	"barrage/server/api/logic"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
)

// A session's deadline is what logic said, and only heartbeats renew it: other frames, and
// pushes that arrive, don't.
func TestOnlyHeartbeatsRenew(t *testing.T) {
	everyTransport(t, func(t *testing.T, tr transport) {
		t.Parallel()
		c := tr.start(t, &fakeLogic{heartbeat: time.Second}, nil)
		talker := c.login(t, tr.websocket, `{"key":"talker"}`)
		beater := c.login(t, tr.websocket, `{"key":"beater"}`)
		var reading sync.WaitGroup
		for _, cl := range []*client{talker, beater} {
			reading.Go(func() {
				for {
					if _, err := cl.tryRead(); err != nil {
						return
					}
				}
			})
		}
		began := time.Now()
		for testutil.ToFloat64(c.metrics.closed[reasonHeartbeat]) == 0 {
			if time.Since(began) > wait {
				t.Fatal("a session that sends no heartbeat stays open")
			}
			_ = talker.trySend(wire.Frame{Ver: 1, Op: wire.OpSendMsg}) // which fails once it is closed
			_ = beater.trySend(wire.Frame{Ver: 1, Op: wire.OpHeartbeat})
			time.Sleep(50 * time.Millisecond)
		}
		if n := testutil.ToFloat64(c.metrics.closed[reasonHeartbeat]); n != 1 || c.sessions.Load() != 1 || time.Since(began) < time.Second {
			t.Errorf("%v sessions are closed and %d left, after %v", n, c.sessions.Load(), time.Since(began))
		}
		talker.conn.Close()
		beater.conn.Close()
		reading.Wait()
	})
}

// A peer that has vanished, whose connection stays open and who never sends nor reads again, is
// closed at its heartbeat's deadline, also with its window full, and leaves its room.
func TestVanishedPeer(t *testing.T) {
	everyTransport(t, func(t *testing.T, tr transport) {
		for _, full := range []bool{false, true} {
			t.Run(fmt.Sprintf("full=%v", full), func(t *testing.T) {
				c := tr.start(t, &fakeLogic{heartbeat: time.Hour}, func(cfg *Config) { cfg.TCP.SndBuf = 16 << 10 })
				cl := c.login(t, tr.websocket, `{"key":"k","room_id":"live://1"}`)
				if full {
					// Far more than the buffers of both ends take.
					for range 100 {
						q := &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(1000, strings.Repeat("x", 32<<10))}
						if _, err := c.rpc.BroadcastRoom(t.Context(), q); err != nil {
							t.Fatal(err)
						}
					}
					eventually(t, "its window is full", func() bool { return testutil.ToFloat64(c.metrics.laggards) == 1 })
				}
				sh := c.shardOf("k")
				later := func(d time.Duration) {
					onShard(sh, func(sh *shard) { sh.now = func() time.Time { return time.Now().Add(d) } })
					onShard(sh, func(sh *shard) { sh.tick(sh.now()) })
				}
				later(59 * time.Minute)
				if c.sessions.Load() != 1 || testutil.ToFloat64(c.metrics.closed[reasonHeartbeat]) != 0 {
					t.Fatal("the session is closed before its deadline")
				}
				later(61 * time.Minute)
				eventually(t, "the session has gone", func() bool { return c.open.Load() == 0 && c.rooms.len() == 0 })
				eventually(t, "logic hears of the end", func() bool { return len(c.takenBack()) == 1 })
				if n := testutil.ToFloat64(c.metrics.closed[reasonHeartbeat]); n != 1 {
					t.Errorf("%v sessions are closed for their heartbeat, want 1", n)
				}
				onShard(sh, func(sh *shard) {
					if len(sh.rooms) != 0 || len(sh.everyone.members) != 0 || len(sh.keys) != 0 {
						t.Errorf("left behind: %d rooms, %d members, %d keys", len(sh.rooms), len(sh.everyone.members), len(sh.keys))
					}
				})
				cl.conn.Close() // until here it was open
			})
		}
	})
}

// Logic hears of a live session with the first heartbeat behind a time from 10 minutes on,
// drawn for each session, so that it never hears later than after 30.
func TestReportTimes(t *testing.T) {
	var beats atomic.Int32
	c := startComet(t, &fakeLogic{beat: func(q *logic.HeartbeatReq) *logic.HeartbeatReply {
		if q.Mid != 5 || q.Key != "k" || q.Server != "test" || q.Session == "" {
			t.Errorf("heartbeat is %v", q)
		}
		beats.Add(1)
		return &logic.HeartbeatReply{}
	}}, nil)
	now := time.Now()
	for _, d := range []struct {
		deadline  time.Duration
		low, high int64
	}{{8 * time.Minute, 600, 22 * 60}, {time.Second, 600, 30 * 60}, {time.Hour, 600, 11 * 60}} {
		low, high := int64(1<<62), int64(0)
		for range 10_000 {
			at := nextReport(now, d.deadline) - now.Unix()
			low, high = min(low, at), max(high, at)
		}
		if low < d.low || low > d.low+20 || high > d.high || high < d.high-20 {
			t.Errorf("with a deadline of %v logic is told after %d to %d s, want %d to %d", d.deadline, low, high, d.low, d.high)
		}
	}
	cl := c.login(t, false, `{"mid":5,"key":"k"}`)
	beat := func() {
		t.Helper()
		cl.send(wire.Frame{Ver: 1, Op: wire.OpHeartbeat})
		if f := cl.read(); f.Op != wire.OpHeartbeatReply {
			t.Fatalf("reply is %+v", f)
		}
	}
	for range 3 {
		beat()
	}
	if n := beats.Load(); n != 0 {
		t.Errorf("logic was told %d times before the time has come", n)
	}
	reportNow(t, c, "k")
	for range 3 {
		beat()
	}
	eventually(t, "logic is told", func() bool { return beats.Load() == 1 })
	for range 3 {
		beat()
	}
	if n := beats.Load(); n != 1 {
		t.Errorf("logic was told %d times, want once", n)
	}
}

func TestKeepAliveProbes(t *testing.T) {
	for _, on := range []bool{true, false} {
		c := startComet(t, &fakeLogic{}, func(cfg *Config) { cfg.TCP.KeepAlive = on })
		c.login(t, false, `{"key":"k"}`)
		var got int
		onShard(c.shardOf("k"), func(sh *shard) {
			s := sh.keys["k"]
			s.mu.Lock()
			defer s.mu.Unlock()
			v, err := unix.GetsockoptInt(descriptor(s.out.stream), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
			if err != nil {
				v = -1
			}
			got = v
		})
		if (got == 1) != on {
			t.Errorf("keepalive = %v: SO_KEEPALIVE is %d", on, got)
		}
	}
}

// descriptor returns that of a session outside TLS, for its shard.
func descriptor(out stream) int {
	if own, ok := out.(tableStream); ok {
		return int(own.fd)
	}
	return out.(fdStream).fd
}

// FuzzAuth: whatever stands in an auth frame, the session is open with what logic made of it,
// or closed with nothing left behind.
func FuzzAuth(f *testing.F) {
	for _, token := range []string{"", "{}", `{"mid":1,"key":"k","room_id":"live://1","platform":"web","accepts":[1000,1001]}`,
		`{"mid":"1"}`, `{"accepts":[99999999999]}`, `{"room_id":"\u0000"}`, "\xff", "null", "[]", `{"key":""}{`} {
		f.Add([]byte(token), false)
		f.Add([]byte(token), true)
	}
	sh, now := newTestShard(f, nil)
	s := sh.server
	f.Fuzz(func(t *testing.T, token []byte, websocket bool) {
		if len(token) > wire.MaxClientBody {
			return
		}
		c, out := newFakeSession(s, "", websocket)
		c.out.joined = false
		c.in.phase = phaseAuth
		s.limits.enter(c.addr, *now)
		s.open.Add(1)
		in := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuth, Seq: 9, Body: token})
		if websocket {
			in, c.in.ws = maskedFrame(0x82, in), &wsDecoder{limit: s.ws.limit}
		}
		c.feed(in)
		var open, shut bool
		eventually(t, "auth is decided", func() bool {
			c.inMu.Lock()
			open = c.in.phase == phaseOpen
			c.inMu.Unlock()
			shut = c.closed()
			return open || shut
		})
		sh.commands()
		want := json.Valid(token) && !shut
		if open != want || open && sh.find(c.key, c.number) != c {
			t.Errorf("open %v, closed %v", open, shut)
		}
		if open {
			if frames := decodeStream(t, out.got, websocket); len(frames) != 1 || frames[0].Op != wire.OpAuthReply || frames[0].Seq != 9 {
				t.Errorf("got %v", frames)
			}
		} else if len(out.got) > 0 {
			t.Errorf("a token that is refused has the reply %x", out.got)
		}
		c.gone()
		sh.commands()
		if len(sh.keys) != 0 || len(sh.rooms) != 0 || len(sh.everyone.members) != 0 || s.rooms.len() != 0 || s.open.Load() != 0 || s.sessions.Load() != 0 {
			t.Errorf("left behind: %d keys, %d rooms, %d members, %d refs", len(sh.keys), len(sh.rooms), len(sh.everyone.members), s.rooms.len())
		}
	})
}

// FuzzSubList: whatever a client sends as a list, the operations are those that stand in it
// as numbers.
func FuzzSubList(f *testing.F) {
	for _, list := range []string{"", "1000", "1000,1001", " 1000 ,x,,1000,-1", "99999999999", "1e3", "0x10", "١"} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, list string) {
		ops := parseOps(list)
		if len(ops) > len(list) {
			t.Errorf("%d operations in %d bytes", len(ops), len(list))
		}
		set := changeOps(nil, ops, false, 10)
		if len(set) > 10 {
			t.Errorf("%d operations are accepted", len(set))
		}
		if rest := changeOps(set, ops, true, 10); len(rest) != 0 {
			t.Errorf("%v are left of %v", rest, set)
		}
	})
}
