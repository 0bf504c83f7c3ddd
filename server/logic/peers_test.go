package logic

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"barrage/server/api/sessions"
	"barrage/server/discovery"
	"barrage/server/logic/presence"
)

// A hangingComet answers nothing until it is let go.
type hangingComet struct {
	sessions.UnimplementedSessionsServer
	addr   string
	letGo  chan struct{}
	calls  atomic.Int32
	closed atomic.Int32 // sessions
}

func startHangingComet(t testing.TB) *hangingComet {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hangingComet{addr: l.Addr().String(), letGo: make(chan struct{})}
	server := grpc.NewServer()
	sessions.RegisterSessionsServer(server, h)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return h
}

func (h *hangingComet) wait(ctx context.Context) error {
	h.calls.Add(1)
	select {
	case <-h.letGo:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hangingComet) Close(ctx context.Context, q *sessions.CloseReq) (*sessions.CloseReply, error) {
	if err := h.wait(ctx); err != nil {
		return nil, err
	}
	h.closed.Add(int32(len(q.Sessions)))
	return &sessions.CloseReply{Closed: q.Sessions}, nil
}

func (h *hangingComet) Holds(ctx context.Context, q *sessions.HoldsReq) (*sessions.HoldsReply, error) {
	if err := h.wait(ctx); err != nil {
		return nil, err
	}
	return &sessions.HoldsReply{Sessions: q.Sessions}, nil
}

// at is discovery's list with one comet.
func at(name, addr string) discovery.Instance {
	return discovery.Instance{AppID: discovery.AppComet, Hostname: name, Addrs: []string{"grpc://" + addr}, Metadata: comets(name)[0].Metadata}
}

func newTestPeers(t *testing.T, timeout time.Duration, list ...discovery.Instance) *peers {
	p := newPeers(timeout, slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()))
	t.Cleanup(p.close)
	p.update(list)
	return p
}

func (p *peers) counted(result closeResult) int {
	return int(testutil.ToFloat64(p.metrics.closes[result]))
}

// sessionsOn returns n sessions of one comet.
func sessionsOn(server string, n int) (list []presence.Session) {
	for i := range n {
		list = append(list, presence.Session{Key: fmt.Sprint("k", i), Server: server, ID: fmt.Sprint("s-", i)})
	}
	return list
}

// A comet that hangs holds up neither those who connect nor the other comets, and what came
// meanwhile goes along with the next call.
func TestHangingComet(t *testing.T) {
	hanging, good := startHangingComet(t), startComet(t, true)
	p := newTestPeers(t, patience, at("hanging", hanging.addr), at("good", good.addr))
	begin := time.Now()
	p.dismiss(sessionsOn("hanging", 1))
	eventually(t, "the comet is called", func() error {
		if hanging.calls.Load() == 0 {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	for range 300 {
		p.dismiss(sessionsOn("hanging", 10))
	}
	p.dismiss(sessionsOn("good", 2))
	eventually(t, "the other comet is asked", func() error { return good.wasAsked("replaced k1 s-1") })
	if took := time.Since(begin); took > patience/2 {
		t.Errorf("all that took %v", took)
	}
	close(hanging.letGo)
	eventually(t, "everything is closed", func() error {
		if n := hanging.closed.Load(); n != 3001 {
			return fmt.Errorf("%d sessions are", n)
		}
		return nil
	})
	if n := hanging.calls.Load(); n > 5 {
		t.Errorf("%d calls for 3001 sessions", n)
	}
}

// What waits for one comet is bounded, and what is left out is counted; so is what waits for
// a comet that leaves.
func TestWaitingIsBounded(t *testing.T) {
	hanging := startHangingComet(t)
	p := newTestPeers(t, patience, at("hanging", hanging.addr))
	p.dismiss(sessionsOn("hanging", 1))
	eventually(t, "the comet is called", func() error {
		if hanging.calls.Load() == 0 {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	p.dismiss(sessionsOn("hanging", maxWaiting-1))
	p.dismiss(sessionsOn("hanging", 8)) // one has space
	if n := p.counted(closeLeft); n != 7 {
		t.Errorf("%d are counted as left out", n)
	}
	p.update(nil)
	eventually(t, "the call under way and what waits have failed", func() error {
		if n := p.counted(closeFailed); n != maxWaiting+1 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	p.dismiss(sessionsOn("hanging", 3))
	if n := p.counted(closeFailed); n != maxWaiting+4 {
		t.Errorf("%d failed, with 3 on a comet that left", n)
	}
}

// Stopping waits for one call at most, however many sessions wait.
func TestPeersStop(t *testing.T) {
	hanging := startHangingComet(t)
	p := newTestPeers(t, 200*time.Millisecond, at("hanging", hanging.addr))
	p.dismiss(sessionsOn("hanging", 50*maxClosing))
	begin := time.Now()
	p.close()
	if took := time.Since(begin); took > patience/2 {
		t.Errorf("took %v", took)
	}
	if n := p.counted(closeFailed); n != 50*maxClosing {
		t.Errorf("%d are counted as failed", n)
	}
}

// Whether sessions are there is asked of all comets at once, for half of the caller's time;
// who doesn't answer may have them.
func TestStale(t *testing.T) {
	hanging, good := startHangingComet(t), startComet(t, true)
	good.holds["s-1"] = true
	p := newTestPeers(t, patience, at("hanging", hanging.addr), at("also hanging", hanging.addr), at("good", good.addr),
		discovery.Instance{Hostname: "without an address"})
	list := slices.Concat(sessionsOn("hanging", 2), sessionsOn("also hanging", 2), sessionsOn("good", 3),
		sessionsOn("gone", 1), sessionsOn("without an address", 1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	gone := p.stale(ctx, list)
	if ctx.Err() != nil {
		t.Error("nothing is left of the caller's time")
	}
	var got []string
	for _, s := range gone {
		got = append(got, s.Server+" "+s.ID)
	}
	if want := "[good s-0 good s-2 gone s-0]"; fmt.Sprint(got) != want {
		t.Errorf("gone are %v, want %s", got, want)
	}
}

// Many who are rejected at a time don't become as many calls.
func TestAskingIsBounded(t *testing.T) {
	hanging := startHangingComet(t)
	p := newTestPeers(t, patience, at("hanging", hanging.addr))
	var all sync.WaitGroup
	for range maxAsking {
		all.Go(func() { p.stale(t.Context(), sessionsOn("hanging", 1)) })
	}
	eventually(t, "all ask", func() error {
		if n := hanging.calls.Load(); n != maxAsking {
			return fmt.Errorf("%d do", n)
		}
		return nil
	})
	if gone := p.stale(t.Context(), sessionsOn("gone", 1)); len(gone) != 0 {
		t.Errorf("%v", gone)
	}
	close(hanging.letGo)
	all.Wait()
}

// A session that can't be let in hears so in time, also where a comet hangs that may hold
// the others.
func TestRejectedInTime(t *testing.T) {
	hanging := startHangingComet(t)
	c := startCluster(t, func(cfg *Config, _ *Deps) {
		cfg.Session = SessionConfig{MaxPerKey: 1, Policy: policyReject}
		cfg.RPCServer.Timeout = time.Second
	})
	c.knows(t, []discovery.Instance{at("hanging", hanging.addr)})
	if _, err := c.tryConnect("hanging", `{"key":"k"}`, "s-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.tryConnect("hanging", `{"key":"k"}`, "s-2"); status.Code(err) != codes.AlreadyExists {
		t.Errorf("%v", err)
	}
}
