package comet

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	cometpb "barrage/server/api/comet"
	"barrage/server/api/logic"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A faultyStream is a connection on which a bug shows when something is to be sent.
type faultyStream struct{ stream }

func (faultyStream) send([]byte) (int, error) { panic("a bug shows") }

// fail has the session's next send panic.
func (s *session) fail() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.stream = faultyStream{s.out.stream}
}

// A bug that shows while a session's input is handled, or while it is let in, closes its
// connection, with a counter, and nothing else: whoever handled it goes on with others.
func TestPanicClosesOneConnection(t *testing.T) {
	everyTransport(t, func(t *testing.T, tr transport) {
		for _, tc := range []struct {
			name      string
			lettingIn bool
		}{{"while input is handled", false}, {"while it is let in", true}} {
			t.Run(tc.name, func(t *testing.T) {
				var at atomic.Pointer[testComet]
				c := tr.start(t, &fakeLogic{connect: func(q *logic.ConnectReq, r *logic.ConnectReply) error {
					if c := at.Load(); c != nil && r.Key == "bad" && tc.lettingIn {
						number, _ := c.numberOf(q.Session)
						c.connecting.get(number).fail()
					}
					return nil
				}}, nil)
				at.Store(c)
				good := c.login(t, tr.websocket, `{"key":"good","room_id":"live://1"}`)
				bad := c.dial(t, tr.websocket)
				bad.send(wire.Frame{Ver: 1, Op: wire.OpAuth, Body: []byte(`{"key":"bad","room_id":"live://1"}`)})
				if !tc.lettingIn {
					if f := bad.read(); f.Op != wire.OpAuthReply {
						t.Fatalf("auth reply is %+v", f)
					}
					onShard(c.shardOf("bad"), func(sh *shard) { sh.keys["bad"].fail() })
					bad.send(wire.Frame{Ver: 1, Op: wire.OpHeartbeat})
				}
				bad.ended()
				eventually(t, "its connection has gone, and it its room", func() bool { return c.open.Load() == 1 && c.rooms.counts()["live://1"] == 1 })
				if n := testutil.ToFloat64(c.metrics.closed[reasonPanic]); n != 1 {
					t.Errorf("%v connections are closed for a panic, want 1", n)
				}
				eventually(t, "logic hears of the end", func() bool { return slices.Equal(c.takenBack(), c.ids()[1:]) })

				good.send(wire.Frame{Ver: 1, Op: wire.OpHeartbeat})
				if f := good.read(); f.Op != wire.OpHeartbeatReply {
					t.Errorf("the other session got %+v", f)
				}
				next := c.login(t, tr.websocket, `{"key":"next","room_id":"live://1"}`)
				if _, err := c.rpc.BroadcastRoom(context.Background(), &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(1000, "x")}); err != nil {
					t.Fatal(err)
				}
				good.wants("x")
				next.wants("x")
			})
		}
	})
}

// So does one in a TLS handshake.
func TestPanicInHandshake(t *testing.T) {
	c := startComet(t, &fakeLogic{}, nil)
	fails := &tlsListener{server: c.Server, cfg: &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { panic("a bug shows") },
	}}
	ln := listen(t)
	ended := make(chan error, 1)
	go func() {
		conn, err := net.DialTimeout("tcp", ln.Addr().String(), wait)
		if err == nil {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(wait))
			err = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
		}
		ended <- err
	}()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.limits.enter(addrKey{}, time.Now())
	c.open.Add(1)
	fails.converse(conn.(*net.TCPConn), addrKey{})
	if err := <-ended; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client's handshake ends with %v", err)
	}
	if n := testutil.ToFloat64(c.metrics.closed[reasonPanic]); n != 1 || c.open.Load() != 0 {
		t.Errorf("%v connections are closed for a panic, %d are open", n, c.open.Load())
	}
}
