// Package client is a goim client for Go programs and for tests: it keeps a session with a
// comet over TCP, WebSocket, or either over TLS, and hands over what is pushed to it, frame
// by frame, in order.
//
// A lost connection is made anew, by the server's backoff and at the node that the server
// advises, with the room and the operations that the client has by then. What was pushed in
// between is lost: the protocol has no memory of it. A session that the server ends for
// another one under the same key stays ended.
//
// Frames wait in a bounded queue for Receive. When it is full nothing more is read from
// the connection until there is space, so that a program which takes its time slows the
// server's writes to it down, and loses no frame here; the server skips or closes what lags
// too far. Replies stand behind the frames that were sent before them, so a program must
// go on receiving in one goroutine while it asks in another.
//
// Users import this package. It needs nothing of the server but its frames' codec.
package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"barrage/server/wire"
)

// Errors that end a client, or an answer.
var (
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("client is closed")
	// ErrReplaced says that another session took this one's place under its key.
	ErrReplaced = errors.New("session is replaced")
	// ErrRejected says that there are as many sessions under the key as may be.
	ErrRejected = errors.New("session is rejected")
	// ErrDisconnected says that the connection ended before the answer came. Whether the
	// server has handled the request is not known.
	ErrDisconnected = errors.New("connection ended before the answer")
)

// A Client keeps one session. Its methods may be called at the same time.
type Client struct {
	cfg   Config
	queue chan wire.Frame
	stop  context.CancelFunc // ends run
	ended chan struct{}      // closed by run; err is set then

	mu       sync.Mutex
	changed  chan struct{} // closed and made anew when what follows changes; mu guards, all below
	wanted   wish
	current  *session // nil while there is none
	last     error    // why the last attempt to connect failed
	err      error    // why the client has ended
	online   int32
	hasCount bool
}

// A wish is what a session is to have. Once made it doesn't change.
type wish struct {
	version uint64
	room    string
	accepts []int32
}

// Dial makes a client and returns once it has a session. Until ctx ends it tries again, by
// the backoff; it doesn't when the server rejects the session. ctx is not of use beyond: the
// client lives until Close.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.Background())
	c := &Client{
		cfg:     cfg,
		queue:   make(chan wire.Frame, cfg.Queue),
		stop:    stop,
		ended:   make(chan struct{}),
		changed: make(chan struct{}),
		wanted:  wish{room: cfg.Token.RoomID, accepts: slices.Clone(cfg.Token.Accepts)},
	}
	if _, err := c.token(c.wanted); err != nil {
		stop()
		return nil, err
	}
	go c.run(life)
	err := c.await(ctx, func() bool { return c.current != nil })
	if err == nil {
		return c, nil
	}
	_ = c.Close()
	if c.last != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w; the last attempt: %w", err, c.last)
	}
	return nil, fmt.Errorf("dial comet: %w", err)
}

// Receive returns the next frame that was pushed, each frame of a batch singly. Its body is
// the caller's; bodies of one batch share their memory. After the client's end Receive
// returns what still waits, and then the reason: ErrClosed, ErrReplaced or ErrRejected.
func (c *Client) Receive(ctx context.Context) (wire.Frame, error) {
	select {
	case f := <-c.queue:
		return f, nil
	default:
	}
	select {
	case f := <-c.queue:
		return f, nil
	case <-ctx.Done():
		return wire.Frame{}, ctx.Err()
	case <-c.ended:
	}
	select {
	case f := <-c.queue:
		return f, nil
	default:
		return wire.Frame{}, c.err
	}
}

// ChangeRoom goes to another room, written type://id, or with "" to none. It returns once the
// server has confirmed it, or a new connection has begun with it. When ctx ends first, the
// change is made all the same.
func (c *Client) ChangeRoom(ctx context.Context, room string) error {
	if err := c.change(ctx, func(w *wish) { w.room = room }); err != nil {
		return fmt.Errorf("change room to %q: %w", room, err)
	}
	return nil
}

// Sub accepts more operations from pushes to keys, members and all. It returns as
// ChangeRoom does.
func (c *Client) Sub(ctx context.Context, operations ...int32) error {
	err := c.change(ctx, func(w *wish) {
		w.accepts = slices.Clone(w.accepts)
		for _, op := range operations {
			if !slices.Contains(w.accepts, op) {
				w.accepts = append(w.accepts, op)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("subscribe to %v: %w", operations, err)
	}
	return nil
}

// Unsub accepts the operations no more. It returns as ChangeRoom does.
func (c *Client) Unsub(ctx context.Context, operations ...int32) error {
	err := c.change(ctx, func(w *wish) {
		w.accepts = slices.DeleteFunc(slices.Clone(w.accepts), func(op int32) bool { return slices.Contains(operations, op) })
	})
	if err != nil {
		return fmt.Errorf("unsubscribe from %v: %w", operations, err)
	}
	return nil
}

// Send gives a message to the server's logic and returns once the server has answered that
// it was taken. The operation is 4 (SendMsg) or one of the application's, from 18 on; the
// body has at most 4096 bytes. While there is no connection it waits for one; it never sends
// a message twice.
func (c *Client) Send(ctx context.Context, op wire.Op, body []byte) error {
	if op != wire.OpSendMsg && op <= wire.OpUnsubReply {
		return fmt.Errorf("send operation %d: accepted are 4 and those above 17", op)
	}
	if len(body) > wire.MaxClientBody {
		return fmt.Errorf("send operation %d: body has %d bytes, accepted are 0 to %d", op, len(body), wire.MaxClientBody)
	}
	if _, err := c.ask(ctx, op, body); err != nil {
		return fmt.Errorf("send operation %d: %w", op, err)
	}
	return nil
}

// Heartbeat sends a heartbeat at once, apart from those that go out by themselves, and
// returns how many sessions the client's room has over all comets.
func (c *Client) Heartbeat(ctx context.Context) (online int32, err error) {
	f, err := c.ask(ctx, wire.OpHeartbeat, nil)
	if err != nil {
		return 0, fmt.Errorf("heartbeat: %w", err)
	}
	if len(f.Body) != 4 {
		return 0, fmt.Errorf("heartbeat: the reply has %d bytes, not 4", len(f.Body))
	}
	return int32(binary.BigEndian.Uint32(f.Body)), nil
}

// Online returns what the last heartbeat's reply said: how many sessions the client's room
// has over all comets. ok is false before the first.
func (c *Client) Online() (count int32, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.online, c.hasCount
}

// Node returns the address of the comet that the client is connected to, "" for none.
func (c *Client) Node() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return ""
	}
	return c.current.node
}

// Ended returns a channel that is closed when the client has ended for good: it was closed,
// replaced or rejected.
func (c *Client) Ended() <-chan struct{} { return c.ended }

// Close ends the session and all that runs for it. Frames that wait can still be received.
func (c *Client) Close() error {
	c.stop()
	<-c.ended
	return nil
}

// change makes another wish and waits until the session has it.
func (c *Client) change(ctx context.Context, edit func(*wish)) error {
	c.mu.Lock()
	w := c.wanted
	edit(&w)
	w.version++
	if _, err := c.token(w); err != nil {
		c.mu.Unlock()
		return err
	}
	c.wanted = w
	if c.current != nil {
		c.current.poke()
	}
	c.mu.Unlock()
	return c.await(ctx, func() bool { return c.current != nil && c.current.confirmed >= w.version })
}

// ask sends a request on the connection that there is, or will be, and waits for the reply.
func (c *Client) ask(ctx context.Context, op wire.Op, body []byte) (wire.Frame, error) {
	var s *session
	if err := c.await(ctx, func() bool { s = c.current; return s != nil }); err != nil {
		return wire.Frame{}, err
	}
	return s.ask(ctx, op, body)
}

// await returns when ok, which is called with mu held, says so; or with an error when ctx
// or the client ends.
func (c *Client) await(ctx context.Context, ok func() bool) error {
	for {
		c.mu.Lock()
		good, changed, err := ok(), c.changed, c.err
		c.mu.Unlock()
		switch {
		case err != nil:
			return err
		case good:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// signal has those look again that wait for a change. mu must be held.
func (c *Client) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// run keeps the session, until the client ends.
func (c *Client) run(ctx context.Context) {
	defer close(c.ended)
	err := c.keep(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	c.signal()
}

// keep makes sessions, one after the other, and returns why there will be no other one.
func (c *Client) keep(ctx context.Context) error {
	choice := choice{nodes: c.cfg.Nodes, transport: c.cfg.Transport}
	for retries := 0; ; {
		lived, err := c.once(ctx, &choice)
		if ctx.Err() != nil {
			return ErrClosed
		}
		if lived {
			retries = 0
		}
		var d *dismissal
		dismissed := errors.As(err, &d)
		switch {
		case dismissed && d.final() && !c.cfg.ComeBack:
			return err
		case dismissed && d.code == codeDrained && lived && choice.hasOther(ctx):
			continue // at once: the server spreads its drain
		case !lived && len(choice.untried) > 0:
			continue // the next of those that were advised together
		}
		wait := choice.backoff(c.cfg.Backoff).Delay(retries)
		retries++
		c.cfg.Log.Info("no connection to a comet", "comet", choice.node, "retry_in", wait, "err", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ErrClosed
		}
	}
}

// once makes one session, if it can, and returns when it is over. lived says that there was
// one.
func (c *Client) once(ctx context.Context, choice *choice) (lived bool, err error) {
	s, err := c.connect(ctx, choice)
	if err != nil {
		c.mu.Lock()
		c.last = err
		c.mu.Unlock()
		return false, err
	}
	choice.succeeded()
	c.mu.Lock()
	c.current = s
	c.signal()
	c.mu.Unlock()
	if c.cfg.OnConnect != nil {
		c.cfg.OnConnect(s.node)
	}
	err = s.serve(ctx)
	c.mu.Lock()
	c.current = nil
	c.signal()
	c.mu.Unlock()
	if c.cfg.OnDisconnect != nil {
		c.cfg.OnDisconnect(s.node, err)
	}
	return true, err
}
