package pusher

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"barrage/harness/ledger"
)

// fakeLogic answers pushes and keeps their stamps in the order of arrival.
type fakeLogic struct {
	answer func(w http.ResponseWriter, r *http.Request, n int) // n counts requests from 0

	mu     sync.Mutex
	stamps map[uint16][]ledger.Stamp
	n      int
}

func (f *fakeLogic) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s, ok := ledger.ParseBody(body)
	f.mu.Lock()
	n := f.n
	f.n++
	if ok {
		f.stamps[s.Stream] = append(f.stamps[s.Stream], s)
	}
	f.mu.Unlock()
	if f.answer != nil {
		f.answer(w, r, n)
		return
	}
	io.WriteString(w, `{"code":0,"message":""}`)
}

func start(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int)) (addr string, f *fakeLogic) {
	f = &fakeLogic{answer: answer, stamps: map[uint16][]ledger.Stamp{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), f
}

// streams splits rate over n streams for d.
func streams(n, rate int, d time.Duration) []Stream {
	var list []Stream
	for i := range n {
		list = append(list, Stream{
			ID: uint16(i), Lane: i, Target: "/goim/push/room?operation=1000&type=live&room=1", Size: 64,
			Start: time.Duration(i) * time.Second / time.Duration(rate), Period: time.Duration(n) * time.Second / time.Duration(rate),
			Pushes: uint32(int(d.Seconds()*float64(rate)) / n),
		})
	}
	return list
}

func TestEveryPushIsSentOnceInOrderWithItsIntendedTime(t *testing.T) {
	addr, f := start(t, nil)
	begin := ledger.Now()
	list := append(streams(4, 400, time.Second), Stream{ID: 9, Lane: 0, Target: "/goim/push/all?operation=1", Size: 16, Period: 50 * time.Millisecond, Pushes: 10, WarmUp: true})
	var mu sync.Mutex
	started := map[uint16]int{}
	r, err := Run(t.Context(), Config{Addr: addr, Streams: list, Started: func(id uint16) {
		mu.Lock()
		defer mu.Unlock()
		started[id]++
	}}, begin)
	if err != nil {
		t.Fatal(err)
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
			if stamp.Seq != uint32(i) || stamp.Intended != begin+int64(s.Start)+int64(i)*int64(s.Period) {
				t.Fatalf("stream %d, arrival %d is %+v", s.ID, i, stamp)
			}
		}
	}
	if r.Lag.TotalCount() != 400 || r.Ack.TotalCount() != 400 {
		t.Errorf("%d lags and %d acks were recorded", r.Lag.TotalCount(), r.Ack.TotalCount())
	}
	for _, p := range r.Plans() {
		if len(p.Unknown) > 0 {
			t.Errorf("plan %+v", p)
		}
	}
}

// A server that stalls for 600 ms delays what it stalls, and nothing behind that: the
// schedule stands, the lag shows the stall, and the run is as long as it was meant to be.
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
	r, err := Run(t.Context(), Config{Addr: addr, Streams: list}, begin)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Duration(ledger.Now() - begin)
	if c := r.Total(false); c.Acknowledged != 100 {
		t.Errorf("%+v", c)
	}
	if took > 2*time.Second+stall {
		t.Errorf("took %s, the schedule is 2 s", took)
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
	if ack := time.Duration(r.Ack.Max()); ack < stall-10*time.Millisecond {
		t.Errorf("slowest answer is %s", ack)
	}
}

func TestFailuresAreTold(t *testing.T) {
	cases := []struct {
		name            string
		answer          func(w http.ResponseWriter, r *http.Request, n int)
		failed, unknown int64
		message         string
	}{
		{"code -500", func(w http.ResponseWriter, r *http.Request, n int) {
			io.WriteString(w, `{"code":-500,"message":"kafka"}`)
		}, 1, 0, `code -500, "kafka"`},
		{"no JSON", func(w http.ResponseWriter, r *http.Request, n int) { io.WriteString(w, `<html>`) }, 1, 0, "no JSON with a code"},
		{"no code", func(w http.ResponseWriter, r *http.Request, n int) { io.WriteString(w, `{"message":""}`) }, 1, 0, "no JSON with a code"},
		{"HTTP error", func(w http.ResponseWriter, r *http.Request, n int) {
			http.Error(w, `{"code":0}`, http.StatusBadGateway)
		}, 1, 0, "HTTP status 502"},
		{"no answer in time", func(w http.ResponseWriter, r *http.Request, n int) { time.Sleep(400 * time.Millisecond) }, 0, 1, "timeout"},
		{"connection cut", func(w http.ResponseWriter, r *http.Request, n int) {
			c, _, _ := w.(http.Hijacker).Hijack()
			c.Close()
		}, 0, 1, "EOF"},
		{"answer cut short", func(w http.ResponseWriter, r *http.Request, n int) {
			c, b, _ := w.(http.Hijacker).Hijack()
			b.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"co")
			b.Flush()
			c.Close()
		}, 0, 1, "EOF"},
		{"answer, then closed", func(w http.ResponseWriter, r *http.Request, n int) {
			w.Header().Set("Connection", "close")
			io.WriteString(w, `{"code":0}`)
		}, 0, 0, ""},
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
			r, err := Run(t.Context(), Config{Addr: addr, Streams: streams(1, 50, 100*time.Millisecond), Timeout: 200 * time.Millisecond}, ledger.Now())
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
	r, err := Run(t.Context(), Config{Addr: l.Addr().String(), Streams: streams(1, 100, 100*time.Millisecond)}, ledger.Now())
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
	r, err := Run(ctx, Config{Addr: addr, Streams: streams(1, 50, time.Minute)}, ledger.Now())
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
	r, err := Run(t.Context(), Config{Addr: addr, Streams: streams(1, 100, time.Second), Overrun: 300 * time.Millisecond}, ledger.Now())
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Total(false); c.Intended != 100 || c.Sent < 2 || c.Sent > 10 || int64(r.Plans()[0].Pushed) != c.Sent {
		t.Errorf("%+v, plan %+v", c, r.Plans()[0])
	}
}

func TestBadStreamIsRefused(t *testing.T) {
	for _, s := range []Stream{{Size: 15, Period: 1, Pushes: 2}, {Size: 16, Pushes: 2}} {
		if _, err := Run(t.Context(), Config{Streams: []Stream{s}}, 0); err == nil {
			t.Errorf("%+v was accepted", s)
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
	c := &conn{addr: l.Addr().String()}
	defer c.close()
	body := ledger.AppendBody(nil, ledger.Stamp{}, 64)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.post(b.Context(), "/goim/push/room?operation=1000&type=live&room=1", body, time.Second); err != nil {
			b.Fatal(err)
		}
	}
}
