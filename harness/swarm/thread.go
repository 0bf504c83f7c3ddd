package swarm

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/fdtable"
)

// A state is how far a client has come.
type state uint8

const (
	waiting    state = iota // not tried yet
	connecting              // connect(2) is under way
	securing                // the TLS handshake is
	upgrading               // the HTTP answer is outstanding
	authing                 // the auth reply is outstanding
	joined
	failed   // never joined
	closed   // joined, and lost the connection
	away     // joined, and will again
	vanished // joined, and is silent for good
	states
)

// String returns the state's name as metrics show it.
func (s state) String() string {
	return [states]string{
		"waiting", "connecting", "securing", "upgrading", "authenticating", "joined", "failed", "closed", "away", "vanished",
	}[s]
}

// client is one simulated client: 20 bytes, and no pointer, so that a million of them are
// nothing to the garbage collector.
type client struct {
	fd        int32
	slot      int32 // while connecting to authing: in thread.pending; joined: in thread.partials, or -1
	account   int32 // in its book
	target    uint16
	state     state
	kind      ledger.Kind
	behaviour Behaviour
	flags     uint8
}

// thread is the part of the swarm that one OS thread runs. But for the atomic fields, cmds
// and the channels, it belongs to that thread.
type thread struct {
	number  int
	cfg     Config // filled
	addrs   addresses
	keySeed uint64 // of the Sec-WebSocket-Keys; the same for all threads
	random  uint64 // state of the masks' generator

	clients []client
	book    *ledger.Book
	lagging *ledger.Book // of the slow and stalled clients; nil where there are none

	agenda   agenda
	slow     []slowReader
	lastSlow int64 // when the slow clients read last
	beats    beats // the heartbeats
	rooms    rota  // of the changes of room

	links     map[int32]*link // of the clients inside TLS that are connected
	sealedBuf []byte          // shared by all reads of such clients; buf has what was decrypted

	epfd   int
	wakeFD int // the thread's copy of wakeup.fd
	events []unix.EpollEvent
	buf    []byte // shared by all reads
	out    []byte // shared by all writes
	dec    decoder
	trains trains

	partials     []partial
	freePartials []int32
	overflow     map[int32][]byte // by slot of partials

	pending     []pending
	freePending []int32
	relay       *relay
	nextClient  int     // the first that is still waiting
	credit      float64 // connects that the rate allows now
	lastCredit  int64   // when credit was last added to
	opened      int64   // when clients were allowed to connect
	lastScan    int64   // when pending was last looked at for timeouts
	heartbeat   []byte  // the frame

	waited      int64 // nanoseconds in epoll_wait since lastSecond
	lagMost     int64 // the longest read lag since lastSecond
	lastSecond  int64 // when it began; unix nanoseconds, like all times here
	lag         *hdrhistogram.Histogram
	connectTime *hdrhistogram.Histogram
	rejoinTime  *hdrhistogram.Histogram
	stormTime   *hdrhistogram.Histogram
	tally       tally
	queue       runQueue
	left        ByteCount // the kernel's count of clients that have left

	wakeup  wakeup
	cmds    chan func()
	settled chan struct{} // closed when each client has joined or failed
	ended   chan struct{} // closed when the loop is over, after err was set
	err     error

	open     atomic.Bool // clients may connect
	stopping atomic.Bool
	shared   shared
	failures causeCounters
	closes   causeCounters

	laggingCloses causeCounters
	retries       causeCounters
}

// tally is what the loop counts. It is copied to shared once a round.
type tally struct {
	frames, pushes, control, bytes, reads, heartbeats, heldBack, roomChanges int64
}

// shared is what any goroutine may read.
type shared struct {
	connecting, connected, joined                                         atomic.Int64
	accepted, frames, pushes, control, bytes, reads, heartbeats, heldBack atomic.Int64
	away, rejoined, roomChanges, stormBack, stormLast                     atomic.Int64
	busy, starved                                                         atomic.Uint64 // bits of a float64
	cpu, lag                                                              atomic.Int64  // nanoseconds
	duplicate, reordered, missing                                         atomic.Int64
	where                                                                 [ledger.Kinds][states]atomic.Int64
}

const (
	maxEvents   = 512
	fewEvents   = 64 // a round of fewer is followed by a rest of Config.Gather
	scanPeriod  = int64(100 * time.Millisecond)
	connectPoll = int64(10 * time.Millisecond)
	wakeupEvent = -1 // in place of a client's number
)

// run is the thread's life: f of fdtable.Go.
func (t *thread) run(err error) {
	defer close(t.ended)
	if t.err = err; err != nil {
		return
	}
	t.err = t.loop()
}

func (t *thread) loop() error {
	var err error
	if t.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("swarm: make an epoll: %w", err)
	}
	wake := unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeupEvent}
	if err := unix.EpollCtl(t.epfd, unix.EPOLL_CTL_ADD, t.wakeFD, &wake); err != nil {
		return fmt.Errorf("swarm: watch the wakeup: %w", err)
	}
	now := ledger.Now()
	t.lastSecond, t.lastCredit, t.lastScan, t.lastSlow = now, now, now, now
	t.beats = newBeats(t.cfg.Heartbeat, len(t.clients), now)
	t.checkSettled()
	t.queue = openRunQueue()
	defer t.queue.close()
	defer t.closeAll()
	for !t.stopping.Load() {
		n, err := t.poll(now)
		if err != nil {
			return fmt.Errorf("swarm: wait for events: %w", err)
		}
		woken := ledger.Now()
		t.waited += woken - now
		for i := range n {
			t.handle(&t.events[i])
		}
		now = ledger.Now()
		if n > 0 {
			ledger.Record(t.lag, now-woken)
			t.lagMost = max(t.lagMost, now-woken)
		}
		t.turns(now)
		t.slowDue(now)
		t.rooms.due(now, len(t.clients), t.roomTurn)
		t.connectDue(now)
		t.expire(now)
		t.beats.due(now, t.beat)
		t.publish(now)
		if n > 0 && n < fewEvents && t.cfg.Gather > 0 {
			rest := unix.NsecToTimespec(int64(t.cfg.Gather))
			_ = unix.Nanosleep(&rest, nil) // a signal only shortens it
			woken = ledger.Now()
			t.waited += woken - now
			now = woken
		}
	}
	return nil
}

// poll returns the number of events that there are, or waits for the first.
func (t *thread) poll(now int64) (int, error) {
	n, errno := fdtable.Poll(t.epfd, t.events)
	if wait := t.timeout(now); n == 0 && errno == 0 && wait > 0 {
		n, errno = fdtable.Wait(t.epfd, t.events, wait)
	}
	if errno != 0 && errno != unix.EINTR {
		return 0, os.NewSyscallError("epoll_wait", errno)
	}
	return n, nil
}

// closeAll closes the clients' connections. The thread's end would, but only some time
// after Close has returned.
func (t *thread) closeAll() {
	for i := range t.clients {
		t.hangUp(i)
	}
}

// bookOf returns the book that has c's account.
func (t *thread) bookOf(c *client) *ledger.Book {
	if c.behaviour.Lags() {
		return t.lagging
	}
	return t.book
}

// timeout returns how long epoll_wait may sleep, in milliseconds.
func (t *thread) timeout(now int64) int {
	const ms = int64(time.Millisecond)
	due := t.lastSecond + int64(time.Second)
	if t.underWay() > 0 {
		due = min(due, t.lastScan+scanPeriod)
	}
	switch {
	case t.connectWaits():
		due = min(due, t.connectNext(now))
	case t.connects() && t.underWay() == 0: // no event of its own tells when others let it
		due = min(due, now+connectPoll)
	}
	due = min(due, t.beats.soonest(), t.rooms.next(len(t.clients)))
	if len(t.agenda) > 0 {
		due = min(due, t.agenda[0].at)
	}
	if len(t.slow) > 0 {
		due = min(due, t.lastSlow+slowPeriod)
	}
	return int(max(0, (due-now+ms-1)/ms))
}

func (t *thread) handle(e *unix.EpollEvent) {
	if e.Fd == wakeupEvent {
		var b [8]byte
		_, _ = unix.Read(t.wakeFD, b[:])
		t.commands()
		return
	}
	c := &t.clients[e.Fd]
	switch c.state {
	case connecting:
		// The round may still hold an event of the connection that the client had before.
		if e.Events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			t.connectDone(int(e.Fd))
		}
	case joined:
		if c.behaviour == Stalled {
			t.closedByServer(int(e.Fd), e.Events)
			return
		}
		t.take(int(e.Fd), len(t.buf))
	case securing, upgrading, authing:
		t.take(int(e.Fd), len(t.buf))
	}
}

func (t *thread) commands() {
	for {
		select {
		case f := <-t.cmds:
			f()
		default:
			return
		}
	}
}

// A rota gives each client a turn once a period, spread evenly over it, so that none needs a
// timer. The zero rota gives none.
type rota struct {
	period time.Duration // no turns unless it is positive
	from   int64         // when the first period begins
	turns  int64         // given so far, or missed
}

// due gives the turns of n clients that are due.
func (r *rota) due(now int64, n int, turn func(client int)) {
	if r.period <= 0 || n == 0 {
		return
	}
	due := int64(float64(now-r.from) / float64(r.period) * float64(n))
	// After a stall of more than a period, once a client is enough.
	r.turns = max(r.turns, due-int64(n))
	for ; r.turns < due; r.turns++ {
		turn(int(r.turns % int64(n)))
	}
}

// next returns when the next turn of n clients is due.
func (r *rota) next(n int) int64 {
	if r.period <= 0 || n == 0 {
		return math.MaxInt64
	}
	return r.at(r.turns, n)
}

// at returns when a turn, counted from 0, is due where there are n a period.
func (r *rota) at(turn int64, n int) int64 {
	return r.from + int64(float64(turn+1)*float64(r.period)/float64(n))
}

// beat is client i's turn to send a heartbeat.
func (t *thread) beat(i int) {
	if t.clients[i].state == joined && t.send(i, wsBinary, t.heartbeat) {
		t.tally.heartbeats++
	}
}

// send writes payload to client i and says whether the client is still there. A socket
// that is full takes nothing, which heldBack counts; one that takes only a part is dropped,
// since what follows would be read as the rest.
func (t *thread) send(i int, opcode byte, payload []byte) bool {
	c := &t.clients[i]
	t.random = ledger.Scatter(t.random)
	t.out = appendClient(t.out[:0], c.kind.WebSocket(), opcode, payload, uint32(t.random))
	return t.write(i, t.out)
}

func (t *thread) write(i int, b []byte) bool {
	if t.clients[i].kind.TLS() {
		return t.encrypt(i, b)
	}
	switch _, err := send(t.clients[i].fd, b); {
	case errors.Is(err, unix.EAGAIN):
		t.tally.heldBack++
	case err != nil:
		t.drop(i, WriteFailed, err)
		return false
	}
	return true
}

// drop closes client i, which has not joined or lost its connection.
func (t *thread) drop(i int, cause Cause, err error) {
	c := &t.clients[i]
	t.hangUp(i)
	if c.state != joined {
		t.giveUp(i, cause, err)
		return
	}
	t.freePartial(c)
	t.move(c, closed)
	if c.behaviour.Lags() {
		t.bookOf(c).Leave(int(c.account))
		t.laggingCloses.add(cause, t.global(i), err)
		return
	}
	t.closes.add(cause, t.global(i), err)
}

// numbers returns the numbers over all threads of the clients of t.book, by their accounts.
func (t *thread) numbers() []int {
	numbers := make([]int, 0, len(t.clients))
	for i, c := range t.clients {
		if !c.behaviour.Lags() {
			numbers = append(numbers, t.global(i)) // accounts are given in this order
		}
	}
	return numbers
}

// losses returns the first losses of the thread's well-behaved clients.
func (t *thread) losses(plans []ledger.Plan, numbers []int) (list []ClientLoss, err error) {
	losses, err := t.book.Losses(plans, keptLosses)
	for _, l := range losses {
		l.Client = numbers[l.Client]
		list = append(list, ClientLoss(l))
	}
	return list, err
}

// closedByServer takes the end of a stalled client's connection, of which nothing is read.
func (t *thread) closedByServer(i int, events uint32) {
	if events&unix.EPOLLERR != 0 {
		t.drop(i, ServerReset, unix.ECONNRESET)
		return
	}
	t.drop(i, ServerClosed, errEOF)
}

// move takes c to the state to, and counts it there.
func (t *thread) move(c *client, to state) {
	where := &t.shared.where[c.kind]
	where[c.state].Add(-1)
	where[to].Add(1)
	c.state = to
}

// global returns the number of client i over all threads.
func (t *thread) global(i int) int { return t.cfg.global(t.number, i) }

// publish copies the counters to where others may read them, and ends the second when it
// is over.
func (t *thread) publish(now int64) {
	s := &t.shared
	s.accepted.Store(t.book.Accepted())
	disorder := t.book.Disorder()
	s.duplicate.Store(disorder.Duplicate)
	s.reordered.Store(disorder.Reordered)
	s.missing.Store(disorder.Missing)
	s.frames.Store(t.tally.frames)
	s.pushes.Store(t.tally.pushes)
	s.control.Store(t.tally.control)
	s.bytes.Store(t.tally.bytes)
	s.reads.Store(t.tally.reads)
	s.heartbeats.Store(t.tally.heartbeats)
	s.heldBack.Store(t.tally.heldBack)
	s.roomChanges.Store(t.tally.roomChanges)
	passed := now - t.lastSecond
	if passed < int64(time.Second) {
		return
	}
	s.busy.Store(math.Float64bits(min(max(1-float64(t.waited)/float64(passed), 0), 1)))
	s.starved.Store(math.Float64bits(min(float64(t.queue.waited())/float64(passed), 1)))
	s.lag.Store(t.lagMost)
	t.lastSecond, t.waited, t.lagMost = now, 0, 0
	t.book.Rotate()
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &r) == nil {
		s.cpu.Store(r.Utime.Nano() + r.Stime.Nano())
	}
}

// send sends all of b. What a socket takes in part can't be taken back, so that is an error.
func send(fd int32, b []byte) (int, error) {
	switch n, errno := fdtable.Send(fd, b); {
	case errno != 0:
		return 0, fmt.Errorf("send: %w", errno)
	case n < len(b):
		return n, fmt.Errorf("send took %d of %d bytes", n, len(b))
	default:
		return n, nil
	}
}
