package comet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cometpb "barrage/server/api/comet"
	"barrage/server/api/protocol"
	"barrage/server/comet/secure/securetest"
	"barrage/server/discovery"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// wait is how long a test waits for what must happen.
const wait = 10 * time.Second

// A testComet is a running comet with a logic of the test's own.
type testComet struct {
	*Server
	logic *fakeLogic
	rpc   cometpb.CometClient
	tcp   string
	ws    string
	stop  func()

	trusted *x509.CertPool // with it, clients connect over TLS
}

func startComet(t testing.TB, logic *fakeLogic, change func(*Config), register ...func(context.Context, discovery.Instance) (Registration, error)) *testComet {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Env.Host = "test"
	cfg.TCP.Bind, cfg.WebSocket.Bind, cfg.RPCServer.Addr = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}, "127.0.0.1:0"
	cfg.Drain.Window = 0
	cfg.Limit.DescriptorTables = tables
	if change != nil {
		change(&cfg)
	}
	if cfg.TCP.TLSOpen || cfg.WebSocket.TLSOpen {
		cfg.Limit.DescriptorTables = 0
	}
	deps := Deps{Logic: logic, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)}
	for _, r := range register {
		deps.Register = r
	}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	if logic.profile != nil {
		s.ws = *logic.profile
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	conn, err := grpc.NewClient(s.RPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	c := &testComet{Server: s, logic: logic, rpc: cometpb.NewCometClient(conn),
		tcp: s.TCPAddrs()[0].String(), ws: s.WebSocketAddrs()[0].String()}
	c.stop = sync.OnceFunc(func() {
		conn.Close()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(2 * wait):
			pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
			t.Error("the comet did not end")
		}
	})
	t.Cleanup(c.stop)
	return c
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(wait); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", wait, what)
		}
	}
}

// A client is one end of a connection, TCP or WebSocket, that shows frames.
type client struct {
	t         testing.TB
	conn      net.Conn
	r         *bufio.Reader
	websocket bool
	inner     wire.Batch
}

func (c *testComet) dial(t testing.TB, websocket bool) *client {
	t.Helper()
	cl, err := c.tryDial(t, websocket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.conn.Close() })
	return cl
}

// tryDial connects, over WebSocket with its handshake.
func (c *testComet) tryDial(t testing.TB, websocket bool) (*client, error) {
	addr := c.tcp
	if websocket {
		addr = c.ws
	}
	if c.trusted != nil {
		addr = c.tlsAddrs(websocket)[0].String()
	}
	conn, err := net.DialTimeout("tcp", addr, wait)
	if err != nil {
		return nil, err
	}
	if c.trusted != nil {
		conn = tls.Client(conn, &tls.Config{RootCAs: c.trusted, ServerName: "127.0.0.1"})
	}
	conn.SetDeadline(time.Now().Add(wait))
	cl := &client{t: t, conn: conn, r: bufio.NewReader(conn), websocket: websocket}
	if !websocket {
		return cl, nil
	}
	fmt.Fprintf(conn, "GET /sub?x=1 HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: a=b\r\n\r\n")
	for line, first := "", true; line != "\r\n"; first = false {
		line, err = cl.r.ReadString('\n')
		if err == nil && first && !strings.HasPrefix(line, "HTTP/1.1 101") {
			err = fmt.Errorf("upgrade is answered %q", line)
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
	}
	return cl, nil
}

// login dials and authenticates.
func (c *testComet) login(t testing.TB, websocket bool, token string) *client {
	t.Helper()
	cl := c.dial(t, websocket)
	cl.send(wire.Frame{Ver: 1, Op: wire.OpAuth, Seq: 7, Body: []byte(token)})
	if f := cl.read(); f.Op != wire.OpAuthReply || f.Seq != 7 || len(f.Body) != 0 {
		t.Fatalf("auth reply is %+v", f)
	}
	return cl
}

func maskedFrame(b0 byte, payload []byte) []byte {
	mask := []byte{1, 2, 3, 4}
	out := []byte{b0}
	switch n := len(payload); {
	case n < 126:
		out = append(out, 0x80|byte(n))
	default:
		out = binary.BigEndian.AppendUint16(append(out, 0x80|126), uint16(n))
	}
	out = append(out, mask...)
	for i, b := range payload {
		out = append(out, b^mask[i%4])
	}
	return out
}

func (c *client) send(f wire.Frame) {
	c.t.Helper()
	if err := c.trySend(f); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) trySend(f wire.Frame) error {
	b := wire.AppendFrame(nil, f)
	if c.websocket {
		b = maskedFrame(0x82, b)
	}
	_, err := c.conn.Write(b)
	return err
}

func (c *client) sendRaw(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// tryRead returns the next frame, with batches opened.
func (c *client) tryRead() (wire.Frame, error) {
	for {
		if len(c.inner) > 0 {
			return c.inner.Next()
		}
		n := 0
		if c.websocket {
			var head [2]byte
			if _, err := io.ReadFull(c.r, head[:]); err != nil {
				return wire.Frame{}, err
			}
			if head[0] != 0x82 {
				return wire.Frame{}, fmt.Errorf("WebSocket opcode %#x", head[0])
			}
			size := [8]byte{7: head[1]}
			switch head[1] {
			case 126:
				size[7] = 0
				io.ReadFull(c.r, size[6:])
			case 127:
				io.ReadFull(c.r, size[:])
			}
			n = int(binary.BigEndian.Uint64(size[:]))
		} else {
			head, err := c.r.Peek(4)
			if err != nil {
				return wire.Frame{}, err
			}
			n = int(binary.BigEndian.Uint32(head))
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return wire.Frame{}, err
		}
		batch := wire.Batch(b)
		f, err := batch.Next()
		if err != nil || len(batch) > 0 {
			return wire.Frame{}, fmt.Errorf("message is not one frame: %v", err)
		}
		if f.Op != wire.OpRaw || !c.websocket {
			return f, nil
		}
		c.inner = wire.Batch(f.Body)
	}
}

func (c *client) read() wire.Frame {
	c.t.Helper()
	f, err := c.tryRead()
	if err != nil {
		c.t.Fatalf("read a frame: %v", err)
	}
	return f
}

// reset has the connection end with a reset, when it is closed.
func (c *client) reset() {
	conn := c.conn
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	conn.(*net.TCPConn).SetLinger(0)
}

// ended waits until the server has closed the connection.
func (c *client) ended() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.r); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		c.t.Fatalf("the connection was not closed: %v", err)
	}
}

func raw(op int32, bodies ...string) *protocol.Proto {
	var b []byte
	for _, body := range bodies {
		b = append(b, pushFrame(wire.Op(op), body)...)
	}
	return &protocol.Proto{Ver: 1, Op: 9, Body: b}
}

// A transport is a way to connect.
type transport struct{ websocket, tls bool }

// everyTransport runs a test over each of them.
func everyTransport(t *testing.T, run func(t *testing.T, tr transport)) {
	for i, name := range transportNames {
		t.Run(name, func(t *testing.T) { run(t, transport{websocket: i%2 == 1, tls: i >= 2}) })
	}
}

// start starts a comet whose clients connect in this way.
func (tr transport) start(t testing.TB, logic *fakeLogic, change func(*Config)) *testComet {
	t.Helper()
	if !tr.tls {
		return startComet(t, logic, change)
	}
	cert, key, trusted := securetest.Pair(t, t.TempDir(), "comet", "127.0.0.1")
	c := startComet(t, logic, func(cfg *Config) {
		cfg.TCP.TLSOpen, cfg.WebSocket.TLSOpen = true, true
		cfg.TCP.TLSBind, cfg.WebSocket.TLSBind = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}
		cfg.WebSocket.CertFile, cfg.WebSocket.PrivateFile = []string{cert}, []string{key}
		if change != nil {
			change(cfg)
		}
	})
	c.trusted = trusted
	return c
}

func both(t *testing.T, run func(t *testing.T, websocket bool)) {
	t.Run("tcp", func(t *testing.T) { run(t, false) })
	t.Run("websocket", func(t *testing.T) { run(t, true) })
}

func TestSessionLife(t *testing.T) {
	everyTransport(t, func(t *testing.T, tr transport) {
		websocket := tr.websocket
		c := tr.start(t, &fakeLogic{cluster: map[string]int32{"live://1": 42}}, func(cfg *Config) { cfg.Online.Period = 20 * time.Millisecond })
		ctx := context.Background()
		cl := c.login(t, websocket, `{"mid":5,"key":"k5","room_id":"live://1","accepts":[1000,1001]}`)

		if _, err := c.rpc.BroadcastRoom(ctx, &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(2000, "one", "two")}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"one", "two"} {
			if f := cl.read(); f.Op != 2000 || f.Ver != 1 || f.Seq != 0 || string(f.Body) != want {
				t.Fatalf("room push is %+v, want %q", f, want)
			}
		}
		if _, err := c.rpc.PushMsg(ctx, &cometpb.PushMsgReq{Keys: []string{"k5", "unknown"}, ProtoOp: 1001, Proto: raw(1001, "mine")}); err != nil {
			t.Fatal(err)
		}
		if f := cl.read(); f.Op != 1001 || string(f.Body) != "mine" {
			t.Fatalf("key push is %+v", f)
		}
		// 1002 isn't accepted, so the next frame is the one behind.
		for _, op := range []int32{1002, 1000} {
			if _, err := c.rpc.Broadcast(ctx, &cometpb.BroadcastReq{ProtoOp: op, Proto: raw(op, "all")}); err != nil {
				t.Fatal(err)
			}
		}
		if f := cl.read(); f.Op != 1000 || string(f.Body) != "all" {
			t.Fatalf("broadcast is %+v", f)
		}

		eventually(t, "logic hears of the room", func() bool {
			c.logic.mu.Lock()
			defer c.logic.mu.Unlock()
			return c.logic.online["live://1"] == 1
		})
		eventually(t, "the heartbeat's count is the cluster's", func() bool {
			cl.send(wire.Frame{Ver: 1, Op: wire.OpHeartbeat, Seq: 9})
			f := cl.read()
			return f.Op == wire.OpHeartbeatReply && f.Seq == 9 && len(f.Body) == 4 && binary.BigEndian.Uint32(f.Body) == 42
		})

		cl.send(wire.Frame{Ver: 1, Op: wire.OpSub, Seq: 1, Body: []byte("1002, x,1003")})
		if f := cl.read(); f.Op != wire.OpSubReply || f.Seq != 1 || string(f.Body) != "1002, x,1003" {
			t.Fatalf("sub reply is %+v", f)
		}
		cl.send(wire.Frame{Ver: 1, Op: wire.OpUnsub, Seq: 2, Body: []byte("1000")})
		if f := cl.read(); f.Op != wire.OpUnsubReply || string(f.Body) != "1000" {
			t.Fatalf("unsub reply is %+v", f)
		}
		for _, op := range []int32{1000, 1002} {
			if _, err := c.rpc.Broadcast(ctx, &cometpb.BroadcastReq{ProtoOp: op, Proto: raw(op, "all")}); err != nil {
				t.Fatal(err)
			}
		}
		if f := cl.read(); f.Op != 1002 {
			t.Fatalf("broadcast after sub is %+v", f)
		}

		cl.send(wire.Frame{Ver: 1, Op: wire.OpChangeRoom, Seq: 3, Body: []byte("live://2")})
		if f := cl.read(); f.Op != wire.OpChangeRoomReply || string(f.Body) != "live://2" {
			t.Fatalf("change room reply is %+v", f)
		}
		for _, room := range []string{"live://1", "live://2"} {
			if _, err := c.rpc.BroadcastRoom(ctx, &cometpb.BroadcastRoomReq{RoomID: room, Proto: raw(1000, room)}); err != nil {
				t.Fatal(err)
			}
		}
		if f := cl.read(); string(f.Body) != "live://2" {
			t.Fatalf("push after change of room is %+v", f)
		}
		rooms, err := c.rpc.Rooms(ctx, &cometpb.RoomsReq{})
		if err != nil || len(rooms.Rooms) != 1 || !rooms.Rooms["live://2"] {
			t.Fatalf("rooms are %v, %v", rooms, err)
		}

		cl.send(wire.Frame{Ver: 1, Op: wire.OpSendMsg, Seq: 4, Body: []byte("hello")})
		if f := cl.read(); f.Op != wire.OpSendMsg || f.Seq != 4 || len(f.Body) != 0 {
			t.Fatalf("echo is %+v", f)
		}
		eventually(t, "logic receives the message", func() bool {
			c.logic.mu.Lock()
			defer c.logic.mu.Unlock()
			return len(c.logic.received) == 1 && string(c.logic.received[0].Proto.Body) == "hello" && c.logic.received[0].Mid == 5
		})
		if websocket && c.logic.cookies[0] != "a=b" {
			t.Errorf("cookie is %q", c.logic.cookies[0])
		}
		cl.conn.Close()
		eventually(t, "logic hears of the end", func() bool {
			c.logic.mu.Lock()
			defer c.logic.mu.Unlock()
			return len(c.logic.gone) == 1 && c.logic.gone[0] == "k5"
		})
		eventually(t, "nothing is left", func() bool { return c.open.Load() == 0 && c.rooms.len() == 0 })
	})
}

// A badInput is what no client should send, the reason for which it is closed, and what it is told.
type badInput struct {
	name      string
	websocket bool
	send      []byte
	reason    reason
	says      string // what the peer is told, if anything
}

func badInputs() []badInput {
	header := func(packLen uint32, headLen uint16) []byte {
		b := binary.BigEndian.AppendUint32(nil, packLen)
		b = binary.BigEndian.AppendUint16(b, headLen)
		return append(b, make([]byte, 26)...)
	}
	auth := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuth, Body: []byte(`{"key":"k"}`)})
	const open = "GET /sub HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	return []badInput{
		{name: "negative length", send: header(0xffffffff, 16), reason: reasonBadFrame},
		{name: "length under a header", send: header(15, 16), reason: reasonBadFrame},
		{name: "length over the limit", send: header(4113, 16), reason: reasonBadFrame},
		{name: "header length", send: header(20, 17), reason: reasonBadFrame},
		{name: "frames before auth", send: bytes.Repeat(wire.AppendFrame(nil, wire.Frame{Op: wire.OpHeartbeat}), 40), reason: reasonFirstFrames},
		{name: "token is not JSON", send: wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuth, Body: []byte("{")}), reason: reasonAuthRefused},
		{name: "length under a header, behind auth", send: append(bytes.Clone(auth), header(15, 16)...), reason: reasonBadFrame},
		{name: "no auth", send: nil, reason: reasonAuthTimeout},
		{name: "half a frame", send: auth[:20], reason: reasonAuthTimeout},
		{name: "request without end", websocket: true, send: []byte("GET /sub HTTP/1.1\r\nHost: h\r\n"), reason: reasonAuthTimeout},
		{name: "endless request", websocket: true, send: bytes.Repeat([]byte("x"), 9000), reason: reasonBadUpgrade, says: "HTTP/1.1 431"},
		{name: "other path", websocket: true, send: []byte(strings.Replace(open, "/sub", "/", 1)), reason: reasonBadUpgrade, says: "HTTP/1.1 404"},
		{name: "no upgrade", websocket: true, send: []byte("GET /sub HTTP/1.1\r\nHost: h\r\n\r\n"), reason: reasonBadUpgrade, says: "HTTP/1.1 400"},
		{name: "version 8", websocket: true, send: []byte(strings.Replace(open, "13", "8", 1)), reason: reasonBadUpgrade, says: "HTTP/1.1 426"},
		{name: "not HTTP", websocket: true, send: []byte("\x00\x01\x02\r\n\r\n"), reason: reasonBadUpgrade, says: "HTTP/1.1 400"},
		{name: "text", websocket: true, send: append([]byte(open), maskedFrame(0x81, []byte("hi"))...), reason: reasonTextMessage, says: "\x88\x02\x03\xeb"},
		{name: "unmasked", websocket: true, send: append([]byte(open), 0x82, 0x01, 0x00), reason: reasonBadWebSocket, says: "\x88\x02\x03\xea"},
		{name: "oversized", websocket: true, send: append([]byte(open), 0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4), reason: reasonTooBig, says: "\x88\x02\x03\xf1"},
		{name: "oversized in fragments", websocket: true, send: append(append([]byte(open), maskedFrame(0x02, make([]byte, 3000))...), maskedFrame(0x00, make([]byte, 3000))...), reason: reasonTooBig, says: "\x88\x02\x03\xf1"},
		{name: "reserved bits", websocket: true, send: append([]byte(open), maskedFrame(0xc2, nil)...), reason: reasonBadWebSocket, says: "\x88\x02\x03\xea"},
		{name: "message of two frames", websocket: true, send: append([]byte(open), maskedFrame(0x82, append(auth, auth...))...), reason: reasonBadFrame, says: "\x88\x02\x03\xf0"},
		{name: "close", websocket: true, send: append([]byte(open), maskedFrame(0x88, []byte{0x03, 0xe8})...), reason: reasonPeer, says: "\x88\x02\x03\xe8"},
	}
}

// misbehave sends the input on n connections at once, and returns when all are closed.
func (c *testComet) misbehave(in badInput, n int) error {
	addr := c.tcp
	if in.websocket {
		addr = c.ws
	}
	var conns []net.Conn
	for range n {
		conn, err := net.DialTimeout("tcp", addr, wait)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(wait))
		conn.Write(in.send) // of which the comet may have enough before its end
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		got, err := io.ReadAll(conn)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("%s: the connection was not closed: %w", in.name, err)
		}
		if err == nil && !strings.Contains(string(got), in.says) {
			return fmt.Errorf("%s: the peer was told %q, want %q in it", in.name, got, in.says)
		}
	}
	return nil
}

func TestBadInput(t *testing.T) {
	for _, tc := range badInputs() {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := startComet(t, &fakeLogic{}, func(cfg *Config) {
				cfg.Protocol.HandshakeTimeout = 500 * time.Millisecond
				if tc.reason != reasonAuthTimeout {
					cfg.Protocol.HandshakeTimeout = wait
				}
			})
			if err := c.misbehave(tc, 1); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the reason is counted", func() bool { return testutil.ToFloat64(c.metrics.closed[tc.reason]) == 1 })
			eventually(t, "the connection is gone", func() bool { return c.open.Load() == 0 })
		})
	}
}

// However much bad input comes, others are served meanwhile, each connection is counted with its
// reason, and nothing is left of them.
func TestBadInputStallsNobody(t *testing.T) {
	const times = 50
	c := startComet(t, &fakeLogic{forgets: true, connect: managed}, func(cfg *Config) { cfg.Protocol.HandshakeTimeout = 2 * time.Second })
	// Those that are closed for their time are many at once, and beside the others.
	pass := func(times int) error {
		ended := make(chan error)
		slow := 0
		for _, in := range badInputs() {
			if in.reason == reasonAuthTimeout {
				slow++
				go func() { ended <- c.misbehave(in, times) }()
			}
		}
		var err error
		for _, in := range badInputs() {
			if in.reason != reasonAuthTimeout {
				err = errorsOf(err, c.misbehave(in, times))
			}
		}
		for range slow {
			err = errorsOf(err, <-ended)
		}
		return err
	}
	bystanders := []*client{
		c.login(t, false, `{"key":"tcp","room_id":"live://1"}`),
		c.login(t, true, `{"key":"websocket","room_id":"live://1"}`),
	}
	left := func() bool { return c.open.Load() == int64(len(bystanders)) }
	// passWith makes a pass while the bystanders are served all the time.
	passWith := func(times int) {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- pass(times) }()
		for i := 0; ; i++ {
			body := fmt.Sprint("push ", i)
			if _, err := c.rpc.BroadcastRoom(t.Context(), &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(1000, body)}); err != nil {
				t.Fatal(err)
			}
			for _, cl := range bystanders {
				cl.conn.SetDeadline(time.Now().Add(wait))
				cl.wants(body)
				cl.send(wire.Frame{Ver: 1, Op: wire.OpHeartbeat})
				if f := cl.read(); f.Op != wire.OpHeartbeatReply {
					t.Fatalf("got %+v, want the reply to a heartbeat", f)
				}
			}
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				eventually(t, "the connections are gone", left)
				return
			default:
			}
		}
	}
	passWith(1) // what is made once stays
	before := inUse()
	passWith(times)
	const leeway = 1 << 20 // under 1 KB a connection
	eventually(t, "the memory in use is what it was", func() bool { return inUse() < before+leeway })
	want := make(map[reason]float64)
	for _, in := range badInputs() {
		want[in.reason] += 1 + times
	}
	for r := range numReasons {
		if n := testutil.ToFloat64(c.metrics.closed[r]); n != want[r] {
			t.Errorf("%v connections are closed for %v, want %v", n, r, want[r])
		}
	}
}

// A fragmented message is one frame, and control frames may come between its fragments.
func TestFragmentedMessage(t *testing.T) {
	c := startComet(t, &fakeLogic{}, nil)
	cl := c.dial(t, true)
	auth := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuth, Body: []byte(`{"key":"k"}`)})
	var b []byte
	b = append(b, maskedFrame(0x02, auth[:5])...)
	b = append(b, maskedFrame(0x89, []byte("ping"))...)
	b = append(b, maskedFrame(0x00, auth[5:9])...)
	b = append(b, maskedFrame(0x80, auth[9:])...)
	for i := range b { // byte by byte
		cl.sendRaw(b[i : i+1])
	}
	pong := make([]byte, 6)
	if _, err := io.ReadFull(cl.r, pong); err != nil || string(pong) != "\x8a\x04ping" {
		t.Fatalf("pong is %q, %v", pong, err)
	}
	if f := cl.read(); f.Op != wire.OpAuthReply {
		t.Fatalf("auth reply is %+v", f)
	}
}

// What a client sends without waiting for the auth reply is handled behind it, and bounded.
func TestInputWhileLogicIsAsked(t *testing.T) {
	hold := make(chan struct{})
	c := startComet(t, &fakeLogic{before: func([]byte) { <-hold }}, nil)
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	patient, flood := c.dial(t, false), c.dial(t, false)
	for _, cl := range []*client{patient, flood} {
		cl.send(wire.Frame{Ver: 1, Op: wire.OpAuth, Body: []byte(`{"key":"k"}`)})
	}
	patient.send(wire.Frame{Ver: 1, Op: wire.OpHeartbeat, Seq: 1})
	for range 64 {
		if _, err := flood.conn.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	flood.ended()
	eventually(t, "the overflow is counted", func() bool { return testutil.ToFloat64(c.metrics.closed[reasonInputOverflow]) == 1 })
	release()
	if f := patient.read(); f.Op != wire.OpAuthReply {
		t.Fatalf("first reply is %+v", f)
	}
	if f := patient.read(); f.Op != wire.OpHeartbeatReply || f.Seq != 1 {
		t.Fatalf("second reply is %+v", f)
	}
}

func TestHeartbeatOverdue(t *testing.T) {
	c := startComet(t, &fakeLogic{heartbeat: time.Second}, nil)
	c.login(t, false, `{"key":"k"}`).ended()
	eventually(t, "the reason is counted", func() bool { return testutil.ToFloat64(c.metrics.closed[reasonHeartbeat]) == 1 })
}

func TestLimits(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Config)
		why    refusal
	}{
		{"connections", func(c *Config) { c.Limit.Connections = 2 }, refusedConnections},
		{"per address", func(c *Config) { c.Limit.PerAddress = 2 }, refusedAddress},
		{"rate per address", func(c *Config) { c.Limit.PerAddressRate = 2 }, refusedRate},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := startComet(t, &fakeLogic{}, tc.change)
			for i := range 2 {
				c.login(t, false, fmt.Sprintf(`{"key":"k%d"}`, i))
			}
			// The reset may come before connect returns.
			if conn, err := net.Dial("tcp", c.tcp); err == nil {
				(&client{t: t, conn: conn, r: bufio.NewReader(conn)}).ended()
				conn.Close()
			}
			eventually(t, "the refusal is counted", func() bool { return testutil.ToFloat64(c.metrics.refused[tc.why]) == 1 })
		})
	}
}

// While more memory is in use than the limit, no connection is accepted; those that there are stay.
func TestMemoryLimit(t *testing.T) {
	c := startComet(t, &fakeLogic{}, nil)
	there := c.login(t, false, `{"key":"there","accepts":[1000]}`)
	setLimit := func(bytes int64) {
		t.Helper()
		cfg := c.cfg
		cfg.Limit.Memory = bytes
		if _, err := c.Reload(cfg); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the memory in use is looked at", func() bool { return c.limits.highMem.Load() == (bytes > 0) })
	}
	setLimit(1)
	for i, addr := range []string{c.tcp, c.ws} {
		// The reset may come before connect returns.
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.SetDeadline(time.Now().Add(wait))
			(&client{t: t, conn: conn, r: bufio.NewReader(conn)}).ended()
			conn.Close()
		}
		eventually(t, "the refusal is counted", func() bool { return testutil.ToFloat64(c.metrics.refused[refusedMemory]) == float64(i+1) })
	}
	pushTo(t, c, "there", "x")
	there.wants("x")
	setLimit(0)
	c.login(t, true, `{"key":"next"}`)
}

func TestRPCErrors(t *testing.T) {
	c := startComet(t, &fakeLogic{}, nil)
	ctx := context.Background()
	for name, call := range map[string]func() error{
		"no proto": func() error { _, err := c.rpc.Broadcast(ctx, &cometpb.BroadcastReq{}); return err },
		"no room": func() error {
			_, err := c.rpc.BroadcastRoom(ctx, &cometpb.BroadcastRoomReq{Proto: raw(1, "x")})
			return err
		},
		"no keys": func() error { _, err := c.rpc.PushMsg(ctx, &cometpb.PushMsgReq{Proto: raw(1, "x")}); return err },
		"half frame": func() error {
			_, err := c.rpc.Broadcast(ctx, &cometpb.BroadcastReq{Proto: &protocol.Proto{Op: 9, Body: raw(1, "x").Body[:16]}})
			return err
		},
		"empty batch": func() error {
			_, err := c.rpc.Broadcast(ctx, &cometpb.BroadcastReq{Proto: &protocol.Proto{Op: 9}})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
}

func TestListenSaysWhichAddressIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := DefaultConfig()
	cfg.TCP.Bind, cfg.WebSocket.Bind = []string{"127.0.0.1:0"}, []string{taken.Addr().String()}
	s, err := New(cfg, Deps{Metrics: prometheus.NewRegistry(), Logic: &fakeLogic{}})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Listen()
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "websocket.bind "+taken.Addr().String()) {
		t.Errorf("error is %v", err)
	}
}

// A drain closes every session, after what was pushed to it, and refuses new ones.
func TestDrain(t *testing.T) {
	c := startComet(t, &fakeLogic{}, func(cfg *Config) { cfg.Drain.Window = 100 * time.Millisecond })
	var clients []*client
	for i := range 50 {
		clients = append(clients, c.login(t, i%2 == 0, fmt.Sprintf(`{"key":"k%d","room_id":"live://1"}`, i)))
	}
	if _, err := c.rpc.BroadcastRoom(context.Background(), &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(1000, "last")}); err != nil {
		t.Fatal(err)
	}
	c.stop()
	for _, cl := range clients {
		if f := cl.read(); string(f.Body) != "last" {
			t.Fatalf("frame is %+v", f)
		}
		cl.ended()
	}
	if conn, err := net.Dial("tcp", c.tcp); err == nil {
		conn.Close()
		t.Error("a connection was accepted after the drain")
	}
	if n := len(c.logic.gone); n != 50 {
		t.Errorf("logic heard of %d ends, want 50", n)
	}
}

func TestConfigValidate(t *testing.T) {
	for _, tc := range []struct {
		change func(*Config)
		want   string
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.Room.LogBytes = 1 }, "room.logBytes: 1 is outside 4096 to 1073741824"},
		{func(c *Config) { c.Room.SlowPolicy = "drop" }, `room.slowPolicy: "drop" is none of skip, close`},
		{func(c *Config) { c.Room.MinInterval = -time.Second }, "room.minInterval: -1s is outside 0s to 10s"},
		{func(c *Config) { c.TCP.Bind, c.WebSocket.Bind = nil, nil }, "tcp.bind and websocket.bind are both empty, one address is needed"},
		{func(c *Config) {
			c.Limit.DescriptorTables, c.WebSocket.TLSOpen = 3, true
			c.WebSocket.CertFile, c.WebSocket.PrivateFile = []string{"a"}, []string{"b"}
		}, "limit.descriptorTables is 3 and tcp.tlsOpen or websocket.tlsOpen is true: TLS sessions can only be in the process's own table, so have one comet for each, or set limit.descriptorTables to 0"},
	} {
		cfg := DefaultConfig()
		tc.change(&cfg)
		got := ""
		if err := cfg.Validate(); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("error is %q, want %q", got, tc.want)
		}
	}
}
