package job

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"barrage/server/api/comet"
	"barrage/server/api/pushes"
	"barrage/server/wire"
)

func itemTo(room, body string) *pushes.Item {
	return &pushes.Item{Room: room, Frames: wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 1000, Body: []byte(body)})}
}

func dialed(t *testing.T, addr string) Comet {
	t.Helper()
	c, err := dial(addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Calls share a stream, and each gets its own replies.
func TestCallsShareAStream(t *testing.T) {
	f := newRPCFake(t)
	c := dialed(t, f.addr)
	var calls sync.WaitGroup
	for i := range 8 {
		calls.Go(func() {
			for n := range 50 {
				items := []*pushes.Item{itemTo("live://"+strconv.Itoa(i), strconv.Itoa(n)), itemTo("live://other"+strconv.Itoa(i), strconv.Itoa(n))}
				named := 0
				err := c.Push(t.Context(), items, func(r *pushes.Reply) { named += len(r.Taken) })
				if err != nil || named != 2 {
					t.Errorf("%d of 2 items, %v", named, err)
					return
				}
			}
		})
	}
	calls.Wait()
	for i := range 8 {
		if got := f.takenRoom("live://" + strconv.Itoa(i)); !slices.Equal(got, numbers(0, 50)) {
			t.Errorf("room %d took %q", i, got)
		}
	}
}

// One that is given up takes the stream with it: nothing of it is taken later, behind what is
// sent again. The next call opens another.
func TestCallThatIsGivenUpEndsItsStream(t *testing.T) {
	f := newRPCFake(t)
	f.slow = map[string]chan error{"live://full": make(chan error), "live://fuller": make(chan error)}
	c := dialed(t, f.addr)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	tried := make(chan bool, 2)
	go func() {
		errs <- c.Push(ctx, []*pushes.Item{itemTo("live://full", "1"), itemTo("live://a", "1")}, func(*pushes.Reply) { tried <- true })
	}()
	<-tried
	other := make(chan error, 1)
	go func() {
		other <- c.Push(t.Context(), []*pushes.Item{itemTo("live://fuller", "1")}, func(*pushes.Reply) { tried <- true })
	}()
	<-tried
	cancel()
	if err := <-errs; status.Code(err) != codes.Canceled {
		t.Errorf("the call that was given up: %v", err)
	}
	if err := <-other; outcomeOf(err) != failed {
		t.Errorf("the other call: %v, want an error after which it is made again", err)
	}
	if err := c.Push(t.Context(), []*pushes.Item{itemTo("live://a", "2")}, func(*pushes.Reply) {}); err != nil {
		t.Error(err)
	}
	if got := f.takenRoom("live://a"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("took %q", got)
	}
	if got := f.takenRoom("live://full"); len(got) != 0 {
		t.Errorf("took %q of a call that was given up", got)
	}
}

// A comet without the service says so to each call, at once, and goes on with the others.
func TestPushToAGoimComet(t *testing.T) {
	f := startRPCFake(t, true)
	c := dialed(t, f.addr)
	for range 3 {
		if err := c.Push(t.Context(), []*pushes.Item{itemTo("live://a", "1")}, func(*pushes.Reply) {}); status.Code(err) != codes.Unimplemented {
			t.Errorf("error is %v, want Unimplemented", err)
		}
	}
	y := newYard(t, quick())
	y.fleet.dial = func(string) (Comet, error) { return dial(f.addr, 10*time.Second) }
	y.list("goim")
	for i := range 20 {
		y.push(kindRoom, "live://"+strconv.Itoa(i%3), strconv.Itoa(i))
	}
	y.settled()
	if got := f.takenRoom("live://1"); !slices.Equal(got, []string{"1", "4", "7", "10", "13", "16", "19"}) {
		t.Errorf("took %q", got)
	}
}

// quickComet takes everything and keeps nothing.
type quickComet struct {
	comet.UnimplementedCometServer
	pushes.UnimplementedPushesServer
}

func (quickComet) BroadcastRoom(context.Context, *comet.BroadcastRoomReq) (*comet.BroadcastRoomReply, error) {
	return &comet.BroadcastRoomReply{}, nil
}

func (quickComet) Push(stream grpc.BidiStreamingServer[pushes.Call, pushes.Reply]) error {
	for {
		call, err := stream.Recv()
		if err != nil {
			return err
		}
		reply := &pushes.Reply{Call: call.Number}
		for i := range call.Items {
			reply.Taken = append(reply.Taken, int32(i))
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
}

func serveQuickComet(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	comet.RegisterCometServer(server, quickComet{})
	pushes.RegisterPushesServer(server, quickComet{})
	go func() { _ = server.Serve(l) }() // ends with Stop
	b.Cleanup(server.Stop)
	return l.Addr().String()
}

// BenchmarkHandover is what both ends spend on handing over one frame for each of some rooms,
// by a call for each room and by one for all, over loopback.
func BenchmarkHandover(b *testing.B) {
	for _, rooms := range []int{1, 16} {
		for _, all := range []bool{false, true} {
			name := "BroadcastRoom"
			if all {
				name = "Push"
			}
			b.Run(fmt.Sprintf("%s/%d", name, rooms), func(b *testing.B) {
				addr := serveQuickComet(b)
				c, err := dial(addr, 10*time.Second)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				var items []*pushes.Item
				for i := range rooms {
					items = append(items, itemTo("live://"+strconv.Itoa(i), "a body of some bytes"))
				}
				b.ReportAllocs()
				for b.Loop() {
					if all {
						err = c.Push(b.Context(), items, func(*pushes.Reply) {})
					}
					for _, item := range items {
						if !all && err == nil {
							err = c.BroadcastRoom(b.Context(), item.Room, Frames{Body: item.Frames})
						}
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rooms), "ns/room")
			})
		}
	}
}
