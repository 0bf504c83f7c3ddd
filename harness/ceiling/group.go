package ceiling

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
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

// accept takes as many connections as the command says: group after group, so that who comes together is together;
// but where there are handshakes to wait for, several at a time. The transports of a group are mixed evenly.
func (s *sender) accept(c acceptCommand) error {
	if err := s.makeGroups(c.Connections); err != nil {
		return err
	}
	each := 1 // who accept for a group
	if c.Secure && len(s.groups) == 1 {
		each = min(handshakes*runtime.NumCPU(), c.Connections)
	}
	parts := len(s.groups) * each
	taken := make([]arrivals, parts)
	done := make(chan error, parts)
	take := func(k int) {
		n := c.Connections*(k+1)/parts - c.Connections*k/parts
		s.groups[k/each].do(func() {
			var err error
			taken[k], err = s.take(n)
			done <- err
		})
	}
	begun := 0
	for ; c.Secure && begun < parts; begun++ {
		go take(begun)
	}
	for range parts {
		if begun < parts {
			take(begun)
			begun++
		}
		if err := <-done; err != nil {
			return err // while others may still wait for clients: the process is of no more use
		}
	}
	for k, g := range s.groups {
		var all arrivals
		for _, part := range taken[k*each : (k+1)*each] {
			for kind := range all {
				all[kind] = append(all[kind], part[kind]...)
			}
		}
		g.sockets = mixed(mixed(all[ledger.TCP], all[ledger.WebSocket]), mixed(all[ledger.TCPTLS], all[ledger.WSS]))
	}
	return nil
}

// arrivals are connections by their transport.
type arrivals [ledger.Kinds][]socket

const (
	// acceptMost is how many connections are taken from a listener before the next one is
	// looked at again: far fewer than its backlog.
	acceptMost = 64

	// handshakes is how many of TLS are under way at a time for each processor, where all sockets are in one
	// table: one that waits for its client leaves the processor to others.
	handshakes = 4
)

// take takes n connections as they come, whichever they are, since one that waits while the
// backlog is full is only tried again a second later.
func (s *sender) take(n int) (arrivals, error) {
	var kinds arrivals
	var polled [ledger.Kinds]unix.PollFd
	for i, fd := range s.listeners {
		polled[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	for left := n; left > 0; {
		if _, err := unix.Poll(polled[:], -1); err != nil && err != unix.EINTR {
			return kinds, fmt.Errorf("wait for connection %d of %d: %w", n-left+1, n, err)
		}
		for i := range polled {
			for tries := min(acceptMost, left); tries > 0 && polled[i].Revents != 0; tries-- {
				fd, _, err := unix.Accept4(s.listeners[i], unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
				if err == unix.EAGAIN {
					break
				}
				if err != nil {
					return kinds, fmt.Errorf("accept connection %d of %d: %w", n-left+1, n, err)
				}
				sock, err := s.prepare(fd, ledger.Kind(i))
				if err != nil {
					return kinds, fmt.Errorf("take connection %d of %d: %w", n-left+1, n, err)
				}
				kinds[i] = append(kinds[i], sock)
				left--
			}
		}
	}
	return kinds, nil
}

// reset has a close reset the connection: it costs a fraction of the farewell of a million
// sockets, and leaves no ports behind that wait for it.
var reset = unix.Linger{Onoff: 1, Linger: 0}

// prepare makes a socket of a new connection, inside TLS once its handshake is over.
func (s *sender) prepare(fd int, kind ledger.Kind) (socket, error) {
	sock := socket{fd: int32(fd), ws: kind.WebSocket()}
	// As servers do: Nagle's algorithm would hold small writes back.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return sock, fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &reset); err != nil {
		return sock, fmt.Errorf("set SO_LINGER: %w", err)
	}
	if !kind.TLS() {
		return sock, nil
	}
	var err error
	sock.tls, err = handshake(sock.fd, s.tls)
	return sock, err
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

// listen returns a non-blocking listener on a port of ip that the kernel chooses.
func listen(ip net.IP) (fd int, addr string, err error) {
	var cfg net.ListenConfig
	cfg.SetMultipathTCP(false)
	l, err := cfg.Listen(context.Background(), "tcp", net.JoinHostPort(ip.String(), "0"))
	if err != nil {
		return -1, "", err
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return -1, "", fmt.Errorf("listen on %v: %w", l.Addr(), err)
	}
	var dup error
	if err := raw.Control(func(own uintptr) { fd, dup = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || dup != nil {
		return -1, "", fmt.Errorf("listen on %v: %w", l.Addr(), errors.Join(err, dup))
	}
	return fd, l.Addr().String(), nil
}
