package comet

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	cometpb "barrage/server/api/comet"
	"barrage/server/api/logic"
	"barrage/server/wire"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// update rewrites the golden files: go test ./server/comet -update
var update = flag.Bool("update", false, "rewrite the golden files")

// A transcript is a conversation to the byte: what the client sends (>) as frames, and all
// that it receives (<), WebSocket headers included.
type transcript struct {
	*client
	text strings.Builder
}

// say sends a frame and notes it.
func (tr *transcript) say(op wire.Op, seq int32, body string) {
	tr.t.Helper()
	f := wire.Frame{Ver: 1, Op: op, Seq: seq, Body: []byte(body)}
	fmt.Fprintf(&tr.text, "> op %d seq %d %q\n", op, seq, body)
	tr.send(f)
}

// note writes a line of the test's own.
func (tr *transcript) note(format string, args ...any) {
	fmt.Fprintf(&tr.text, "# "+format+"\n", args...)
}

// hear reads n messages (frames on TCP) and notes their bytes.
func (tr *transcript) hear(n int) {
	tr.t.Helper()
	for range n {
		b, err := tr.message()
		if err != nil {
			tr.t.Fatalf("after\n%s: %v", tr.text.String(), err)
		}
		for line := range strings.Lines(hex.Dump(b)) {
			tr.text.WriteString("< " + line)
		}
	}
}

// message returns the bytes of the next frame on TCP, of the next message on WebSocket.
func (c *client) message() ([]byte, error) {
	size, need := func(b []byte) int { return int(binary.BigEndian.Uint32(b)) }, 4
	if c.websocket {
		head, err := c.r.Peek(2)
		if err != nil {
			return nil, err
		}
		need = headerSize(head[1])
		size = func(b []byte) int {
			switch n := int(b[1]); n {
			case 126:
				return need + int(binary.BigEndian.Uint16(b[2:]))
			case 127:
				return need + int(binary.BigEndian.Uint64(b[2:]))
			default:
				return need + n
			}
		}
	}
	head, err := c.r.Peek(need)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size(head))
	_, err = io.ReadFull(c.r, b)
	return b, err
}

// end notes how the server ends the conversation.
func (tr *transcript) end() {
	tr.t.Helper()
	rest, err := io.ReadAll(tr.r)
	if err != nil && len(rest) == 0 {
		rest = nil
	}
	for line := range strings.Lines(hex.Dump(rest)) {
		tr.text.WriteString("< " + line)
	}
	tr.text.WriteString("< end\n")
}

// The protocol, operation by operation, as an existing client sees it. The files show
// every byte; those over TLS are the same as those without.
func TestContract(t *testing.T) {
	room := func(c *testComet, key string, bodies ...string) error {
		_, err := c.rpc.BroadcastRoom(context.Background(), &cometpb.BroadcastRoomReq{RoomID: key, Proto: raw(1000, bodies...)})
		return err
	}
	cases := []struct {
		name   string
		logic  func() *fakeLogic // nil: one that knows live://1 with 42 members
		config func(*Config)
		talk   func(c *testComet, tr *transcript) error
	}{
		{name: "auth", talk: func(_ *testComet, tr *transcript) error {
			tr.say(wire.OpAuth, 1, `{"mid":123,"key":"k","room_id":"live://1","platform":"web","accepts":[1000,1001]}`)
			tr.hear(1)
			return nil
		}},
		{name: "auth_empty", talk: func(_ *testComet, tr *transcript) error {
			tr.note("everything in a token is optional")
			tr.say(wire.OpAuth, 2, `{}`)
			tr.hear(1)
			return nil
		}},
		{name: "auth_bad_json", talk: func(_ *testComet, tr *transcript) error {
			tr.note("no reply to a bad token")
			tr.say(wire.OpAuth, 3, `{"mid":`)
			tr.end()
			return nil
		}},
		{name: "auth_empty_body", talk: func(_ *testComet, tr *transcript) error {
			tr.say(wire.OpAuth, 3, ``)
			tr.end()
			return nil
		}},
		{name: "auth_behind_other_frames", talk: func(_ *testComet, tr *transcript) error {
			tr.note("frames before auth are skipped")
			tr.say(wire.OpHeartbeat, 1, "")
			tr.say(wire.OpSendMsg, 2, "early")
			tr.say(wire.OpChangeRoom, 3, "live://9")
			tr.say(wire.OpAuth, 4, `{"key":"k"}`)
			tr.hear(1)
			return nil
		}},
		{name: "auth_never", config: func(cfg *Config) { cfg.Protocol.FirstFrames = 2 }, talk: func(_ *testComet, tr *transcript) error {
			tr.note("with a bound on how many")
			for seq := range int32(3) {
				tr.say(wire.OpHeartbeat, seq, "")
			}
			tr.end()
			return nil
		}},
		{name: "auth_too_late", config: func(cfg *Config) { cfg.Protocol.HandshakeTimeout = 50 * time.Millisecond }, talk: func(_ *testComet, tr *transcript) error {
			tr.end()
			return nil
		}},
		{name: "auth_rejected", logic: func() *fakeLogic {
			return &fakeLogic{connect: func(*logic.ConnectReq, *logic.ConnectReply) error {
				return status.Error(codes.AlreadyExists, "too many")
			}}
		}, talk: func(_ *testComet, tr *transcript) error {
			tr.note("op 6 with the reason")
			tr.say(wire.OpAuth, 5, `{"key":"k"}`)
			tr.end()
			return nil
		}},
		{name: "replaced", talk: func(c *testComet, tr *transcript) error {
			tr.say(wire.OpAuth, 1, `{"key":"k"}`)
			tr.hear(1)
			tr.note("another session takes the key")
			c.login(tr.t, tr.websocket, `{"key":"k"}`)
			tr.end()
			return nil
		}},
		{name: "drained", talk: func(c *testComet, tr *transcript) error {
			tr.say(wire.OpAuth, 1, `{"key":"k"}`)
			tr.hear(1)
			tr.note("the server ends")
			go c.stop()
			tr.end()
			return nil
		}},
		{name: "heartbeat", config: func(cfg *Config) { cfg.Online.Period = 10 * time.Millisecond }, talk: func(c *testComet, tr *transcript) error {
			tr.say(wire.OpAuth, 1, `{"key":"k","room_id":"live://1"}`)
			tr.hear(1)
			eventually(tr.t, "the cluster's count is known", func() bool {
				ref, _ := c.rooms.holders("live://1")
				return ref != nil && ref.count() == 42
			})
			tr.note("the room has 42 members over all comets")
			tr.say(wire.OpHeartbeat, 2, "")
			tr.hear(1)
			tr.note("a body is no reason not to answer")
			tr.say(wire.OpHeartbeat, -1, "x")
			tr.hear(1)
			return nil
		}},
		{name: "heartbeat_own_count", config: func(cfg *Config) { cfg.Online.Period = time.Minute }, talk: func(c *testComet, tr *transcript) error {
			tr.say(wire.OpAuth, 1, `{"key":"k","room_id":"live://1"}`)
			tr.hear(1)
			c.login(tr.t, tr.websocket, `{"key":"other","room_id":"live://1"}`)
			tr.note("this comet's 2, as long as the cluster's count isn't known")
			tr.say(wire.OpHeartbeat, 2, "")
			tr.hear(1)
			return nil
		}},
		{name: "heartbeat_no_room", talk: func(_ *testComet, tr *transcript) error {
			tr.say(wire.OpAuth, 1, `{"key":"k"}`)
			tr.hear(1)
			tr.say(wire.OpHeartbeat, 2, "")
			tr.hear(1)
			return nil
		}},
		{name: "change_room", talk: func(c *testComet, tr *transcript) error {
			tr.say(wire.OpAuth, 1, `{"key":"k","room_id":"live://1"}`)
			tr.hear(1)
			tr.say(wire.OpChangeRoom, 2, "live://2")
			tr.hear(1)
			if err := errorsOf(room(c, "live://1", "not for us"), room(c, "live://2", "for us")); err != nil {
				return err
			}
			tr.hear(1)
			tr.note("an empty body leaves the room")
			tr.say(wire.OpChangeRoom, 3, "")
			tr.hear(1)
			if err := room(c, "live://2", "not for us"); err != nil {
				return err
			}
			tr.note("and back")
			tr.say(wire.OpChangeRoom, 4, "live://1")
			tr.hear(1)
			if err := room(c, "live://1", "for us again"); err != nil {
				return err
			}
			tr.hear(1)
			return nil
		}},
		{name: "sub", talk: func(c *testComet, tr *transcript) error {
			all := func(op int32) error {
				_, err := c.rpc.Broadcast(context.Background(), &cometpb.BroadcastReq{ProtoOp: op, Proto: raw(op, fmt.Sprint("for all who accept ", op))})
				return err
			}
			tr.say(wire.OpAuth, 1, `{"key":"k","accepts":[1000]}`)
			tr.hear(1)
			tr.note("spaces, duplicates and junk in a list are no harm")
			tr.say(wire.OpSub, 2, " 1001 ,1002,1001,,x,1e3,99999999999")
			tr.hear(1)
			for op := int32(1000); op <= 1003; op++ {
				if err := all(op); err != nil {
					return err
				}
				if op < 1003 {
					tr.hear(1)
				}
			}
			tr.say(wire.OpUnsub, 3, "1000, 1002,7")
			tr.hear(1)
			if err := errorsOf(all(1000), all(1002), all(1001)); err != nil {
				return err
			}
			tr.hear(1)
			tr.say(wire.OpSub, 4, "")
			tr.hear(1)
			tr.say(wire.OpUnsub, 5, "junk")
			tr.hear(1)
			return nil
		}},
		{name: "other_operations", talk: func(c *testComet, tr *transcript) error {
			tr.say(wire.OpAuth, 1, `{"mid":5,"key":"k"}`)
			tr.hear(1)
			for _, op := range []wire.Op{wire.OpSendMsg, 5, 1000, 0, 7, -3, 1<<31 - 1} {
				tr.say(op, int32(op), "to logic")
				tr.hear(1)
			}
			eventually(tr.t, "logic has all of them", func() bool {
				c.logic.mu.Lock()
				defer c.logic.mu.Unlock()
				return len(c.logic.received) == 7
			})
			for _, q := range c.logic.received {
				tr.note("logic received mid %d ver %d op %d seq %d %q", q.Mid, q.Proto.Ver, q.Proto.Op, q.Proto.Seq, q.Proto.Body)
			}
			return nil
		}},
		{name: "replies_echo_ver_and_seq", talk: func(_ *testComet, tr *transcript) error {
			tr.note("a version that nobody knows is accepted, as goim does")
			for i, op := range []wire.Op{wire.OpAuth, wire.OpHeartbeat, wire.OpChangeRoom, wire.OpSub, wire.OpUnsub, wire.OpSendMsg, 1000} {
				f := wire.Frame{Ver: int16(i*1000 - 3000), Op: op, Seq: int32(i-3) << 29}
				if op == wire.OpAuth {
					f.Body = []byte(`{"key":"k"}`)
				}
				fmt.Fprintf(&tr.text, "> ver %d op %d seq %d\n", f.Ver, f.Op, f.Seq)
				tr.send(f)
				tr.hear(1)
			}
			return nil
		}},
		{name: "pushes", talk: func(c *testComet, tr *transcript) error {
			ctx := context.Background()
			tr.say(wire.OpAuth, 1, `{"key":"k","room_id":"live://1","accepts":[1000]}`)
			tr.hear(1)
			tr.note("a room push, whatever the session accepts; one batch of two frames")
			if _, err := c.rpc.BroadcastRoom(ctx, &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(2000, `{"a":1}`, `{"b":2}`)}); err != nil {
				return err
			}
			tr.hear(map[bool]int{false: 2, true: 1}[tr.websocket])
			tr.note("to keys and to all, of operations that the session accepts alone")
			for _, op := range []int32{1001, 1000} {
				if _, err := c.rpc.PushMsg(ctx, &cometpb.PushMsgReq{Keys: []string{"k", "nobody"}, ProtoOp: op, Proto: raw(op, "key")}); err != nil {
					return err
				}
				if _, err := c.rpc.Broadcast(ctx, &cometpb.BroadcastReq{ProtoOp: op, Proto: raw(op, "all")}); err != nil {
					return err
				}
			}
			tr.hear(2)
			return nil
		}},
	}
	var mu sync.Mutex
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			everyTransport(t, func(t *testing.T, tr transport) {
				l := &fakeLogic{cluster: map[string]int32{"live://1": 42}}
				if tc.logic != nil {
					l = tc.logic()
				}
				c := tr.start(t, l, tc.config)
				talk := &transcript{client: c.dial(t, tr.websocket)}
				if err := tc.talk(c, talk); err != nil {
					t.Fatal(err)
				}
				name := transportNames[0]
				if tr.websocket {
					name = transportNames[1]
				}
				mu.Lock()
				defer mu.Unlock()
				golden(t, filepath.Join("testdata", "contract", tc.name+"."+name+".txt"), talk.text.String())
			})
		})
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// golden fails unless got is the file's text.
func golden(t testing.TB, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; look at it, and run go test ./server/comet -update if it is right. Got:\n%s", path, got)
	}
}
