package comet

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"barrage/server/api/logic"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A heldLogic lets nobody in until it is let go, and remembers whom it was asked about.
type heldLogic struct {
	fakeLogic
	free chan struct{} // closed to let go

	orderMu sync.Mutex
	order   []string // orderMu guards; tokens
}

func holdLogic() *heldLogic {
	h := &heldLogic{free: make(chan struct{})}
	h.before = func(token []byte) {
		h.orderMu.Lock()
		h.order = append(h.order, string(token))
		h.orderMu.Unlock()
		<-h.free
	}
	return h
}

func (h *heldLogic) asked() []string {
	h.orderMu.Lock()
	defer h.orderMu.Unlock()
	return slices.Clone(h.order)
}

// auth connects a client and sends its token.
func (c *testComet) auth(t *testing.T, websocket bool, token string) *client {
	t.Helper()
	cl := c.dial(t, websocket)
	cl.send(wire.Frame{Ver: 1, Op: wire.OpAuth, Seq: 7, Body: []byte(token)})
	return cl
}

// While logic is busy, clients wait for their turn for longer than a call may take, and get it
// in the order in which they came, many in one call.
func TestClientsWaitForTheirTurn(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("goim's logic ", plain), func(t *testing.T) {
			h := holdLogic()
			h.plain = plain
			c := startComet(t, &h.fakeLogic, func(cfg *Config) {
				cfg.RPCClient.Timeout = 10 * time.Millisecond
				cfg.RPCClient.Batch, cfg.RPCClient.Batches = 20, 1
				cfg.Protocol.HandshakeTimeout = 10 * time.Minute
			})
			const n = 100
			var clients []*client
			var want []string
			for i := range n {
				token := fmt.Sprintf(`{"key":"k%03d"}`, i)
				want = append(want, token)
				clients = append(clients, c.auth(t, i%2 == 0, token))
				eventually(t, "the first is asked about, and the others wait", func() bool {
					return len(h.asked()) == 1 && c.registrar.connects.Waiting() == i
				})
			}
			time.Sleep(20 * time.Millisecond) // more than a call's time, which must not matter
			close(h.free)
			for i, cl := range clients {
				if f := cl.read(); f.Op != wire.OpAuthReply {
					t.Fatalf("client %d: %+v", i, f)
				}
			}
			got := h.asked()
			if plain {
				slices.Sort(got) // within a batch some are asked about at a time
			}
			if !slices.Equal(got, want) {
				t.Errorf("logic is asked about %q", got)
			}
			var m dto.Metric
			if err := c.metrics.batches["Connect"].(prometheus.Metric).Write(&m); err != nil {
				t.Fatal(err)
			}
			if h := m.GetHistogram(); h.GetSampleCount() != 6 || h.GetSampleSum() != n {
				t.Errorf("%v sessions were in %d calls, which should be 1 and 99 in five", h.GetSampleSum(), h.GetSampleCount())
			}
		})
	}
}

// One whose turn does not come in time is closed, with the reason.
func TestTurnDoesNotCome(t *testing.T) {
	h := holdLogic()
	c := startComet(t, &h.fakeLogic, func(cfg *Config) {
		cfg.RPCClient.Batches = 1
		cfg.Protocol.HandshakeTimeout = 50 * time.Millisecond
	})
	defer close(h.free)
	first := c.auth(t, false, `{"key":"a"}`)
	second := c.auth(t, true, `{"key":"b"}`)
	first.ended()
	second.ended()
	eventually(t, "both are counted", func() bool { return testutil.ToFloat64(c.metrics.closed[reasonAuthTimeout]) == 2 })
}

// The time for an auth frame ends with it; from there it is the time for logic's answer.
func TestTimeCountsFromTheAuthFrame(t *testing.T) {
	sh, now := newTestShard(t, nil)
	var h handshakes
	newSession := func(p phase) *session {
		s, _ := newFakeSession(sh.server, "k", false)
		s.out.joined = false
		s.in.phase = p
		return s
	}
	silent, asking, overdue := newSession(phaseAuth), newSession(phaseConnect), newSession(phaseConnect)
	at := *now
	h.add(handshake{session: silent, deadline: at})
	h.add(handshake{session: asking, deadline: at})
	h.add(handshake{session: overdue, asked: true, deadline: at})
	h.add(handshake{session: asking, asked: true, deadline: at.Add(time.Second)})
	h.closeOverdue(at)
	if !silent.closed() || !overdue.closed() || asking.closed() {
		t.Errorf("closed: silent %v, overdue %v, asking %v", silent.closed(), overdue.closed(), asking.closed())
	}
	h.closeOverdue(at.Add(time.Second))
	if !asking.closed() {
		t.Error("one that logic says nothing of stays open")
	}
}

// What logic says of one session is for that one alone, and one that it can't be asked about
// ends as such.
func TestOneOfManyFails(t *testing.T) {
	h := holdLogic()
	h.connect = func(q *logic.ConnectReq, r *logic.ConnectReply) error {
		switch r.Key {
		case "unavailable":
			return status.Error(codes.Unavailable, "no Redis")
		case "rejected":
			return status.Error(codes.AlreadyExists, "no place")
		}
		return nil
	}
	c := startComet(t, &h.fakeLogic, func(cfg *Config) { cfg.RPCClient.Batches = 1; cfg.Protocol.HandshakeTimeout = time.Minute })
	c.auth(t, false, `{"key":"first"}`)
	eventually(t, "the first is asked about", func() bool { return len(h.asked()) == 1 })
	var good, bad []*client
	for _, token := range []string{`{"key":"a"}`, `{"key":"unavailable"}`, `{"key":"b"}`, `{"key":"rejected"}`, `{`, `{"key":"c"}`} {
		cl := c.auth(t, false, token)
		if len(token) == len(`{"key":"a"}`) {
			good = append(good, cl)
		} else {
			bad = append(bad, cl)
		}
	}
	eventually(t, "the others wait", func() bool { return c.registrar.connects.Waiting() == 6 })
	close(h.free)
	for _, cl := range good {
		if f := cl.read(); f.Op != wire.OpAuthReply {
			t.Errorf("%+v", f)
		}
	}
	bad[0].ended()
	bad[1].dismissed("rejected")
	bad[2].ended()
	for _, r := range []reason{reasonAuthFailed, reasonRejected, reasonAuthRefused} {
		eventually(t, r.String()+" is counted", func() bool { return testutil.ToFloat64(c.metrics.closed[r]) == 1 })
	}
	if n := testutil.ToFloat64(c.metrics.rpcErrors["Connect"]); n != 1 {
		t.Errorf("%v sessions are counted that logic could not be asked about", n)
	}
}

// A session that logic can't be asked about at once, but soon, is let in. Until then nobody who
// came with it waits, and it may leave.
func TestLogicStumbles(t *testing.T) {
	var asked, left atomic.Int32
	c := startComet(t, &fakeLogic{connect: func(_ *logic.ConnectReq, r *logic.ConnectReply) error {
		r.Managed = true
		switch {
		case r.Key == "patient" && asked.Add(1) < tries, r.Key == "leaves" && left.Add(1) > 0:
			return status.Error(codes.Unavailable, "no Redis")
		}
		return nil
	}}, nil)
	leaves := c.auth(t, false, `{"key":"leaves"}`)
	eventually(t, "it is asked about", func() bool { return left.Load() == 1 })
	leaves.conn.Close()
	cl := c.auth(t, false, `{"key":"patient","accepts":[1000]}`)
	c.login(t, false, `{"key":"other"}`)
	if f := cl.read(); f.Op != wire.OpAuthReply {
		t.Fatalf("%+v", f)
	}
	pushTo(t, c, "patient", "welcome")
	cl.wants("welcome")
	if n := testutil.ToFloat64(c.metrics.closed[reasonAuthFailed]); n != 0 {
		t.Errorf("%v closed because logic could not be asked", n)
	}
	eventually(t, "none of them connects any more", func() bool {
		c.connecting.mu.Lock()
		defer c.connecting.mu.Unlock()
		return len(c.connecting.by) == 0
	})
}

// A client that leaves while logic is asked about it: its end is told behind its beginning. One
// that leaves while it waits is never told of.
func TestClientsLeaveWhileTheyWait(t *testing.T) {
	h := holdLogic()
	c := startComet(t, &h.fakeLogic, func(cfg *Config) { cfg.RPCClient.Batches = 1; cfg.Protocol.HandshakeTimeout = time.Minute })
	asked := c.auth(t, false, `{"key":"asked"}`)
	eventually(t, "it is asked about", func() bool { return len(h.asked()) == 1 })
	waiting := c.auth(t, false, `{"key":"waiting"}`)
	eventually(t, "the other one waits", func() bool { return c.registrar.connects.Waiting() == 1 })
	asked.conn.Close()
	waiting.conn.Close()
	eventually(t, "both are gone", func() bool { return c.open.Load() == 0 })
	h.mu.Lock()
	if len(h.gone) != 0 {
		t.Errorf("ended are %q, of which nobody has begun", h.gone)
	}
	h.mu.Unlock()
	close(h.free)
	eventually(t, "its end is told", func() bool { return len(c.takenBack()) == 1 })
	c.stop()
	if got := h.asked(); !slices.Equal(got, []string{`{"key":"asked"}`}) {
		t.Errorf("logic was asked about %q", got)
	}
	if got := c.ids(); !slices.Equal(got, c.takenBack()) {
		t.Errorf("begun are %q, ended %q", got, c.takenBack())
	}
}

// Logic may be wrong, and a call may fail for all: nobody waits for ever.
func TestAsk(t *testing.T) {
	good := &logic.DisconnectResult{Reply: &logic.DisconnectReply{Has: true}}
	for _, test := range []struct {
		name    string
		results []*logic.DisconnectResult
		err     error
		want    []codes.Code
		singles int
	}{
		{"all is well", []*logic.DisconnectResult{good, good}, nil, []codes.Code{codes.OK, codes.OK}, 0},
		{"one fails", []*logic.DisconnectResult{{Error: &logic.Failure{Code: int32(codes.Unavailable)}}, good}, nil, []codes.Code{codes.Unavailable, codes.OK}, 0},
		{"one is missing", []*logic.DisconnectResult{good}, nil, []codes.Code{codes.Internal, codes.Internal}, 0},
		{"one is empty", []*logic.DisconnectResult{good, {}}, nil, []codes.Code{codes.OK, codes.Internal}, 0},
		{"one is nil", []*logic.DisconnectResult{nil, good}, nil, []codes.Code{codes.Internal, codes.OK}, 0},
		{"an error with code OK", []*logic.DisconnectResult{{Error: &logic.Failure{}}, good}, nil, []codes.Code{codes.Internal, codes.OK}, 0},
		{"the call fails", nil, status.Error(codes.DeadlineExceeded, "late"), []codes.Code{codes.DeadlineExceeded, codes.DeadlineExceeded}, 0},
		{"the call is unknown", nil, status.Error(codes.Unimplemented, "goim"), []codes.Code{codes.OK, codes.NotFound}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			var mu sync.Mutex
			singles := 0
			answers := ask(2, func() ([]*logic.DisconnectResult, error) { return test.results, test.err },
				func(i int) (*logic.DisconnectReply, error) {
					mu.Lock()
					defer mu.Unlock()
					singles++
					if i == 1 {
						return nil, status.Error(codes.NotFound, "no")
					}
					return good.Reply, nil
				})
			for i, a := range answers {
				if status.Code(a.err) != test.want[i] || a.err == nil && a.reply == nil {
					t.Errorf("session %d: %+v", i, a)
				}
			}
			if singles != test.singles {
				t.Errorf("%d calls for a single session", singles)
			}
		})
	}
}
