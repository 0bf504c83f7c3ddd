package comet

import (
	"fmt"
	"os"

	"barrage/server/fdtable"

	"golang.org/x/sys/unix"
)

const (
	// pollEvents bounds the events that a poller takes at a time.
	pollEvents = 256
	// pollBuffer is what a poller reads of one connection at a time.
	pollBuffer = 16 << 10
)

// A poller reads the input of sessions whose descriptors are in one table, with an epoll
// of its own. It belongs to one goroutine.
type poller struct {
	epfd     int
	sessions []*session // by descriptor; nil for what is no session's
	events   []unix.EpollEvent
	buf      []byte
}

func newPoller(epfd int) poller {
	return poller{epfd: epfd, events: make([]unix.EpollEvent, pollEvents), buf: make([]byte, pollBuffer)}
}

// openEpoll makes an epoll.
func openEpoll() (int, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("epoll_create1", err)
	}
	return fd, nil
}

// watch has events of fd reported.
func (p *poller) watch(fd int, events uint32) error {
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, os.NewSyscallError("epoll_ctl", err))
	}
	return nil
}

// add begins to read s on fd.
func (p *poller) add(fd int, s *session) error {
	if err := p.watch(fd, unix.EPOLLIN); err != nil {
		return err
	}
	for len(p.sessions) <= fd {
		p.sessions = append(p.sessions, make([]*session, max(64, len(p.sessions)))...)
	}
	p.sessions[fd] = s
	return nil
}

// remove ends the reading of fd, which stays open. Without it, another descriptor of the same
// connection would keep the epoll watching.
func (p *poller) remove(fd int) {
	p.sessions[fd] = nil
	_ = unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil)
}

// wait returns the events that there are, or waits for the first, so many milliseconds at most,
// or -1 for any. A signal may end the wait.
func (p *poller) wait(ms int) ([]unix.EpollEvent, error) {
	n, errno := 0, unix.Errno(0)
	if ms != 0 {
		n, errno = fdtable.Wait(p.epfd, p.events, ms)
	} else {
		n, errno = fdtable.Poll(p.epfd, p.events)
	}
	switch errno {
	case 0:
		return p.events[:n], nil
	case unix.EINTR:
		return nil, nil
	}
	return nil, os.NewSyscallError("epoll_wait", errno)
}

// read hands the session on fd what has come for it. Where its connection has ended, the
// session has, too, and fd is closed.
func (p *poller) read(fd int) {
	if fd >= len(p.sessions) || p.sessions[fd] == nil {
		return // it ended earlier among the same events
	}
	s := p.sessions[fd]
	n, errno := fdtable.Receive(int32(fd), p.buf)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
	case errno != 0 || n == 0:
		p.end(fd)
	default:
		s.take(p.buf[:n])
	}
}

// end closes the connection on fd.
func (p *poller) end(fd int) {
	s := p.sessions[fd]
	p.remove(fd)
	s.gone() // from here on nothing is written to fd
	_ = unix.Close(fd)
}

// endAll closes all connections.
func (p *poller) endAll() {
	for fd, s := range p.sessions {
		if s != nil {
			p.end(fd)
		}
	}
}

// take is feed for input that may bring a bug to light.
func (s *session) take(b []byte) {
	defer s.closeOnPanic()
	s.feed(b)
}
