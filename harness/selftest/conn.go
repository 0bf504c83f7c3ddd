package selftest

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A role is what a descriptor of the server's is for.
type role uint8

const (
	listenTCP role = iota
	listenWS
	listenPush
	clientTCP
	clientUpgrading // a WebSocket client's HTTP request is outstanding
	clientWS
	pusher
)

// conn is a listener, a client or a pusher. It belongs to the server's thread.
type conn struct {
	fd     int32
	role   role
	in     []byte // what is no whole frame or request yet
	out    []byte // what the socket did not take
	room   string
	number int // of the client, from its key
	joined bool
	behind []push // that come behind the next one of their stream
	beats  uint32

	storm    bool
	pinged   int   // pings that are not answered
	answered int64 // when the last answer came
}

// The protocol, section 1 of goim's: a header of 16 bytes, big endian, with the package
// length, the header's, a version, an operation and a sequence number.
const (
	headerLen        = 16
	maxPackage       = 1 << 20
	opHeartbeat      = 2
	opHeartbeatReply = 3
	opAuth           = 7
	opAuthReply      = 8
	opBatch          = 9
	opPush           = 1000
)

func appendHeader(dst []byte, op uint32, seq uint32, body int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(headerLen+body))
	dst = binary.BigEndian.AppendUint16(dst, headerLen)
	dst = binary.BigEndian.AppendUint16(dst, 1)
	dst = binary.BigEndian.AppendUint32(dst, op)
	return binary.BigEndian.AppendUint32(dst, seq)
}

func appendFrame(dst []byte, op uint32, seq uint32, body []byte) []byte {
	return append(appendHeader(dst, op, seq, len(body)), body...)
}

// A push's body begins with what the harness says of it: a magic number, the stream, the
// sequence number and the intended time.
const (
	stampLen    = 16
	stampMagic  = 0xBA55
	alienStream = 65000 // the harness has no so many
)

func appendStamp(dst []byte, stream uint16, seq uint32, intended int64) []byte {
	dst = binary.BigEndian.AppendUint16(dst, stampMagic)
	dst = binary.BigEndian.AppendUint16(dst, stream)
	dst = binary.BigEndian.AppendUint32(dst, seq)
	return binary.BigEndian.AppendUint64(dst, uint64(intended))
}

// ready takes what epoll says of c.
func (s *Server) ready(c *conn, events uint32) {
	if c.role <= listenPush {
		s.accept(c)
		return
	}
	if events&unix.EPOLLOUT != 0 {
		s.flush(c)
	}
	if events&^unix.EPOLLOUT == 0 {
		return
	}
	n, err := unix.Read(int(c.fd), s.buf)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return
	case err != nil || n == 0:
		s.drop(c)
		return
	}
	c.in = append(c.in, s.buf[:n]...)
	if err := s.input(c); err != nil {
		s.failed = errors.Join(s.failed, err)
		s.drop(c)
	}
}

func (s *Server) accept(l *conn) {
	for {
		fd, _, err := unix.Accept4(int(l.fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // EAGAIN, or a client that left again; more will be said
		}
		if err := errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), s.watch(fd)); err != nil {
			s.failed = errors.Join(s.failed, err)
			_ = unix.Close(fd)
			continue
		}
		role := map[role]role{listenTCP: clientTCP, listenWS: clientUpgrading, listenPush: pusher}[l.role]
		s.conns[int32(fd)] = &conn{fd: int32(fd), role: role}
	}
}

func (s *Server) drop(c *conn) {
	_ = unix.Close(int(c.fd))
	delete(s.conns, c.fd)
	// Whatever still knows c must not write to a socket that takes the number.
	c.fd, c.in, c.out = -1, nil, nil
	if c.joined {
		s.rooms[c.room] = slices.DeleteFunc(s.rooms[c.room], func(m *conn) bool { return m == c })
		c.joined, c.storm = false, false
	}
}

// input takes what is whole off c.in.
func (s *Server) input(c *conn) error {
	switch c.role {
	case pusher:
		s.requests(c)
		return nil
	case clientUpgrading:
		if err := s.upgrade(c); err != nil || c.role == clientUpgrading {
			return err
		}
		fallthrough
	case clientWS:
		return s.messages(c)
	}
	n, err := s.packages(c, c.in)
	c.in = kept(c.in[n:])
	return err
}

// kept returns rest on its own, so that what stands before it can go; idle clients keep
// nothing.
func kept(rest []byte) []byte {
	if len(rest) == 0 {
		return nil
	}
	return slices.Clone(rest)
}

// packages takes whole frames off b, and returns how many bytes they are.
func (s *Server) packages(c *conn, b []byte) (n int, err error) {
	for {
		rest := b[n:]
		if len(rest) < headerLen {
			return n, nil
		}
		size := int(binary.BigEndian.Uint32(rest))
		if size < headerLen || size > maxPackage || binary.BigEndian.Uint16(rest[4:]) != headerLen {
			return n, fmt.Errorf("client %d sent no frame: % x", c.number, rest[:headerLen])
		}
		if len(rest) < size {
			return n, nil
		}
		if err := s.frame(c, binary.BigEndian.Uint32(rest[8:]), binary.BigEndian.Uint32(rest[12:]), rest[headerLen:size]); err != nil {
			return n, err
		}
		n += size
	}
}

func (s *Server) frame(c *conn, op, seq uint32, body []byte) error {
	switch op {
	case opAuth:
		if err := s.join(c, body); err != nil {
			return err
		}
		s.reply(c, appendFrame(nil, opAuthReply, seq, nil))
		if c.role == clientWS && s.stormed < s.plan.Stormed {
			s.stormed++
			c.storm, s.tick = true, true
		}
	case opHeartbeat:
		c.beats++
		s.reply(c, appendFrame(nil, opHeartbeatReply, seq, binary.BigEndian.AppendUint32(nil, c.beats)))
	default:
		return fmt.Errorf("client %d sent operation %d", c.number, op)
	}
	return nil
}

// join reads a client's token and puts it into its room.
func (s *Server) join(c *conn, body []byte) error {
	var token struct {
		Key    string `json:"key"`
		RoomID string `json:"room_id"`
	}
	if err := json.Unmarshal(body, &token); err != nil {
		return fmt.Errorf("token %.80q: %w", body, err)
	}
	var err error
	if c.number, err = strconv.Atoi(token.Key[strings.LastIndexByte(token.Key, '-')+1:]); err != nil {
		return fmt.Errorf("a client's key is %q, no number is at its end", token.Key)
	}
	c.room, c.joined = token.RoomID, true
	s.rooms[c.room] = append(s.rooms[c.room], c)
	s.did.Clients++
	return nil
}

// upgrade answers a WebSocket client's request once it is there.
func (s *Server) upgrade(c *conn) error {
	end := bytes.Index(c.in, []byte("\r\n\r\n"))
	if end < 0 {
		return nil
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(c.in[:end+4])))
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	key := req.Header.Get("Sec-WebSocket-Key")
	if req.URL.Path != "/sub" || key == "" {
		return fmt.Errorf("upgrade: request for %s with %v", req.URL, req.Header)
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	s.write(c, fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:])))
	c.role, c.in = clientWS, c.in[end+4:]
	return nil
}

// Opcodes of WebSocket frames (RFC 6455 section 5.2), with the bit that says final.
const (
	finBinary = 0x82
	finClose  = 0x88
	finPing   = 0x89
	finPong   = 0x8A
)

// messages takes whole WebSocket messages off c.in. Those of clients are masked, and
// shorter than 64 KiB here.
func (s *Server) messages(c *conn) error {
	b := c.in
	defer func() { c.in = kept(b) }()
	for len(b) >= 2 {
		n, head := int(b[1]&0x7F), 2
		if n == 126 {
			if head = 4; len(b) < head {
				return nil
			}
			n = int(binary.BigEndian.Uint16(b[2:]))
		}
		if b[1]&0x80 == 0 || n == 127 {
			return fmt.Errorf("client %d sent a WebSocket message that is not masked, or too long: % x", c.number, b[:2])
		}
		if len(b) < head+4+n {
			return nil
		}
		mask, payload := b[head:head+4], b[head+4:head+4+n]
		for i := range payload {
			payload[i] ^= mask[i&3]
		}
		opcode := b[0]
		b = b[head+4+n:]
		switch opcode {
		case finBinary:
			if taken, err := s.packages(c, payload); err != nil || taken != n {
				return errors.Join(err, fmt.Errorf("client %d: message of %d bytes, frames of %d", c.number, n, taken))
			}
		case finPong:
			c.pinged--
			c.answered = now()
		case finClose:
		default:
			return fmt.Errorf("client %d sent WebSocket opcode %#x", c.number, opcode)
		}
	}
	if c.storm {
		// Else the answers would wait in the client's socket for the acknowledgement of the first.
		_ = unix.SetsockoptInt(int(c.fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
		s.ping(c)
	}
	return nil
}

// ping brings the pings that c has to answer up to the plan's number.
func (s *Server) ping(c *conn) {
	if len(c.out) > 0 || c.pinged > s.plan.Storm/2 {
		return
	}
	n := s.plan.Storm - max(0, c.pinged)
	c.pinged += n
	s.write(c, bytes.Repeat([]byte{finPing, 0}, n))
}

// stormAgain looks after clients whose answers don't come: whatever kept them, the storm
// must not end.
func (s *Server) stormAgain() {
	for _, c := range s.conns {
		if !c.storm {
			continue
		}
		if now()-c.answered > stormPeriod {
			c.pinged = 0
		}
		s.ping(c)
	}
}

// reply writes a frame of the protocol itself: over WebSocket as a message of its own.
func (s *Server) reply(c *conn, frame []byte) {
	if c.role == clientWS {
		frame = append(appendMessage(nil, len(frame)), frame...)
	}
	s.write(c, frame)
}

// frames writes a push, encoded: over WebSocket as the body of a batch in one message.
func (s *Server) frames(c *conn, frame []byte) {
	s.did.Frames++
	if c.role != clientWS {
		s.write(c, frame)
		return
	}
	s.out = appendMessage(s.out[:0], headerLen+len(frame))
	s.out = appendHeader(s.out, opBatch, 0, len(frame))
	s.write(c, append(s.out, frame...))
}

// appendMessage appends the header of a WebSocket message of n bytes.
func appendMessage(dst []byte, n int) []byte {
	switch {
	case n < 126:
		return append(dst, finBinary, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, finBinary, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, finBinary, 127), uint64(n))
}

// write writes b, or keeps what the socket doesn't take until it does.
func (s *Server) write(c *conn, b []byte) {
	if len(c.out) > 0 {
		s.did.Held++
		c.out = append(c.out, b...)
		return
	}
	n, err := unix.Write(int(c.fd), b)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return // the peer is gone: the next read says so
	}
	if n = max(n, 0); n < len(b) {
		s.did.Held++
		c.out = append(c.out, b[n:]...)
		s.want(c, unix.EPOLLIN|unix.EPOLLOUT)
	}
}

func (s *Server) flush(c *conn) {
	n, err := unix.Write(int(c.fd), c.out)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		n = len(c.out)
	}
	if c.out = c.out[max(n, 0):]; len(c.out) == 0 {
		c.out = nil
		s.want(c, unix.EPOLLIN)
	}
}

func (s *Server) want(c *conn, events uint32) {
	e := unix.EpollEvent{Events: events, Fd: c.fd}
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_MOD, int(c.fd), &e); err != nil {
		s.failed = errors.Join(s.failed, fmt.Errorf("watch a descriptor: %w", err))
	}
}

// requests takes whole requests of a pusher off c.in.
func (s *Server) requests(c *conn) {
	for len(c.in) > 0 {
		if s.plan.Stall.Answers && s.stalled(now()) {
			if !slices.Contains(s.untaken, c) {
				s.untaken = append(s.untaken, c)
			}
			return
		}
		in := bytes.NewReader(c.in)
		r := bufio.NewReader(in)
		req, err := http.ReadRequest(r)
		var body []byte
		if err == nil {
			body, err = io.ReadAll(req.Body)
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return // the rest is to come
		case err != nil:
			s.failed = errors.Join(s.failed, fmt.Errorf("push: %w", err))
			s.drop(c)
			return
		}
		c.in = kept(c.in[len(c.in)-in.Len()-r.Buffered():])
		s.request(c, req, body)
	}
}

// request takes one push, answers it and sees to its delivery, in this order.
func (s *Server) request(c *conn, req *http.Request, body []byte) {
	q := req.URL.Query()
	op, err := strconv.ParseUint(q.Get("operation"), 10, 31)
	if err != nil || req.Method != http.MethodPost || req.URL.Path != "/goim/push/room" || len(body) < stampLen || binary.BigEndian.Uint16(body) != stampMagic {
		s.failed = errors.Join(s.failed, fmt.Errorf("push %s %s with %d bytes: a push to a room by the harness is wanted", req.Method, req.URL, len(body)))
		s.answer(c, -400)
		return
	}
	p := push{
		stream: binary.BigEndian.Uint16(body[2:]), seq: binary.BigEndian.Uint32(body[4:]), intended: int64(binary.BigEndian.Uint64(body[8:])),
		room: q.Get("type") + "://" + q.Get("room"), frame: appendFrame(nil, uint32(op), 0, body),
	}
	if s.start == 0 {
		s.start = p.intended
	}
	code := 0
	if s.plan.Refuse != nil && s.plan.Refuse(p.seq) {
		code = -500
		s.did.Refused++
	}
	s.answer(c, code)
	s.take(p)
}

func (s *Server) answer(c *conn, code int) {
	text := fmt.Sprintf(`{"code":%d,"message":""}`, code)
	s.write(c, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(text), text))
}
