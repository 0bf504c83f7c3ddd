package comet

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	cometpb "barrage/server/api/comet"
	"barrage/server/api/logic"
	"barrage/server/api/sessions"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// managed is a logic that bounds the sessions of a key itself, and closes none.
func managed(_ *logic.ConnectReq, r *logic.ConnectReply) error {
	r.Managed = true
	return nil
}

// ids returns the sessions that connected so far, in their order.
func (c *testComet) ids() []string {
	c.logic.mu.Lock()
	defer c.logic.mu.Unlock()
	return slices.Clone(c.logic.ids)
}

// takenBack returns the sessions that logic was told have ended, in their order.
func (c *testComet) takenBack() []string {
	c.logic.mu.Lock()
	defer c.logic.mu.Unlock()
	return slices.Clone(c.logic.goneIDs)
}

// sessionsClient calls the service that logic calls.
func (c *testComet) sessionsClient(t testing.TB) sessions.SessionsClient {
	t.Helper()
	conn, err := grpc.NewClient(c.RPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return sessions.NewSessionsClient(conn)
}

// dismissed reads until the farewell, which must have the code, and the connection's end.
func (c *client) dismissed(code string) {
	c.t.Helper()
	f := c.read()
	if f.Op != wire.OpDisconnectReply || f.Ver != 1 || f.Seq != 0 || string(f.Body) != `{"code":"`+code+`"}` {
		c.t.Fatalf("farewell is %+v %q, want code %s", f, f.Body, code)
	}
	c.ended()
}

func pushTo(t testing.TB, c *testComet, key, body string) {
	t.Helper()
	if _, err := c.rpc.PushMsg(context.Background(), &cometpb.PushMsgReq{Keys: []string{key}, ProtoOp: 1000, Proto: raw(1000, body)}); err != nil {
		t.Fatal(err)
	}
}

func (c *client) wants(body string) {
	c.t.Helper()
	if f := c.read(); string(f.Body) != body {
		c.t.Fatalf("got %+v %q, want %q", f, f.Body, body)
	}
}

// A push to a key reaches all its sessions, and each is taken back by its own id.
func TestSeveralSessionsUnderOneKey(t *testing.T) {
	c := startComet(t, &fakeLogic{connect: managed}, nil)
	var clients []*client
	for i := range 3 {
		clients = append(clients, c.login(t, i == 1, `{"key":"k","accepts":[1000]}`))
	}
	other := c.login(t, false, `{"key":"k","accepts":[1001]}`)
	pushTo(t, c, "k", "to all")
	for _, cl := range clients {
		cl.wants("to all")
	}
	ids := c.ids()
	if len(ids) != 4 || len(slices.Compact(slices.Sorted(slices.Values(ids)))) != 4 {
		t.Fatalf("ids are %q", ids)
	}
	// From the middle, the oldest, the newest: the others still get everything.
	for _, i := range []int{1, 0} {
		clients[i].conn.Close()
		eventually(t, "logic hears of the end", func() bool { return slices.Contains(c.takenBack(), ids[i]) })
		pushTo(t, c, "k", "to the rest")
		clients[2].wants("to the rest")
	}
	other.send(wire.Frame{Ver: 1, Op: wire.OpHeartbeat, Seq: 1})
	if f := other.read(); f.Op != wire.OpHeartbeatReply {
		t.Errorf("the session that doesn't accept the operation got %+v", f)
	}
	if n := len(c.takenBack()); n != 2 {
		t.Errorf("%d sessions are taken back, want 2", n)
	}
}

func TestReplaced(t *testing.T) {
	everyTransport(t, func(t *testing.T, tr transport) {
		websocket := tr.websocket
		t.Run("by a logic that doesn't bound sessions", func(t *testing.T) {
			c := tr.start(t, &fakeLogic{}, nil)
			first := c.login(t, websocket, `{"key":"k","accepts":[1000]}`)
			second := c.login(t, websocket, `{"key":"k","accepts":[1000]}`)
			first.dismissed("replaced")
			pushTo(t, c, "k", "new")
			second.wants("new")
			second.conn.Close()
			eventually(t, "logic hears of the second's end", func() bool { return len(c.takenBack()) > 0 })
			// The first's end took no registration away: the key was the second's.
			if ids, gone := c.ids(), c.takenBack(); len(gone) != 1 || gone[0] != ids[1] {
				t.Errorf("taken back: %q of %q", gone, ids)
			}
		})
		t.Run("by logic's word", func(t *testing.T) {
			var previous atomic.Pointer[logic.SessionRef]
			l := &fakeLogic{connect: func(q *logic.ConnectReq, r *logic.ConnectReply) error {
				r.Managed = true
				if old := previous.Swap(&logic.SessionRef{Key: r.Key, Session: q.Session}); old != nil {
					r.Replaced = []*logic.SessionRef{old, {Key: r.Key, Session: "another life-1"}, {Key: r.Key, Session: "junk"}}
				}
				return nil
			}}
			c := tr.start(t, l, nil)
			// Of a member with two keys: they may be in different shards.
			first := c.login(t, websocket, `{"mid":1,"key":"k1","accepts":[1000]}`)
			second := c.login(t, websocket, `{"mid":1,"key":"k2","accepts":[1000]}`)
			first.dismissed("replaced")
			pushTo(t, c, "k2", "new")
			second.wants("new")
		})
		t.Run("by logic's call", func(t *testing.T) {
			c := tr.start(t, &fakeLogic{connect: managed}, nil)
			rpc := c.sessionsClient(t)
			first := c.login(t, websocket, `{"key":"k","accepts":[1000]}`)
			second := c.login(t, websocket, `{"key":"k","accepts":[1000]}`)
			ids := c.ids()
			eventually(t, "both are their shard's", func() bool {
				c.connecting.mu.Lock()
				defer c.connecting.mu.Unlock()
				return len(c.connecting.by) == 0
			})
			refs := []*logic.SessionRef{{Key: "k", Session: ids[0]}, {Key: "k", Session: "x-1"}, {Key: "other", Session: ids[1]}}
			held, err := rpc.Holds(context.Background(), &sessions.HoldsReq{Sessions: refs})
			if err != nil || len(held.Sessions) != 1 || held.Sessions[0].Session != ids[0] {
				t.Fatalf("holds %v, %v", held, err)
			}
			if _, err := rpc.Close(context.Background(), &sessions.CloseReq{Sessions: refs, Code: "because"}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("a code that no client knows: %v", err)
			}
			closed, err := rpc.Close(context.Background(), &sessions.CloseReq{Sessions: refs, Code: "replaced"})
			if err != nil || len(closed.Closed) != 1 || closed.Closed[0].Session != ids[0] {
				t.Fatalf("closed %v, %v", closed, err)
			}
			first.dismissed("replaced")
			pushTo(t, c, "k", "for the other")
			second.wants("for the other")
		})
		t.Run("while it connects", func(t *testing.T) {
			release := make(chan struct{})
			c := tr.start(t, &fakeLogic{connect: managed, before: func([]byte) { <-release }}, nil)
			rpc := c.sessionsClient(t)
			cl := c.dial(t, websocket)
			cl.send(wire.Frame{Ver: 1, Op: wire.OpAuth, Body: []byte(`{"key":"k"}`)})
			var id string
			eventually(t, "logic is asked", func() bool {
				c.connecting.mu.Lock()
				defer c.connecting.mu.Unlock()
				for _, s := range c.connecting.by {
					id = s.id()
				}
				return id != ""
			})
			refs := []*logic.SessionRef{{Key: "k", Session: id}}
			if held, err := rpc.Holds(context.Background(), &sessions.HoldsReq{Sessions: refs}); err != nil || len(held.Sessions) != 1 {
				t.Errorf("holds %v, %v", held, err)
			}
			if closed, err := rpc.Close(context.Background(), &sessions.CloseReq{Sessions: refs, Code: "replaced"}); err != nil || len(closed.Closed) != 1 {
				t.Errorf("closed %v, %v", closed, err)
			}
			close(release)
			if f := cl.read(); f.Op != wire.OpAuthReply {
				t.Fatalf("auth reply is %+v", f)
			}
			cl.dismissed("replaced")
		})
		t.Run("heard of with a heartbeat", func(t *testing.T) {
			l := &fakeLogic{connect: managed, beat: func(q *logic.HeartbeatReq) *logic.HeartbeatReply {
				return &logic.HeartbeatReply{Replaced: strings.HasPrefix(q.Key, "old") && q.Session != ""}
			}}
			c := tr.start(t, l, nil)
			cl := c.login(t, websocket, `{"key":"old"}`)
			reportNow(t, c, "old")
			cl.send(wire.Frame{Ver: 1, Op: wire.OpHeartbeat, Seq: 2})
			if f := cl.read(); f.Op != wire.OpHeartbeatReply {
				t.Fatalf("heartbeat reply is %+v", f)
			}
			cl.dismissed("replaced")
		})
	})
}

// reportNow has the next heartbeat of the key's session passed on to logic.
func reportNow(t testing.TB, c *testComet, key string) {
	t.Helper()
	onShard(c.shardOf(key), func(sh *shard) {
		s := sh.keys[key]
		s.inMu.Lock()
		s.in.reportAt = 0
		s.inMu.Unlock()
	})
}

// A testCommand runs in a shard.
type testCommand func(*shard)

func (c testCommand) run(sh *shard) { c(sh) }

// onShard runs f on the goroutine of a shard, and returns when it has.
func onShard(sh *shard, f func(sh *shard)) {
	done := make(chan struct{})
	sh.mailbox.put(testCommand(func(sh *shard) {
		defer close(done)
		f(sh)
	}))
	<-done
}

func TestRejected(t *testing.T) {
	everyTransport(t, func(t *testing.T, tr transport) {
		websocket := tr.websocket
		c := tr.start(t, &fakeLogic{connect: func(*logic.ConnectReq, *logic.ConnectReply) error {
			return status.Error(codes.AlreadyExists, "1 session has the key")
		}}, nil)
		cl := c.dial(t, websocket)
		cl.send(wire.Frame{Ver: 1, Op: wire.OpAuth, Body: []byte(`{"key":"k"}`)})
		cl.dismissed("rejected")
		eventually(t, "it is counted", func() bool { return testutil.ToFloat64(c.metrics.closed[reasonRejected]) == 1 })
		if n := len(c.takenBack()); n != 0 {
			t.Errorf("%d registrations are taken back of a session that had none", n)
		}
	})
}

func TestDrainSaysSo(t *testing.T) {
	everyTransport(t, func(t *testing.T, tr transport) {
		websocket := tr.websocket
		c := tr.start(t, &fakeLogic{}, nil)
		cl := c.login(t, websocket, `{"key":"k","room_id":"live://1"}`)
		if _, err := c.rpc.BroadcastRoom(context.Background(), &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(1000, "last")}); err != nil {
			t.Fatal(err)
		}
		go c.stop()
		cl.wants("last")
		cl.dismissed("drained")
	})
}
