package comet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"barrage/server/fdtable"

	"golang.org/x/sys/unix"
)

// A front is where connections come in when sessions are spread over tables of file
// descriptors: it accepts them and reads them until logic has let their sessions in, in the
// process's own table. Then the shard of the session's key takes the connection over into its
// table.
type front struct {
	server *Server
	poller poller
	wake   int // an eventfd: there are tasks, or stop was called
	pidfd  int // this process, to take descriptors out of its table
	doors  map[int]*listener
	tables []*table

	stopping atomic.Bool

	mu    sync.Mutex
	tasks []func() // mu guards; for the front's goroutine
	ended bool     // mu guards; it runs no more
}

// newFront makes the front and as many tables as there are shards, which are to run them.
func newFront(s *Server) (f *front, err error) {
	f = &front{server: s, wake: -1, pidfd: -1, doors: make(map[int]*listener)}
	epfd, err := openEpoll()
	if err != nil {
		return nil, err
	}
	f.poller = newPoller(epfd)
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	if err := f.poller.watch(f.wake, unix.EPOLLIN); err != nil {
		return nil, err
	}
	if f.pidfd, err = unix.PidfdOpen(os.Getpid(), 0); err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	for _, sh := range s.shards {
		if sh.table, err = newTable(sh, f); err != nil {
			return nil, err
		}
		f.tables = append(f.tables, sh.table)
	}
	return f, nil
}

// serve runs the shards in their tables, and accepts and reads connections.
func (f *front) serve(shards, pollers *sync.WaitGroup, failed chan<- error) error {
	// Each shard has a place of its own in Go's scheduler, since it holds one for a while when it
	// waits for input; the kernel deals out the processors.
	if n := processors(); runtime.GOMAXPROCS(0) == n && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(n + 1 + len(f.tables))
	}
	fdtable.CalmMonitor()
	if err := f.start(shards); err != nil {
		return fmt.Errorf("start tables of descriptors: %w", err)
	}
	for _, l := range f.server.listeners {
		f.doors[l.fd] = l
		if err := f.poller.watch(l.fd, unix.EPOLLIN); err != nil {
			return fmt.Errorf("serve %v: %w", l.addr, err)
		}
	}
	pollers.Go(func() {
		if err := f.loop(); err != nil {
			failed <- err
		}
	})
	return nil
}

// start runs the shards, each on a thread with a table of its own, and returns when all have
// one.
func (f *front) start(shards *sync.WaitGroup) error {
	keep, err := fdtable.Shared()
	if err != nil {
		return err
	}
	keep = append(keep, f.pidfd)
	started := make(chan error, len(f.tables))
	for _, t := range f.tables {
		shards.Add(1)
		fdtable.Go(keep, func(err error) {
			defer shards.Done()
			if err == nil {
				t.tid = unix.Gettid()
				err = t.probe()
			}
			started <- err
			if err == nil {
				t.shard.loop()
			}
		})
	}
	for range f.tables {
		if e := <-started; e != nil {
			err = e
		}
	}
	if err != nil {
		for _, t := range f.tables {
			t.shard.mailbox.put(stopCommand{})
		}
	}
	return err
}

// loop is the front's goroutine. It ends with stop, and ends those who have come no further.
func (f *front) loop() error {
	defer f.end()
	for !f.stopping.Load() {
		events, err := f.poller.wait(-1)
		if err != nil {
			return err
		}
		for i := range events {
			if err := f.event(int(events[i].Fd)); err != nil {
				return err
			}
		}
	}
	return nil
}

// event does what there is to do on fd.
func (f *front) event(fd int) error {
	switch {
	case fd == f.wake:
		var b [8]byte
		_, _ = unix.Read(fd, b[:])
		f.runTasks()
	case f.doors[fd] != nil:
		return f.accept(f.doors[fd])
	default:
		f.poller.read(fd)
	}
	return nil
}

// acceptAtOnce bounds the connections that are accepted before those that there are get their
// turn.
const acceptAtOnce = 256

func (f *front) accept(l *listener) error {
	for range acceptAtOnce {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			_ = unix.EpollCtl(f.poller.epfd, unix.EPOLL_CTL_DEL, l.fd, nil)
			return nil
		case err != nil:
			return fmt.Errorf("accept on %v: %w", l.addr, err)
		case conn == nil:
			return nil
		}
		a := conn.(*accepted)
		ss := f.server.newSession(a.client, l.websocket, fdStream{a.fd})
		if err := f.poller.add(a.fd, ss); err != nil {
			f.server.log.Error("read a connection", "err", err)
			ss.gone()
			_ = unix.Close(a.fd)
		}
	}
	return nil
}

// run runs task on the front's goroutine, or at once where that has ended or there is no front.
func (f *front) run(task func()) {
	if f == nil {
		task()
		return
	}
	f.mu.Lock()
	ended, first := f.ended, len(f.tasks) == 0
	if !ended {
		f.tasks = append(f.tasks, task)
	}
	f.mu.Unlock()
	switch {
	case ended:
		task()
	case first:
		f.rouse()
	}
}

func (f *front) runTasks() {
	f.mu.Lock()
	tasks := f.tasks
	f.tasks = nil
	f.mu.Unlock()
	for _, task := range tasks {
		task()
	}
}

// end closes the connections that no shard has taken over.
func (f *front) end() {
	f.poller.endAll()
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.runTasks()
}

// passLocked takes the session's connection out of the poller: what comes next is for its
// shard. It is called on the front's goroutine, for a session that isn't closed, with its mu
// held.
func (f *front) passLocked(s *session) {
	on := s.out.stream.(fdStream)
	f.poller.remove(on.fd)
	s.out.stream = passingStream{fdStream: on, session: s}
}

// stop ends loop.
func (f *front) stop() {
	f.stopping.Store(true)
	f.rouse()
}

func (f *front) rouse() { _ = fdtable.Signal(f.wake) }

// cut ends all connections in the tables, when no new ones come.
func (f *front) cut() {
	var cut sync.WaitGroup
	for _, t := range f.tables {
		cut.Add(1)
		t.shard.mailbox.put(cutCommand{cut.Done})
	}
	cut.Wait()
}

// close ends what newFront made, when nothing runs any more.
func (f *front) close() {
	for _, t := range f.tables {
		t.close()
	}
	for _, fd := range []int{f.poller.epfd, f.wake, f.pidfd} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// passingStream sends on a descriptor of the process's table that nobody reads, between the
// front and the shard's table.
type passingStream struct {
	fdStream
	session *session
}

// shutdown has the connection closed, as no poller will. It may be called on a thread with
// another table.
func (p passingStream) shutdown() {
	p.session.server.aside.run(func() {
		p.fdStream.shutdown()
		p.session.gone()
		discardInput(p.fd)
		_ = unix.Close(p.fd)
	})
}

// discardInput reads what the peer has sent, so that closing fd doesn't become a reset, which
// could overtake what was sent to the peer last.
func discardInput(fd int) {
	var b [4 << 10]byte
	for {
		if n, errno := fdtable.Receive(int32(fd), b[:]); n == 0 || errno != 0 && errno != unix.EINTR {
			return
		}
	}
}
