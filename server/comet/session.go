package comet

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"barrage/server/fdtable"
)

// phase is how far a session's input side has come.
type phase uint8

const (
	phaseUpgrade phase = iota // a WebSocket connection's HTTP request is being read
	phaseAuth                 // waits for an auth frame
	phaseConnect              // logic is being asked
	phaseOpen                 // authenticated
	phaseClosed               // input is discarded
)

// A stream is the outgoing side of a connection.
type stream interface {
	// send writes what can be written without blocking and returns how much that was,
	// with a nil error when the peer's window is full. It must not be called after close.
	send(b []byte) (int, error)
	// sendChunk is send for what others get, too.
	sendChunk(c *chunk) (int, error)
	// shutdown ends both directions, which makes the owner close the connection.
	shutdown()
}

// A session is one client's connection. Its input side runs on the poller's goroutine
// (and once, after auth, on a worker's), its output side under mu on any, and its
// membership of rooms belongs to a shard. An idle session holds no goroutine, timer or
// buffer. It fills the allocator's class of 256 bytes, and all that a sweep touches is in one
// line of the processor's cache: TestSessionLayout.
type session struct {
	server *Server
	addr   addrKey // set once
	number uint64  // set once; see id

	in struct { // inMu guards
		phase    phase
		skipped  uint8  // frames before auth
		reportAt uint32 // unix seconds at which logic hears of the session again
		partial  []byte
		ws       *wsDecoder // once upgraded
		receiver *receiver
	}
	inMu sync.Mutex

	// Set by auth before the session joins its shard, constant from then on.
	mid       int64
	key       string
	heartbeat time.Duration
	shard     *shard
	managed   bool // logic bounds the sessions of the key

	websocket bool         // set once
	tls       bool         // set once
	doomed    atomic.Bool  // while connecting: replaced before it began
	deadline  atomic.Int64 // unix seconds at which the session is overdue

	mu  sync.Mutex
	out struct { // mu guards
		stream  stream
		backlog *backlog // non-nil while the peer's window is full; the shard retries
		closed  bool     // the descriptor is gone, or soon will be
		joined  bool     // a join was posted, so a leave must follow
		watched bool     // its frames are logged
		reason  reason   // why we closed it, reasonPeer otherwise
	}

	online   atomic.Pointer[roomRef] // the room whose count a heartbeat returns
	commands atomic.Int32            // posted to the shard and not run yet

	// Owned by the shard.
	lagging    bool // in the shard's list of laggards
	replaced   bool // the key's registration is that of another
	roomIndex  int32
	allIndex   int32
	wheelSlot  int32
	wheelIndex int32
	room       *room // nil in no room
	accepts    *acceptSet
	older      *session // the next one under the same key
	newer      *session // nil for the newest
}

// A backlog is what a session still has to send when its peer's window is full. Frames of
// its rooms come behind it.
type backlog struct {
	rest  []byte // unwritten tail of the last send, aliases immutable bytes
	queue []byte // whole messages that come behind rest
}

func (b *backlog) size() int { return len(b.rest) + len(b.queue) }

// maxCommands bounds a session's commands that its shard has not run.
const maxCommands = 64

// post gives a command of the session to its shard. It is an error to send them faster than
// the shard runs them.
func (s *session) post(c command) error {
	if s.commands.Add(1) > maxCommands {
		return &closing{reason: reasonInputOverflow, cause: errCommands}
	}
	s.shard.mailbox.put(c)
	return nil
}

var errCommands = errors.New("changes of room and subscription come faster than they are made")

// errBackedUp says that a session's queue is full.
var errBackedUp = errors.New("pending bytes over the session's limit")

// write sends the whole reply b, or queues what the peer doesn't take now. A session whose
// queue is full is closed.
func (s *session) write(b []byte) {
	if s.writeReply(b) {
		s.lag()
	}
}

// writeReply is write but for lag, which it reports. It lets go of mu where something panics, too:
// closeOnPanic needs it.
func (s *session) writeReply(b []byte) (lag bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lag, err := s.writeLocked(b)
	if err == errBackedUp {
		s.failLocked(reasonBackedUp) // it doesn't read its replies
	}
	return lag
}

// writeLocked sends b or queues what the peer doesn't take now, which aliases b: its bytes
// must not change. It returns errBackedUp when the session has no space for it. lag says that
// the session has just become blocked and must be given to its shard. mu must be held.
func (s *session) writeLocked(b []byte) (lag bool, err error) {
	o := &s.out
	if o.closed {
		return false, net.ErrClosed
	}
	if l := o.backlog; l != nil {
		if l.size()+len(b) > s.server.cfg.Session.MaxPending {
			return false, errBackedUp
		}
		l.queue = append(l.queue, b...)
		if o.watched {
			s.server.white.Load().sent(s, b)
		}
		return false, nil
	}
	n, err := o.stream.send(b)
	if err != nil {
		s.failLocked(reasonWriteError)
		return false, err
	}
	s.server.metrics.wrote(n)
	if n == 0 && len(b) > s.server.cfg.Session.MaxPending {
		return false, errBackedUp
	}
	if o.watched {
		s.server.white.Load().sent(s, b)
	}
	if n == len(b) {
		return false, nil
	}
	o.backlog = &backlog{rest: keepRest(b, n)}
	return true, nil
}

// flushLocked writes the backlog. It reports whether none is left. mu must be held.
func (s *session) flushLocked() bool {
	o := &s.out
	if o.backlog == nil {
		return true
	}
	for _, pending := range []*[]byte{&o.backlog.rest, &o.backlog.queue} {
		if len(*pending) == 0 {
			continue
		}
		n, err := o.stream.send(*pending)
		if err != nil {
			s.failLocked(reasonWriteError)
			return false
		}
		s.server.metrics.wrote(n)
		*pending = (*pending)[n:]
		if len(*pending) > 0 {
			return false
		}
		*pending = nil
	}
	o.backlog = nil
	return true
}

// lag tells the session's shard to retry. A client that doesn't even read its handshake or
// auth reply has no shard yet and is closed.
func (s *session) lag() {
	s.mu.Lock()
	joined := s.out.joined
	s.mu.Unlock()
	if !joined {
		s.close(reasonWriteError)
		return
	}
	s.shard.mailbox.put(lagCommand{s})
}

// closed reports whether the session has ended.
func (s *session) closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.closed
}

// close ends the session for the reason. What was handed to the kernel still goes out; the
// poller then closes the descriptor and calls gone.
func (s *session) close(r reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failLocked(r)
}

// failLocked is close for callers that hold mu.
func (s *session) failLocked(r reason) {
	if s.out.closed {
		return
	}
	s.out.closed = true
	s.out.reason = r
	s.out.backlog = nil
	s.out.stream.shutdown()
}

// gone is called once, by the owner of the connection and before its descriptor is
// closed. From its return on nothing is written, so no byte reaches a reused descriptor.
func (s *session) gone() {
	// Whoever handles input now, on a worker after auth, comes to its end first, so that
	// no command of the session is behind its leave.
	s.inMu.Lock()
	s.in.phase = phaseClosed
	s.in.partial, s.in.ws, s.in.receiver = nil, nil, nil
	s.inMu.Unlock()

	s.mu.Lock()
	s.out.closed = true
	s.out.stream = nil
	s.out.backlog = nil
	joined, r := s.out.joined, s.out.reason
	s.mu.Unlock()
	if joined {
		s.shard.mailbox.put(leaveCommand{s})
	}
	s.server.forget(s, r, joined)
}

// fdStream sends on the descriptor of a netpoll connection, without blocking and without
// netpoll's buffers.
type fdStream struct{ fd int }

func (f fdStream) send(b []byte) (int, error) { return sendNonblock(f.fd, b) }

func (f fdStream) sendChunk(c *chunk) (int, error) {
	if c.pages != nil {
		n, err := written(func() (int, syscall.Errno) { return fdtable.Sendfile(int32(f.fd), int32(c.pages.fd), len(c.data)) })
		if err != syscall.EINVAL && err != syscall.ENOSYS && err != syscall.EPERM {
			return n, err
		}
		// A sandbox or a socket that can't: nothing was written.
	}
	return sendNonblock(f.fd, c.data)
}

// shutdown makes the poller see the end of input. Netpoll's own Close would wait for the
// poller, on whose goroutine this may run.
func (f fdStream) shutdown() { _ = syscall.Shutdown(f.fd, syscall.SHUT_RDWR) }

// connContext carries the session from OnPrepare to OnRequest, and tells the runner that
// the task never blocks. Being one pointer, it takes no memory of its own.
type connContext struct{ session *session }

// Deadline returns that there is none.
func (connContext) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Done returns nil: the context never ends.
func (connContext) Done() <-chan struct{} { return nil }

// Err returns nil.
func (connContext) Err() error { return nil }

// Value returns nil.
func (connContext) Value(any) any { return nil }
