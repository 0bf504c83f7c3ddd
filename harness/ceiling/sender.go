package ceiling

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// Main is the sending side, run as a process of its own: the hidden subcommand "ceiling".
// It takes no arguments, speaks JSON lines on stdin and stdout, and returns the exit status.
func Main(args []string) int {
	if len(args) > 0 {
		fmt.Fprintf(os.Stderr, "barrage ceiling takes no arguments, it is run by barrage bench: got %q\n", args)
		return 2
	}
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "barrage ceiling: %v\n", err)
		return 2
	}
	return 0
}

// A sender holds the connections. sockets[i].rest belongs to whoever sends to it.
type sender struct {
	listeners [2]int // TCP, WebSocket
	sockets   []socket
}

type socket struct {
	fd   int32
	ws   bool
	rest []byte // of a write that the kernel took in part
}

func serve(in io.Reader, out io.Writer) error {
	if err := raiseLimit(); err != nil {
		return err
	}
	s := &sender{}
	var addrs [2]string
	for i := range s.listeners {
		fd, addr, err := listen()
		if err != nil {
			return err
		}
		s.listeners[i], addrs[i] = fd, addr
	}
	answers := json.NewEncoder(out)
	if err := answers.Encode(hello{TCP: addrs[0], WS: addrs[1]}); err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	// Commands are read beside the work, so that the end of stdin ends the process even
	// while it waits for connections.
	commands := make(chan command)
	failed := make(chan error, 1)
	go func() {
		lines := json.NewDecoder(bufio.NewReader(in))
		for {
			var c command
			if err := lines.Decode(&c); err != nil {
				failed <- err
				return
			}
			commands <- c
		}
	}()
	for {
		select {
		case c := <-commands:
			replied := make(chan reply, 1)
			go func() { replied <- s.obey(c) }()
			select {
			case r := <-replied:
				if err := answers.Encode(r); err != nil {
					return fmt.Errorf("reply: %w", err)
				}
			case err := <-failed:
				return orNil(err)
			}
		case err := <-failed:
			return orNil(err)
		}
	}
}

func orNil(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("read a command: %w", err)
}

func (s *sender) obey(c command) reply {
	var r reply
	var err error
	switch {
	case c.Accept != nil:
		err = s.accept(*c.Accept)
	case c.Sweep != nil:
		before := cpuSeconds()
		r = s.sweep(*c.Sweep)
		r.CPU = cpuSeconds() - before
	case c.Flood != nil:
		before := cpuSeconds()
		r = s.flood(*c.Flood)
		r.CPU = cpuSeconds() - before
		err = s.flush()
	default:
		err = errors.New("unknown command")
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func (s *sender) accept(c acceptCommand) error {
	var batches [2][]socket
	for i, n := range [2]int{c.TCP, c.WS} {
		for range n {
			fd, _, err := unix.Accept4(s.listeners[i], unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err != nil {
				return fmt.Errorf("accept connection %d of %d: %w", len(batches[i])+1, n, err)
			}
			// As servers do: Nagle's algorithm would hold small writes back.
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
				return fmt.Errorf("set TCP_NODELAY: %w", err)
			}
			batches[i] = append(batches[i], socket{fd: int32(fd), ws: i == 1})
		}
	}
	// Mixed evenly, as a server's members are.
	for len(batches[0])+len(batches[1]) > 0 {
		i := 0
		if len(batches[1])*c.TCP > len(batches[0])*c.WS || len(batches[0]) == 0 {
			i = 1
		}
		s.sockets = append(s.sockets, batches[i][0])
		batches[i] = batches[i][1:]
	}
	return nil
}

// A write holds the same frames once for each framing.
type write struct{ tcp, ws []byte }

func (w *write) build(stamp ledger.Stamp, frames, body int) {
	w.tcp = w.tcp[:0]
	for range frames {
		w.tcp = wire.AppendHeader(w.tcp, wire.Version, pushOp, 0, max(body, ledger.BodyMin))
		w.tcp = ledger.AppendBody(w.tcp, stamp, body)
		stamp.Seq++
	}
	w.ws = append(wire.AppendWSBatchHeader(w.ws[:0], len(w.tcp)), w.tcp...)
}

const pushOp = 1000

func (w *write) to(s *socket) []byte {
	if s.ws {
		return w.ws
	}
	return w.tcp
}

// sweep sends one frame to each socket, the sockets shared out to the threads. What is full
// is tried again at the end, until it takes the frame.
func (s *sender) sweep(c sweepCommand) reply {
	began := monotonic() + c.Clock
	var w write
	w.build(ledger.Stamp{Stream: c.Stream, Seq: c.Seq, Intended: began}, 1, c.Body)
	var sends, bytes, skipped atomic.Int64
	onThreads(c.Threads, func(k int) {
		part := s.sockets[len(s.sockets)*k/c.Threads : len(s.sockets)*(k+1)/c.Threads]
		var full []*socket
		for i := range part {
			switch part[i].send(w.to(&part[i])) {
			case sent:
				sends.Add(1)
				bytes.Add(int64(len(w.to(&part[i]))))
			case wasFull:
				full = append(full, &part[i])
			}
		}
		for len(full) > 0 {
			skipped.Add(int64(len(full)))
			runtime.Gosched()
			var still []*socket
			for _, sock := range full {
				switch sock.send(w.to(sock)) {
				case sent:
					sends.Add(1)
					bytes.Add(int64(len(w.to(sock))))
				case wasFull:
					still = append(still, sock)
				}
			}
			full = still
		}
	})
	return reply{Began: began, Ended: monotonic() + c.Clock, Sends: sends.Load(), Skipped: skipped.Load(), Sweeps: 1, Bytes: bytes.Load()}
}

// floodChunk is how many sockets a thread of a flood takes at a time.
const floodChunk = 64

// flood sends sweep after sweep. The threads take chunks of sockets in turn, over the
// sweeps' ends, so that none waits for the others; a chunk's next turn only comes after its
// last one, so each socket's writes stay in order.
func (s *sender) flood(c floodCommand) reply {
	chunks := int64((len(s.sockets) + floodChunk - 1) / floodChunk)
	if chunks == 0 {
		return reply{}
	}
	var (
		claimed, sends, skipped, bytes atomic.Int64
		allowed                        atomic.Int64 // sweeps that may run
		final                          atomic.Int64 // sweeps in all, once that is known
		turns                          = make([]atomic.Int64, chunks)
	)
	final.Store(math.MaxInt64)
	began := monotonic()
	onThreads(c.Threads, func(int) {
		var w write
		var mySends, mySkipped, myBytes int64
		defer func() { sends.Add(mySends); skipped.Add(mySkipped); bytes.Add(myBytes) }()
		built := int64(-1)
		for {
			turn := claimed.Add(1) - 1
			sweep, chunk := turn/chunks, turn%chunks
			if chunk == 0 {
				if monotonic()-began >= c.Nanos {
					final.CompareAndSwap(math.MaxInt64, sweep)
				} else {
					allowed.Store(sweep + 1)
				}
			}
			for allowed.Load() <= sweep && final.Load() > sweep {
				runtime.Gosched()
			}
			if final.Load() <= sweep {
				return
			}
			for turns[chunk].Load() < sweep {
				runtime.Gosched()
			}
			if built != sweep {
				built = sweep
				w.build(ledger.Stamp{Stream: c.Stream, Seq: uint32(sweep) * uint32(c.Frames), Intended: monotonic() + c.Clock}, c.Frames, c.Body)
			}
			part := s.sockets[chunk*floodChunk : min(int(chunk+1)*floodChunk, len(s.sockets))]
			for i := range part {
				switch b := w.to(&part[i]); part[i].send(b) {
				case sent:
					mySends++
					myBytes += int64(len(b))
				case wasFull:
					mySkipped++
				}
			}
			turns[chunk].Store(sweep + 1)
		}
	})
	return reply{
		Began: began + c.Clock, Ended: monotonic() + c.Clock,
		Sends: sends.Load(), Skipped: skipped.Load(), Sweeps: final.Load(), Bytes: bytes.Load(),
	}
}

// flush sends what the kernel did not take of the last writes.
func (s *sender) flush() error {
	const patience = 10 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		left := 0
		for i := range s.sockets {
			if !s.sockets[i].sendRest() {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d sockets are still full after %s: the receiving side doesn't keep up", left, patience)
		}
	}
}

type outcome uint8

const (
	sent    outcome = iota // taken; at most its rest waits in the socket
	wasFull                // nothing of it was taken
	broken                 // the peer is gone
)

func (s *socket) send(b []byte) outcome {
	if !s.sendRest() {
		return wasFull
	}
	n, errno := sendNow(s.fd, b)
	switch {
	case errno == unix.EAGAIN:
		return wasFull
	case errno != 0:
		return broken
	}
	if n < len(b) {
		s.rest = append(s.rest[:0], b[n:]...)
	}
	return sent
}

// sendRest says whether nothing is left of the last write.
func (s *socket) sendRest() bool {
	if len(s.rest) == 0 {
		return true
	}
	n, errno := sendNow(s.fd, s.rest)
	if errno != 0 {
		return errno != unix.EAGAIN // to a peer that is gone nothing is left to send
	}
	s.rest = s.rest[n:]
	return len(s.rest) == 0
}

func sendNow(fd int32, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

// onThreads runs f(0) to f(n-1), each on an OS thread, and waits for them.
func onThreads(n int, f func(k int)) {
	var wg sync.WaitGroup
	for k := range n {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			f(k)
		})
	}
	wg.Wait()
}

func cpuSeconds() float64 {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}

func raiseLimit() error {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	r.Cur = r.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}

// listen returns a blocking listener on a port of 127.0.0.1 that the kernel chooses.
func listen() (fd int, addr string, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
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
