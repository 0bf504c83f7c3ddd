package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"barrage/server/wire"
)

// A session is one connection that the server has let in. Its reader runs on the client's
// goroutine, its writer on one of its own.
type session struct {
	client    *Client
	node      string
	conn      *conn
	link      link
	heartbeat time.Duration

	requests chan []byte   // frames for the writer
	poked    chan struct{} // the wish is another one; holds one
	done     chan struct{} // closed at the end

	sent wish // what the server has, or was asked for; the writer's alone
	seq  int32

	// The client's mu guards:
	confirmed uint64 // version of the wish that the server has
	asked     uint64 // version of the last wish that it was asked for
	changes   map[int32]struct{}
	replies   map[int32]chan wire.Frame
}

// connect makes a session at the node that is chosen next.
func (c *Client) connect(ctx context.Context, choice *choice) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	node, err := choice.next(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{
		client:    c,
		node:      node,
		heartbeat: choice.heartbeat(c.cfg.Heartbeat),
		requests:  make(chan []byte),
		poked:     make(chan struct{}, 1),
		done:      make(chan struct{}),
		changes:   make(map[int32]struct{}),
		replies:   make(map[int32]chan wire.Frame),
	}
	if s.conn, s.link, err = open(ctx, c.cfg, node, s.heartbeat); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", node, err)
	}
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	err = s.authenticate(ctx)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		s.conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, fmt.Errorf("authenticate at %s: %w", node, err)
	}
	return s, nil
}

// authenticate asks to be let in, with what the client wants by now.
func (s *session) authenticate(ctx context.Context) error {
	c := s.client
	c.mu.Lock()
	s.sent = c.wanted
	c.mu.Unlock()
	s.confirmed, s.asked = s.sent.version, s.sent.version
	token, err := c.token(s.sent)
	if err != nil {
		return err
	}
	seq := s.nextSeq()
	if err := s.link.write(wire.AppendFrame(nil, wire.Frame{Ver: wire.Version, Op: wire.OpAuth, Seq: seq, Body: token})); err != nil {
		return err
	}
	for in := false; !in; {
		err := s.readOnce(func(f wire.Frame) error {
			if f.Op == wire.OpAuthReply && f.Seq == seq {
				in = true
				return nil
			}
			return s.handle(ctx, f) // pushes may overtake the reply
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// serve runs the session until it ends, and returns why.
func (s *session) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.conn.hurry)
	defer stop()
	var writer sync.WaitGroup
	var writeErr error
	writer.Go(func() {
		writeErr = s.write(ctx)
		s.conn.Close() // has the reader end
	})
	var err error
	for err == nil {
		err = s.readOnce(func(f wire.Frame) error { return s.handle(ctx, f) })
	}
	close(s.done)
	s.conn.Close()
	writer.Wait()
	if writeErr != nil && errors.Is(err, net.ErrClosed) {
		return writeErr // it came first
	}
	return err
}

// readOnce hands the frames of the next message to handle.
func (s *session) readOnce(handle func(wire.Frame) error) error {
	b, err := s.link.read()
	if err != nil {
		return fmt.Errorf("read from comet: %w", err)
	}
	return each(b, handle)
}

// each calls handle with the frames of a message, those of a batch (op 9) singly, until it
// returns an error.
func each(message wire.Batch, handle func(wire.Frame) error) error {
	for {
		f, err := message.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("message from comet: %w", err)
		}
		if f.Op != wire.OpRaw {
			if err := handle(f); err != nil {
				return err
			}
			continue
		}
		for batch := wire.Batch(f.Body); ; {
			inner, err := batch.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return fmt.Errorf("batch from comet: %w", err)
			}
			if err := handle(inner); err != nil {
				return err
			}
		}
	}
}

// handle takes one frame. Pushes have sequence 0, and replies that of their request, which
// is another.
func (s *session) handle(ctx context.Context, f wire.Frame) error {
	if f.Seq != 0 {
		s.reply(f)
		return nil
	}
	if f.Op == wire.OpDisconnectReply {
		return newDismissal(f.Body)
	}
	select {
	case s.client.queue <- f:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reply gives a reply to the one who waits for it, if there still is one.
func (s *session) reply(f wire.Frame) {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Op == wire.OpHeartbeatReply && len(f.Body) == 4 {
		c.online, c.hasCount = int32(binary.BigEndian.Uint32(f.Body)), true
	}
	if waiting, ok := s.replies[f.Seq]; ok {
		delete(s.replies, f.Seq)
		waiting <- f
	}
	if _, ok := s.changes[f.Seq]; ok {
		delete(s.changes, f.Seq)
		s.settle()
	}
}

// settle notes that the server has what it was asked for, once it has answered all. The
// client's mu must be held.
func (s *session) settle() {
	if len(s.changes) == 0 && s.confirmed != s.asked {
		s.confirmed = s.asked
		s.client.signal()
	}
}

// ask sends a request and waits for the reply.
func (s *session) ask(ctx context.Context, op wire.Op, body []byte) (wire.Frame, error) {
	waiting := make(chan wire.Frame, 1)
	s.client.mu.Lock()
	seq := s.nextSeq()
	s.replies[seq] = waiting
	s.client.mu.Unlock()
	defer func() {
		s.client.mu.Lock()
		defer s.client.mu.Unlock()
		delete(s.replies, seq)
	}()
	select {
	case s.requests <- wire.AppendFrame(nil, wire.Frame{Ver: wire.Version, Op: op, Seq: seq, Body: body}):
	case <-s.done:
		return wire.Frame{}, ErrDisconnected
	case <-ctx.Done():
		return wire.Frame{}, ctx.Err()
	}
	select {
	case f := <-waiting:
		return f, nil
	case <-s.done:
		return wire.Frame{}, ErrDisconnected
	case <-ctx.Done():
		return wire.Frame{}, ctx.Err()
	}
}

// nextSeq returns a sequence that is not 0, which pushes have. The client's mu must be held
// once the session serves.
func (s *session) nextSeq() int32 {
	s.seq++
	if s.seq <= 0 {
		s.seq = 1
	}
	return s.seq
}

// poke has the writer see to the wish.
func (s *session) poke() {
	select {
	case s.poked <- struct{}{}:
	default:
	}
}

// write is the writer: requests, changes of the wish, and heartbeats, the first at once. It
// returns nil when the session ends for another reason.
func (s *session) write(ctx context.Context) error {
	beat := time.NewTicker(s.heartbeat)
	defer beat.Stop()
	if err := s.beat(); err != nil {
		return err
	}
	s.poke() // the wish may have changed since the auth frame
	for {
		var err error
		select {
		case frame := <-s.requests:
			err = s.link.write(frame)
		case <-s.poked:
			err = s.catchUp()
		case <-beat.C:
			err = s.beat()
		case <-s.done:
			return nil
		case <-ctx.Done():
			s.link.end()
			return nil
		}
		if err != nil {
			return fmt.Errorf("write to comet: %w", err)
		}
	}
}

func (s *session) beat() error {
	s.client.mu.Lock()
	seq := s.nextSeq()
	s.client.mu.Unlock()
	return s.link.write(wire.AppendFrame(nil, wire.Frame{Ver: wire.Version, Op: wire.OpHeartbeat, Seq: seq}))
}

// catchUp asks the server for what the client wants and the session has not.
func (s *session) catchUp() error {
	for _, frame := range s.missing() {
		if err := s.link.write(frame); err != nil {
			return err
		}
	}
	return nil
}

// missing returns the requests that take the session from what it has to what is wanted.
func (s *session) missing() [][]byte {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	var frames [][]byte
	ask := func(op wire.Op, body []byte) {
		seq := s.nextSeq()
		s.changes[seq] = struct{}{}
		frames = append(frames, wire.AppendFrame(nil, wire.Frame{Ver: wire.Version, Op: op, Seq: seq, Body: body}))
	}
	from, to := s.sent, c.wanted
	if from.room != to.room {
		ask(wire.OpChangeRoom, []byte(to.room))
	}
	if more := without(to.accepts, from.accepts); len(more) > 0 {
		ask(wire.OpSub, list(more))
	}
	if less := without(from.accepts, to.accepts); len(less) > 0 {
		ask(wire.OpUnsub, list(less))
	}
	s.sent, s.asked = to, to.version
	s.settle()
	return frames
}

// without returns those of a that are not in b.
func without(a, b []int32) []int32 {
	return slices.DeleteFunc(slices.Clone(a), func(op int32) bool { return slices.Contains(b, op) })
}

// list writes operations as the protocol has them: 1000,1001. It is no longer than they are
// in a token.
func list(operations []int32) []byte {
	var b []byte
	for i, op := range operations {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(op), 10)
	}
	return b
}

// The reasons that a server gives for the end of a session.
const (
	codeReplaced = "replaced"
	codeRejected = "rejected"
	codeDrained  = "drained"
)

// A dismissal is a session's end by the server, which has said why.
type dismissal struct{ code string }

func newDismissal(body []byte) *dismissal {
	var reason struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(body, &reason) // another server's reason is none that we know
	return &dismissal{reason.Code}
}

func (d *dismissal) Error() string { return fmt.Sprintf("the server ends the session: %q", d.code) }

// Unwrap returns what users know the reason by.
func (d *dismissal) Unwrap() error {
	switch d.code {
	case codeReplaced:
		return ErrReplaced
	case codeRejected:
		return ErrRejected
	}
	return nil
}

// final reports whether to connect anew would only end in the same way, or end another
// session.
func (d *dismissal) final() bool {
	return errors.Is(d, ErrReplaced) || errors.Is(d, ErrRejected)
}
