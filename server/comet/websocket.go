package comet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"barrage/server/wire"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// A wsProfile is what a WebSocket listener speaks. Comet's is binary messages of one frame
// each; the conformance test has an echo instead.
type wsProfile struct {
	path    string // the one path that is upgraded
	limit   int    // of a message, in bytes
	text    bool   // whether text messages are taken
	message func(s *session, op ws.OpCode, payload []byte) error
}

// frameProfile is goim's protocol over WebSocket.
var frameProfile = wsProfile{path: "/sub", limit: wire.MaxClientSize, message: (*session).frameMessage}

// errUpgrade says that a connection's HTTP request is no WebSocket handshake; the
// response that says so has been written.
var errUpgrade = errors.New("not a WebSocket handshake")

// upgrade answers a whole HTTP request (RFC 6455 section 4.2) and returns the response and
// the request's cookies. On an error that wraps errUpgrade the response is a refusal.
// Extensions and subprotocols are never negotiated.
func upgrade(request []byte, served string) (response []byte, cookie string, err error) {
	var out bytes.Buffer
	u := ws.Upgrader{
		OnRequest: func(uri []byte) error {
			path, _, _ := strings.Cut(string(uri), "?")
			if path != served {
				return ws.RejectConnectionError(
					ws.RejectionStatus(http.StatusNotFound),
					ws.RejectionReason(fmt.Sprintf("only %s is served here", served)))
			}
			return nil
		},
		OnHeader: func(key, value []byte) error {
			if string(key) == "Cookie" {
				if cookie != "" {
					cookie += "; "
				}
				cookie += string(value)
			}
			return nil
		},
	}
	_, err = u.Upgrade(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(request), &out})
	if err != nil {
		if out.Len() == 0 {
			out.WriteString("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}
		return out.Bytes(), "", fmt.Errorf("%w: %w", errUpgrade, err)
	}
	return out.Bytes(), cookie, nil
}

// requestEnd returns the length of the HTTP request head at the start of b, or 0 if b
// doesn't hold its end.
func requestEnd(b []byte) int {
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return 0
}

// A wsError is a reason to close a WebSocket connection, with the status that the peer is
// told (RFC 6455 section 7.4.1).
type wsError struct {
	status ws.StatusCode
	cause  error
}

func (e *wsError) Error() string { return fmt.Sprintf("close with status %d: %v", e.status, e.cause) }
func (e *wsError) Unwrap() error { return e.cause }

var (
	errWSTooBig  = errors.New("message over the limit")
	errWSText    = errors.New("text message where only binary ones are taken")
	errWSUTF8    = errors.New("text is not UTF-8")
	errWSClosing = errors.New("frame behind a close")
)

// A wsEvent is what a decoder has found.
type wsEvent struct {
	op      ws.OpCode     // OpText or OpBinary for a whole message, else a control frame
	payload []byte        // unmasked; valid until the next call
	status  ws.StatusCode // of a close, to be echoed; 0 if it had none
}

// A wsDecoder turns the bytes that a WebSocket client sends into messages and control
// frames (RFC 6455 section 5). Payload is unmasked in place and only kept where a message
// is in pieces. A payload that is still incoming is checked at once, so that a bad one is
// refused before its end.
type wsDecoder struct {
	limit  int    // of a message, in bytes
	text   bool   // whether text messages are taken
	cookie string // of the upgrade request, until auth

	head    [ws.MaxHeaderSize]byte // header bytes seen so far
	headLen int
	frame   ws.Header // current frame, once inFrame
	inFrame bool
	got     int // payload bytes of the current frame seen so far

	messageOp  ws.OpCode // of the message being received; OpContinuation between messages
	message    []byte    // its payload, where it isn't in one piece
	control    []byte    // payload of a control frame that comes in pieces
	utf8       *wsutil.UTF8Reader
	closeFound bool
}

// next takes bytes off *in and returns the next event, or io.ErrShortBuffer when all of
// *in was taken and more is needed. Other errors are *wsError.
func (d *wsDecoder) next(in *[]byte) (wsEvent, error) {
	for {
		if d.closeFound {
			*in = nil
			return wsEvent{}, &wsError{ws.StatusProtocolError, errWSClosing}
		}
		if !d.inFrame {
			if err := d.readHeader(in); err != nil {
				return wsEvent{}, err
			}
		}
		want := int(d.frame.Length) - d.got
		part := *in
		if len(part) > want {
			part = part[:want]
		}
		*in = (*in)[len(part):]
		ws.Cipher(part, d.frame.Mask, d.got)
		whole := d.got == 0 && len(part) == int(d.frame.Length)
		d.got += len(part)
		ended := d.got == int(d.frame.Length)
		if d.frame.OpCode.IsControl() {
			if !whole {
				d.control = append(d.control, part...)
				part = d.control
			}
			if !ended {
				return wsEvent{}, io.ErrShortBuffer
			}
			d.inFrame, d.control = false, nil
			return d.controlEvent(part)
		}
		if d.messageOp == ws.OpText {
			if err := d.checkUTF8(part, ended && d.frame.Fin); err != nil {
				return wsEvent{}, err
			}
		}
		if whole && d.frame.Fin && len(d.message) == 0 {
			d.inFrame = false
			return d.messageEvent(part), nil
		}
		d.message = append(d.message, part...)
		if !ended {
			return wsEvent{}, io.ErrShortBuffer
		}
		d.inFrame = false
		if d.frame.Fin {
			return d.messageEvent(d.message), nil
		}
	}
}

func (d *wsDecoder) messageEvent(payload []byte) wsEvent {
	e := wsEvent{op: d.messageOp, payload: payload}
	d.messageOp, d.message, d.utf8 = ws.OpContinuation, nil, nil
	return e
}

// readHeader completes the header of the next frame and checks what it announces.
func (d *wsDecoder) readHeader(in *[]byte) error {
	for {
		need := 2
		if d.headLen >= 2 {
			need = headerSize(d.head[1])
		}
		if d.headLen == need {
			break
		}
		n := copy(d.head[d.headLen:need], *in)
		if n == 0 {
			return io.ErrShortBuffer
		}
		d.headLen += n
		*in = (*in)[n:]
	}
	h, err := ws.ReadHeader(bytes.NewReader(d.head[:d.headLen]))
	d.headLen = 0
	if err != nil {
		return &wsError{ws.StatusProtocolError, err}
	}
	state := ws.StateServerSide
	if d.messageOp != ws.OpContinuation {
		state = state.Set(ws.StateFragmented)
	}
	if err := ws.CheckHeader(h, state); err != nil {
		return &wsError{ws.StatusProtocolError, err}
	}
	if h.OpCode == ws.OpText || h.OpCode == ws.OpBinary {
		if h.OpCode == ws.OpText && !d.text {
			return &wsError{ws.StatusUnsupportedData, errWSText}
		}
		d.messageOp = h.OpCode
	}
	if !h.OpCode.IsControl() && h.Length > int64(d.limit-len(d.message)) {
		return &wsError{ws.StatusMessageTooBig, fmt.Errorf("%w: %d bytes, accepted are %d", errWSTooBig, int64(len(d.message))+h.Length, d.limit)}
	}
	d.frame, d.inFrame, d.got = h, true, 0
	return nil
}

// headerSize is the size of a frame header whose second byte is b.
func headerSize(b byte) int {
	n := 2
	switch b & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if b&0x80 != 0 {
		n += 4
	}
	return n
}

// checkUTF8 checks a piece of a text message; last says that the message ends with it.
func (d *wsDecoder) checkUTF8(part []byte, last bool) error {
	if d.utf8 == nil {
		if last {
			if utf8.Valid(part) {
				return nil
			}
			return &wsError{ws.StatusInvalidFramePayloadData, errWSUTF8}
		}
		d.utf8 = wsutil.NewUTF8Reader(nil)
	}
	// The reader checks what passes through it, and keeps a code point that is cut.
	d.utf8.Source = bytes.NewReader(part)
	_, err := io.Copy(io.Discard, struct{ io.Reader }{d.utf8})
	if err != nil || last && !d.utf8.Valid() {
		return &wsError{ws.StatusInvalidFramePayloadData, errWSUTF8}
	}
	return nil
}

func (d *wsDecoder) controlEvent(payload []byte) (wsEvent, error) {
	e := wsEvent{op: d.frame.OpCode, payload: payload}
	if e.op != ws.OpClose {
		return e, nil
	}
	d.closeFound = true
	switch len(payload) {
	case 0:
		return e, nil
	case 1:
		return wsEvent{}, &wsError{ws.StatusProtocolError, errors.New("close with one byte")}
	}
	status, text := ws.ParseCloseFrameDataUnsafe(payload)
	if err := ws.CheckCloseFrameData(status, text); err != nil {
		return wsEvent{}, &wsError{ws.StatusProtocolError, err}
	}
	e.status = status
	return e, nil
}

// appendControl appends an unmasked control frame.
func appendControl(dst []byte, op ws.OpCode, payload []byte) []byte {
	dst = append(dst, 0x80|byte(op), byte(len(payload)))
	return append(dst, payload...)
}

// appendClose appends a close frame with the status, or without one for 0.
func appendClose(dst []byte, status ws.StatusCode) []byte {
	if status == 0 {
		return appendControl(dst, ws.OpClose, nil)
	}
	return appendControl(dst, ws.OpClose, []byte{byte(status >> 8), byte(status)})
}
