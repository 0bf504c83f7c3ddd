package selftest

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A Server speaks goim's protocol to clients over TCP and WebSocket, takes pushes to rooms
// over HTTP, and hands them on with the faults of a Plan. It shares no code with what it
// is to check: neither the codec nor the stamps' form nor the clock.
//
// One OS thread does it all, woken by a timer of the kernel's, so that what is due is
// written within some tens of microseconds on a machine that has a processor for it. When
// that was is stamped, so that the plan need not be believed.
type Server struct {
	TCP, WS, Push string // addresses

	plan     Plan
	epfd     int
	timer    int // timerfd
	quit     int // eventfd
	conns    map[int32]*conn
	rooms    map[string][]*conn
	stormed  int
	start    int64   // intended time of the first push; unix nanoseconds, like all times here
	queue    []push  // to be delivered, by due, those of one time in the order of their arrival
	untaken  []*conn // with a request that is not taken before the stall's end
	did      Did
	buf      []byte
	out      []byte
	ended    chan struct{}
	failed   error // set before ended is closed
	tick     bool  // something wants the thread every few milliseconds
	nextTick int64
}

// A push is one that is to be delivered.
type push struct {
	due      int64
	intended int64
	stream   uint16
	seq      uint32
	room     string
	frame    []byte // as TCP clients get it
}

// StartServer starts a server on ports of 127.0.0.1 that the kernel chooses.
func StartServer(plan Plan) (*Server, error) {
	s := &Server{
		plan: plan, epfd: -1, timer: -1, quit: -1, conns: map[int32]*conn{}, rooms: map[string][]*conn{},
		buf: make([]byte, 256<<10), ended: make(chan struct{}),
	}
	if err := s.open(); err != nil {
		s.close()
		if s.quit >= 0 {
			_ = unix.Close(s.quit)
		}
		return nil, fmt.Errorf("selftest server: %w", err)
	}
	go s.run()
	return s, nil
}

// Stop ends the server and returns what it did.
func (s *Server) Stop() (*Did, error) {
	one := [8]byte{1} // any value but 0 wakes
	_, err := unix.Write(s.quit, one[:])
	if err != nil {
		return nil, fmt.Errorf("selftest server: stop: %w", err)
	}
	<-s.ended
	_ = unix.Close(s.quit)
	if s.failed != nil {
		return nil, fmt.Errorf("selftest server: %w", s.failed)
	}
	slices.Sort(s.did.Latencies)
	return &s.did, nil
}

func (s *Server) open() error {
	var err error
	if s.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("make an epoll: %w", err)
	}
	if s.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return fmt.Errorf("make a timer: %w", err)
	}
	if s.quit, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make an eventfd: %w", err)
	}
	for _, fd := range []int{s.timer, s.quit} {
		if err := s.watch(fd); err != nil {
			return err
		}
	}
	for _, l := range []struct {
		role role
		addr *string
	}{{listenTCP, &s.TCP}, {listenWS, &s.WS}, {listenPush, &s.Push}} {
		fd, addr, err := listen()
		if err != nil {
			return err
		}
		*l.addr = addr
		s.conns[int32(fd)] = &conn{fd: int32(fd), role: l.role}
		if err := s.watch(fd); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) watch(fd int) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("watch a descriptor: %w", err)
	}
	return nil
}

func (s *Server) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(s.ended)
	defer s.close()
	events := make([]unix.EpollEvent, 512)
	for {
		n, err := unix.EpollWait(s.epfd, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			s.failed = fmt.Errorf("wait for events: %w", err)
			return
		}
		for _, e := range events[:max(n, 0)] {
			switch e.Fd {
			case int32(s.quit):
				return
			case int32(s.timer):
				_, _ = unix.Read(s.timer, s.buf[:8])
			default:
				if c := s.conns[e.Fd]; c != nil {
					s.ready(c, e.Events)
				}
			}
			// Nothing that is due waits for the rest of the events.
			s.deliverDue()
		}
		s.deliverDue()
		if err := s.setTimer(); err != nil {
			s.failed = err
			return
		}
	}
}

func (s *Server) close() {
	for fd := range s.conns {
		_ = unix.Close(int(fd))
	}
	for _, fd := range []int{s.epfd, s.timer} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	// quit stays open: Stop still writes to it.
}

// now is the clock of day. The harness' clock starts from it and then only goes forward:
// they are the same unless it is set meanwhile, which the harness finds out.
func now() int64 { return time.Now().UnixNano() }

// stormPeriod is how often the answers to pings are looked after.
const stormPeriod = int64(5 * time.Millisecond)

// setTimer sets the timer to what is due next.
func (s *Server) setTimer() error {
	due := int64(-1)
	sooner := func(at int64) {
		if due < 0 || at < due {
			due = at
		}
	}
	if len(s.queue) > 0 {
		sooner(s.queue[0].due)
	}
	if len(s.untaken) > 0 {
		sooner(s.stallEnd())
	}
	if s.tick {
		sooner(s.nextTick)
	}
	var spec unix.ItimerSpec // zero disarms it
	if due >= 0 {
		spec.Value = unix.NsecToTimespec(max(1, due-now()))
	}
	if err := unix.TimerfdSettime(s.timer, 0, &spec, nil); err != nil {
		return fmt.Errorf("set the timer: %w", err)
	}
	return nil
}

// stalled says whether at lies in the stall.
func (s *Server) stalled(at int64) bool {
	stall := s.plan.Stall
	return s.start != 0 && at >= s.start+int64(stall.From) && at < s.stallEnd()
}

func (s *Server) stallEnd() int64 { return s.start + int64(s.plan.Stall.To) }

// take enters a push that arrived.
func (s *Server) take(p push) {
	s.did.Pushes++
	p.due = max(now(), p.intended+int64(s.plan.Delay))
	if s.stalled(p.due) {
		p.due = s.stallEnd()
	}
	i := len(s.queue)
	for i > 0 && s.queue[i-1].due > p.due {
		i--
	}
	s.queue = slices.Insert(s.queue, i, p)
}

func (s *Server) deliverDue() {
	for len(s.queue) > 0 && s.queue[0].due <= now() {
		p := s.queue[0]
		s.queue = s.queue[1:]
		s.deliver(p)
	}
	if len(s.untaken) > 0 && !s.stalled(now()) {
		list := s.untaken
		s.untaken = nil
		for _, c := range list {
			s.requests(c)
		}
	}
	if s.tick && now() >= s.nextTick {
		s.nextTick = now() + stormPeriod
		s.stormAgain()
	}
}

// deliver hands a push to its room.
func (s *Server) deliver(p push) {
	for _, c := range s.rooms[p.room] {
		fault := Deliver
		if s.plan.Fault != nil {
			fault = s.plan.Fault(c.number, p.seq)
		}
		s.did.Faults[fault]++
		switch fault {
		case Drop:
			continue
		case Swap:
			c.behind = append(c.behind, p)
			continue
		}
		s.first(c, p)
		switch fault {
		case Double:
			s.frames(c, p.frame)
		case WithBare:
			s.frames(c, appendFrame(nil, opPush, 0, []byte("a body without a stamp")))
		case WithAlien:
			s.frames(c, appendFrame(nil, opPush, 0, appendStamp(nil, alienStream, p.seq, p.intended)))
		case Astray:
			s.astray(c, p)
		}
		s.swapped(c, p.stream)
	}
}

// swapped writes what was to come behind a push of the stream, which has come.
func (s *Server) swapped(c *conn, stream uint16) {
	var others []push
	for _, late := range c.behind {
		if late.stream == stream {
			s.first(c, late)
		} else {
			others = append(others, late)
		}
	}
	c.behind = others
}

// first writes a push to a client that it is for, for the first time.
func (s *Server) first(c *conn, p push) {
	s.did.Latencies = append(s.did.Latencies, now()-p.intended)
	s.frames(c, p.frame)
}

// astray writes p to a client of another room than c's, in turn.
func (s *Server) astray(c *conn, p push) {
	for room, members := range s.rooms {
		if room != c.room {
			s.frames(members[c.number%len(members)], p.frame)
			return
		}
	}
}

func listen() (fd int, addr string, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
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
