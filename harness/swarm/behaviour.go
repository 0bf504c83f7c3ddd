package swarm

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// A Behaviour is how a client behaves once it has joined.
type Behaviour uint8

// The behaviours.
const (
	WellBehaved Behaviour = iota
	SlowReader            // reads Behaviours.SlowRate bytes a second
	Stalled               // never reads, and goes on to send heartbeats
	Churning              // leaves, and comes back
	HalfOpen              // vanishes: what the server sends is neither read nor acknowledged
	behaviours
)

// String returns the behaviour's name as reports show it.
func (b Behaviour) String() string {
	return [behaviours]string{"well_behaved", "slow", "stalled", "churn", "half_open"}[b]
}

// Lags says whether the behaviour may make the server skip frames: what such clients are
// owed is accounted apart.
func (b Behaviour) Lags() bool { return b == SlowReader || b == Stalled }

// Behaviours are the numbers of the behaviours. A client that leaves is owed what was pushed
// up to the last push that it received, and one that comes back what follows the first.
type Behaviours struct {
	SlowRate      int           // bytes a second, of each slow client
	ChurnLives    time.Duration // mean of what a churning client stays; exponentially distributed, like all of these
	ChurnAway     time.Duration // and is away
	HalfOpenLives time.Duration // mean of what a half-open client stays before it vanishes
	RoomChange    time.Duration // period of a client's changes of room, for clients that have an Other; 0 for none
}

// flags of a client.
const (
	flagBack     = 1 << iota // it has joined before: what it does now is no part of Connect
	flagOther                // it is in Client.Other's room
	flagChanging             // it has asked to change rooms, and has no answer yet
	flagStorm                // a storm took its connection
)

// A turn is something that a client is to do at a time.
type turn struct {
	at     int64
	client int32
}

// agenda is the turns of a thread's clients that leave and return, the earliest first. What
// a client does follows from its state: one that has joined leaves or vanishes, and one that
// is away comes back.
type agenda []turn

// Len, Less, Swap, Push and Pop make it a heap.
func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at < a[j].at }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }

// Push adds a turn.
func (a *agenda) Push(x any) {
	if t, ok := x.(turn); ok {
		*a = append(*a, t)
	}
}

// Pop takes the last one off.
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// later enters client i for a turn after a drawn time.
func (t *thread) later(i int, mean time.Duration) {
	heap.Push(&t.agenda, turn{ledger.Now() + int64(rand.ExpFloat64()*float64(mean)), int32(i)})
}

// settleIn starts what client i does now that it has joined.
func (t *thread) settleIn(i int) {
	c := &t.clients[i]
	b := &t.cfg.Behaviours
	var err error
	switch c.behaviour {
	case SlowReader:
		// Its turns to read come by the clock, not by epoll.
		err = unix.EpollCtl(t.epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
		t.slow = append(t.slow, slowReader{client: int32(i)})
	case Stalled:
		err = unix.EpollCtl(t.epfd, unix.EPOLL_CTL_MOD, int(c.fd), &unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: int32(i)})
	case Churning:
		t.later(i, b.ChurnLives)
	case HalfOpen:
		t.later(i, b.HalfOpenLives)
	}
	if err != nil {
		t.drop(i, ReadFailed, fmt.Errorf("stop to watch the socket: %w", err))
	}
}

// turns lets the clients act whose time has come.
func (t *thread) turns(now int64) {
	for len(t.agenda) > 0 && t.agenda[0].at <= now {
		next, ok := heap.Pop(&t.agenda).(turn)
		if !ok {
			return
		}
		switch c := &t.clients[next.client]; {
		case c.state == joined && c.behaviour == Churning:
			t.leave(int(next.client), false)
			t.later(int(next.client), t.cfg.Behaviours.ChurnAway)
		case c.state == joined && c.behaviour == HalfOpen:
			t.vanish(int(next.client))
		case c.state == away:
			t.connect(int(next.client), now)
		}
	}
}

// leave closes client i's connection: with a FIN, or with a RST. It may come back.
func (t *thread) leave(i int, reset bool) {
	c := &t.clients[i]
	if reset {
		// Without it, or where it fails, the kernel sends a FIN.
		_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	t.hangUp(i)
	t.freePartial(c)
	t.move(c, away)
	c.flags &^= flagOther | flagChanging
	t.bookOf(c).Leave(int(c.account))
	t.shared.away.Add(1)
}

// vanish makes client i deaf and mute for good: a filter drops what its socket receives
// before TCP sees it, so that the server hears nothing any more, not even a RST.
func (t *thread) vanish(i int) {
	c := &t.clients[i]
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	err := unix.SetsockoptSockFprog(int(c.fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	if err == nil {
		err = unix.EpollCtl(t.epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	}
	if err != nil {
		t.drop(i, ReadFailed, fmt.Errorf("make the client vanish: %w", err))
		return
	}
	t.freePartial(c)
	t.move(c, vanished)
	t.bookOf(c).Leave(int(c.account))
}

// How long a client that could not come back waits until it tries again: at least, and at
// most as much again.
const retryAfter = time.Second

// tryAgain enters a client that could not come back for another attempt.
func (t *thread) tryAgain(i int, cause Cause, err error) {
	t.retries.add(cause, t.global(i), err)
	t.move(&t.clients[i], away)
	heap.Push(&t.agenda, turn{ledger.Now() + int64(retryAfter) + rand.Int64N(int64(retryAfter)), int32(i)})
}

// slowReader is a client that reads by the clock.
type slowReader struct {
	client int32
	budget float64 // bytes that it may read now
}

// slowPeriod is how often slow clients read.
const slowPeriod = int64(100 * time.Millisecond)

// slowDue lets the slow clients read what their rate allows.
func (t *thread) slowDue(now int64) {
	passed := now - t.lastSlow
	if len(t.slow) == 0 || passed < slowPeriod {
		return
	}
	t.lastSlow = now
	rate := float64(t.cfg.Behaviours.SlowRate)
	keep := t.slow[:0]
	for _, s := range t.slow {
		if t.clients[s.client].state != joined {
			continue // it has lost the connection
		}
		// What it did not read in a second it doesn't make up for.
		s.budget = min(s.budget+rate*float64(passed)/1e9, max(rate, 1))
		if s.budget >= 1 {
			s.budget -= float64(t.take(int(s.client), int(min(s.budget, math.MaxInt32))))
		}
		keep = append(keep, s)
	}
	t.slow = keep
}

// roomTurn is client i's turn to change rooms.
func (t *thread) roomTurn(i int) {
	if c := &t.clients[i]; c.state == joined && c.flags&flagChanging == 0 && c.behaviour != Stalled {
		t.changeRoom(i)
	}
}

// changeRoom asks the server to put client i into its other room, or back.
func (t *thread) changeRoom(i int) {
	c := &t.clients[i]
	about := t.cfg.Client(t.global(i))
	if about.Other == nil {
		return
	}
	room, from, to := about.OtherRoom, about.Home, about.Other
	if c.flags&flagOther != 0 {
		room, from, to = about.Room, about.Other, about.Home
	}
	frame := wire.AppendFrame(nil, wire.Frame{Ver: wire.Version, Op: wire.OpChangeRoom, Body: []byte(room)})
	heldBack := t.tally.heldBack
	if !t.send(i, wsBinary, frame) || t.tally.heldBack > heldBack {
		return // in the latter case its next turn is another try
	}
	c.flags ^= flagOther
	c.flags |= flagChanging
	t.bookOf(c).Move(int(c.account), from, to)
	t.tally.roomChanges++
}
