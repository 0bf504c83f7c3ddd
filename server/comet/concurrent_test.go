package comet

import (
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"barrage/server/api/logic"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A crowd is actors that drive the shards of one server at once. Each has clients of its own, and
// all push to the same rooms, keys and operations. What a client must have got, and what it may
// have, is told by a clock that ticks with every act.
type crowd struct {
	server *Server
	clock  atomic.Int64
	open   atomic.Bool // the windows of all clients are, for good
}

// A span is when a client gets what is pushed to a place: surely between entered and leaving, never
// before entering or behind left.
type span struct{ entering, entered, leaving, left int64 }

// A crowdPush is a push and when it was made; place is a room, or an operation with a key or *.
type crowdPush struct {
	place        string
	began, ended int64
}

// A crowdClient is one client, which its actor owns.
type crowdClient struct {
	session *session
	out     *crowdStream
	key     string
	room    string
	spans   map[string][]span // by place
}

func (c *crowdClient) enter(place string, entering, entered int64) {
	c.spans[place] = append(c.spans[place], span{entering, entered, math.MaxInt64, math.MaxInt64})
}

func (c *crowdClient) leave(place string, leaving, left int64) {
	if list := c.spans[place]; len(list) > 0 && list[len(list)-1].left == math.MaxInt64 {
		list[len(list)-1].leaving, list[len(list)-1].left = leaving, left
	}
}

// A crowdStream is a peer that doesn't take all of every send, until the windows are open. The
// session's mu guards it.
type crowdStream struct {
	fakeStream
	rng  *rand.Rand
	open *atomic.Bool
}

func (c *crowdStream) send(b []byte) (int, error) {
	c.room = unlimited
	if !c.open.Load() && c.rng.IntN(4) == 0 {
		c.room = c.rng.IntN(300)
	}
	return c.fakeStream.send(b)
}

func (c *crowdStream) sendChunk(ch *chunk) (int, error) { return c.send(ch.data) }

// TestConcurrentModel is TestModel with real shards and actors that race: every client that stays
// has all that was surely pushed to it, once and in order, and nothing that surely was not.
func TestConcurrentModel(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runCrowd(t, seed) })
	}
}

func runCrowd(t *testing.T, seed uint64) {
	const actors, steps = 6, 250
	cfg := DefaultConfig()
	cfg.Room.Shards, cfg.Limit.DescriptorTables = 3, tables
	s, err := New(cfg, Deps{Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Logic: &fakeLogic{}})
	if err != nil {
		t.Fatal(err)
	}
	var shards, acting sync.WaitGroup
	for _, sh := range s.shards {
		shards.Go(sh.loop)
	}
	defer func() {
		for _, sh := range s.shards {
			sh.mailbox.put(stopCommand{})
		}
		shards.Wait()
	}()
	c := &crowd{server: s}
	var mu sync.Mutex
	var clients []*crowdClient
	pushes := make(map[string]crowdPush) // by the beginning of their frame's body
	for i := range actors {
		acting.Go(func() {
			a := &actor{crowd: c, t: t, name: i, rng: rand.New(rand.NewPCG(seed, uint64(i))), pushes: make(map[string]crowdPush)}
			for range steps {
				a.act()
			}
			mu.Lock()
			defer mu.Unlock()
			clients = append(clients, a.clients...)
			for id, p := range a.pushes {
				pushes[id] = p
			}
		})
	}
	acting.Wait()
	c.open.Store(true)
	everywhere := func(ok func(*shard) bool) func() bool {
		return func() bool {
			all := true
			for _, sh := range s.shards {
				onShard(sh, func(sh *shard) { all = ok(sh) && all })
			}
			return all
		}
	}
	eventually(t, "all is written", everywhere(func(sh *shard) bool {
		return len(sh.laggards)+len(sh.small)+len(sh.large)+len(sh.delayed) == 0
	}))
	for _, cl := range clients {
		cl.check(t, pushes)
	}
	for i, n := range s.metrics.skipped {
		if n := testutil.ToFloat64(n); n != 0 {
			t.Errorf("%v frames are skipped for %s", n, skipNames[i])
		}
	}
	if t.Failed() {
		return
	}
	for _, cl := range clients {
		cl.session.gone()
	}
	eventually(t, "nothing is left", everywhere(func(sh *shard) bool {
		return len(sh.rooms)+len(sh.keys)+len(sh.everyone.members)+len(sh.accepts.sets) == 0
	}))
	if s.rooms.len() != 0 || s.sessions.Load() != 0 || s.open.Load() != 0 {
		t.Errorf("left behind: %d rooms, %d sessions, %d connections", s.rooms.len(), s.sessions.Load(), s.open.Load())
	}
	if n := s.registrar.stop(time.Now().Add(wait)); n != 0 {
		t.Errorf("logic was not told of %d ends", n)
	}
}

// An actor does one thing after the other.
type actor struct {
	*crowd
	t       *testing.T
	name    int
	rng     *rand.Rand
	clients []*crowdClient
	pushes  map[string]crowdPush
}

var (
	crowdRooms = []string{"live://1", "live://2", "live://3"}
	crowdOps   = []wire.Op{1000, 1001, 1002}
)

func (a *actor) act() {
	var cl *crowdClient
	if len(a.clients) > 0 {
		cl = a.clients[a.rng.IntN(len(a.clients))]
	}
	switch n := a.rng.IntN(12); {
	case n < 2 && len(a.clients) < 8 || cl == nil:
		a.join()
	case n == 2:
		a.end(cl)
	case n == 3:
		a.changeRoom(cl)
	case n == 4:
		a.subscribe(cl)
	case n == 5:
		cl.feed(wire.Frame{Ver: 1, Op: wire.OpHeartbeat})
	default:
		a.push(n)
	}
}

func (a *actor) anyKey() string { return fmt.Sprint("k", a.rng.IntN(8)) }
func (a *actor) anyOp() wire.Op { return crowdOps[a.rng.IntN(len(crowdOps))] }

// join connects a client, as a poller and logic's answer do.
func (a *actor) join() {
	s, websocket := a.server, a.rng.IntN(2) == 0
	out := &crowdStream{rng: rand.New(rand.NewPCG(a.rng.Uint64(), 0)), open: &a.open}
	cl := &crowdClient{out: out, key: a.anyKey(), room: crowdRooms[a.rng.IntN(len(crowdRooms))], spans: make(map[string][]span)}
	s.limits.enter(addrKey{}, time.Now())
	s.open.Add(1)
	cl.session = s.newSession(addrKey{}, websocket, out)
	if websocket {
		cl.session.in.ws = &wsDecoder{limit: s.ws.limit}
	}
	r := &logic.ConnectReply{Key: cl.key, RoomID: cl.room, Heartbeat: int64(time.Hour), Managed: true, Accepts: []int32{1000, 1001}}
	entering := a.clock.Add(1)
	s.admit(cl.session, wire.Frame{Ver: 1}, r)
	entered := a.clock.Add(1)
	cl.enter(cl.room, entering, entered)
	for _, op := range r.Accepts {
		for _, place := range cl.places(wire.Op(op)) {
			cl.enter(place, entering, entered)
		}
	}
	a.clients = append(a.clients, cl)
}

// places are where pushes with the operation reach the client.
func (c *crowdClient) places(op wire.Op) [2]string {
	return [2]string{fmt.Sprint("* ", op), fmt.Sprint(c.key, " ", op)}
}

// end ends a client's connection, at times while the server does, too.
func (a *actor) end(cl *crowdClient) {
	s := cl.session
	if a.rng.IntN(2) == 0 {
		s.shard.mailbox.put(dismissCommand{key: s.key, number: s.number, reason: reasonReplaced})
	}
	s.gone()
	for i, other := range a.clients {
		if other == cl {
			a.clients = append(a.clients[:i], a.clients[i+1:]...)
			return
		}
	}
}

// feed has the server read a frame of the client's.
func (c *crowdClient) feed(f wire.Frame) {
	b := wire.AppendFrame(nil, f)
	if c.session.websocket {
		b = maskedFrame(0x82, b)
	}
	c.session.feed(b)
}

// behind says whether the shard has many commands of the session to run, and would close it for more.
func (c *crowdClient) behind() bool { return c.session.commands.Load() > maxCommands/2 }

func (a *actor) changeRoom(cl *crowdClient) {
	if cl.behind() {
		return
	}
	old := cl.room
	cl.room = crowdRooms[a.rng.IntN(len(crowdRooms))]
	began := a.clock.Add(1)
	cl.feed(wire.Frame{Ver: 1, Op: wire.OpChangeRoom, Body: []byte(cl.room)})
	ended := a.clock.Add(1)
	cl.leave(old, began, ended)
	cl.enter(cl.room, began, ended)
}

func (a *actor) subscribe(cl *crowdClient) {
	if cl.behind() {
		return
	}
	op, frameOp := a.anyOp(), wire.OpSub
	if a.rng.IntN(2) == 0 {
		frameOp = wire.OpUnsub
	}
	began := a.clock.Add(1)
	cl.feed(wire.Frame{Ver: 1, Op: frameOp, Body: fmt.Append(nil, op)})
	ended := a.clock.Add(1)
	for _, place := range cl.places(op) {
		list := cl.spans[place]
		switch open := len(list) > 0 && list[len(list)-1].left == math.MaxInt64; {
		case frameOp == wire.OpUnsub:
			cl.leave(place, began, ended)
		case !open:
			cl.enter(place, began, ended)
		}
	}
}

func (a *actor) push(kind int) {
	id := fmt.Sprintf("%d.%d", a.name, len(a.pushes))
	op, key, room := a.anyOp(), a.anyKey(), crowdRooms[a.rng.IntN(len(crowdRooms))]
	batch := pushFrame(op, id+" "+strings.Repeat("x", a.rng.IntN(200)))
	began := a.clock.Add(1)
	var p push
	var place string
	switch {
	case kind < 9:
		place = room
		var held bool
		if p, held = a.server.toRoom(room, batch, 1); !held {
			return
		}
	case kind < 11:
		place = fmt.Sprint("* ", op)
		p = push{kind: "all", shards: a.server.shards, command: pushCommand{kind: pushAll, op: op, batch: batch, n: 1}}
	default:
		place = fmt.Sprint(key, " ", op)
		p = a.server.toKeys([]string{key}, op, batch, 1)
	}
	if err := a.server.push(a.t.Context(), p, nil); err != nil {
		a.t.Error(err)
	}
	a.pushes[id] = crowdPush{place: place, began: began, ended: a.clock.Add(1)}
}

// check compares what the client got with what was pushed.
func (c *crowdClient) check(t *testing.T, pushes map[string]crowdPush) {
	t.Helper()
	c.session.mu.Lock()
	got, closed := decodeStream(t, c.out.got, c.session.websocket), c.session.out.closed
	c.session.mu.Unlock()
	if closed {
		t.Errorf("client %d is closed", c.session.number)
		return
	}
	has := make(map[string]bool)
	latest := make(map[string]int64) // by place: when the latest of the pushes so far began
	for _, f := range got {
		if f.Op < 1000 {
			continue // a reply
		}
		id, _, _ := strings.Cut(string(f.Body), " ")
		p, ok := pushes[id]
		if !ok || has[id] {
			t.Errorf("client %d: got push %s, known %v, before %v", c.session.number, id, ok, has[id])
			continue
		}
		has[id] = true
		if log := strings.Fields(p.place)[0]; p.ended < latest[log] {
			t.Errorf("client %d: got push %s to %s behind one that was made later", c.session.number, id, p.place)
		} else {
			latest[log] = max(latest[log], p.began)
		}
		may := false
		for _, at := range c.spans[p.place] {
			may = may || p.ended > at.entering && p.began < at.left
		}
		if !may {
			t.Errorf("client %d: got push %s to %s, where it was not", c.session.number, id, p.place)
		}
	}
	for id, p := range pushes {
		for _, at := range c.spans[p.place] {
			if p.began > at.entered && p.ended < at.leaving && !has[id] {
				t.Errorf("client %d: lacks push %s to %s", c.session.number, id, p.place)
			}
		}
	}
}
