package comet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"barrage/server/fdtable"
	"barrage/server/gather"

	"golang.org/x/sys/unix"
)

// A front is where connections come in when sessions are spread over tables of file
// descriptors: it accepts them and reads them until logic has let their sessions in, in the
// process's own table. Then the shard of the session's key takes the connection over into its
// table.
//
// It also watches the tables' epolls, so that a shard without work can sleep like any
// goroutine and isn't held in a system call.
type front struct {
	server *Server
	poller poller
	wake   int // an eventfd: there are tasks, or stop was called
	pidfd  int // this process, to take descriptors out of its table
	doors  map[int]*listener
	tables map[int]*table // by their epolls
	closer *gather.Group[castOff]

	stopping atomic.Bool

	mu    sync.Mutex
	tasks []func() // mu guards; for the front's goroutine
	ended bool     // mu guards; it runs no more
}

// A castOff is a descriptor in the process's table that is to be closed.
type castOff struct {
	fd      int
	session *session // that ends with it; nil for one that has been taken over
}

// newFront makes the front and as many tables as there are shards, which are to run them.
func newFront(s *Server) (f *front, err error) {
	f = &front{server: s, wake: -1, pidfd: -1, doors: make(map[int]*listener), tables: make(map[int]*table)}
	f.closer = gather.New(gather.Bounds{Calls: 1, Items: 256}, nil, func(all []castOff) {
		for _, c := range all {
			if c.session != nil {
				_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
				c.session.gone()
				discardInput(c.fd)
			}
			_ = unix.Close(c.fd)
		}
	})
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
		f.tables[sh.table.poller.epfd] = sh.table
		// Armed by the table, whenever it goes to sleep.
		if err := f.poller.watch(sh.table.poller.epfd, unix.EPOLLONESHOT); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// start runs the shards, each on a thread with a table of its own, and returns when all have
// one. ended is called as each ends.
func (f *front) start(ended func()) error {
	keep, err := fdtable.Shared()
	if err != nil {
		return err
	}
	keep = append(keep, f.pidfd)
	started := make(chan error, len(f.tables))
	for _, t := range f.tables {
		fdtable.Go(keep, func(err error) {
			defer ended()
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

// open lets connections in by l.
func (f *front) open(l *listener) error {
	f.doors[l.fd] = l
	return f.poller.watch(l.fd, unix.EPOLLIN)
}

// loop is the front's goroutine. It ends with stop, and ends those who have come no further.
func (f *front) loop() error {
	defer f.end()
	for !f.stopping.Load() {
		events, err := f.poller.wait(true)
		if err != nil {
			return err
		}
		for i := range events {
			fd := int(events[i].Fd)
			if t := f.tables[fd]; t != nil {
				t.rouse()
			} else if l := f.doors[fd]; l != nil {
				if err := f.accept(l); err != nil {
					return err
				}
			} else if fd == f.wake {
				var b [8]byte
				_, _ = rawRead(f.wake, b[:])
				f.runTasks()
			} else {
				f.poller.read(fd)
			}
		}
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

// run runs task on the front's goroutine, or at once when that has ended.
func (f *front) run(task func()) {
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

func (f *front) rouse() {
	one := [8]byte{1}
	_, _ = unix.Write(f.wake, one[:])
}

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
	f.closer.Stop(time.Second)
	for fd := range f.tables {
		_ = unix.Close(fd)
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
	p.session.server.front.closer.Add(castOff{fd: p.fd, session: p.session})
}

// discardInput reads what the peer has sent, so that closing fd doesn't become a reset, which
// could overtake what was sent to the peer last.
func discardInput(fd int) {
	var b [4 << 10]byte
	for {
		if n, errno := rawRead(fd, b[:]); n == 0 || errno != 0 && errno != unix.EINTR {
			return
		}
	}
}
