package ceiling

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/fdtable"
)

// Main is the sending side, run as a process of its own: the hidden subcommand "ceiling".
// Its only argument is the IP address where it listens, 127.0.0.1 by default. It speaks JSON lines on stdin and
// stdout, and returns the exit status.
func Main(args []string) int {
	ip := net.IPv4(127, 0, 0, 1)
	if len(args) > 0 {
		ip = net.ParseIP(args[0])
	}
	if ip == nil || len(args) > 1 {
		fmt.Fprintf(os.Stderr, "barrage ceiling takes an IP address, it is run by barrage bench: got %q\n", args)
		return 2
	}
	if err := serve(ip, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "barrage ceiling: %v\n", err)
		return 2
	}
	return 0
}

// A sender holds the connections.
type sender struct {
	listeners [ledger.Kinds]int
	groups    []*group
	tls       *tls.Config
}

// listening returns a sender that listens on ip, and has said hello by answers.
func listening(ip net.IP, answers *json.Encoder) (*sender, error) {
	if err := fdtable.RaiseLimit(); err != nil {
		return nil, err
	}
	s := &sender{}
	var h hello
	var err error
	if s.tls, h.Certificate, err = serverTLS(ip); err != nil {
		return nil, err
	}
	for i := range s.listeners {
		if s.listeners[i], h.Addrs[i], err = listen(ip); err != nil {
			return nil, err
		}
	}
	if err := answers.Encode(h); err != nil {
		return nil, fmt.Errorf("say hello: %w", err)
	}
	return s, nil
}

func serve(ip net.IP, in io.Reader, out io.Writer) error {
	answers := json.NewEncoder(out)
	s, err := listening(ip, answers)
	if err != nil {
		return err
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
		err = s.flush()
		r.CPU = cpuSeconds() - before
	default:
		err = errors.New("unknown command")
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// sweep sends one frame to each socket, the sockets shared out to the threads. What is full
// is tried again at the end, until it takes the frame.
func (s *sender) sweep(c sweepCommand) reply {
	began := monotonic() + c.Clock
	var w write
	w.build(ledger.Stamp{Stream: c.Stream, Seq: c.Seq, Intended: began}, 1, c.Body)
	var sends, bytes, skipped atomic.Int64
	try := func(sock *socket, full []*socket) []*socket {
		switch p := w.to(sock); sock.send(p) {
		case sent:
			sends.Add(1)
			bytes.Add(int64(len(p.bytes)))
		case wasFull:
			skipped.Add(1)
			full = append(full, sock)
		}
		return full
	}
	parts := s.parts(c.Threads)
	full := make([][]*socket, len(parts))
	share(c.Threads, parts, func(k int) {
		for i := range parts[k].sockets {
			full[k] = try(&parts[k].sockets[i], full[k])
		}
	})
	isFull := func(list []*socket) bool { return len(list) > 0 }
	for slices.ContainsFunc(full, isFull) {
		runtime.Gosched()
		share(c.Threads, parts, func(k int) {
			still := full[k][:0]
			for _, sock := range full[k] {
				still = try(sock, still)
			}
			full[k] = still
		})
	}
	return reply{Began: began, Ended: monotonic() + c.Clock, Sends: sends.Load(), Skipped: skipped.Load(), Sweeps: 1, Bytes: bytes.Load()}
}

// floodPart is how many sockets a thread of a flood takes at a time, where they are one group.
const floodPart = 64

// flood sends sweep after sweep, one at least. The threads take parts of the sockets in turn,
// over the sweeps' ends, so that none waits for the others; a part's next turn only comes
// after its last one, so each socket's writes stay in order.
func (s *sender) flood(c floodCommand) reply {
	sockets := 0
	for _, g := range s.groups {
		sockets += len(g.sockets)
	}
	list := s.parts((sockets + floodPart - 1) / floodPart)
	parts := int64(len(list))
	if parts == 0 {
		return reply{}
	}
	var (
		claimed, sends, skipped, bytes atomic.Int64
		allowed                        atomic.Int64 // sweeps that may run
		final                          atomic.Int64 // sweeps in all, once that is known
		turns                          = make([]atomic.Int64, parts)
	)
	final.Store(math.MaxInt64)
	began := monotonic()
	onThreads(c.Threads, func() {
		var w write
		var mySends, mySkipped, myBytes int64
		defer func() { sends.Add(mySends); skipped.Add(mySkipped); bytes.Add(myBytes) }()
		built := int64(-1)
		oneTable := len(s.groups) == 1
		defer w.unshare()
		for {
			turn := claimed.Add(1) - 1
			sweep, k := turn/parts, turn%parts
			if k == 0 {
				if sweep >= max(1, c.Least) && monotonic()-began >= c.Nanos {
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
			for turns[k].Load() < sweep {
				runtime.Gosched()
			}
			if built != sweep {
				built = sweep
				w.unshare()
				w.build(ledger.Stamp{Stream: c.Stream, Seq: uint32(sweep) * uint32(c.Frames), Intended: monotonic() + c.Clock}, c.Frames, c.Body)
				if c.Pages && oneTable {
					w.share()
				}
			}
			part := list[k]
			part.group.do(func() {
				if c.Pages && !oneTable {
					w.share()
					defer w.unshare()
				}
				for i := range part.sockets {
					sock := &part.sockets[i]
					switch p := w.to(sock); sock.send(p) {
					case sent:
						mySends++
						myBytes += int64(len(p.bytes))
					case wasFull:
						mySkipped++
					}
				}
			})
			turns[k].Store(sweep + 1)
		}
	})
	return reply{
		Began: began + c.Clock, Ended: monotonic() + c.Clock,
		Sends: sends.Load(), Skipped: skipped.Load(), Sweeps: final.Load(), Bytes: bytes.Load(),
	}
}

func cpuSeconds() float64 {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}
