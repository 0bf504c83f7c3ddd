package comet

import (
	"context"
	"slices"
	"strings"
	"testing"

	"barrage/server/api/pushes"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func itemTo(room string, bodies ...string) *pushes.Item {
	return &pushes.Item{Room: room, Frames: raw(1000, bodies...).Body}
}

// receive returns what the replies of a call say together.
func receive(t *testing.T, replies grpc.ServerStreamingClient[pushes.PushReply]) (taken []int32, refused map[int32]string) {
	t.Helper()
	refused = make(map[int32]string)
	for {
		reply, err := replies.Recv()
		if err != nil {
			slices.Sort(taken)
			return taken, refused
		}
		taken = append(taken, reply.Taken...)
		for _, r := range reply.Refused {
			refused[r.Item] = r.Reason
		}
	}
}

func TestPushToSeveral(t *testing.T) {
	both(t, func(t *testing.T, websocket bool) {
		c := startComet(t, &fakeLogic{}, func(cfg *Config) { cfg.Room.Shards = 3 })
		conn, err := grpc.NewClient(c.RPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		calls := pushes.NewPushesClient(conn)
		one := c.login(t, websocket, `{"key":"k1","room_id":"live://1","accepts":[1000]}`)
		two := c.login(t, websocket, `{"key":"k2","room_id":"live://2","accepts":[1000]}`)
		half := itemTo("live://1", "half")
		half.Frames = half.Frames[:len(half.Frames)-1]
		items := []*pushes.Item{
			itemTo("live://1", "a", "b"),
			itemTo("live://2", "c"),
			itemTo("live://nobody", "d"),
			{Keys: []string{"k1", "k2", "unknown"}, Op: 1000, Frames: raw(1000, "e").Body},
			{Keys: []string{"k1"}, Op: 1001, Frames: raw(1001, "not accepted").Body},
			half,
			itemTo("live://1"),
			itemTo("", "nobody"),
			itemTo("live://1", "f"),
		}
		replies, err := calls.Push(t.Context(), &pushes.PushReq{Items: items})
		if err != nil {
			t.Fatal(err)
		}
		taken, refused := receive(t, replies)
		if want := []int32{0, 1, 2, 3, 4, 8}; !slices.Equal(taken, want) {
			t.Errorf("taken %v, want %v", taken, want)
		}
		for i, want := range map[int32]string{5: "frames: ", 6: "frames has no frame", 7: "room and keys are empty"} {
			if !strings.Contains(refused[i], want) {
				t.Errorf("item %d: refused for %q, want %q", i, refused[i], want)
			}
		}
		if len(refused) != 3 {
			t.Errorf("refused %v", refused)
		}
		// Between a room and a key there is no order.
		for _, cl := range []struct {
			*client
			want []string
		}{{one, []string{"a", "b", "e", "f"}}, {two, []string{"c", "e"}}} {
			var got []string
			for range cl.want {
				got = append(got, string(cl.read().Body))
			}
			slices.Sort(got)
			if !slices.Equal(got, cl.want) {
				t.Errorf("got %q, want %q", got, cl.want)
			}
		}
		if n := testutil.ToFloat64(c.metrics.pushes["room"]); n != 3 {
			t.Errorf("%g pushes to rooms that are held, want 3", n)
		}
		replies, err = calls.Push(t.Context(), new(pushes.PushReq))
		if err != nil {
			t.Fatal(err)
		}
		if reply, err := replies.Recv(); err != nil || len(reply.Taken)+len(reply.Refused) != 0 {
			t.Errorf("a call without items is answered %v, %v", reply, err)
		}
	})
}

// A replyStream is the server's side of a call, without a network.
type replyStream struct {
	grpc.ServerStreamingServer[pushes.PushReply]
	ctx     context.Context
	replies chan *pushes.PushReply
}

func (r *replyStream) Context() context.Context { return r.ctx }

func (r *replyStream) Send(reply *pushes.PushReply) error {
	r.replies <- reply
	return nil
}

// A room without space in its log holds up what is for it, and nothing else in the call.
func TestFullRoomHoldsUpOnlyItself(t *testing.T) {
	sh, now := newTestShard(t, func(c *Config) { c.Room.LogBytes = 4096 })
	join := func(room string) *fakeStream {
		s, out := newFakeSession(sh.server, room, false)
		sh.mailbox.put(joinCommand{session: s, ref: sh.server.rooms.enter(room)})
		return out
	}
	full, other := join("live://full"), join("live://other")
	sh.turn(*now)
	large := string(make([]byte, 3000))
	sh.putPush(pushCommand{kind: pushRoom, ref: sh.server.rooms.get("live://full"), batch: pushFrame(1000, large)})
	sh.commands()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	call := func() (*replyStream, <-chan error) {
		stream, ended := &replyStream{ctx: ctx, replies: make(chan *pushes.PushReply, 9)}, make(chan error, 1)
		go func() {
			ended <- (&pushService{server: sh.server}).Push(
				&pushes.PushReq{Items: []*pushes.Item{itemTo("live://full", large), itemTo("live://other", "x")}}, stream)
		}()
		// No sweep: the log gets no space.
		eventually(t, "the call is answered", func() bool { sh.commands(); return len(stream.replies) > 0 })
		if reply := <-stream.replies; !slices.Equal(reply.Taken, []int32{1}) {
			t.Errorf("the first reply names %v, want the room with space alone", reply.Taken)
		}
		return stream, ended
	}
	stream, ended := call()
	settle(sh, now)
	if reply := <-stream.replies; !slices.Equal(reply.Taken, []int32{0}) {
		t.Errorf("the second reply names %v, want the room that was full", reply.Taken)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n, m := len(decodeStream(t, full.got, false)), len(decodeStream(t, other.got, false)); n != 2 || m != 1 {
		t.Errorf("%d and %d frames arrived, want 2 and 1", n, m)
	}

	// One who gives up is not told that what waited was taken.
	sh.putPush(pushCommand{kind: pushRoom, ref: sh.server.rooms.get("live://full"), batch: pushFrame(1000, large)})
	sh.commands()
	_, ended = call()
	cancel()
	settle(sh, now)
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("a call that was given up ends with %v", err)
	}
	if n := len(decodeStream(t, full.got, false)); n != 3 {
		t.Errorf("%d frames arrived, want 3", n)
	}
}
