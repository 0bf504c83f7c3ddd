package logic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "barrage/server/api/logic"
	"barrage/server/api/protocol"
)

func TestConnect(t *testing.T) {
	c := startCluster(t, nil)
	heartbeat := int64(8 * time.Minute)
	for _, test := range []struct {
		name, token string
		want        *pb.ConnectReply // nil: refused
	}{
		{"everything", `{"mid":123,"key":"k","room_id":"live://1000","platform":"web","accepts":[1000,1001]}`,
			&pb.ConnectReply{Mid: 123, Key: "k", RoomID: "live://1000", Accepts: []int32{1000, 1001}, Heartbeat: heartbeat}},
		{"nothing but a key", `{"key":"k"}`, &pb.ConnectReply{Key: "k", Heartbeat: heartbeat}},
		{"unknown fields", `{"key":"k","more":{}}`, &pb.ConnectReply{Key: "k", Heartbeat: heartbeat}},
		{"no JSON", `mid=123`, nil},
		{"empty", ``, nil},
		{"a wrong type", `{"mid":"123"}`, nil},
		{"an operation out of range", `{"accepts":[4294967296]}`, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			reply, err := c.comet.Connect(t.Context(), &pb.ConnectReq{Server: "comet-1", Token: []byte(test.token)})
			if test.want == nil {
				if status.Code(err) != codes.InvalidArgument {
					t.Fatalf("got %v, %v", reply, err)
				}
				return
			}
			if err != nil || !proto.Equal(reply, test.want) {
				t.Fatalf("got %v, %v, want %v", reply, err, test.want)
			}
			if server, _ := c.redis.Get("key_k"); server != "comet-1" {
				t.Errorf("Redis has session k on comet %q", server)
			}
		})
	}
	t.Run("no key", func(t *testing.T) {
		first, second := c.connect(t, "comet-1", `{}`), c.connect(t, "comet-1", `{"key":""}`)
		if _, err := uuid.Parse(first.GetKey()); err != nil || first.GetKey() == second.GetKey() {
			t.Errorf("keys %q and %q are no two UUIDs", first.GetKey(), second.GetKey())
		}
	})
	if n := testutil.ToFloat64(c.server.metrics.calls["Connect"][callRefused]); n != 4 {
		t.Errorf("%v refused calls are counted, not 4", n)
	}
}

func TestSessionLife(t *testing.T) {
	c := startCluster(t, nil)
	c.connect(t, "comet-1", `{"mid":5,"key":"k"}`)

	// Forgotten, and entered again by a heartbeat.
	c.redis.FastForward(31 * time.Minute)
	if c.redis.Exists("key_k") {
		t.Fatal("the session did not expire")
	}
	if _, err := c.comet.Heartbeat(t.Context(), &pb.HeartbeatReq{Mid: 5, Key: "k", Server: "comet-1"}); err != nil {
		t.Fatal(err)
	}
	if got := c.redis.HGet("mid_5", "k"); got != "comet-1" {
		t.Errorf("member 5's session k is on %q", got)
	}

	// Taken over by another comet: the older one's end must not touch it.
	c.connect(t, "comet-2", `{"mid":5,"key":"k"}`)
	reply, err := c.comet.Disconnect(t.Context(), &pb.DisconnectReq{Mid: 5, Key: "k", Server: "comet-1"})
	if err != nil || reply.GetHas() {
		t.Errorf("Disconnect of the older session: %v, %v", reply, err)
	}
	if server, _ := c.redis.Get("key_k"); server != "comet-2" {
		t.Errorf("session k is on %q", server)
	}
	reply, err = c.comet.Disconnect(t.Context(), &pb.DisconnectReq{Mid: 5, Key: "k", Server: "comet-2"})
	if err != nil || !reply.GetHas() {
		t.Errorf("Disconnect: %v, %v", reply, err)
	}
	if keys := c.redis.Keys(); len(keys) != 0 {
		t.Errorf("left in Redis: %v", keys)
	}
}

func TestRoomCounts(t *testing.T) {
	c := startCluster(t, nil)
	c.instances <- comets("comet-1", "comet-2")
	report := func(server string, rooms map[string]int32) map[string]int32 {
		reply, err := c.comet.RenewOnline(t.Context(), &pb.OnlineReq{Server: server, RoomCount: rooms}, grpc.UseCompressor(gzip.Name))
		if err != nil {
			t.Fatal(err)
		}
		return reply.GetAllRoomCount()
	}
	one := map[string]int32{"live://1": 10, "live://2": 1}
	report("comet-1", one)
	report("comet-unknown", map[string]int32{"live://1": 1000})
	eventually(t, "the sum", func() error {
		want := map[string]int32{"live://1": 15, "live://2": 1, "live://3": 2}
		if got := report("comet-2", map[string]int32{"live://1": 5, "live://3": 2}); !maps.Equal(got, want) {
			return fmt.Errorf("all rooms: %v", got)
		}
		return nil
	})
	// comet-1 leaves discovery: its sessions are no longer counted.
	c.instances <- comets("comet-2")
	eventually(t, "the sum of what is left", func() error {
		if got := report("comet-2", map[string]int32{"live://1": 5}); !maps.Equal(got, map[string]int32{"live://1": 5}) {
			return fmt.Errorf("all rooms: %v", got)
		}
		return nil
	})
}

func TestReceive(t *testing.T) {
	frame := &protocol.Proto{Ver: 1, Op: 4, Seq: 9, Body: []byte("hi")}
	type received struct {
		mid   int64
		frame *protocol.Proto
	}
	got := make(chan received, 1)
	c := startCluster(t, func(_ *Config, deps *Deps) {
		deps.Receive = func(_ context.Context, mid int64, frame *protocol.Proto) error {
			switch mid {
			case 1:
				return errors.New("not now")
			case 2:
				panic("a broken receiver")
			}
			got <- received{mid, frame}
			return nil
		}
	})
	if _, err := c.comet.Receive(t.Context(), &pb.ReceiveReq{Mid: 7, Proto: frame}); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.mid != 7 || !proto.Equal(r.frame, frame) {
		t.Errorf("received %v", r)
	}
	if _, err := c.comet.Receive(t.Context(), &pb.ReceiveReq{Mid: 1, Proto: frame}); status.Code(err) != codes.Unknown {
		t.Errorf("a receiver's error became %v", err)
	}
	if _, err := c.comet.Receive(t.Context(), &pb.ReceiveReq{Mid: 2, Proto: frame}); status.Code(err) != codes.Internal {
		t.Errorf("a receiver's panic became %v", err)
	}
}

func TestRedisDown(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) { cfg.RPCServer.Timeout = time.Second })
	c.ready(t)
	c.redis.SetError("LOADING not yet")
	_, err := c.comet.Connect(t.Context(), &pb.ConnectReq{Server: "comet-1", Token: []byte(`{}`)})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("Connect: %v", err)
	}
	if got := c.post(t, "/goim/push/keys?operation=1&keys=a", "x"); got == success {
		t.Error("a push to keys that could not be looked up succeeded")
	}
	if got := c.post(t, roomPath, "x"); got != success {
		t.Errorf("a push to a room needs no Redis, but: %s", got)
	}
	c.redis.SetError("")
	c.connect(t, "comet-1", `{"key":"a"}`)
	if got := c.post(t, "/goim/push/keys?operation=1&keys=a", "x"); got != success {
		t.Error(got)
	}
}
