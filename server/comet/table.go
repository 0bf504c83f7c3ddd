package comet

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"barrage/server/fdtable"

	"golang.org/x/sys/unix"
)

// A table is a table of file descriptors of its own, with the sockets of one shard's
// sessions. The limit of open files holds for each table, so a comet with enough of them has
// more connections than that. The shard's goroutine is locked to the table's thread; nothing
// else can use the descriptors, and it can use no others.
type table struct {
	shard  *shard
	front  *front
	poller poller
	bell   bell
	tid    int               // of the thread; set once, before the shard's loop
	came   []unix.EpollEvent // that wait has brought
}

// A bell wakes a shard that waits for its table's input.
type bell struct {
	fd     int         // an eventfd, which all tables have
	rung   atomic.Bool // and not heard yet
	asleep atomic.Bool // the shard waits, or is about to
}

// ring wakes the shard, or keeps it from going to sleep. Any thread may call it.
func (b *bell) ring() {
	b.rung.Store(true)
	if b.asleep.CompareAndSwap(true, false) {
		_ = fdtable.Signal(b.fd)
	}
}

// newTable makes what the table shares with the process, before its thread has it.
func newTable(sh *shard, f *front) (*table, error) {
	epfd, err := openEpoll()
	if err != nil {
		return nil, err
	}
	t := &table{shard: sh, front: f, poller: newPoller(epfd), bell: bell{fd: -1}}
	if t.bell.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		t.close()
		return nil, os.NewSyscallError("eventfd", err)
	}
	// By edge: what it counts is never read.
	if err := t.poller.watch(t.bell.fd, unix.EPOLLIN|unix.EPOLLET); err != nil {
		t.close()
		return nil, err
	}
	sh.mailbox.bell = &t.bell
	return t, nil
}

// close closes what newTable made, in the process's table.
func (t *table) close() {
	_ = unix.Close(t.poller.epfd)
	if t.bell.fd >= 0 {
		_ = unix.Close(t.bell.fd)
	}
}

// probe says whether descriptors can be taken over here. It runs on the table's thread.
func (t *table) probe() error {
	fd, err := unix.PidfdGetfd(t.front.pidfd, t.front.wake, 0)
	if err != nil {
		return fmt.Errorf("limit.descriptorTables: take a descriptor from another table (Linux 5.6, and where a sandbox allows it): %w",
			os.NewSyscallError("pidfd_getfd", err))
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// here says whether the caller runs on the table's thread.
func (t *table) here() bool { return unix.Gettid() == t.tid }

// wait returns when there is input, the bell has rung, or most has passed. The input is for poll.
func (t *table) wait(most time.Duration) {
	t.bell.asleep.Store(true)
	if !t.bell.rung.Swap(false) {
		events, err := t.poller.wait(int((most + time.Millisecond - 1) / time.Millisecond))
		if err != nil {
			t.shard.log.Error("wait for a table of descriptors", "err", err)
		}
		t.came = events
	}
	t.bell.asleep.Store(false)
}

// poll reads what has come for the shard's sessions, and reports whether there may be more.
func (t *table) poll() (more bool) {
	events := t.came
	if t.came = nil; events == nil {
		var err error
		if events, err = t.poller.wait(0); err != nil {
			t.shard.log.Error("poll a table of descriptors", "err", err)
			return false
		}
	}
	for i := range events {
		t.poller.read(int(events[i].Fd))
	}
	return len(events) == pollEvents
}

// adopt takes the session's connection over from the front. One that can't be is closed.
func (t *table) adopt(s *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, ok := s.out.stream.(passingStream)
	if s.out.closed || !ok {
		return
	}
	fd, err := t.take(from.fd, s)
	if err != nil {
		why := reasonWriteError
		if errors.Is(err, unix.EMFILE) {
			why = reasonDescriptors
		}
		t.shard.log.Warn("take over a connection", "addr", s.addr, "err", err)
		s.failLocked(why)
		return
	}
	s.out.stream = tableStream{session: s, fd: int32(fd)}
	t.shard.server.aside.run(func() { _ = unix.Close(from.fd) })
}

// take returns a descriptor of this table for what is fd in the process's, which it reads for s.
func (t *table) take(fd int, s *session) (int, error) {
	own, err := unix.PidfdGetfd(t.front.pidfd, fd, 0)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_getfd", err)
	}
	if err := t.poller.add(own, s); err != nil {
		_ = unix.Close(own)
		return -1, err
	}
	return own, nil
}

// tableStream sends on a descriptor of the table of the session's shard.
type tableStream struct {
	session *session
	fd      int32
}

// send writes on the table's own thread. On another, where the descriptor means nothing or
// something else, it takes nothing, and the bytes wait until the shard retries.
func (t tableStream) send(b []byte) (int, error) {
	if !t.session.shard.table.here() {
		return 0, nil
	}
	return fdStream{int(t.fd)}.send(b)
}

// sendChunk is for the shard only, so it doesn't ask on which thread it is.
func (t tableStream) sendChunk(c *chunk) (int, error) { return fdStream{int(t.fd)}.sendChunk(c) }

func (t tableStream) shutdown() {
	if t.session.shard.table.here() {
		fdStream{int(t.fd)}.shutdown()
		return
	}
	t.session.shard.mailbox.put(onTableCommand{t, t.shutdown})
}

// onTableCommand does something with a session's connection on the thread of its table, unless
// the connection has ended meanwhile. The session's mu is held.
type onTableCommand struct {
	stream tableStream
	task   func()
}

func (c onTableCommand) run(*shard) {
	s := c.stream.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out.stream == c.stream {
		c.task()
	}
}

// cutCommand ends all connections of the shard's table.
type cutCommand struct{ done func() }

func (c cutCommand) run(sh *shard) {
	sh.table.poller.endAll()
	c.done()
}
