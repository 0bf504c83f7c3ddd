package comet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"barrage/server/wire"

	"github.com/gobwas/ws"
)

// maxHeldInput bounds what a client can send while logic is asked about its token: a few
// frames that it didn't wait to send.
const maxHeldInput = 4 * wire.MaxClientSize

// A closing is an error in a session's input that ends it, with the reason that is counted
// and what is sent first.
type closing struct {
	reason reason
	last   []byte
	cause  error
}

func (c *closing) Error() string { return fmt.Sprintf("%v: %v", c.reason, c.cause) }
func (c *closing) Unwrap() error { return c.cause }

// feed takes bytes off the connection. It consumes all of b, keeping the beginning of a
// frame that isn't whole, and never blocks. b may be changed.
func (s *session) feed(b []byte) {
	s.inMu.Lock()
	defer s.inMu.Unlock()
	s.feedLocked(b)
}

func (s *session) feedLocked(b []byte) {
	if s.in.phase == phaseClosed {
		return
	}
	joined := len(s.in.partial) > 0
	if joined {
		s.in.partial = append(s.in.partial, b...)
		b = s.in.partial
	}
	rest, err := s.process(b)
	if err != nil {
		s.end(err)
		return
	}
	switch {
	case len(rest) == 0:
		s.in.partial = nil
	case joined && len(rest) == len(b):
	default:
		s.in.partial = append([]byte(nil), rest...)
	}
}

// end closes the session for an error that process returned.
func (s *session) end(err error) {
	s.in.phase = phaseClosed
	s.in.partial, s.in.ws = nil, nil
	var c *closing
	if !errors.As(err, &c) {
		c = &closing{reason: reasonBadFrame, cause: err}
	}
	if len(c.last) > 0 {
		s.write(c.last)
	}
	s.server.log.Debug("session closed", "session", s.key, "addr", s.addr, "reason", c.reason, "err", c.cause)
	s.close(c.reason)
}

// process handles what is whole in b and returns the rest.
func (s *session) process(b []byte) (rest []byte, err error) {
	for len(b) > 0 {
		if s.in.phase == phaseConnect {
			if len(b) > maxHeldInput {
				return nil, &closing{reason: reasonInputOverflow, cause: fmt.Errorf("%d bytes before the auth reply", len(b))}
			}
			return b, nil
		}
		if s.in.phase == phaseUpgrade {
			n, err := s.upgrade(b)
			if err != nil || n == 0 {
				return b, err
			}
			b = b[n:]
			continue
		}
		if s.websocket {
			done, err := s.webSocketInput(&b)
			if err != nil {
				return nil, err
			}
			if done {
				return nil, nil
			}
			continue
		}
		f, n, err := wire.Decode(b, wire.MaxClientBody)
		if errors.Is(err, wire.ErrShort) {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		b = b[n:]
		if err := s.handle(f); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// upgrade answers the HTTP request in b, once it is whole, and returns its length.
func (s *session) upgrade(b []byte) (n int, err error) {
	n = requestEnd(b)
	limit := s.server.cfg.Protocol.UpgradeBytes
	if n > limit || n == 0 && len(b) >= limit {
		return 0, &closing{reason: reasonBadUpgrade, cause: fmt.Errorf("request over %d bytes", limit),
			last: []byte("HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")}
	}
	if n == 0 {
		return 0, nil
	}
	response, cookie, err := upgrade(b[:n], s.server.ws.path)
	if err != nil {
		return 0, &closing{reason: reasonBadUpgrade, last: response, cause: err}
	}
	s.write(response)
	s.in.phase = phaseAuth
	s.in.ws = &wsDecoder{limit: s.server.ws.limit, text: s.server.ws.text, cookie: cookie}
	return n, nil
}

// webSocketInput handles the next WebSocket event in *b; done says that all of *b was
// taken.
func (s *session) webSocketInput(b *[]byte) (done bool, err error) {
	e, err := s.in.ws.next(b)
	if err == io.ErrShortBuffer {
		return true, nil
	}
	if err != nil {
		c := &closing{reason: reasonBadWebSocket, cause: err}
		var we *wsError
		if errors.As(err, &we) {
			c.last = appendClose(nil, we.status)
		}
		switch {
		case errors.Is(err, errWSTooBig):
			c.reason = reasonTooBig
		case errors.Is(err, errWSText):
			c.reason = reasonTextMessage
		}
		return false, c
	}
	switch e.op {
	case ws.OpPing:
		s.write(appendControl(nil, ws.OpPong, e.payload))
	case ws.OpPong:
	case ws.OpClose:
		return false, &closing{reason: reasonPeer, last: appendClose(nil, e.status), cause: errors.New("close frame")}
	default:
		return false, s.server.ws.message(s, e.op, e.payload)
	}
	return false, nil
}

// frameMessage handles a message, which must be one frame.
func (s *session) frameMessage(_ ws.OpCode, payload []byte) error {
	f, n, err := wire.Decode(payload, wire.MaxClientBody)
	if err == nil && n != len(payload) {
		err = fmt.Errorf("%d bytes behind the frame of a message", len(payload)-n)
	}
	if err != nil {
		return &closing{reason: reasonBadFrame, cause: err, last: appendClose(nil, ws.StatusPolicyViolation)}
	}
	return s.handle(f)
}

// handle does what a client's frame asks for. f aliases the input.
func (s *session) handle(f wire.Frame) error {
	s.server.metrics.framesIn.Inc()
	if s.in.phase == phaseAuth {
		return s.handleFirst(f)
	}
	if white := s.server.white.Load(); len(white.mids) > 0 && white.mids[s.mid] {
		white.frame("in", s, f)
	}
	switch f.Op {
	case wire.OpHeartbeat:
		s.beat(f)
	case wire.OpChangeRoom:
		return s.changeRoom(f)
	case wire.OpSub, wire.OpUnsub:
		return s.post(subCommand{
			session: s,
			ops:     parseOps(string(f.Body)),
			remove:  f.Op == wire.OpUnsub,
			reply:   s.reply(f, f.Op+1, f.Body),
		})
	default:
		return s.receive(f)
	}
	return nil
}

// handleFirst skips frames until the one with the auth token.
func (s *session) handleFirst(f wire.Frame) error {
	if f.Op != wire.OpAuth {
		if int(s.in.skipped) >= s.server.cfg.Protocol.FirstFrames {
			return &closing{reason: reasonFirstFrames, cause: fmt.Errorf("%d frames before auth", s.in.skipped+1)}
		}
		s.in.skipped++
		return nil
	}
	s.in.phase = phaseConnect
	cookie := ""
	if d := s.in.ws; d != nil {
		cookie, d.cookie = d.cookie, ""
	}
	f.Body = slices.Clone(f.Body)
	s.server.connect(s, f, cookie)
	return nil
}

// beat renews the session's deadline and answers with the room's online count.
func (s *session) beat(f wire.Frame) {
	now := time.Now()
	s.deadline.Store(deadlineAfter(now, s.heartbeat))
	count := int32(0)
	if ref := s.online.Load(); ref != nil {
		count = ref.count()
	}
	var body [4]byte
	binary.BigEndian.PutUint32(body[:], uint32(count))
	s.write(s.reply(f, wire.OpHeartbeatReply, body[:]))
	if now.Unix() >= int64(s.in.reportAt) {
		s.in.reportAt = uint32(nextReport(now, s.heartbeat))
		s.server.heartbeat(s)
	}
}

// changeRoom counts the session in its new room at once, and has the shard move it.
func (s *session) changeRoom(f wire.Frame) error {
	var ref *roomRef
	if len(f.Body) > 0 {
		ref = s.server.rooms.enter(string(f.Body), s.shard)
	}
	if old := s.online.Swap(ref); old != nil {
		s.server.rooms.leave(old, s.shard)
	}
	return s.post(changeRoomCommand{session: s, ref: ref, reply: s.reply(f, wire.OpChangeRoomReply, f.Body)})
}

// reply returns a frame that answers f, encoded for the session's transport.
func (s *session) reply(f wire.Frame, op wire.Op, body []byte) []byte {
	r := wire.Frame{Ver: f.Ver, Op: op, Seq: f.Seq, Body: body}
	b := make([]byte, 0, 10+r.Size())
	if s.websocket {
		b = wire.AppendWSHeader(b, r.Size())
	}
	return wire.AppendFrame(b, r)
}

// parseOps reads a list like "1000, 1001". What is no number is passed over.
func parseOps(list string) []wire.Op {
	var ops []wire.Op
	for item := range strings.SplitSeq(list, ",") {
		n, err := strconv.ParseInt(strings.TrimSpace(item), 10, 32)
		if err == nil {
			ops = append(ops, wire.Op(n))
		}
	}
	return ops
}

// deadlineAfter is the unix second by which the next heartbeat must come.
func deadlineAfter(now time.Time, heartbeat time.Duration) int64 {
	return now.Add(heartbeat + time.Second - 1).Unix()
}
