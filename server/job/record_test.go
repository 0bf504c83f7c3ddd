package job

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"barrage/server/api/logic"
	"barrage/server/wire"
)

func marshal(t testing.TB, m *logic.PushMsg) []byte {
	t.Helper()
	value, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestDecode(t *testing.T) {
	tests := []struct {
		name string
		in   *logic.PushMsg
		want target
	}{
		{"room", &logic.PushMsg{Type: logic.PushMsg_ROOM, Operation: 1000, Room: "live://1", Msg: []byte("hello"), Accepted: 1_700_000_000_123_456_789}, target{kindRoom, "live://1"}},
		{"push", &logic.PushMsg{Type: logic.PushMsg_PUSH, Operation: 1001, Server: "c1", Keys: []string{"k1", "k2"}, Msg: []byte("hello")}, target{kindPush, "k1"}},
		{"broadcast", &logic.PushMsg{Type: logic.PushMsg_BROADCAST, Operation: 1002, Speed: 9, Msg: []byte("hello")}, target{kind: kindBroadcast}},
		{"empty body", &logic.PushMsg{Type: logic.PushMsg_ROOM, Operation: 1000, Room: "r"}, target{kindRoom, "r"}},
	}
	var scratch logic.PushMsg
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := decode(marshal(t, tt.in), &scratch)
			if err != nil {
				t.Fatal(err)
			}
			// The next record must not change this one.
			if _, err := decode(marshal(t, &logic.PushMsg{Server: "zz", Keys: []string{"xx", "yy"}, Msg: []byte("other")}), &scratch); err != nil {
				t.Fatal(err)
			}
			if r.target() != tt.want || r.op != tt.in.Operation || (r.pace != nil) != (tt.in.Speed > 0) || r.server != tt.in.Server || !slices.Equal(r.keys, tt.in.Keys) || r.accepted != tt.in.Accepted {
				t.Errorf("record %+v of %v", r.target(), tt.in)
			}
			want := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.Op(tt.in.Operation), Body: tt.in.Msg})
			if !bytes.Equal(r.frame, want) {
				t.Errorf("frame % x, want % x", r.frame, want)
			}
		})
	}
}

func TestDecodeBad(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		want badReason
	}{
		{"not protobuf", []byte("\xff\xff\xff"), badUndecodable},
		{"unknown type", marshal(t, &logic.PushMsg{Type: 7}), badType},
		{"room without name", marshal(t, &logic.PushMsg{Type: logic.PushMsg_ROOM, Msg: []byte("x")}), badTarget},
		{"push without keys", marshal(t, &logic.PushMsg{Server: "c"}), badTarget},
		{"push without server", marshal(t, &logic.PushMsg{Keys: []string{"k"}}), badTarget},
		{"larger than a comet accepts", marshal(t, &logic.PushMsg{Type: logic.PushMsg_ROOM, Room: "r", Msg: make([]byte, maxFrame)}), badSize},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decode(tt.in, new(logic.PushMsg))
			var bad *badRecord
			if !errors.As(err, &bad) || bad.reason != tt.want {
				t.Errorf("error %v, want reason %s", err, badNames[tt.want])
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(marshal(f, &logic.PushMsg{Type: logic.PushMsg_ROOM, Operation: 1000, Room: "live://1", Msg: []byte("hello")}))
	f.Add(marshal(f, &logic.PushMsg{Server: "c", Keys: []string{"a", "b"}, Msg: []byte("x")}))
	f.Add([]byte{0x08, 0x63})
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decode(value, new(logic.PushMsg))
		if err != nil {
			var bad *badRecord
			if !errors.As(err, &bad) {
				t.Fatalf("error %v is no badRecord", err)
			}
			return
		}
		if frames, err := wire.Batch(r.frame).Count(); err != nil || frames != 1 {
			t.Fatalf("frame is %d frames, %v", frames, err)
		}
		if r.kind >= numKinds || r.size < len(r.frame) {
			t.Fatalf("record of kind %d, size %d for %d bytes", r.kind, r.size, len(r.frame))
		}
		r.target()
	})
}

// BenchmarkDecode is what each record costs before the lanes, once for all comets.
func BenchmarkDecode(b *testing.B) {
	value := marshal(b, &logic.PushMsg{Type: logic.PushMsg_ROOM, Operation: 1000, Room: "live://1000", Msg: []byte(strings.Repeat("x", 64))})
	var scratch logic.PushMsg
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(value, &scratch); err != nil {
			b.Fatal(err)
		}
	}
}
