package pusher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"barrage/harness/ledger"
	"barrage/harness/pusher/load"
	"barrage/server/api/comet"
	"barrage/server/api/protocol"
	"barrage/server/wire"
)

// fakeComet takes calls and keeps what they carried, by the room or the operation.
type fakeComet struct {
	comet.UnimplementedCometServer
	addr   string
	answer func(ctx context.Context, n int) error // n counts calls from 0; may be nil

	mu      sync.Mutex
	n       int
	frames  map[string][]wire.Frame
	speeds  map[string][]int32
	flying  map[uint16]int // calls under way, by the stream of their first frame
	overlap bool           // two calls with pushes of one stream were under way together
}

func startComet(t *testing.T, answer func(ctx context.Context, n int) error) *fakeComet {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeComet{addr: l.Addr().String(), answer: answer, frames: map[string][]wire.Frame{}, speeds: map[string][]int32{}, flying: map[uint16]int{}}
	s := grpc.NewServer()
	comet.RegisterCometServer(s, f)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return f
}

func (f *fakeComet) BroadcastRoom(ctx context.Context, q *comet.BroadcastRoomReq) (*comet.BroadcastRoomReply, error) {
	return &comet.BroadcastRoomReply{}, f.take(ctx, q.RoomID, 0, q.Proto)
}

func (f *fakeComet) Broadcast(ctx context.Context, q *comet.BroadcastReq) (*comet.BroadcastReply, error) {
	return &comet.BroadcastReply{}, f.take(ctx, fmt.Sprint(q.ProtoOp), q.Speed, q.Proto)
}

// told returns the speeds that pushes to name had, each run of the same once.
func (f *fakeComet) told(name string) []int32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Compact(slices.Clone(f.speeds[name]))
}

func (f *fakeComet) take(ctx context.Context, name string, speed int32, p *protocol.Proto) error {
	if p.GetVer() != wire.Version || p.GetOp() != int32(wire.OpRaw) || p.GetSeq() != 0 {
		return status.Errorf(codes.InvalidArgument, "an envelope of version %d, operation %d, sequence %d", p.GetVer(), p.GetOp(), p.GetSeq())
	}
	f.mu.Lock()
	n := f.n
	f.n++
	var stream uint16
	for b := wire.Batch(p.Body); len(b) > 0; {
		frame, err := b.Next()
		if err != nil {
			f.mu.Unlock()
			return status.Error(codes.InvalidArgument, err.Error())
		}
		stamp, _ := ledger.ParseBody(frame.Body)
		stream = stamp.Stream
		f.frames[name] = append(f.frames[name], frame)
		f.speeds[name] = append(f.speeds[name], speed)
	}
	f.flying[stream]++
	if f.flying[stream] > 1 {
		f.overlap = true
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.flying[stream]--
		f.mu.Unlock()
	}()
	if f.answer != nil {
		return f.answer(ctx, n)
	}
	return nil
}

// taken returns the frames to a room or of an operation.
func (f *fakeComet) taken(name string) []wire.Frame {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.frames[name])
}

// stamps returns the stamps of frames, by stream.
func stamps(t *testing.T, frames []wire.Frame) map[uint16][]ledger.Stamp {
	t.Helper()
	list := map[uint16][]ledger.Stamp{}
	for _, frame := range frames {
		s, ok := ledger.ParseBody(frame.Body)
		if !ok {
			t.Fatalf("a frame without a stamp: %q", frame.Body)
		}
		list[s.Stream] = append(list[s.Stream], s)
	}
	return list
}

// wantAll fails where the stamps are not those of all pushes of the streams, in order.
func wantAll(t *testing.T, got map[uint16][]ledger.Stamp, list []Stream, begin int64) {
	t.Helper()
	for _, s := range list {
		if len(got[s.ID]) != int(s.Pushes) {
			t.Fatalf("stream %d: %d of %d pushes arrived", s.ID, len(got[s.ID]), s.Pushes)
		}
		for i, stamp := range got[s.ID] {
			if stamp.Seq != uint32(i) || stamp.Intended != begin+int64(s.Due(uint32(i))) {
				t.Fatalf("stream %d, arrival %d is %+v", s.ID, i, stamp)
			}
		}
	}
}

func connectComets(t *testing.T, cfg CometConfig) *Comets {
	t.Helper()
	c, err := NewComets(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestCometsGetEveryPushInOrder(t *testing.T) {
	// Calls take times of their own: with two of a stream under way they would change places.
	slow := func(ctx context.Context, n int) error {
		time.Sleep(time.Duration(n%5) * time.Millisecond)
		return nil
	}
	a, b := startComet(t, slow), startComet(t, slow)
	way := connectComets(t, CometConfig{Addrs: []string{a.addr, b.addr}, Timeout: time.Minute})
	everybody := Target{Kind: KindAll, Operation: 1001, Speed: 11}
	rooms := split(4, constant(200), time.Second, ViaComet, room)
	all := split(2, constant(50), time.Second, ViaComet, everybody)
	for i := range all {
		all[i].ID, all[i].Lane, all[i].Line, all[i].Sizes = uint16(10+i), i, 1, load.Fixed(5000)
	}
	list := slices.Concat(rooms, all)
	begin := ledger.Now()
	r, err := Run(t.Context(), Config{Ways: map[Via]Way{ViaComet: way}, Streams: list}, begin)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Total(false); c != (Counts{Intended: 250, Sent: 250, Acknowledged: 250}) {
		t.Errorf("%+v, errors %q", c, r.Errors)
	}
	for i, f := range []*fakeComet{a, b} {
		wantAll(t, stamps(t, f.taken("live://1")), rooms, begin)
		wantAll(t, stamps(t, f.taken("1001")), all, begin)
		for _, frame := range slices.Concat(f.taken("live://1"), f.taken("1001")) {
			if frame.Ver != wire.Version || frame.Seq != 0 || frame.Op != 1000 && len(frame.Body) == 64 || frame.Op != 1001 && len(frame.Body) == 5000 {
				t.Fatalf("a frame of version %d, sequence %d, operation %d with %d bytes", frame.Ver, frame.Seq, frame.Op, len(frame.Body))
			}
		}
		if f.overlap {
			t.Errorf("comet %d had two pushes of a stream under way", i)
		}
		if want, got := int32(6-i), f.told("1001"); !slices.Equal(got, []int32{want}) {
			t.Errorf("comet %d was told the speeds %d, want %d of the 11", i, got, want)
		}
	}
	if r.Lines[0].Ack.TotalCount() != 200 || r.Lines[1].Ack.TotalCount() != 50 || r.Ack.TotalCount() != 250 {
		t.Errorf("%d and %d acknowledgements by line, %d in all", r.Lines[0].Ack.TotalCount(), r.Lines[1].Ack.TotalCount(), r.Ack.TotalCount())
	}
}

func TestCometFailuresAreTold(t *testing.T) {
	third := func(what func(ctx context.Context) error) func(context.Context, int) error {
		return func(ctx context.Context, n int) error {
			if n == 2 {
				return what(ctx)
			}
			return nil
		}
	}
	invalid := third(func(context.Context) error { return status.Error(codes.InvalidArgument, "no such room") })
	hangs := third(func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	for _, c := range []struct {
		name            string
		a, b            func(context.Context, int) error
		timeout         time.Duration
		failed, unknown int64
		message         string
	}{
		{"all refuse", invalid, invalid, time.Minute, 1, 0, "refused"},
		{"one refuses", nil, invalid, time.Minute, 0, 1, "no such room"},
		{"one does not answer", hangs, nil, 500 * time.Millisecond, 0, 1, "DeadlineExceeded"},
		{"one is overloaded", nil, third(func(context.Context) error { return status.Error(codes.ResourceExhausted, "full") }), time.Minute, 0, 1, "full"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := startComet(t, c.a), startComet(t, c.b)
			way := connectComets(t, CometConfig{Addrs: []string{a.addr, b.addr}, Timeout: c.timeout})
			r, err := Run(t.Context(), Config{Ways: map[Via]Way{ViaComet: way}, Streams: split(1, constant(50), 100*time.Millisecond, ViaComet, room)}, ledger.Now())
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Total(false); got != (Counts{5, 5, 5 - c.failed - c.unknown, c.failed, c.unknown}) {
				t.Errorf("%+v", got)
			}
			if plan := r.Plans()[0]; plan.Pushed != 5 || !slices.Equal(plan.Unknown, []uint32{2}) {
				t.Errorf("plan is %+v", plan)
			}
			if len(r.Errors) != 1 || !strings.Contains(r.Errors[0], c.message) || !strings.Contains(r.Errors[0], "comet 127.0.0.1:") {
				t.Errorf("errors %q, want %q", r.Errors, c.message)
			}
			if a.n != 5 || b.n != 5 {
				t.Errorf("%d and %d calls: a push must not be repeated", a.n, b.n)
			}
		})
	}
}

func TestCometThatIsNotThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	f := startComet(t, nil)
	_, err = NewComets(t.Context(), CometConfig{Addrs: []string{f.addr, l.Addr().String()}, Timeout: 300 * time.Millisecond})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("got %v", err)
	}
	if _, err := NewComets(t.Context(), CometConfig{}); err == nil {
		t.Error("no comets are enough")
	}
}

func TestCometCancelEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := startComet(t, func(call context.Context, n int) error {
		if n == 2 {
			cancel()
			<-call.Done()
		}
		return nil
	})
	way := connectComets(t, CometConfig{Addrs: []string{f.addr}, Timeout: time.Hour})
	r, err := Run(ctx, Config{Ways: map[Via]Way{ViaComet: way}, Streams: split(1, constant(100), time.Minute, ViaComet, room)}, ledger.Now())
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Total(false); c != (Counts{Intended: 6000, Sent: 3, Acknowledged: 2, Unknown: 1}) {
		t.Errorf("%+v", c)
	}
}

func TestSpeedIsShared(t *testing.T) {
	for _, c := range []struct {
		speed int32
		want  []int32
	}{
		{0, []int32{0, 0, 0}},
		{9, []int32{3, 3, 3}},
		{11, []int32{4, 4, 3}},
		{2, []int32{1, 1, 1}}, // 0 would be at once
		{1, []int32{1, 1, 1}},
	} {
		for i, want := range c.want {
			if got := share(c.speed, i, len(c.want)); got != want {
				t.Errorf("comet %d of %d has %d of %d, want %d", i, len(c.want), got, c.speed, want)
			}
		}
	}
}

// BenchmarkComet is what one push to two comets costs, their side included.
func BenchmarkComet(b *testing.B) {
	var addrs []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		s := grpc.NewServer()
		comet.RegisterCometServer(s, quietComet{})
		go s.Serve(l)
		defer s.Stop()
		addrs = append(addrs, l.Addr().String())
	}
	way, err := NewComets(b.Context(), CometConfig{Addrs: addrs})
	if err != nil {
		b.Fatal(err)
	}
	defer way.Close()
	sender, err := way.Open([]Target{room})
	if err != nil {
		b.Fatal(err)
	}
	body := ledger.AppendBody(nil, ledger.Stamp{}, 64)
	b.ReportAllocs()
	for b.Loop() {
		sender.Send(b.Context(), 0, body, func(err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
}

// quietComet answers and keeps nothing.
type quietComet struct{ comet.UnimplementedCometServer }

func (quietComet) BroadcastRoom(context.Context, *comet.BroadcastRoomReq) (*comet.BroadcastRoomReply, error) {
	return &comet.BroadcastRoomReply{}, nil
}
