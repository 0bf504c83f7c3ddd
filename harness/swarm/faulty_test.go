package swarm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// faults is a seeded plan of what one client gets: the frames in the order in which the
// server sends them, and what a ledger must say of that.
type faults struct {
	frames []wire.Frame
	want   ledger.Counts
}

// faultRates are chances per push.
type faultRates struct{ drop, double, swap, stray float64 }

// planFaults makes the plan for one client on streams, each with pushes pushes, of which
// unknown ones may be dropped for nothing. foreign is a stream that is not the client's.
func planFaults(r *rand.Rand, rates faultRates, streams []uint16, pushes uint32, unknown map[uint32]bool, foreign uint16) faults {
	var f faults
	perStream := make([][]wire.Frame, len(streams))
	for k, id := range streams {
		push := func(seq uint32) {
			perStream[k] = append(perStream[k], pushFrame(r, id, seq))
		}
		arrived := func(seq uint32) {
			if unknown[seq] {
				f.want.Unknown++
				return
			}
			f.want.Expected++
			f.want.Delivered++
		}
		for seq := uint32(0); seq < pushes; seq++ {
			switch p := r.Float64(); {
			case p < rates.drop:
				if !unknown[seq] {
					f.want.Expected++
					f.want.Lost++
				}
				continue
			case p < rates.drop+rates.double:
				push(seq)
				push(seq)
				f.want.Duplicate++
			case p < rates.drop+rates.double+rates.swap && seq+1 < pushes:
				push(seq + 1)
				push(seq)
				f.want.Reordered++
				arrived(seq)
				seq++
			case p < rates.drop+rates.double+rates.swap+rates.stray:
				push(seq)
				switch r.IntN(3) {
				case 0:
					perStream[k] = append(perStream[k], pushFrame(r, foreign, r.Uint32N(1000)))
					f.want.Unexpected[ledger.NotSubscribed]++
				case 1:
					perStream[k] = append(perStream[k], wire.Frame{Ver: 1, Op: 1000, Body: []byte("no stamp")})
					f.want.Unexpected[ledger.NoStamp]++
				case 2:
					perStream[k] = append(perStream[k], pushFrame(r, 60000, 1))
					f.want.Unexpected[ledger.UnknownStream]++
				}
			default:
				push(seq)
			}
			arrived(seq)
		}
	}
	// Streams overlap at random, each in its own order.
	for len(perStream) > 0 {
		k := r.IntN(len(perStream))
		if len(perStream[k]) == 0 {
			perStream = append(perStream[:k], perStream[k+1:]...)
			continue
		}
		f.frames = append(f.frames, perStream[k][0])
		perStream[k] = perStream[k][1:]
	}
	return f
}

func pushFrame(r *rand.Rand, stream uint16, seq uint32) wire.Frame {
	stamp := ledger.Stamp{Stream: stream, Seq: seq, Intended: ledger.Now()}
	return wire.Frame{Ver: wire.Version, Op: 1000, Body: ledger.AppendBody(nil, stamp, 16+r.IntN(200))}
}

// faultyServer speaks goim's protocol over TCP and WebSocket, and sends each client, once
// start is closed, what plan says for its key.
type faultyServer struct {
	t      *testing.T
	tcp    net.Listener
	ws     net.Listener
	start  chan struct{}
	plan   func(key string) faults
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  []net.Conn
	tokens []token
	beats  int
}

type token struct {
	Mid      int64   `json:"mid"`
	Key      string  `json:"key"`
	RoomID   string  `json:"room_id"`
	Platform string  `json:"platform"`
	Accepts  []int32 `json:"accepts"`
}

func newFaultyServer(t *testing.T, plan func(key string) faults) *faultyServer {
	t.Helper()
	s := &faultyServer{t: t, start: make(chan struct{}), plan: plan, tcp: listen(t), ws: listen(t)}
	for _, l := range []net.Listener{s.tcp, s.ws} {
		s.wg.Go(func() { s.accept(l, l == s.ws) })
	}
	t.Cleanup(s.close)
	return s
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (s *faultyServer) close() {
	s.tcp.Close()
	s.ws.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *faultyServer) targets() Targets {
	return Targets{TCP: []string{s.tcp.Addr().String()}, WS: []string{s.ws.Addr().String()}}
}

func (s *faultyServer) accept(l net.Listener, ws bool) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(conn, ws) })
	}
}

func (s *faultyServer) serve(conn net.Conn, ws bool) {
	in := bufio.NewReader(conn)
	if ws {
		if err := acceptUpgrade(in, conn); err != nil {
			s.t.Errorf("upgrade: %v", err)
			return
		}
	}
	auth, err := readClientFrame(in, ws)
	if err != nil {
		return // the swarm left
	}
	var tok token
	if err := json.Unmarshal(auth.Body, &tok); err != nil || auth.Op != wire.OpAuth {
		s.t.Errorf("auth frame %+v %q: %v", auth, auth.Body, err)
		return
	}
	s.mu.Lock()
	s.tokens = append(s.tokens, tok)
	s.mu.Unlock()
	n, _ := strconv.Atoi(strings.TrimPrefix(tok.Key, "client-"))
	w := &cutWriter{conn: conn, r: rand.New(rand.NewPCG(uint64(n), 1)), ws: ws}
	w.frames(wire.Frame{Ver: auth.Ver, Op: wire.OpAuthReply, Seq: auth.Seq})
	w.flush()
	s.wg.Go(func() { s.drainClient(in, ws) })
	<-s.start
	f := s.plan(tok.Key)
	for len(f.frames) > 0 {
		k := min(1+w.r.IntN(40), len(f.frames))
		if w.r.IntN(10) == 0 {
			w.frames(wire.Frame{Ver: 1, Op: wire.OpHeartbeatReply, Body: []byte{0, 0, 0, 9}})
		}
		if ws && w.r.IntN(10) == 0 {
			w.control(wsPing, w.r.IntN(126))
		}
		w.frames(f.frames[:k]...)
		f.frames = f.frames[k:]
		if w.r.IntN(3) == 0 {
			w.flush()
		}
	}
	w.flush()
}

// drainClient reads what the client sends until it leaves: heartbeats and pongs.
func (s *faultyServer) drainClient(in *bufio.Reader, ws bool) {
	for {
		f, err := readClientFrame(in, ws)
		if err != nil {
			return
		}
		if f.Op == wire.OpHeartbeat {
			s.mu.Lock()
			s.beats++
			s.mu.Unlock()
		}
	}
}

func acceptUpgrade(in *bufio.Reader, out io.Writer) error {
	req, err := http.ReadRequest(in)
	if err != nil {
		return err
	}
	if req.URL.Path != "/sub" || req.Header.Get("Sec-WebSocket-Version") != "13" {
		return fmt.Errorf("request %s %v", req.URL, req.Header)
	}
	_, err = fmt.Fprintf(out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		wsAccept(req.Header.Get("Sec-WebSocket-Key")))
	return err
}

// readClientFrame reads one frame of a client. A pong comes back as a frame with op -1.
func readClientFrame(in *bufio.Reader, ws bool) (wire.Frame, error) {
	if !ws {
		return readFrame(in)
	}
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return wire.Frame{}, err
	}
	if head[1]&0x80 == 0 {
		return wire.Frame{}, fmt.Errorf("client frame is not masked")
	}
	n := int(head[1] & 0x7f)
	if n == 126 {
		var ext [2]byte
		if _, err := io.ReadFull(in, ext[:]); err != nil {
			return wire.Frame{}, err
		}
		n = int(ext[0])<<8 | int(ext[1])
	}
	data := make([]byte, 4+n)
	if _, err := io.ReadFull(in, data); err != nil {
		return wire.Frame{}, err
	}
	key, payload := data[:4], data[4:]
	for i := range payload {
		payload[i] ^= key[i&3]
	}
	if head[0] == 0x80|wsPong {
		return wire.Frame{Op: -1, Body: payload}, nil
	}
	f, _, err := wire.Decode(payload, wire.MaxClientBody)
	return f, err
}

func readFrame(in *bufio.Reader) (wire.Frame, error) {
	head, err := in.Peek(4)
	if err != nil {
		return wire.Frame{}, err
	}
	n := int(head[0])<<24 | int(head[1])<<16 | int(head[2])<<8 | int(head[3])
	if n > wire.MaxClientSize {
		return wire.Frame{}, fmt.Errorf("client frame of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(in, b); err != nil {
		return wire.Frame{}, err
	}
	f, _, err := wire.Decode(b, wire.MaxClientBody)
	return f, err
}

// cutWriter sends frames in pieces that respect no boundary.
type cutWriter struct {
	conn net.Conn
	r    *rand.Rand
	ws   bool
	buf  []byte
}

// frames adds frames: over WebSocket as one batch, or as one message each.
func (w *cutWriter) frames(frames ...wire.Frame) {
	var batch []byte
	for _, f := range frames {
		batch = wire.AppendFrame(batch, f)
	}
	switch {
	case !w.ws:
		w.buf = append(w.buf, batch...)
	case len(frames) == 1 && w.r.IntN(2) == 0 || !isPush(frames[0].Op):
		w.buf = append(wire.AppendWSHeader(w.buf, len(batch)), batch...)
	default:
		w.buf = append(wire.AppendWSBatchHeader(w.buf, len(batch)), batch...)
	}
}

func (w *cutWriter) control(opcode byte, n int) {
	w.buf = append(w.buf, 0x80|opcode, byte(n))
	w.buf = append(w.buf, make([]byte, n)...)
}

func (w *cutWriter) flush() {
	for len(w.buf) > 0 {
		n := min(1+w.r.IntN(3000), len(w.buf))
		if w.r.IntN(4) == 0 {
			n = min(1+w.r.IntN(20), len(w.buf))
		}
		if _, err := w.conn.Write(w.buf[:n]); err != nil {
			return
		}
		w.buf = w.buf[n:]
		if w.r.IntN(3) == 0 {
			time.Sleep(time.Duration(w.r.IntN(200)) * time.Microsecond) // lets the reader see the cut
		}
	}
}
