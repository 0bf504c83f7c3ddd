package swarm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// pending is a client on its way from connect(2) to joined.
type pending struct {
	client  int // or -1
	started int64
	progress
	kept []byte // what must be decoded again with what follows, or the HTTP answer so far; its space is reused
}

var (
	errEOF       = errors.New("end of file")
	errSlowLogin = errors.New("not joined in time")
)

// connectWaits says whether a client waits for the rate alone to let it connect.
func (t *thread) connectWaits() bool {
	return t.connects() && t.slotsLeft() >= t.burst(t.lastCredit)
}

// connects says whether it is the thread's turn to connect clients.
func (t *thread) connects() bool {
	return t.open.Load() && t.relay.runs(t.number) && t.nextClient < len(t.clients)
}

// slotsLeft returns how many more clients may be under way: of this thread's, and while it follows
// another, of all.
func (t *thread) slotsLeft() int {
	return min(t.cfg.slots()-t.underWay(), max(t.cfg.ConnectPending, t.cfg.Threads)-int(t.relay.underWay.Load()))
}

// underWay returns how many clients are.
func (t *thread) underWay() int { return len(t.pending) - len(t.freePending) }

// A relay says which threads may connect clients: so many that are not through with their own, in
// the order of their numbers.
type relay struct {
	threads []*thread
	abreast int
	through atomic.Int32

	underWay atomic.Int32 // clients of all threads
}

func (r *relay) runs(thread int) bool { return thread < int(r.through.Load())+r.abreast }

// pass says that a thread has begun the connects of all of its clients.
func (r *relay) pass() {
	if next := int(r.through.Add(1)) + r.abreast - 1; next < len(r.threads) {
		r.threads[next].wakeup.signal()
	}
}

// burst returns how many clients the thread connects at a time: as many of a run as the rate
// of all threads lets connect in 20 ms.
func (t *thread) burst(now int64) int {
	return max(1, min(t.cfg.run, longestRun, t.cfg.slots()/2, int(t.connectRate(now)*0.02)))
}

// connectNext returns when the rate lets the thread connect again.
func (t *thread) connectNext(now int64) int64 {
	rate := t.connectRate(now) / float64(t.cfg.abreast)
	return now + int64((float64(t.burst(now))-t.credit)/rate*1e9)
}

// connectDue starts the connects that the rate and the bound on pending ones allow.
func (t *thread) connectDue(now int64) {
	if !t.open.Load() {
		// The threads' bursts follow each other.
		t.credit = float64(t.burst(now)*(t.number%t.cfg.abreast)) / float64(t.cfg.abreast)
		t.lastCredit, t.opened = now, now
		return
	}
	burst := float64(t.burst(now))
	rate := t.connectRate(now) / float64(t.cfg.abreast)
	t.credit += rate * float64(now-t.lastCredit) / 1e9
	t.lastCredit = now
	if t.credit < burst || !t.connectWaits() {
		t.credit = min(t.credit, burst)
		return
	}
	// A stall is not made up for by a burst of more than 20 ms.
	t.credit = min(t.credit, max(burst, rate*0.02))
	for ; t.credit >= 1 && t.nextClient < len(t.clients) && t.slotsLeft() > 0; t.credit-- {
		t.connect(t.nextClient, now)
		t.nextClient++
	}
	if t.nextClient == len(t.clients) {
		t.relay.pass()
	}
}

// connectRate returns how many connects a second are allowed now, over all threads.
func (t *thread) connectRate(now int64) float64 {
	most := float64(t.cfg.ConnectRate)
	passed := float64(now-t.opened) / float64(t.cfg.ConnectOver)
	if t.cfg.ConnectOver <= 0 || passed >= 1 {
		return most
	}
	from := float64(t.cfg.ConnectFrom)
	return from + (most-from)*passed
}

// connect starts client i's connection.
func (t *thread) connect(i int, now int64) {
	c := &t.clients[i]
	if len(t.freePending) == 0 {
		t.freePending = append(t.freePending, int32(len(t.pending)))
		t.pending = append(t.pending, pending{client: -1})
	}
	last := len(t.freePending) - 1
	c.slot = t.freePending[last]
	t.freePending = t.freePending[:last]
	t.relay.underWay.Add(1)
	p := &t.pending[c.slot]
	*p = pending{client: i, started: now, kept: p.kept[:0]}
	t.move(c, connecting)
	if c.flags&flagBack == 0 {
		t.shared.connecting.Add(1)
	}

	fd, done, err := t.dial(i)
	if err != nil {
		t.drop(i, connectCause(err), err)
		return
	}
	c.fd = int32(fd)
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
	if !done {
		e.Events = unix.EPOLLOUT
	}
	if err := unix.EpollCtl(t.epfd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		t.drop(i, ConnectFailed, fmt.Errorf("watch the socket: %w", err))
		return
	}
	if done {
		t.connected(i)
	}
}

// dial tries the source addresses from client i's on until one has a port left.
func (t *thread) dial(i int) (fd int, done bool, err error) {
	c := &t.clients[i]
	to := &t.addrs.targets[c.kind][c.target]
	locals := t.addrs.locals
	if len(locals) == 0 {
		return dial(to, nil, t.cfg.ReceiveBuffer)
	}
	const tries = 4
	for try := range min(tries, len(locals)) {
		fd, done, err = dial(to, &locals[(t.global(i)+try)%len(locals)], t.cfg.ReceiveBuffer)
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fd, done, err
		}
	}
	return fd, done, err
}

func connectCause(err error) Cause {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return ConnectRefused
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return NoLocalPort
	case errors.Is(err, unix.EMFILE):
		return NoDescriptor
	}
	return ConnectFailed
}

// connectDone takes the result of connect(2).
func (t *thread) connectDone(i int) {
	c := &t.clients[i]
	value, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && value != 0 {
		err = unix.Errno(value)
	}
	if err != nil {
		err = fmt.Errorf("connect to %s: %w", t.addrs.targets[c.kind][c.target].host, err)
		t.drop(i, connectCause(err), err)
		return
	}
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
	if err := unix.EpollCtl(t.epfd, unix.EPOLL_CTL_MOD, int(c.fd), &e); err != nil {
		t.drop(i, ConnectFailed, fmt.Errorf("watch the socket: %w", err))
		return
	}
	t.connected(i)
}

// connected says the first words of client i.
func (t *thread) connected(i int) {
	c := &t.clients[i]
	if c.flags&flagBack == 0 {
		t.shared.connecting.Add(-1)
		t.shared.connected.Add(1)
	}
	if c.kind.TLS() {
		t.startTLS(i)
	} else {
		t.greet(i)
	}
}

// greet says the first words that are the protocol's, where there are any, and whether the client is still there.
func (t *thread) greet(i int) bool {
	c := &t.clients[i]
	if t.cfg.Raw {
		t.move(c, authing)
		t.join(i)
		return true
	}
	if !c.kind.WebSocket() {
		return t.login(i)
	}
	t.move(c, upgrading)
	t.out = appendUpgrade(t.out[:0], t.addrs.targets[c.kind][c.target].host, wsKey(t.keySeed, t.global(i)))
	return t.write(i, t.out)
}

// upgraded takes the answer to an upgrade off in, and says whether it is complete and good.
func (t *thread) upgraded(i int, in *[]byte) bool {
	c := &t.clients[i]
	n, err := parseUpgrade(*in, wsAccept(wsKey(t.keySeed, t.global(i))))
	if err != nil {
		t.drop(i, UpgradeRefused, err)
		return false
	}
	p := &t.pending[c.slot]
	if n == 0 {
		p.kept = append(p.kept[:0], *in...)
		return false
	}
	p.kept = p.kept[:0]
	*in = (*in)[n:]
	return t.login(i)
}

// login sends client i's token, and says whether the client is still there.
func (t *thread) login(i int) bool {
	t.move(&t.clients[i], authing)
	return t.send(i, wsBinary, appendAuth(nil, t.cfg.Client(t.global(i))))
}

// reply takes a frame that is no push.
func (t *thread) reply(i int) {
	switch c := &t.clients[i]; {
	case t.dec.op == wire.OpAuthReply && c.state == authing:
		t.join(i)
	case t.dec.op == wire.OpChangeRoomReply && c.flags&flagChanging != 0:
		c.flags &^= flagChanging
		t.bookOf(c).Moved(int(c.account))
	}
}

// join says that client i has come all the way.
func (t *thread) join(i int) {
	c := &t.clients[i]
	now := ledger.Now()
	took := now - t.pending[c.slot].started
	t.release(c)
	t.move(c, joined)
	var home *ledger.Subscription
	if t.cfg.Behaviours.RoomChange > 0 {
		home = t.cfg.Client(t.global(i)).Home
	}
	t.bookOf(c).Join(int(c.account), home)
	if c.flags&flagBack == 0 {
		c.flags |= flagBack
		t.beats.enter(i, uint64(t.global(i)), now)
		ledger.Record(t.connectTime, took)
		t.shared.connected.Add(-1)
		t.shared.joined.Add(1)
		t.checkSettled()
	} else {
		if c.flags&flagStorm != 0 {
			t.backFromStorm(c, took, now)
		} else {
			ledger.Record(t.rejoinTime, took)
		}
		t.shared.away.Add(-1)
		t.shared.rejoined.Add(1)
	}
	if c.behaviour != WellBehaved {
		t.settleIn(i)
	}
}

// giveUp records that client i is not going to join.
func (t *thread) giveUp(i int, cause Cause, err error) {
	c := &t.clients[i]
	t.release(c)
	switch {
	case c.flags&flagBack != 0:
		t.tryAgain(i, cause, err)
		return
	case c.state == connecting:
		t.shared.connecting.Add(-1)
	default:
		t.shared.connected.Add(-1)
	}
	t.move(c, failed)
	t.failures.add(cause, t.global(i), err)
	t.checkSettled()
}

func (t *thread) release(c *client) {
	t.relay.underWay.Add(-1)
	t.pending[c.slot].client = -1
	t.freePending = append(t.freePending, c.slot)
	c.slot = -1
	if t.nextClient == len(t.clients) && t.underWay() == 0 {
		t.pending, t.freePending = nil, nil
	}
}

func (t *thread) checkSettled() {
	if t.shared.joined.Load()+t.failures.total() == int64(len(t.clients)) {
		close(t.settled)
	}
}

// expire gives up the clients that are too long on their way.
func (t *thread) expire(now int64) {
	if now-t.lastScan < scanPeriod {
		return
	}
	t.lastScan = now
	pending := t.pending // release may let go of it
	for k := range pending {
		p := &pending[k]
		if p.client < 0 || now-p.started < int64(t.cfg.ConnectTimeout) {
			continue
		}
		stage := map[state]string{connecting: "connecting", securing: "in the TLS handshake", upgrading: "waiting for the upgrade", authing: "waiting for the auth reply"}
		t.drop(p.client, JoinTimeout, fmt.Errorf("%w: still %s after %s", errSlowLogin, stage[t.clients[p.client].state], t.cfg.ConnectTimeout))
	}
}

// closeError says what a close frame with payload means (RFC 6455 section 5.5.1).
func closeError(payload []byte) error {
	if len(payload) < 2 {
		return errors.New("close frame without a status")
	}
	return fmt.Errorf("close frame with status %d %q", binary.BigEndian.Uint16(payload), payload[2:])
}
