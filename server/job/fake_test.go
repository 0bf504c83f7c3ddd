package job

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"barrage/server/api/pushes"
	"barrage/server/discovery"
	"barrage/server/wire"
)

// A fakeComet keeps the bodies that it was given, by target.
type fakeComet struct {
	mu       sync.Mutex
	got      map[target][]string
	speeds   []int32
	accepted [][]int64 // of each call that was taken
	calls    int
	inFlight map[target]int
	overlap  bool                  // two calls for one target were in flight at once
	hooked   func(int) error       // called with the number of the call, unlocked; an error is the answer
	late     func(int) error       // as hooked, after the frames were taken
	goim     bool                  // without Push
	asked    int                   // calls of Push
	slow     map[string]chan error // rooms that Push answers for when it is told to, behind the others
	rooms    map[string]bool
	roomsErr error
	answer   func()        // called before an answer about rooms is returned, unlocked
	up       chan struct{} // closed while it can be connected
}

func newFakeComet() *fakeComet {
	up := make(chan struct{})
	close(up)
	return &fakeComet{got: make(map[target][]string), inFlight: make(map[target]int), up: up}
}

func unavailable() error { return status.Error(codes.Unavailable, "fake comet is down") }

// setHook sets what each call goes through before it is taken.
func (c *fakeComet) setHook(hook func(int) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hooked = hook
}

// kill makes every call fail, and no connection possible, until revive.
func (c *fakeComet) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = make(chan struct{})
	c.hooked = func(int) error { return unavailable() }
}

func (c *fakeComet) revive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.up)
	c.hooked = nil
}

func (c *fakeComet) take(ctx context.Context, t target, frames Frames) error {
	c.mu.Lock()
	c.calls++
	n := c.calls
	c.inFlight[t]++
	if c.inFlight[t] > 1 {
		c.overlap = true
	}
	hook, late := c.hooked, c.late
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inFlight[t]--
		c.mu.Unlock()
	}()
	if hook != nil {
		answer := make(chan error, 1)
		go func() { answer <- hook(n) }()
		select {
		case err := <-answer:
			if err != nil {
				return err
			}
		case <-ctx.Done(): // gRPC doesn't wait for the other end
		}
	}
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	c.mu.Lock()
	for b := wire.Batch(frames.Body); len(b) > 0; {
		f, err := b.Next()
		if err != nil {
			c.mu.Unlock()
			return status.Error(codes.InvalidArgument, err.Error())
		}
		c.got[t] = append(c.got[t], string(f.Body))
	}
	c.accepted = append(c.accepted, slices.Clone(frames.Accepted))
	c.mu.Unlock()
	if late != nil {
		return late(n)
	}
	return nil
}

func (c *fakeComet) PushMsg(ctx context.Context, keys []string, op int32, frames Frames) error {
	return c.take(ctx, target{kindPush, keys[0]}, frames)
}

func (c *fakeComet) BroadcastRoom(ctx context.Context, room string, frames Frames) error {
	return c.take(ctx, target{kindRoom, room}, frames)
}

func (c *fakeComet) Push(ctx context.Context, items []*pushes.Item, answer func(*pushes.Reply)) error {
	c.mu.Lock()
	c.asked++
	goim := c.goim
	c.mu.Unlock()
	if goim {
		return status.Error(codes.Unimplemented, "unknown service barrage.pushes.Pushes")
	}
	first := new(pushes.Reply)
	var late []int
	take := func(i int, reply *pushes.Reply) error {
		item := items[i]
		t, frames := target{kindRoom, item.Room}, Frames{item.Frames, item.Accepted}
		if item.Room == "" {
			t = target{kindPush, item.Keys[0]}
		}
		err := c.take(ctx, t, frames)
		switch status.Code(err) {
		case codes.OK:
			reply.Taken = append(reply.Taken, int32(i))
		case codes.InvalidArgument:
			reply.Refused = append(reply.Refused, &pushes.Refusal{Item: int32(i), Reason: err.Error()})
		default:
			return err
		}
		return nil
	}
	for i, item := range items {
		if c.slow[item.Room] != nil {
			late = append(late, i)
		} else if err := take(i, first); err != nil {
			return err
		}
	}
	answer(first)
	for _, i := range late {
		select {
		case err := <-c.slow[items[i].Room]:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		reply := new(pushes.Reply)
		if err := take(i, reply); err != nil {
			return err
		}
		answer(reply)
	}
	return nil
}

func (c *fakeComet) Broadcast(ctx context.Context, op, speed int32, frames Frames) error {
	c.mu.Lock()
	c.speeds = append(c.speeds, speed)
	c.mu.Unlock()
	return c.take(ctx, target{kind: kindBroadcast}, frames)
}

func (c *fakeComet) Rooms(context.Context) (map[string]bool, error) {
	c.mu.Lock()
	held, err, answer := maps.Clone(c.rooms), c.roomsErr, c.answer
	c.mu.Unlock()
	if answer != nil {
		answer()
	}
	if err != nil {
		return nil, err
	}
	if held == nil {
		held = map[string]bool{}
	}
	return held, nil
}

func (c *fakeComet) Connected(ctx context.Context) error {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *fakeComet) Close() error { return nil }

func (c *fakeComet) taken(t target) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got[t])
}

func (c *fakeComet) takenRoom(room string) []string { return c.taken(target{kindRoom, room}) }

// A yard is a fleet of fake comets, and one partition that feeds it.
type yard struct {
	t      *testing.T
	fleet  *fleet
	part   *partition
	next   int64
	comets map[string]*fakeComet
	reg    *prometheus.Registry
}

// quick is a configuration whose waits suit a test.
func quick() Config {
	cfg := DefaultConfig()
	cfg.Comet.BackoffMin = time.Millisecond
	cfg.Comet.BackoffMax = 10 * time.Millisecond
	cfg.Comet.DeadAfter = time.Minute
	cfg.Comet.RoomsInterval = 10 * time.Millisecond
	return cfg
}

func newYard(t *testing.T, cfg Config) *yard {
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	f := newFleet(cfg, slog.New(slog.DiscardHandler), newMetrics(reg), func() {})
	ctx, cancel := context.WithCancel(context.Background())
	f.ctx = ctx
	y := &yard{t: t, fleet: f, part: newPartition(0, func() {}), comets: make(map[string]*fakeComet), reg: reg}
	f.dial = func(addr string) (Comet, error) {
		c := y.comets[addr]
		if c == nil {
			return nil, fmt.Errorf("no comet at %s", addr)
		}
		return c, nil
	}
	t.Cleanup(func() {
		cancel()
		f.close()
	})
	return y
}

// list tells the fleet that these comets are in discovery; new ones are made. A host and
// its address are the same here.
func (y *yard) list(hosts ...string) {
	var list []discovery.Instance
	for _, h := range hosts {
		if y.comets[h] == nil {
			y.comets[h] = newFakeComet()
		}
		list = append(list, discovery.Instance{Hostname: h, Addrs: []string{"grpc://" + h}})
	}
	y.fleet.apply(list)
}

// push hands a record out as the reader does and returns it.
func (y *yard) push(kind kind, name, body string) *record {
	r := newRecord(y.part, y.next, kind, name, body)
	return y.hand(r)
}

func (y *yard) pushTo(server, key, body string) *record {
	r := newRecord(y.part, y.next, kindPush, key, body)
	r.server = server
	return y.hand(r)
}

func (y *yard) hand(r *record) *record {
	y.next++
	y.part.add(r)
	if !y.fleet.hand(r) {
		y.t.Fatal("there is no comet")
	}
	return r
}

// settled waits until every record is done.
func (y *yard) settled() {
	y.t.Helper()
	eventually(y.t, func() error {
		if taken, underway := y.part.progress(); taken != y.next {
			return fmt.Errorf("taken %d of %d, %d under way", taken, y.next, underway)
		}
		return nil
	})
}

// eventually polls check until it returns nil, for at most a minute. Between two checks it
// rests longer than a check takes, so that it leaves the machine to what it waits for.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		start := time.Now()
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in a minute: %v", err)
		}
		time.Sleep(max(2*time.Millisecond, 4*time.Since(start)))
	}
}

// value returns a counter, a gauge or how many values a histogram has, summed over the series that have all given labels.
func value(t *testing.T, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			for _, want := range labels {
				if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == want }) {
					continue series
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// instance is discovery's list of one comet.
func instance(host, addr string) []discovery.Instance {
	return []discovery.Instance{{Hostname: host, Addrs: []string{"grpc://" + addr}}}
}
