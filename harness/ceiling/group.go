package ceiling

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"barrage/server/fdtable"
)

// A group is the connections that are in one table of file descriptors.
type group struct {
	sockets []socket // of whoever sends to them: each at one time belongs to one thread
	work    chan func()
}

// do runs f where the group's descriptors are those of its sockets, and waits for it. A
// group without a channel is in the process's table, and f is run at once.
func (g *group) do(f func()) {
	if g.work == nil {
		f()
		return
	}
	done := make(chan struct{})
	g.work <- func() { f(); close(done) }
	<-done
}

// makeGroups makes room for so many connections. As many as fit are in the process's table.
// More are dealt out to tables of which each has its thread: twice as many at least as there
// are processors, so that a thread that is ahead finds another one to send to.
func (s *sender) makeGroups(connections int) error {
	limit, err := fdtable.Limit()
	if err != nil {
		return err
	}
	room := limit - fdReserve
	if room < 1 {
		return fmt.Errorf("the limit of open files is %d, at least %d is needed: raise it with ulimit -Hn", limit, fdReserve+1)
	}
	if connections <= room {
		s.groups = []*group{{}}
		return nil
	}
	keep, err := fdtable.Shared()
	if err != nil {
		return err
	}
	keep = append(keep, s.listeners[:]...)
	several := 2 * runtime.NumCPU()
	tables := (connections + room - 1) / room
	for range (tables + several - 1) / several * several {
		g := &group{work: make(chan func())}
		started := make(chan error)
		fdtable.Go(keep, func(err error) { // until the process ends, as the connections do
			started <- err
			for err == nil {
				(<-g.work)()
			}
		})
		if err := <-started; err != nil {
			return err
		}
		s.groups = append(s.groups, g)
	}
	return nil
}

// accept takes so many connections, group after group.
func (s *sender) accept(connections int) error {
	if err := s.makeGroups(connections); err != nil {
		return err
	}
	for k, g := range s.groups {
		var err error
		g.do(func() { err = g.accept(s.listeners, connections*(k+1)/len(s.groups)-connections*k/len(s.groups)) })
		if err != nil {
			return err
		}
	}
	return nil
}

// acceptMost is how many connections are taken from a listener before the other one is
// looked at again: far fewer than its backlog.
const acceptMost = 64

// accept takes n connections as they come, whichever they are: one that waits while the
// backlog is full is only tried again a second later.
func (g *group) accept(listeners [2]int, n int) error {
	var kinds [2][]socket
	var polled [2]unix.PollFd
	for i, fd := range listeners {
		polled[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	for left := n; left > 0; {
		if _, err := unix.Poll(polled[:], -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for connection %d of %d: %w", n-left+1, n, err)
		}
		for i := range polled {
			for tries := min(acceptMost, left); tries > 0 && polled[i].Revents != 0; tries-- {
				fd, _, err := unix.Accept4(listeners[i], unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
				if err == unix.EAGAIN {
					break
				}
				if err != nil {
					return fmt.Errorf("accept connection %d of %d: %w", n-left+1, n, err)
				}
				if err := prepare(fd); err != nil {
					return err
				}
				kinds[i] = append(kinds[i], socket{fd: int32(fd), ws: i == 1})
				left--
			}
		}
	}
	g.sockets = mixed(kinds[0], kinds[1])
	return nil
}

// reset has a close reset the connection: it costs a fraction of the farewell of a million
// sockets, and leaves no ports behind that wait for it.
var reset = unix.Linger{Onoff: 1, Linger: 0}

// prepare sets the options of a connection.
func prepare(fd int) error {
	// As servers do: Nagle's algorithm would hold small writes back.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &reset); err != nil {
		return fmt.Errorf("set SO_LINGER: %w", err)
	}
	return nil
}

// mixed returns both lists in one, mixed evenly, as a server's members are.
func mixed(a, b []socket) []socket {
	list := make([]socket, 0, len(a)+len(b))
	for i, j := 0, 0; i < len(a) || j < len(b); {
		if i == len(a) || j < len(b) && (j+1)*len(a) <= (i+1)*len(b) {
			list = append(list, b[j])
			j++
		} else {
			list = append(list, a[i])
			i++
		}
	}
	return list
}

// A part is sockets of one group that one thread at a time sends to.
type part struct {
	group   *group
	sockets []socket
}

// parts returns all sockets in n parts, as far as there are so many, or where they are
// several groups, in a part for each of them.
func (s *sender) parts(n int) []part {
	var list []part
	if len(s.groups) > 1 {
		for _, g := range s.groups {
			list = append(list, part{g, g.sockets})
		}
		return list
	}
	for _, g := range s.groups {
		n = min(n, len(g.sockets))
		for k := range n {
			list = append(list, part{g, g.sockets[len(g.sockets)*k/n : len(g.sockets)*(k+1)/n]})
		}
	}
	return list
}

// share runs f once for each of the parts, at most threads of them at a time, each where
// its sockets are.
func share(threads int, parts []part, f func(k int)) {
	var claimed atomic.Int64
	onThreads(min(threads, len(parts)), func() {
		for {
			k := int(claimed.Add(1)) - 1
			if k >= len(parts) {
				return
			}
			parts[k].group.do(func() { f(k) })
		}
	})
}

// onThreads runs f n times at once, each on an OS thread, and waits for them.
func onThreads(n int, f func()) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			f()
		})
	}
	wg.Wait()
}

// flush sends what the kernel did not take of the last writes.
func (s *sender) flush() error {
	const patience = 10 * time.Second // without any progress
	deadline, least := time.Now().Add(patience), 0
	for turn := 0; ; turn++ {
		left := 0
		for _, g := range s.groups {
			g.do(func() {
				for i := range g.sockets {
					if !g.sockets[i].sendRest() {
						left++
					}
				}
			})
		}
		switch {
		case left == 0:
			return nil
		case turn == 0 || left < least:
			deadline, least = time.Now().Add(patience), left
		case time.Now().After(deadline):
			return fmt.Errorf("%d sockets are still full after %s: the receiving side doesn't keep up", left, patience)
		}
		time.Sleep(time.Millisecond)
	}
}

// listen returns a non-blocking listener on a port of 127.0.0.1 that the kernel chooses.
func listen() (fd int, addr string, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		return -1, "", fmt.Errorf("listen on 127.0.0.1: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return -1, "", fmt.Errorf("listen on 127.0.0.1: %w", err)
	}
	in4, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return -1, "", fmt.Errorf("listen on 127.0.0.1: bound to %T", name)
	}
	return fd, netip.AddrPortFrom(netip.AddrFrom4(in4.Addr), uint16(in4.Port)).String(), nil
}
