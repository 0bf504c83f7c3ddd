package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"barrage/server/wire"

	"github.com/gobwas/ws"
)

// wait is how long a test waits for what must happen.
const wait = 10 * time.Second

var transports = []Transport{TCP, WebSocket, TCPTLS, WebSocketTLS}

// over runs a test over all transports.
func over(t *testing.T, run func(t *testing.T, c *comet)) {
	for _, tr := range transports {
		t.Run(string(tr), func(t *testing.T) { run(t, startComet(t, tr)) })
	}
}

// A comet is a server that does what a test says.
type comet struct {
	t         *testing.T
	transport Transport
	ln        net.Listener
	tls       *tls.Config
	trusted   *x509.CertPool
}

func startComet(t *testing.T, tr Transport) *comet {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	c := &comet{t: t, transport: tr, ln: ln, trusted: x509.NewCertPool()}
	if tr.tls() {
		h := httptest.NewTLSServer(nil) // for its certificate
		c.tls = &tls.Config{Certificates: h.TLS.Certificates, NextProtos: []string{"http/1.1"}}
		c.trusted.AddCert(h.Certificate())
		h.Close()
	}
	return c
}

func (c *comet) addr() string { return c.ln.Addr().String() }

// config is for a client of the comet; its heartbeats are few.
func (c *comet) config() Config {
	return Config{
		Nodes:     Fixed{c.addr()},
		Transport: c.transport,
		Token:     Token{Mid: 123, Key: "k", RoomID: "live://1000", Platform: "web", Accepts: []int32{1000, 1001}},
		TLS:       &tls.Config{RootCAs: c.trusted},
		Heartbeat: time.Hour,
		Backoff:   Backoff{BaseDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond, Factor: 2},
	}
}

// dial makes a client while the comet lets it in.
func (c *comet) dial(cfg Config) (*Client, *peer) {
	c.t.Helper()
	var cl *Client
	var err error
	dialed := make(chan struct{})
	go func() {
		defer close(dialed)
		cl, err = Dial(timeout(c.t), cfg)
	}()
	p := c.accept()
	p.letIn()
	<-dialed
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cl.Close() })
	return cl, p
}

// accept takes the next connection and does the transport's handshakes.
func (c *comet) accept() *peer {
	c.t.Helper()
	_ = c.ln.(*net.TCPListener).SetDeadline(time.Now().Add(wait))
	conn, err := c.ln.Accept()
	if err != nil {
		c.t.Fatal(err)
	}
	p := &peer{t: c.t, raw: conn, conn: conn, websocket: c.transport.websocket()}
	c.t.Cleanup(p.close)
	_ = conn.SetDeadline(time.Now().Add(wait))
	_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	_ = conn.(*net.TCPConn).SetWriteBuffer(256 << 10)
	if c.tls != nil {
		p.conn = tls.Server(conn, c.tls)
	}
	p.in = bufio.NewReader(p.conn)
	if p.websocket {
		u := ws.Upgrader{
			OnRequest: func(uri []byte) error {
				if string(uri) != "/sub" {
					return errors.New("not the path")
				}
				return nil
			},
			OnHeader: func(key, value []byte) error {
				if string(key) == "Cookie" {
					p.cookie = string(value)
				}
				return nil
			},
		}
		if _, err := u.Upgrade(struct {
			io.Reader
			io.Writer
		}{p.in, p.conn}); err != nil {
			c.t.Fatal(err)
		}
	}
	return p
}

// A peer is the comet's side of a connection.
type peer struct {
	t         *testing.T
	raw       net.Conn
	conn      net.Conn
	in        *bufio.Reader
	websocket bool
	cookie    string

	mu     sync.Mutex
	online int32 // in replies to heartbeats
	beats  int
	mute   bool // doesn't answer heartbeats
}

func (p *peer) close() { p.raw.Close() }

// frame returns the client's next frame, encoded; io.EOF when it has ended the connection.
func (p *peer) frame() ([]byte, error) {
	if p.websocket {
		h, err := ws.ReadHeader(p.in)
		if err != nil {
			return nil, err
		}
		if err := ws.CheckHeader(h, ws.StateServerSide); err != nil {
			return nil, err
		}
		b := make([]byte, h.Length)
		if _, err := io.ReadFull(p.in, b); err != nil {
			return nil, err
		}
		ws.Cipher(b, h.Mask, 0)
		switch h.OpCode {
		case ws.OpClose:
			return nil, io.EOF
		case ws.OpBinary:
			return b, nil
		}
		return nil, errors.New("neither binary nor close")
	}
	var size [4]byte
	if _, err := io.ReadFull(p.in, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	copy(b, size[:])
	_, err := io.ReadFull(p.in, b[4:])
	return b, err
}

// read returns the client's next frame that is no heartbeat, and answers those.
func (p *peer) read() (wire.Frame, error) {
	for {
		b, err := p.frame()
		if err != nil {
			return wire.Frame{}, err
		}
		f, n, err := wire.Decode(b, wire.MaxClientBody)
		if err != nil || n != len(b) {
			p.t.Errorf("client sends %x: %d, %v", b, n, err)
			return wire.Frame{}, io.ErrUnexpectedEOF
		}
		if f.Op != wire.OpHeartbeat {
			return f, nil
		}
		p.mu.Lock()
		p.beats++
		mute, online := p.mute, p.online
		p.mu.Unlock()
		if !mute {
			f.Op, f.Body = wire.OpHeartbeatReply, binary.BigEndian.AppendUint32(nil, uint32(online))
			p.send(f)
		}
	}
}

// wants reads the next frame and answers it as a comet does.
func (p *peer) wants(op wire.Op, body string) {
	p.t.Helper()
	f, err := p.read()
	if err != nil || f.Op != op || string(f.Body) != body {
		p.t.Fatalf("client sends op %d %q, %v; want op %d %q", f.Op, f.Body, err, op, body)
	}
	p.answer(f)
}

func (p *peer) answer(f wire.Frame) {
	switch f.Op {
	case wire.OpAuth, wire.OpChangeRoom, wire.OpSub, wire.OpUnsub:
		f.Op++
	default:
		f.Body = nil
	}
	if f.Op == wire.OpAuthReply {
		f.Body = nil
	}
	p.send(f)
}

// letIn reads the auth frame and answers it.
func (p *peer) letIn() Token {
	p.t.Helper()
	f, err := p.read()
	if err != nil || f.Op != wire.OpAuth {
		p.t.Fatalf("client sends op %d, %v; want auth", f.Op, err)
	}
	var token Token
	if err := json.Unmarshal(f.Body, &token); err != nil {
		p.t.Fatal(err)
	}
	p.answer(f)
	return token
}

// serve answers what comes until the connection ends.
func (p *peer) serve() {
	for {
		f, err := p.read()
		if err != nil {
			return
		}
		p.answer(f)
	}
}

// send writes a frame by itself.
func (p *peer) send(f wire.Frame) {
	p.write(wire.AppendFrame(nil, f))
}

// write sends bytes, in one message over WebSocket.
func (p *peer) write(b []byte) {
	if p.websocket {
		b = append(wire.AppendWSHeader(nil, len(b)), b...)
	}
	p.raws(b)
}

// raws sends bytes as they are. It may fail when the client has gone.
func (p *peer) raws(b []byte) { _, _ = p.conn.Write(b) }

// push sends pushes as a comet does: one op-9 message over WebSocket, no outer frame else.
func (p *peer) push(bodies ...string) {
	b := pushes(bodies...)
	if p.websocket {
		b = append(wire.AppendHeader(nil, wire.Version, wire.OpRaw, 0, len(b)), b...)
	}
	p.write(b)
}

func pushes(bodies ...string) []byte {
	var b []byte
	for _, body := range bodies {
		b = wire.AppendFrame(b, wire.Frame{Ver: wire.Version, Op: 1000, Body: []byte(body)})
	}
	return b
}

// dismiss sends op 6 with a reason.
func (p *peer) dismiss(code string) {
	p.send(wire.Frame{Ver: wire.Version, Op: wire.OpDisconnectReply, Body: []byte(`{"code":"` + code + `"}`)})
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	t.Cleanup(cancel)
	return ctx
}

// receives checks the client's next pushes.
func receives(t *testing.T, c *Client, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		f, err := c.Receive(timeout(t))
		if err != nil || f.Op != 1000 || f.Ver != 1 || f.Seq != 0 || string(f.Body) != body {
			t.Fatalf("received op %d %q, %v; want %q", f.Op, f.Body, err, body)
		}
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(wait); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", wait, what)
		}
	}
}

// ours counts the goroutines that run this package's client, tests apart.
func ours() int {
	b := make([]byte, 1<<20)
	n := 0
	for _, g := range strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n") {
		if strings.Contains(g, "client.(*Client).run") || strings.Contains(g, "client.(*session)") {
			n++
		}
	}
	return n
}
