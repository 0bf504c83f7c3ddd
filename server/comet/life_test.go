package comet

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"barrage/server/api/logic"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
)

// A session's deadline is what logic said, and only heartbeats renew it: other frames, and
// pushes that arrive, don't.
func TestOnlyHeartbeatsRenew(t *testing.T) {
	everyTransport(t, func(t *testing.T, tr transport) {
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
			write := func(cl *client, op wire.Op) {
				b := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: op})
				if tr.websocket {
					b = maskedFrame(0x82, b)
				}
				cl.conn.Write(b) // which fails once it is closed
			}
			write(talker, wire.OpSendMsg)
			write(beater, wire.OpHeartbeat)
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

// Logic hears of a live session with the first heartbeat behind a time of 10 to 30 minutes,
// drawn for each session.
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
	low, high := int64(1<<62), int64(0)
	for range 10_000 {
		at := c.nextReport(now) - now.Unix()
		low, high = min(low, at), max(high, at)
	}
	if low < 600 || low > 620 || high > 1800 || high < 1780 {
		t.Errorf("logic is told after %d to %d s, want 600 to 1800", low, high)
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
		got := make(chan int, 1)
		c.shardOf("k").mailbox.put(testCommand(func(sh *shard) {
			s := sh.keys["k"]
			s.mu.Lock()
			defer s.mu.Unlock()
			v, err := unix.GetsockoptInt(s.out.stream.(fdStream).fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
			if err != nil {
				v = -1
			}
			got <- v
		}))
		if v := <-got; (v == 1) != on {
			t.Errorf("keepalive = %v: SO_KEEPALIVE is %d", on, v)
		}
	}
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
