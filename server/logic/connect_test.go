package logic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "barrage/server/api/logic"
	"barrage/server/logic/presence"
)

// Each of many sessions gets what it would get by itself.
func TestConnectAll(t *testing.T) {
	c := startCluster(t, nil)
	one := startComet(t, true)
	c.knows(t, listed(map[string]*fakeComet{"one": one, "two": startComet(t, true)}))
	connect := func(server string, tokens ...string) []*pb.ConnectResult {
		t.Helper()
		req := &pb.ConnectAllReq{}
		for i, token := range tokens {
			req.Sessions = append(req.Sessions, &pb.ConnectReq{Server: server, Token: []byte(token), Session: fmt.Sprint(server, "-", i)})
		}
		reply, err := c.comet.ConnectAll(t.Context(), req)
		if err != nil || len(reply.Results) != len(tokens) {
			t.Fatalf("%v, %v", reply, err)
		}
		return reply.Results
	}
	got := connect("one", `{"mid":5,"key":"a","room_id":"live://1","accepts":[1,2]}`, `{`, `{"key":"b"}`, `{"key":"a"}`, `{}`)
	want := &pb.ConnectReply{Mid: 5, Key: "a", RoomID: "live://1", Accepts: []int32{1, 2}, Heartbeat: int64(8 * time.Minute), Managed: true}
	if !proto.Equal(got[0].Reply, want) || got[0].Error != nil {
		t.Errorf("got %v", got[0])
	}
	if got[1].Reply != nil || codes.Code(got[1].Error.GetCode()) != codes.InvalidArgument {
		t.Errorf("a token that is no JSON: %v", got[1])
	}
	if got[2].Reply.GetKey() != "b" || len(got[2].Reply.Replaced) != 0 {
		t.Errorf("got %v", got[2])
	}
	if r := got[3].Reply; len(r.GetReplaced()) != 1 || r.Replaced[0].Session != "one-0" {
		t.Errorf("the second one with key a: %v", got[3])
	}
	if key := got[4].Reply.GetKey(); len(key) != 36 {
		t.Errorf("a key of its own is %q", key)
	}
	for result, n := range map[callResult]float64{callOK: 4, callRefused: 1} {
		if got := testutil.ToFloat64(c.server.metrics.sessions["Connect"][result]); got != n {
			t.Errorf("%v sessions are counted as %s, not %v", got, result, n)
		}
	}

	// Over to another comet, some of them.
	connect("two", `{"key":"b"}`)
	eventually(t, "comet one is asked", func() error { return one.wasAsked("replaced b one-2") })

	beats, err := c.comet.HeartbeatAll(t.Context(), &pb.HeartbeatAllReq{Sessions: []*pb.HeartbeatReq{
		{Key: "a", Server: "one", Session: "one-3"}, {Key: "b", Server: "one", Session: "one-2"}, {Key: "b", Server: "two", Session: "two-0"}}})
	var replaced []bool
	for _, r := range beats.GetResults() {
		replaced = append(replaced, r.Reply.GetReplaced())
	}
	if err != nil || !slices.Equal(replaced, []bool{false, true, false}) {
		t.Errorf("replaced %v, %v", replaced, err)
	}
	ends, err := c.comet.DisconnectAll(t.Context(), &pb.DisconnectAllReq{Sessions: []*pb.DisconnectReq{
		{Key: "a", Server: "one", Session: "one-3"}, {Key: "b", Server: "one", Session: "one-2"}, {Key: "b", Server: "two", Session: "two-0"},
		{Key: got[4].Reply.GetKey(), Server: "one", Session: "one-4"}}})
	var had []bool
	for _, r := range ends.GetResults() {
		had = append(had, r.Reply.GetHas())
	}
	if err != nil || !slices.Equal(had, []bool{true, false, true, true}) {
		t.Errorf("had %v, %v", had, err)
	}
	if keys := c.redis.Keys(); len(keys) != 0 {
		t.Errorf("left in Redis: %v", keys)
	}
}

// Those that would be rejected are looked for together.
func TestConnectAllAfterACrash(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) { cfg.Session = SessionConfig{MaxPerKey: 1, Policy: policyReject} })
	one := startComet(t, true)
	c.knows(t, listed(map[string]*fakeComet{"one": one}))
	const n = 20
	connect := func(life string) *pb.ConnectAllReply {
		req := &pb.ConnectAllReq{}
		for i := range n {
			req.Sessions = append(req.Sessions, &pb.ConnectReq{Server: "one", Token: fmt.Appendf(nil, `{"key":"k%d"}`, i), Session: fmt.Sprint(life, "-", i)})
		}
		reply, err := c.comet.ConnectAll(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	connect("a")
	for i := range n {
		one.holds[fmt.Sprint("a-", i)] = i%2 == 0
	}
	for i, r := range connect("b").Results {
		want := codes.OK
		if i%2 == 0 {
			want = codes.AlreadyExists
		}
		if got := codes.Code(r.Error.GetCode()); got != want || (r.Reply == nil) != (want != codes.OK) {
			t.Errorf("session %d: %v", i, r)
		}
	}
	if got := testutil.ToFloat64(c.server.metrics.rejected); got != n/2 {
		t.Errorf("%v rejections are counted", got)
	}
}

// A slowRegistry holds rounds up until it is let go, and remembers them.
type slowRegistry struct {
	begun chan struct{} // has one for each round of sessions that connect
	free  chan struct{} // and must get one for it

	mu      sync.Mutex
	rounds  []int    // mu guards; sessions in each
	removed []string // mu guards; ids
}

func (r *slowRegistry) AddAll(_ context.Context, list []presence.Session) []presence.Added {
	r.begun <- struct{}{}
	<-r.free
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rounds = append(r.rounds, len(list))
	results := make([]presence.Added, len(list))
	for i, session := range list {
		switch session.Key {
		case "bad":
			results[i].Err = errors.New("no place")
		case "panic":
			panic("a broken registry")
		default:
			results[i].Replaced = []presence.Session{{ID: "old-" + session.Key, Server: "elsewhere"}}
		}
	}
	return results
}

func (r *slowRegistry) RenewAll(_ context.Context, list []presence.Session) []presence.Renewed {
	return make([]presence.Renewed, len(list))
}

func (r *slowRegistry) RemoveAll(_ context.Context, list []presence.Session) []presence.Removed {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, session := range list {
		r.removed = append(r.removed, session.ID)
	}
	return make([]presence.Removed, len(list))
}

// startRegistrar returns one with one round under way at a time, of 100 sessions at most.
func startRegistrar(t *testing.T, r registry, dismiss func([]presence.Session)) *registrar {
	cfg := presence.DefaultConfig()
	cfg.Batch, cfg.Batches = 100, 1
	return newRegistrar(r, &cfg, time.Minute, dismiss, newMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
}

func sessionsNamed(keys ...string) (list []presence.Session) {
	for _, key := range keys {
		list = append(list, presence.Session{Key: key, Server: "one", ID: "id-" + key})
	}
	return list
}

// waitFor waits until so many sessions wait for their round.
func (g *registrar) waitFor(t *testing.T, n int) {
	t.Helper()
	eventually(t, "sessions wait", func() error {
		if got := g.adds.group.Waiting(); got != n {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
}

// The sessions of many calls share a round, and what fails for one of them is its own.
func TestCallsShareARound(t *testing.T) {
	r := &slowRegistry{begun: make(chan struct{}, 10), free: make(chan struct{}, 10)}
	g := startRegistrar(t, r, func([]presence.Session) {})
	var calls sync.WaitGroup
	call := func(keys ...string) {
		calls.Go(func() {
			results, err := g.adds.all(t.Context(), sessionsNamed(keys...))
			if err != nil || len(results) != len(keys) {
				t.Errorf("%v: %d results, %v", keys, len(results), err)
				return
			}
			for i, key := range keys {
				if (results[i].Err != nil) != (key == "bad") {
					t.Errorf("%s: %v", key, results[i].Err)
				}
			}
		})
	}
	call("first")
	<-r.begun
	for range 5 {
		call("a", "bad", "b")
		call("c")
	}
	g.waitFor(t, 20)
	r.free <- struct{}{}
	r.free <- struct{}{}
	calls.Wait()
	if r.mu.Lock(); !slices.Equal(r.rounds, []int{1, 20}) {
		t.Errorf("rounds of %v sessions", r.rounds)
	}
	r.mu.Unlock()
	call2 := func() error {
		r, err := g.adds.all(t.Context(), sessionsNamed("panic", "a"))
		return errors.Join(err, r[0].Err, r[1].Err)
	}
	r.free <- struct{}{}
	if err := call2(); !errors.Is(err, errPanicked) {
		t.Errorf("of a panic came %v", err)
	}
}

// A session whose comet has given up is not let in when its turn comes, and if it was already
// it is taken out again, and who was replaced hears of it.
func TestCallIsGivenUp(t *testing.T) {
	r := &slowRegistry{begun: make(chan struct{}, 10), free: make(chan struct{}, 10)}
	var dismissed atomic.Int64
	g := startRegistrar(t, r, func(list []presence.Session) { dismissed.Add(int64(len(list))) })
	ctx, give := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for _, key := range []string{"under-way", "waiting"} {
		calls.Go(func() {
			if _, err := g.adds.all(ctx, sessionsNamed(key)); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", key, err)
			}
		})
		if key == "waiting" {
			g.waitFor(t, 1)
		} else {
			<-r.begun
		}
	}
	give()
	calls.Wait()
	r.free <- struct{}{}
	r.free <- struct{}{}
	eventually(t, "the session is taken out", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !slices.Equal(r.removed, []string{"id-under-way"}) {
			return fmt.Errorf("removed %q", r.removed)
		}
		return nil
	})
	g.stop(time.Minute)
	if !slices.Equal(r.rounds, []int{1}) {
		t.Errorf("rounds of %v sessions", r.rounds)
	}
	if n := dismissed.Load(); n != 1 {
		t.Errorf("%d are told to go", n)
	}
}

// How many sessions a second logic connects for a comet that has as many waiting as it can
// have under way: one a call, and many; with miniredis and, where it is installed, redis-server.
func BenchmarkConnect(b *testing.B) {
	b.Run("miniredis", func(b *testing.B) { benchConnect(b, nil) })
	b.Run("redis", func(b *testing.B) {
		binary, err := exec.LookPath("redis-server")
		if err != nil {
			b.Skip("redis-server is not installed")
		}
		addr := freeAddr(b)
		_, port, _ := net.SplitHostPort(addr)
		server := exec.Command(binary, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", b.TempDir())
		if err := server.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			server.Process.Kill()
			server.Wait()
		})
		benchConnect(b, func(cfg *Config, _ *Deps) { cfg.Redis.Addr = addr })
	})
}

func benchConnect(b *testing.B, change func(*Config, *Deps)) {
	for _, together := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint("together=", together), func(b *testing.B) {
			c := startCluster(b, change)
			c.ready(b)
			var number atomic.Int64
			const calls = 4
			under := calls
			if together == 1 {
				under = 128 // as a comet has for single calls
			}
			b.ResetTimer()
			var all sync.WaitGroup
			for range under {
				all.Go(func() {
					for {
						last := number.Add(int64(together))
						if last-int64(together) >= int64(b.N) {
							return
						}
						if err := c.connectMany(b.Context(), int(last), together); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "connects/s")
		})
	}
}

func (c *cluster) connectMany(ctx context.Context, last, n int) error {
	req := &pb.ConnectAllReq{}
	for i := last - n; i < last; i++ {
		req.Sessions = append(req.Sessions, &pb.ConnectReq{Server: "one", Session: fmt.Sprint("a-", i),
			Token: fmt.Appendf(nil, `{"mid":%d,"key":"bench-%d","room_id":"live://1000","platform":"bench","accepts":[1000]}`, i+1, i)})
	}
	if n == 1 {
		_, err := c.comet.Connect(ctx, req.Sessions[0])
		return err
	}
	reply, err := c.comet.ConnectAll(ctx, req)
	for _, r := range reply.GetResults() {
		if r.Error != nil {
			return errors.New(r.Error.Message)
		}
	}
	return err
}
