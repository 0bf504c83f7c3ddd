package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"barrage/server/wire"

	"github.com/gobwas/ws"
)

// What the server may do on a WebSocket connection, and what ends it.
func TestWebSocketMessages(t *testing.T) {
	message := func(op ws.OpCode, fin bool, payload []byte) []byte {
		b, err := ws.CompileFrame(ws.NewFrame(op, fin, payload))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	push := pushes("one")
	masked, err := ws.CompileFrame(ws.MaskFrame(ws.NewBinaryFrame(push)))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		says []byte
		got  bool   // the push arrives
		err  string // "" where the connection stays
	}{
		{"in pieces", bytes.Join([][]byte{message(ws.OpBinary, false, push[:5]), message(ws.OpContinuation, false, nil), message(ws.OpContinuation, true, push[5:])}, nil), true, ""},
		{"a ping between the pieces", bytes.Join([][]byte{message(ws.OpBinary, false, push[:5]), message(ws.OpPing, true, []byte("p")), message(ws.OpContinuation, true, push[5:])}, nil), true, ""},
		{"a pong", append(message(ws.OpPong, true, nil), message(ws.OpBinary, true, push)...), true, ""},
		{"an empty message", append(message(ws.OpBinary, true, nil), message(ws.OpBinary, true, push)...), true, ""},
		{"text", message(ws.OpText, true, push), false, "text message"},
		{"masked", masked, false, "mask"},
		{"a piece of nothing", message(ws.OpContinuation, true, push), false, "continuation"},
		{"a message within another", append(message(ws.OpBinary, false, push), message(ws.OpBinary, true, push)...), false, "continuation"},
		{"too long", message(ws.OpBinary, true, make([]byte, 1025)), false, "message of 1025 bytes and more, accepted are at most 1024"},
		{"too long in pieces", append(message(ws.OpBinary, false, make([]byte, 1000)), message(ws.OpContinuation, true, make([]byte, 25))...), false, "accepted are at most 1024"},
		{"longer than there is", []byte{0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, false, "accepted are at most 1024"},
		{"close", message(ws.OpClose, true, ws.NewCloseFrameBody(ws.StatusGoingAway, "bye")), false, `closes with 1001 "bye"`},
		{"close without a word", message(ws.OpClose, true, nil), false, "EOF"},
		{"half a frame", message(ws.OpBinary, true, push[:18]), false, "incomplete"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := startComet(t, WebSocket)
			down := make(chan error, 1)
			cfg := c.config()
			cfg.MaxFrame = 1024
			cfg.OnDisconnect = func(_ string, err error) {
				select {
				case down <- err:
				default:
				}
			}
			cl, p := c.dial(cfg)
			p.raws(tc.says)
			if tc.got {
				receives(t, cl, "one")
			}
			if tc.err == "" {
				p.push("two")
				receives(t, cl, "two")
				return
			}
			if err := <-down; err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error is %v, want %q in it", err, tc.err)
			}
		})
	}
}

// Pings are answered, and a close is.
func TestWebSocketAnswers(t *testing.T) {
	c := startComet(t, WebSocket)
	_, p := c.dial(c.config())
	wants := func(op ws.OpCode, payload []byte) {
		t.Helper()
		for {
			h, err := ws.ReadHeader(p.in)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, h.Length)
			if _, err := io.ReadFull(p.in, got); err != nil {
				t.Fatal(err)
			}
			if !h.Masked || !h.Fin {
				t.Errorf("header is %+v", h)
			}
			ws.Cipher(got, h.Mask, 0)
			if h.OpCode == ws.OpBinary {
				continue // a heartbeat
			}
			if h.OpCode != op || !bytes.Equal(got, payload) {
				t.Errorf("frame is %v %q", h.OpCode, got)
			}
			return
		}
	}
	ping, err := ws.CompileFrame(ws.NewPingFrame([]byte("hello")))
	if err != nil {
		t.Fatal(err)
	}
	p.raws(ping)
	wants(ws.OpPong, []byte("hello"))
	body := ws.NewCloseFrameBody(ws.StatusGoingAway, "")
	end, err := ws.CompileFrame(ws.NewCloseFrame(body))
	if err != nil {
		t.Fatal(err)
	}
	p.raws(end)
	wants(ws.OpClose, body)
}

// Bytes that can't be frames end a TCP connection, and a length is not believed.
func TestTCPFrames(t *testing.T) {
	edit := func(at int, v ...byte) []byte {
		b := pushes("one")
		copy(b[at:], v)
		return b
	}
	for _, tc := range []struct {
		name string
		says []byte
		want error
	}{
		{"length too small", edit(0, 0, 0, 0, 15), wire.ErrPackageLength},
		{"length too large", edit(0, binary.BigEndian.AppendUint32(nil, 1025)...), wire.ErrPackageLength},
		{"length negative", edit(0, 0xff, 0xff, 0xff, 0xff), wire.ErrPackageLength},
		{"header length", edit(4, 0, 17), wire.ErrHeaderLength},
		{"a batch that is none", append(wire.AppendHeader(nil, 1, wire.OpRaw, 0, 20), make([]byte, 20)...), wire.ErrPackageLength},
		{"half a frame in a batch", append(wire.AppendHeader(nil, 1, wire.OpRaw, 0, 17), pushes("one")[:17]...), wire.ErrShort},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := startComet(t, TCP)
			down := make(chan error, 1)
			cfg := c.config()
			cfg.MaxFrame = 1024
			cfg.OnDisconnect = func(_ string, err error) {
				select {
				case down <- err:
				default:
				}
			}
			cl, p := c.dial(cfg)
			p.push("before")
			p.raws(tc.says)
			receives(t, cl, "before")
			if err := <-down; !errors.Is(err, tc.want) {
				t.Errorf("error is %v", err)
			}
		})
	}
}
