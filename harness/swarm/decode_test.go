package swarm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// decodeAll feeds b to a decoder in pieces of at most cut bytes, carrying over what the
// decoder wants again, and returns a line an event, up to and with an error.
func decodeAll(t testing.TB, b []byte, ws bool, cut int) (events []string) {
	d := decoder{ws: ws}
	var kept []byte
	for len(b) > 0 {
		n := min(cut, len(b))
		in := append(bytes.Clone(kept), b[:n]...)
		b = b[n:]
		for more := true; more; {
			switch d.next(&in) {
			case needMore:
				more = false
			case gotFrame:
				events = append(events, fmt.Sprintf("frame %d %v %v", d.op, d.stamped, d.stamp))
			case gotPing:
				events = append(events, fmt.Sprintf("ping %x", d.ctl))
			case gotPong:
				events = append(events, "pong")
			case gotClose:
				return append(events, fmt.Sprintf("close %x", d.ctl))
			case gotError:
				if d.fail == nil {
					t.Fatal("gotError without an error")
				}
				return append(events, "error "+d.fail.Error())
			}
		}
		if len(in) > maxTail {
			t.Fatalf("the decoder keeps %d bytes, %d is the limit", len(in), maxTail)
		}
		if len(in) >= headMax && !ws {
			t.Fatalf("over TCP the decoder keeps %d bytes", len(in))
		}
		kept = bytes.Clone(in)
	}
	return events
}

func TestDecodeWhereverReadsCut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	frames := func(n int) (b []byte, lines []string) {
		for seq := range uint32(n) {
			stamp := ledger.Stamp{Stream: 7, Seq: seq, Intended: 99}
			f := wire.Frame{Ver: 1, Op: 1000, Body: ledger.AppendBody(nil, stamp, 16+r.IntN(300))}
			b = wire.AppendFrame(b, f)
			lines = append(lines, fmt.Sprintf("frame 1000 true %v", stamp))
		}
		return b, lines
	}
	five, fiveLines := frames(5)
	reply := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpHeartbeatReply, Body: []byte{0, 0, 0, 1}})
	replyLine := fmt.Sprintf("frame %d false %v", wire.OpHeartbeatReply, ledger.Stamp{})
	tiny := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 1000})
	tinyLine := fmt.Sprintf("frame 1000 false %v", ledger.Stamp{})
	raw := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpRaw, Body: five})
	message := func(payload ...[]byte) []byte {
		p := bytes.Join(payload, nil)
		return append(wire.AppendWSHeader(nil, len(p)), p...)
	}
	ping := append([]byte{0x89, 120}, bytes.Repeat([]byte{5}, 120)...)
	pingLine := fmt.Sprintf("ping %x", ping[2:])
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

	cases := []struct {
		name string
		ws   bool
		in   []byte
		want []string
	}{
		{"TCP, back to back", false, join(five, reply, tiny), append(append([]string{}, fiveLines...), replyLine, tinyLine)},
		{"TCP, an outer frame too", false, join(raw, reply), append(append([]string{}, fiveLines...), replyLine)},
		{"TCP, an empty batch", false, join(wire.AppendFrame(nil, wire.Frame{Op: wire.OpRaw}), reply), []string{replyLine}},
		{"WebSocket, batch", true, message(raw), fiveLines},
		{"WebSocket, frames without a batch", true, join(message(five), message(reply)), append(append([]string{}, fiveLines...), replyLine)},
		{"WebSocket, batch and reply in one message", true, message(raw, reply), append(append([]string{}, fiveLines...), replyLine)},
		{"WebSocket, pings between", true, join(ping, message(reply), ping, []byte{0x8A, 0}, message(), message(reply)), []string{pingLine, replyLine, pingLine, "pong", replyLine}},
		{"WebSocket, close", true, join(message(reply), []byte{0x88, 2, 3, 232}, message(reply)), []string{replyLine, "close 03e8"}},
	}
	for _, c := range cases {
		for _, cut := range []int{1, 2, 3, 7, 16, 31, 100, 1 << 20} {
			got := decodeAll(t, c.in, c.ws, cut)
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("%s, reads of %d: got\n%s\nwant\n%s", c.name, cut, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	header := func(size uint32, head uint16, op wire.Op) []byte {
		b := wire.AppendHeader(nil, 1, op, 0, 0)
		binary.BigEndian.PutUint32(b, size)
		binary.BigEndian.PutUint16(b[4:], head)
		return b
	}
	ws := func(payload []byte) []byte { return append(wire.AppendWSHeader(nil, len(payload)), payload...) }
	push := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 1000, Body: make([]byte, 40)})
	cases := []struct {
		name string
		ws   bool
		in   []byte
		want error
	}{
		{"a length below the header's", false, header(15, 16, 1000), errFrameSize},
		{"a negative length", false, header(1<<31, 16, 1000), errFrameSize},
		{"a header of another length", false, header(16, 17, 1000), errHeaderSize},
		{"a frame that runs over its batch", false, append(header(16+20, 16, wire.OpRaw), push...), errCutFrame},
		{"a header that runs over its batch", false, append(header(16+3, 16, wire.OpRaw), 0, 0, 0), errCutFrame},
		{"a batch in a batch", false, append(header(32, 16, wire.OpRaw), header(16, 16, wire.OpRaw)...), errNestedBatch},
		{"a frame that runs over its message", true, ws(push[:40]), errCutFrame},
		{"half a header in a message", true, ws(push[:10]), errCutFrame},
		{"a batch that runs over its message", true, ws(header(100, 16, wire.OpRaw)), errCutFrame},
		{"a masked message", true, []byte{0x82, 0x80, 0, 0, 0, 0}, errMaskedByServer},
		{"reserved bits", true, []byte{0xC2, 0}, errReservedBits},
		{"a fragment", true, []byte{0x02, 0}, errFragmented},
		{"a continuation", true, []byte{0x80, 0}, errFragmented},
		{"a fragment of a ping", true, []byte{0x09, 0}, errControlFrame},
		{"a ping too long", true, []byte{0x89, 126, 0, 126}, errControlFrame},
		{"an unknown opcode", true, []byte{0x83, 0}, errOpcode},
		{"an unknown control opcode", true, []byte{0x8B, 0}, errOpcode},
		{"a message too long", true, []byte{0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0}, errMessageSize},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := decoder{ws: c.ws}
			in := c.in
			ev := d.next(&in)
			if ev != gotError || !errors.Is(d.fail, c.want) {
				t.Errorf("event %d, error %v, want %v", ev, d.fail, c.want)
			}
		})
	}
}

func TestIsPush(t *testing.T) {
	for op, want := range map[wire.Op]bool{
		0: false, 3: false, 8: false, 9: false, 10: true, 11: true, 12: false, 17: false, 18: true, 1000: true, -1: true,
		math.MinInt32: true, math.MaxInt32: true,
	} {
		if isPush(op) != want {
			t.Errorf("isPush(%d) is %v", op, !want)
		}
	}
}

func TestParseUpgrade(t *testing.T) {
	// The example of RFC 6455, section 1.3.
	accept := wsAccept("dGhlIHNhbXBsZSBub25jZQ==")
	if accept != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("accept is %q", accept)
	}
	good := "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n"
	for cut := range len(good) {
		if n, err := parseUpgrade([]byte(good[:cut]), accept); n != 0 || err != nil {
			t.Fatalf("the first %d bytes: %d, %v", cut, n, err)
		}
	}
	if n, err := parseUpgrade([]byte(good+"more"), accept); n != len(good) || err != nil {
		t.Errorf("good answer: %d, %v", n, err)
	}
	for name, bad := range map[string]string{
		"status":        strings.Replace(good, "101", "200", 1),
		"status 1010":   strings.Replace(good, "101 ", "1010 ", 1),
		"no upgrade":    strings.Replace(good, "upgrade: WebSocket\r\n", "", 1),
		"no connection": strings.Replace(good, "Upgrade\r\n", "close\r\n", 1),
		"no accept":     strings.Replace(good, "Accept", "Except", 1),
		"extension":     strings.Replace(good, "\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", 1),
		"no colon":      strings.Replace(good, "upgrade:", "upgrade", 1),
		"too long":      strings.Repeat("x", maxUpgrade),
	} {
		if n, err := parseUpgrade([]byte(bad), accept); n != 0 || err == nil {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

// Whatever the bytes, the decoder neither panics nor depends on where reads cut them, and
// what it takes for frames, the codec does too.
func FuzzDecode(f *testing.F) {
	push := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 1000, Body: ledger.AppendBody(nil, ledger.Stamp{Stream: 1}, 50)})
	f.Add(push, false, 5)
	f.Add(wire.AppendFrame(nil, wire.Frame{Op: wire.OpRaw, Body: push}), false, 20)
	f.Add(append(wire.AppendWSBatchHeader(nil, len(push)), push...), true, 3)
	f.Add([]byte{0x89, 3, 1, 2, 3, 0x82, 126, 0, 200, 0}, true, 1)
	f.Add([]byte("\x82\x010000000000000000"), true, 3)
	f.Fuzz(func(t *testing.T, b []byte, ws bool, cut int) {
		if len(b) > 1<<16 {
			return
		}
		whole := decodeAll(t, b, ws, len(b)+1)
		cuts := decodeAll(t, b, ws, max(cut, 1))
		if strings.Join(whole, "\n") != strings.Join(cuts, "\n") {
			t.Fatalf("in one read:\n%s\nin reads of %d:\n%s", strings.Join(whole, "\n"), cut, strings.Join(cuts, "\n"))
		}
		if ws {
			return
		}
		var plain []string
		for batch := wire.Batch(b); ; {
			frame, err := batch.Next()
			if err != nil || frame.Op == wire.OpRaw || frame.Size() > maxFrame {
				break
			}
			stamp, ok := ledger.ParseBody(frame.Body)
			plain = append(plain, fmt.Sprintf("frame %d %v %v", frame.Op, ok, stamp))
		}
		for i, line := range plain {
			if i >= len(whole) || whole[i] != line {
				t.Fatalf("event %d should be %q, got %q", i, line, whole)
			}
		}
	})
}

func FuzzParseUpgrade(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: abc\r\n\r\nrest"))
	f.Add([]byte("HTTP/1.1 400\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseUpgrade(b, "abc")
		if n < 0 || n > len(b) || err != nil && n != 0 {
			t.Fatalf("%d of %d bytes, %v", n, len(b), err)
		}
		if n > 0 && !bytes.Contains(b[:n], []byte("abc")) {
			t.Fatal("accepted without the accept key")
		}
	})
}

// What a client sends is masked, and unmasks to what it was (RFC 6455 section 5.3).
func FuzzAppendClient(f *testing.F) {
	f.Add([]byte("hello"), uint32(0x01020304))
	f.Add(make([]byte, 70000), uint32(7))
	f.Fuzz(func(t *testing.T, payload []byte, mask uint32) {
		b := appendClient(nil, true, wsBinary, payload, mask)
		if b[0] != 0x82 || b[1]&0x80 == 0 {
			t.Fatalf("header %x", b[:2])
		}
		head := 2
		switch b[1] & 0x7f {
		case 126:
			head = 4
		case 127:
			head = 10
		}
		key, body := b[head:head+4], b[head+4:]
		for i := range body {
			body[i] ^= key[i&3]
		}
		if !bytes.Equal(body, payload) {
			t.Fatal("unmasking gives something else")
		}
	})
}

// BenchmarkDecode is the cost of taking one 64-byte push out of a read of 100.
func BenchmarkDecode(b *testing.B) {
	const frames = 100
	var batch []byte
	for seq := range uint32(frames) {
		batch = wire.AppendFrame(batch, wire.Frame{Ver: 1, Op: 1000, Body: ledger.AppendBody(nil, ledger.Stamp{Seq: seq}, 64)})
	}
	for name, in := range map[string][]byte{
		"tcp": batch,
		"ws":  append(wire.AppendWSBatchHeader(nil, len(batch)), batch...),
	} {
		b.Run(name, func(b *testing.B) {
			d := decoder{ws: name == "ws"}
			b.ReportAllocs()
			for n := 0; n < b.N; {
				rest := in
				for d.next(&rest) == gotFrame {
					n++
				}
				if len(rest) > 0 {
					b.Fatal(d.fail)
				}
			}
		})
	}
}
