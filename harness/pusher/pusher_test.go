package pusher

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/harness/pusher/load"
)

// fakeLogic answers pushes and keeps their stamps in the order of arrival.
type fakeLogic struct {
	answer func(w http.ResponseWriter, r *http.Request, n int) // n counts requests from 0

	mu     sync.Mutex
	stamps map[uint16][]ledger.Stamp
	sizes  map[ledger.Stamp]int // of the bodies
	sent   []string             // when each request was, as it says
	n      int
}

func (f *fakeLogic) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s, ok := ledger.ParseBody(body)
	f.mu.Lock()
	n := f.n
	f.n++
	f.sent = append(f.sent, r.Header.Get("X-Request-Start"))
	if ok {
		f.stamps[s.Stream] = append(f.stamps[s.Stream], s)
		f.sizes[s] = len(body)
	}
	f.mu.Unlock()
	if f.answer != nil {
		f.answer(w, r, n)
		return
	}
	io.WriteString(w, `{"code":0,"message":""}`)
}

func start(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int)) (addr string, f *fakeLogic) {
	f = &fakeLogic{answer: answer, stamps: map[uint16][]ledger.Stamp{}, sizes: map[ledger.Stamp]int{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), f
}

// room is the target of the tests' pushes.
var room = Target{Kind: KindRoom, Operation: 1000, RoomType: "live", RoomID: "1"}

// split has n streams to target take turns of a schedule for d.
func split(n int, schedule load.Schedule, d time.Duration, via Via, target Target) []Stream {
	var list []Stream
	for i := range n {
		list = append(list, Stream{
			ID: uint16(i), Lane: i, Via: via, Target: target, Sizes: load.Fixed(64),
			Schedule: schedule, First: i, Step: n, Pushes: uint32(load.Part(schedule.Pushes(d), i, n)),
		})
	}
	return list
}

// constant is the schedule of rate pushes a second.
func constant(rate float64) load.Schedule {
	c, err := load.NewConstant(rate)
	if err != nil {
		panic(err)
	}
	return c
}

// streams splits rate over n streams through HTTP for d.
func streams(n int, rate float64, d time.Duration) []Stream {
	return split(n, constant(rate), d, ViaHTTP, room)
}

// through is the configuration that pushes streams to addr.
func through(addr string, streams []Stream) Config {
	return Config{Ways: map[Via]Way{ViaHTTP: HTTP{Addr: addr, Timeout: time.Minute}}, Streams: streams}
}

func TestEveryPushIsSentOnceInOrderWithItsIntendedTime(t *testing.T) {
	addr, f := start(t, nil)
	begin := ledger.Now()
	list := append(streams(4, 400, time.Second), Stream{
		ID: 9, Lane: 0, Line: 1, Via: ViaHTTP, Target: Target{Kind: KindAll, Operation: 1}, Sizes: load.Fixed(16),
		Schedule: constant(20), Start: 20 * time.Millisecond, Step: 1, Pushes: 10, WarmUp: true})
	var mu sync.Mutex
	started := map[uint16]int{}
	cfg := through(addr, list)
	cfg.Started = func(id uint16) {
		mu.Lock()
		defer mu.Unlock()
		started[id]++
	}
	r, err := Run(t.Context(), cfg, begin)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range f.sent {
		var seconds, part int64
		if n, err := fmt.Sscanf(text, "t=%10d.%9d", &seconds, &part); n != 2 || err != nil || len(text) != 22 {
			t.Fatalf("a push says that it was sent at %q", text)
		}
		if at := seconds*1e9 + part; at < begin || at > ledger.Now() {
			t.Fatalf("a push says that it was sent at %q, not between %d and now", text, begin)
		}
	}
	if c := r.Total(false); c != (Counts{Intended: 400, Sent: 400, Acknowledged: 400}) {
		t.Errorf("measured: %+v", c)
	}
	if c := r.Total(true); c != (Counts{Intended: 10, Sent: 10, Acknowledged: 10}) {
		t.Errorf("warm-up: %+v", c)
	}
	for _, s := range list {
		got := f.stamps[s.ID]
		if len(got) != int(s.Pushes) || started[s.ID] != 1 {
			t.Fatalf("stream %d: %d of %d arrived, started %d times", s.ID, len(got), s.Pushes, started[s.ID])
		}
		for i, stamp := range got {
			if stamp.Seq != uint32(i) || stamp.Intended != begin+int64(s.Due(uint32(i))) {
				t.Fatalf("stream %d, arrival %d is %+v", s.ID, i, stamp)
			}
		}
	}
	if r.Lag.TotalCount() != 400 || r.Ack.TotalCount() != 400 {
		t.Errorf("%d lags and %d acks were recorded", r.Lag.TotalCount(), r.Ack.TotalCount())
	}
	if len(r.Lines) != 2 || r.Lines[0].Lag.TotalCount() != 400 || r.Lines[0].Ack.TotalCount() != 400 || r.Lines[1].Ack.TotalCount() != 0 {
		t.Errorf("of %d lines %d acks are the first one's", len(r.Lines), r.Lines[0].Ack.TotalCount())
	}
	for _, p := range r.Plans() {
		if len(p.Unknown) > 0 {
			t.Errorf("plan %+v", p)
		}
	}
}

// A server that stalls for 600 ms delays what it stalls, and nothing behind that: the
// schedule stands, and the lag shows the stall.
func TestStallDoesNotStretchTheSchedule(t *testing.T) {
	const stall = 600 * time.Millisecond
	addr, f := start(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 10 {
			time.Sleep(stall)
		}
		io.WriteString(w, `{"code":0}`)
	})
	begin := ledger.Now()
	list := streams(1, 50, 2*time.Second)
	r, err := Run(t.Context(), through(addr, list), begin)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Total(false); c.Acknowledged != 100 {
		t.Errorf("%+v", c)
	}
	last := f.stamps[0][99]
	if last.Intended != begin+int64(99*20*time.Millisecond) {
		t.Errorf("the last push was intended at %s", time.Duration(last.Intended-begin))
	}
	// 30 pushes were due during the stall; the first of them waited for nearly all of it,
	// and their lags fall evenly to nothing: the mean over all 100 is near 0.3 x 0.29 s.
	if lag := time.Duration(r.Lag.Max()); lag < stall-40*time.Millisecond {
		t.Errorf("largest lag is %s", lag)
	}
	if mean := time.Duration(r.Lag.Mean()); mean < 70*time.Millisecond {
		t.Errorf("mean lag is %s", mean)
	}
	// None of that is the pusher's own: a server that is slow does not make the run a bad one.
	if own, lag := r.Own.Mean(), r.Lag.Mean(); r.Own.TotalCount() != 100 || own > lag/2 {
		t.Errorf("of %s the pusher's own is %s", time.Duration(lag), time.Duration(own))
	}
	if ack := time.Duration(r.Ack.Max()); ack < stall-10*time.Millisecond {
		t.Errorf("slowest answer is %s", ack)
	}
}

// A pusher that can't send for some time, and then sends all that was due meanwhile, is to blame for
// how late each of them is, and not for the first alone.
func TestOwnDelayLastsUntilItIsMadeUpFor(t *testing.T) {
	addr, _ := start(t, nil)
	const pushes, held = 10, 300 * time.Millisecond // the last is due after 90 ms
	begin := ledger.Now()
	cfg := through(addr, streams(1, 100, pushes*10*time.Millisecond))
	cfg.Started = func(uint16) {
		for ledger.Now() < begin+int64(held) {
			runtime.Gosched()
		}
	}
	r, err := Run(t.Context(), cfg, begin)
	if err != nil {
		t.Fatal(err)
	}
	if least := time.Duration(r.Own.Min()); r.Own.TotalCount() != pushes || least < 200*time.Millisecond {
		t.Errorf("of %d pushes that were late by %s at least, the pusher's own is %s at least",
			r.Own.TotalCount(), time.Duration(r.Lag.Min()), least)
	}
}

func TestFailuresAreTold(t *testing.T) {
	cases := []struct {
		name            string
		answer          func(w http.ResponseWriter, r *http.Request, n int)
		failed, unknown int64
		message         string
		timeout         time.Duration // 0: the default
	}{
		{"code -500", func(w http.ResponseWriter, r *http.Request, n int) {
			io.WriteString(w, `{"code":-500,"message":"kafka"}`)
		}, 1, 0, `code -500, "kafka"`, 0},
		{"no JSON", func(w http.ResponseWriter, r *http.Request, n int) { io.WriteString(w, `<html>`) }, 1, 0, "no JSON with a code", 0},
		{"no code", func(w http.ResponseWriter, r *http.Request, n int) { io.WriteString(w, `{"message":""}`) }, 1, 0, "no JSON with a code", 0},
		{"HTTP error", func(w http.ResponseWriter, r *http.Request, n int) {
			http.Error(w, `{"code":0}`, http.StatusBadGateway)
		}, 1, 0, "HTTP status 502", 0},
		{"no answer in time", func(w http.ResponseWriter, r *http.Request, n int) { <-r.Context().Done() }, 0, 1, "timeout", 500 * time.Millisecond},
		{"connection cut", func(w http.ResponseWriter, r *http.Request, n int) {
			c, _, _ := w.(http.Hijacker).Hijack()
			c.Close()
		}, 0, 1, "EOF", 0},
		{"answer cut short", func(w http.ResponseWriter, r *http.Request, n int) {
			c, b, _ := w.(http.Hijacker).Hijack()
			b.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"co")
			b.Flush()
			c.Close()
		}, 0, 1, "EOF", 0},
		{"answer, then closed", func(w http.ResponseWriter, r *http.Request, n int) {
			w.Header().Set("Connection", "close")
			io.WriteString(w, `{"code":0}`)
		}, 0, 0, "", 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			addr, f := start(t, func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					c.answer(w, r, n)
					return
				}
				io.WriteString(w, `{"code":0}`)
			})
			cfg := through(addr, streams(1, 50, 100*time.Millisecond))
			cfg.Ways[ViaHTTP] = HTTP{Addr: addr, Timeout: c.timeout}
			r, err := Run(t.Context(), cfg, ledger.Now())
			if err != nil {
				t.Fatal(err)
			}
			got := r.Total(false)
			if got != (Counts{5, 5, 5 - c.failed - c.unknown, c.failed, c.unknown}) {
				t.Errorf("%+v", got)
			}
			plan := r.Plans()[0]
			if plan.Pushed != 5 || len(plan.Unknown) != int(c.failed+c.unknown) || len(plan.Unknown) == 1 && plan.Unknown[0] != 1 {
				t.Errorf("plan is %+v", plan)
			}
			if len(f.stamps[0]) != 5 {
				t.Errorf("%d arrived: a push must not be repeated", len(f.stamps[0]))
			}
			if c.message != "" && (len(r.Errors) != 1 || !strings.Contains(r.Errors[0], c.message)) {
				t.Errorf("errors %q, want %q", r.Errors, c.message)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	r, err := Run(t.Context(), through(l.Addr().String(), streams(1, 100, 100*time.Millisecond)), ledger.Now())
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Total(false); c != (Counts{Intended: 10, Sent: 10, Failed: 10}) || len(r.Errors) != keptErrors {
		t.Errorf("%+v, errors %q", c, r.Errors)
	}
}

func TestCancelEndsAtOnce(t *testing.T) {
	addr, _ := start(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n >= 2 {
			<-r.Context().Done()
			return
		}
		io.WriteString(w, `{"code":0}`)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	r, err := Run(ctx, through(addr, streams(1, 50, time.Minute)), ledger.Now())
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if c := r.Total(false); c.Intended != 3000 || c.Sent != 3 || c.Acknowledged != 2 || c.Unknown != 1 {
		t.Errorf("%+v", c)
	}
}

func TestOverrunEndsAStream(t *testing.T) {
	addr, _ := start(t, func(w http.ResponseWriter, r *http.Request, n int) {
		time.Sleep(100 * time.Millisecond)
		io.WriteString(w, `{"code":0}`)
	})
	cfg := through(addr, streams(1, 100, time.Second))
	cfg.Overrun = 300 * time.Millisecond
	r, err := Run(t.Context(), cfg, ledger.Now())
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Total(false); c.Intended != 100 || c.Sent < 2 || c.Sent > 10 || int64(r.Plans()[0].Pushed) != c.Sent {
		t.Errorf("%+v, plan %+v", c, r.Plans()[0])
	}
}

// Three streams in two lanes take turns of one schedule.
func TestLinesShareASchedule(t *testing.T) {
	ramp, err := load.NewRamp(50, 350, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	poisson, err := load.NewPoisson(200, time.Second, 1)
	if err != nil {
		t.Fatal(err)
	}
	burst, err := load.NewBurst(10, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	sizes, err := load.NewExponential(100, 1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, schedule := range []load.Schedule{ramp, poisson, burst} {
		t.Run(schedule.String(), func(t *testing.T) {
			addr, f := start(t, nil)
			list := streams(3, 1, time.Second)
			total := schedule.Pushes(time.Second)
			for i := range list {
				s := &list[i]
				s.Lane = i % 2
				s.Schedule, s.Sizes, s.Pushes = schedule, sizes, uint32(load.Part(total, i, 3))
			}
			begin := ledger.Now()
			r, err := Run(t.Context(), through(addr, list), begin)
			if err != nil {
				t.Fatal(err)
			}
			if c := r.Total(false); c != (Counts{Intended: int64(total), Sent: int64(total), Acknowledged: int64(total)}) {
				t.Errorf("%+v of %d", c, total)
			}
			// The line's pushes, one by one, are where the schedule has them.
			for i := range total {
				stamp := f.stamps[uint16(i%3)][i/3]
				if stamp.Seq != uint32(i/3) || stamp.Intended != begin+int64(schedule.At(i)) {
					t.Fatalf("push %d is %+v", i, stamp)
				}
				if got, want := f.sizes[stamp], sizes.Of(stamp.Stream, stamp.Seq); got != want {
					t.Fatalf("push %d has %d bytes, want %d", i, got, want)
				}
			}
		})
	}
}

func TestBadStreamsAreRefused(t *testing.T) {
	ended, err := load.NewRamp(10, 0, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(s *Stream)
		want   string
	}{
		{"no way", func(s *Stream) { s.Via = "pigeon" }, `stream 0: "pigeon" is no way in; accepted: http, kafka, comet`},
		{"a way that is not there", func(s *Stream) { s.Via = ViaKafka }, "stream 0: there is no way kafka in"},
		{"keys past logic", func(s *Stream) { s.Via, s.Target.Kind = ViaKafka, KindKeys },
			"stream 0: pushes of the kind keys can't go via kafka, since only logic knows where keys and mids are; accepted there: room and all"},
		{"mids past logic", func(s *Stream) { s.Via, s.Target.Kind = ViaComet, KindMids },
			"stream 0: pushes of the kind mids can't go via comet, since only logic knows where keys and mids are; accepted there: room and all"},
		{"no step", func(s *Stream) { s.Step = 0 }, "stream 0: line 0, first 0, step 0; accepted: 0, 0 and 1 at least"},
		{"before the first", func(s *Stream) { s.First = -1 }, "stream 0: line 0, first -1, step 1; accepted: 0, 0 and 1 at least"},
		{"no schedule", func(s *Stream) { s.Schedule = nil }, "stream 0: it has no schedule or no sizes"},
		{"no sizes", func(s *Stream) { s.Sizes = nil }, "stream 0: it has no schedule or no sizes"},
		{"more than the schedule has", func(s *Stream) { s.Schedule, s.Pushes = ended, 7 }, "stream 0: the schedule (from 10 to 0 a second over 1s) has not 7 pushes for it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, f := start(t, nil)
			cfg := through(addr, streams(1, 10, time.Second))
			c.change(&cfg.Streams[0])
			if _, err := Run(t.Context(), cfg, ledger.Now()); err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if f.n > 0 {
				t.Errorf("%d pushes were sent", f.n)
			}
		})
	}
}

func TestPathsOfThePushAPI(t *testing.T) {
	for _, c := range []struct {
		target Target
		want   string
	}{
		{room, "/goim/push/room?operation=1000&room=1&type=live"},
		{Target{Kind: KindRoom, Operation: 1, RoomType: "a b", RoomID: "x&y"}, "/goim/push/room?operation=1&room=x%26y&type=a+b"},
		{Target{Kind: KindKeys, Operation: 1001, Keys: []string{"k1", "k2"}}, "/goim/push/keys?keys=k1&keys=k2&operation=1001"},
		{Target{Kind: KindMids, Operation: 1001, Mids: []int64{5, 1 << 40}}, "/goim/push/mids?mids=5&mids=1099511627776&operation=1001"},
		{Target{Kind: KindAll, Operation: 1002, Speed: 7}, "/goim/push/all?operation=1002&speed=7"},
	} {
		if got := c.target.Path(); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

// BenchmarkPush is what one push costs on the pusher's side and net/http's server together.
func BenchmarkPush(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, `{"code":0,"message":""}`)
	})}
	go s.Serve(l)
	defer s.Close()
	c := &conn{addr: l.Addr().String(), head: HTTP{}.head(l.Addr().String())}
	defer c.close()
	body := ledger.AppendBody(nil, ledger.Stamp{}, 64)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.post(b.Context(), "/goim/push/room?operation=1000&type=live&room=1", body, time.Second); err != nil {
			b.Fatal(err)
		}
	}
}
