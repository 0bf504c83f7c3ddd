package comet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"barrage/server/wire"

	"github.com/gobwas/ws"
)

// events runs a decoder over in, cut at every multiple of step, and describes what it
// finds.
func events(in []byte, step int, text bool) (found []string) {
	d := &wsDecoder{limit: 1000, text: text}
	for len(in) > 0 {
		part := bytes.Clone(in[:min(step, len(in))])
		in = in[len(part):]
		for {
			e, err := d.next(&part)
			if err == io.ErrShortBuffer {
				if len(part) > 0 {
					return append(found, "input left over")
				}
				break
			}
			if err != nil {
				var we *wsError
				if !errors.As(err, &we) {
					return append(found, fmt.Sprintf("unexpected error %v", err))
				}
				return append(found, fmt.Sprint("error ", we.status))
			}
			found = append(found, fmt.Sprintf("%d %d %x", e.op, e.status, e.payload))
		}
	}
	return found
}

// What a decoder finds doesn't depend on how the bytes are cut, but for how early it sees
// bad UTF-8.
func FuzzWebSocketDecoder(f *testing.F) {
	f.Add(append(maskedFrame(0x02, []byte("one")), maskedFrame(0x80, []byte("two"))...), 1, false)
	f.Add(append(maskedFrame(0x89, []byte("ping")), maskedFrame(0x88, []byte{3, 232, 'x'})...), 3, false)
	f.Add(maskedFrame(0x81, []byte("κόσμε")), 2, true)
	f.Add(maskedFrame(0x82, make([]byte, 300)), 7, false)
	f.Add([]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}, 2, false)
	f.Fuzz(func(t *testing.T, in []byte, step int, text bool) {
		if step < 1 || len(in) > 10_000 {
			return
		}
		whole, cut := events(in, len(in)+1, text), events(in, step, text)
		if fmt.Sprint(whole) == fmt.Sprint(cut) {
			return
		}
		invalid := fmt.Sprint("error ", ws.StatusInvalidFramePayloadData)
		if text && len(cut) > 0 && cut[len(cut)-1] == invalid || text && len(whole) > 0 && whole[len(whole)-1] == invalid {
			return
		}
		t.Fatalf("whole: %v\ncut by %d: %v", whole, step, cut)
	})
}

// Whatever a client sends, the session ends or goes on: nothing panics, and what it holds
// is bounded.
func FuzzSessionInput(f *testing.F) {
	auth := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuth, Body: []byte(`{}`)})
	f.Add(auth, false)
	f.Add(append([]byte("GET /sub HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"), maskedFrame(0x82, auth)...), true)
	sh, _ := newTestShard(f, nil)
	f.Fuzz(func(t *testing.T, in []byte, websocket bool) {
		s, _ := newFakeSession(sh.server, "k", websocket)
		s.in.phase = phaseOpen
		if websocket {
			s.in.phase = phaseUpgrade
		}
		for len(in) > 0 {
			n := min(len(in), 1+len(in)%7)
			s.feed(bytes.Clone(in[:n]))
			in = in[n:]
			s.inMu.Lock() // logic's answer may come meanwhile
			held := len(s.in.partial)
			s.inMu.Unlock()
			if held > max(wire.MaxClientSize, sh.server.cfg.Protocol.UpgradeBytes) {
				t.Fatalf("%d bytes are held", held)
			}
		}
		sh.mailbox.take(nil)
	})
}

func TestParseOps(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want []wire.Op
	}{
		{"1000,1001", []wire.Op{1000, 1001}},
		{" 1000 ,\t1001\n", []wire.Op{1000, 1001}},
		{"1000,1000", []wire.Op{1000, 1000}},
		{"", nil},
		{"x,,99999999999,-5", []wire.Op{-5}},
	} {
		if got := parseOps(tc.in); fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("parseOps(%q) is %v, want %v", tc.in, got, tc.want)
		}
	}
}
