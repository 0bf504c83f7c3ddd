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

// roundTrip makes a call and returns what its replies say together.
func roundTrip(t *testing.T, stream grpc.BidiStreamingClient[pushes.Call, pushes.Reply], number uint64, items []*pushes.Item) (taken []int32, refused map[int32]string) {
	t.Helper()
	if err := stream.Send(&pushes.Call{Number: number, Items: items}); err != nil {
		t.Fatal(err)
	}
	refused = make(map[int32]string)
	for first := true; first || len(taken)+len(refused) < len(items); first = false {
		reply, err := stream.Recv()
		if err != nil || reply.Call != number {
			t.Fatalf("reply to call %d, want %d: %v", reply.GetCall(), number, err)
		}
		taken = append(taken, reply.Taken...)
		for _, r := range reply.Refused {
			refused[r.Item] = r.Reason
		}
	}
	slices.Sort(taken)
	return taken, refused
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
		stream, err := calls.Push(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		taken, refused := roundTrip(t, stream, 7, items)
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
		if taken, refused := roundTrip(t, stream, 8, nil); len(taken)+len(refused) != 0 {
			t.Errorf("a call without items is answered %v, %v", taken, refused)
		}
		c.stop() // doesn't wait for the stream
		if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the stream ends with %v", err)
		}
	})
}

// A fakeCalls is the server's side of a stream, without a network.
type fakeCalls struct {
	grpc.BidiStreamingServer[pushes.Call, pushes.Reply]
	ctx     context.Context
	calls   chan *pushes.Call
	replies chan *pushes.Reply
}

func (f *fakeCalls) Context() context.Context { return f.ctx }

func (f *fakeCalls) Recv() (*pushes.Call, error) {
	select {
	case call := <-f.calls:
		return call, nil
	case <-f.ctx.Done():
		return nil, status.FromContextError(f.ctx.Err()).Err()
	}
}

func (f *fakeCalls) Send(reply *pushes.Reply) error {
	f.replies <- reply
	return nil
}

// A room without space in its log holds up what is for it, and nothing else in the call or
// behind it.
func TestFullRoomHoldsUpOnlyItself(t *testing.T) {
	sh, now := newTestShard(t, func(c *Config) { c.Room.LogBytes = 4096 })
	join := func(room string) *fakeStream {
		s, out := newFakeSession(sh.server, room, false)
		sh.mailbox.put(joinCommand{session: s, ref: sh.server.rooms.enter(room, sh)})
		return out
	}
	full, other := join("live://full"), join("live://other")
	sh.turn(*now)
	large := string(make([]byte, 3000))
	fill := func() {
		ref, _ := sh.server.rooms.holders("live://full")
		sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, large)})
		sh.commands()
	}

	ctx, cancel := context.WithCancel(t.Context())
	stream, ended := &fakeCalls{ctx: ctx, calls: make(chan *pushes.Call), replies: make(chan *pushes.Reply, 9)}, make(chan error, 1)
	go func() { ended <- (&pushService{server: sh.server}).Push(stream) }()
	// expect runs what is in the mailbox, but no sweep: the log gets no space.
	expect := func(call uint64, taken ...int32) {
		t.Helper()
		eventually(t, "the call is answered", func() bool { sh.commands(); return len(stream.replies) > 0 })
		if reply := <-stream.replies; reply.Call != call || !slices.Equal(reply.Taken, taken) {
			t.Errorf("the reply names %v of call %d, want %v of call %d", reply.Taken, reply.Call, taken, call)
		}
	}
	fill()
	stream.calls <- &pushes.Call{Number: 1, Items: []*pushes.Item{itemTo("live://full", large), itemTo("live://other", "x")}}
	expect(1, 1)
	stream.calls <- &pushes.Call{Number: 2, Items: []*pushes.Item{itemTo("live://other", "y"), itemTo("live://nobody", "z")}}
	expect(2, 1, 0)
	settle(sh, now)
	expect(1, 0)
	if n, m := len(decodeStream(t, full.got, false)), len(decodeStream(t, other.got, false)); n != 2 || m != 2 {
		t.Errorf("%d and %d frames arrived, want 2 and 2", n, m)
	}

	// When the stream ends, what waits is dropped: it is sent again.
	fill()
	stream.calls <- &pushes.Call{Number: 3, Items: []*pushes.Item{itemTo("live://full", large)}}
	expect(3)
	cancel()
	settle(sh, now)
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("the stream ends with %v", err)
	}
	if n := len(decodeStream(t, full.got, false)); n != 3 {
		t.Errorf("%d frames arrived, want 3", n)
	}
}
