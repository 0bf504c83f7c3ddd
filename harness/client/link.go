package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	"barrage/server/wire"

	"github.com/gobwas/ws"
)

// A link is a connection to a comet, below the meaning of frames. One goroutine reads, and
// one at a time writes.
type link interface {
	// read waits for the next bytes: whole frames back to back, the caller's from then on.
	read() (wire.Batch, error)
	// write sends one frame.
	write(frame []byte) error
	// end tells the peer that the connection ends, where the transport has words for it.
	end()
}

// farewell is how long the end of a connection may take.
const farewell = 500 * time.Millisecond

// A conn bounds each read and write of a connection in time, so that a wait of its reader
// for anything else counts for nothing.
type conn struct {
	net.Conn
	silence time.Duration // a read's

	mu    sync.Mutex
	stall time.Duration // a write's; mu guards, and the setting of the deadline
}

func (c *conn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	err := c.SetWriteDeadline(time.Now().Add(c.stall))
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// hurry has writes, also one that waits, end soon.
func (c *conn) hurry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stall = farewell
	_ = c.SetWriteDeadline(time.Now().Add(farewell))
}

// open makes a connection to the node and does what comes before frames. ctx bounds it.
func open(ctx context.Context, cfg Config, node string, heartbeat time.Duration) (*conn, link, error) {
	tcp, err := cfg.Dial(ctx, "tcp", node)
	if err != nil {
		return nil, nil, err
	}
	c := &conn{Conn: tcp, silence: heartbeat + cfg.Timeout, stall: cfg.Timeout}
	stop := context.AfterFunc(ctx, func() { tcp.Close() })
	l, err := shake(ctx, cfg, node, c)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		tcp.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, nil, err
	}
	return c, l, nil
}

// shake does the handshakes of the transport.
func shake(ctx context.Context, cfg Config, node string, c *conn) (link, error) {
	var stream net.Conn = c
	scheme := "ws"
	if cfg.Transport.tls() {
		scheme = "wss"
		t, err := tlsConfig(cfg, node)
		if err != nil {
			return nil, err
		}
		secure := tls.Client(c, t)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		stream = secure
	}
	if !cfg.Transport.websocket() {
		return &tcpLink{stream: stream, in: bufio.NewReader(stream), most: cfg.MaxFrame}, nil
	}
	dialer := ws.Dialer{}
	if len(cfg.Header) > 0 {
		dialer.Header = ws.HandshakeHeaderHTTP(cfg.Header)
	}
	in, _, err := dialer.Upgrade(stream, &url.URL{Scheme: scheme, Host: node, Path: "/sub"})
	if err != nil {
		return nil, fmt.Errorf("WebSocket handshake: %w", err)
	}
	if in == nil {
		in = bufio.NewReader(stream)
	}
	return &wsLink{stream: stream, in: in, most: cfg.MaxFrame}, nil
}

func tlsConfig(cfg Config, node string) (*tls.Config, error) {
	t := &tls.Config{}
	if cfg.TLS != nil {
		t = cfg.TLS.Clone()
	}
	if t.ServerName == "" {
		host, _, err := net.SplitHostPort(node)
		if err != nil {
			return nil, fmt.Errorf("node %q: %w", node, err)
		}
		t.ServerName = host
	}
	if t.NextProtos == nil && cfg.Transport == WebSocketTLS {
		t.NextProtos = []string{"http/1.1"}
	}
	return t, nil
}

// A tcpLink carries frames as they are.
type tcpLink struct {
	stream net.Conn
	in     *bufio.Reader
	most   int
}

func (l *tcpLink) read() (wire.Batch, error) {
	var header [wire.HeaderLen]byte
	if _, err := io.ReadFull(l.in, header[:]); err != nil {
		return nil, err
	}
	if _, _, err := wire.Decode(header[:], l.most-wire.HeaderLen); err != nil && !errors.Is(err, wire.ErrShort) {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(header[:]))
	copy(b, header[:])
	if _, err := io.ReadFull(l.in, b[wire.HeaderLen:]); err != nil {
		return nil, wholeOf(err)
	}
	return b, nil
}

func (l *tcpLink) write(frame []byte) error {
	_, err := l.stream.Write(frame)
	return err
}

func (l *tcpLink) end() {
	if t, ok := l.stream.(*tls.Conn); ok {
		_ = t.CloseWrite()
	}
}

// wholeOf returns err, of a read that is not the first of a message: its end is too early.
func wholeOf(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A wsLink carries frames in binary WebSocket messages.
type wsLink struct {
	stream net.Conn
	in     *bufio.Reader
	most   int

	mu sync.Mutex // of writes: the reader answers pings
}

// read returns the next binary message, and answers what is not one.
func (l *wsLink) read() (wire.Batch, error) {
	var message []byte
	state := ws.StateClientSide
	for {
		h, err := ws.ReadHeader(l.in)
		if err != nil {
			if state.Fragmented() {
				err = wholeOf(err)
			}
			return nil, err
		}
		if err := ws.CheckHeader(h, state); err != nil {
			return nil, err
		}
		if h.OpCode.IsControl() {
			if err := l.control(h); err != nil {
				return nil, err
			}
			continue
		}
		if h.OpCode == ws.OpText {
			return nil, errors.New("a text message from the server, not a binary one")
		}
		if h.Length > int64(l.most-len(message)) {
			return nil, fmt.Errorf("a message of %d bytes and more, accepted are at most %d", int64(len(message))+h.Length, l.most)
		}
		at := len(message)
		message = append(message, make([]byte, h.Length)...)
		if _, err := io.ReadFull(l.in, message[at:]); err != nil {
			return nil, wholeOf(err)
		}
		if h.Fin {
			return message, nil
		}
		state = state.Set(ws.StateFragmented)
	}
}

// control handles a control frame; the error is io.EOF behind the peer's close.
func (l *wsLink) control(h ws.Header) error {
	payload := make([]byte, h.Length) // at most 125, which CheckHeader has seen to
	if _, err := io.ReadFull(l.in, payload); err != nil {
		return wholeOf(err)
	}
	switch h.OpCode {
	case ws.OpPing:
		return l.send(ws.NewPongFrame(payload))
	case ws.OpClose:
		code, reason := ws.ParseCloseFrameData(payload)
		if !code.Empty() {
			_ = l.send(ws.NewCloseFrame(payload[:2]))
			return fmt.Errorf("the server closes with %d %q: %w", code, reason, io.EOF)
		}
		_ = l.send(ws.NewCloseFrame(nil))
		return io.EOF
	}
	return nil
}

func (l *wsLink) write(frame []byte) error { return l.send(ws.NewBinaryFrame(frame)) }

func (l *wsLink) end() {
	_ = l.send(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))
	if t, ok := l.stream.(*tls.Conn); ok {
		_ = t.CloseWrite()
	}
}

// send masks f and writes it in one piece.
func (l *wsLink) send(f ws.Frame) error {
	b, err := ws.CompileFrame(ws.MaskFrame(f)) // masks a copy of the payload
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.stream.Write(b)
	return err
}
