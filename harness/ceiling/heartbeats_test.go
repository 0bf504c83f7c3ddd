package ceiling

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/harness/swarm"
	"barrage/server/fdtable"
	"barrage/server/wire"
)

// BenchmarkHeartbeats is what the kernel takes for the heartbeats of clients that do nothing
// else, and for a plain loop's answers: the ceiling of the scenario idle-1m. The answering side is
// a process of its own, with a thread for each table of descriptors that waits in epoll_wait(2),
// receives and sends. cpu-us/answer is of that process; on loopback it has the kernel's handing
// over to the client in it, as what a client sends has it for the server.
func BenchmarkHeartbeats(b *testing.B) {
	const rate = 1e6 / 240 // a second: those of a million clients, every 4 minutes
	for _, clients := range []int{10_000, 100_000, 300_000, 1_000_000} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
			defer cancel()
			// No signals that ask threads to let others run, each of which ends a wait.
			c, err := startChild(ctx, Config{Exe: "/usr/bin/env", Args: []string{"GODEBUG=asyncpreemptoff=1", os.Args[0], "heartbeats", fmt.Sprint(clients)}})
			if err != nil {
				b.Fatal(err)
			}
			streams, err := ledger.NewStreams([]ledger.Stream{{}})
			if err != nil {
				b.Fatal(err)
			}
			set, err := streams.Subscribe(0)
			if err != nil {
				b.Fatal(err)
			}
			s, err := swarm.New(swarm.Config{
				Targets: swarm.Targets{TCP: []string{c.hello.Addrs[ledger.TCP]}}, Streams: streams, Clients: clients,
				Raw: true, Heartbeat: time.Duration(float64(clients) / rate * float64(time.Second)), ConnectRate: 50_000, InTurn: true,
				Client: func(int) swarm.Client { return swarm.Client{Kind: ledger.TCP, Subscription: set} },
			})
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := c.stop(); err != nil {
					b.Error(err)
				}
				if err := s.Close(); err != nil {
					b.Error(err)
				}
			}()
			if err := s.Connect(ctx); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for range b.N {
				began, cpu := time.Now(), cpuSeconds()
				r, err := c.do(ctx, command{})
				if err != nil || r.Sends == 0 {
					b.Fatal(r, err)
				}
				b.ReportMetric(r.CPU/float64(r.Sends)*1e6, "cpu-us/answer")
				b.ReportMetric(r.CPU/float64(r.Ended-r.Began)*1e9, "cores")
				b.ReportMetric(float64(r.Sends)/float64(r.Ended-r.Began)*1e9, "answers/s")
				b.ReportMetric((cpuSeconds()-cpu)/time.Since(began).Seconds(), "clients'-cores")
			}
		})
	}
}

// answering is how long the other side answers for a command.
const answering = 20 * time.Second

// serveHeartbeats is the answering side: it takes so many connections, and then answers them from
// each command until its reply. What came in before is answered first, and not counted.
func serveHeartbeats(connections int) error {
	out := json.NewEncoder(os.Stdout)
	s, err := listening(net.IPv4(127, 0, 0, 1), out)
	if err != nil {
		return err
	}
	if err := s.accept(acceptCommand{Connections: connections}); err != nil {
		return err
	}
	epolls := make([]int, len(s.groups))
	for k, g := range s.groups {
		var err error
		if g.do(func() { epolls[k], err = g.watch() }); err != nil {
			return err
		}
	}
	// No thread waits for another, and the scheduler has no part in it.
	runtime.GOMAXPROCS(runtime.NumCPU() + len(s.groups))
	for in := json.NewDecoder(os.Stdin); ; {
		var c command
		if err := in.Decode(&c); err != nil {
			return orNil(err)
		}
		if _, err := s.answer(epolls, 2*time.Second); err != nil {
			return err
		}
		began, cpu := monotonic(), cpuSeconds()
		n, err := s.answer(epolls, answering)
		if err != nil {
			return err
		}
		if err := out.Encode(reply{Began: began, Ended: monotonic(), Sends: n, CPU: cpuSeconds() - cpu}); err != nil {
			return err
		}
	}
}

// watch returns an epoll of the group's sockets.
func (g *group) watch() (epfd int, err error) {
	if epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return -1, fmt.Errorf("epoll: %w", err)
	}
	for i := range g.sockets {
		fd := g.sockets[i].fd
		if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: fd}); err != nil {
			return -1, fmt.Errorf("epoll: %w", err)
		}
	}
	return epfd, nil
}

// rawWait is epoll_wait(2) of which the scheduler isn't told.
func rawWait(epfd int, events []unix.EpollEvent, ms int) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(ms), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// answer answers heartbeats for a while, and returns how many.
func (s *sender) answer(epolls []int, period time.Duration) (int64, error) {
	until := monotonic() + period.Nanoseconds()
	var answers atomic.Int64
	errs := make([]error, len(s.groups))
	var wg sync.WaitGroup
	for k, g := range s.groups {
		wg.Go(func() {
			g.do(func() {
				n, err := answer(epolls[k], until)
				answers.Add(n)
				errs[k] = err
			})
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return answers.Load(), nil
}

func answer(epfd int, until int64) (answers int64, err error) {
	frame := wire.AppendFrame(nil, wire.Frame{Ver: wire.Version, Op: wire.OpHeartbeatReply, Body: make([]byte, 4)})
	events, buf := make([]unix.EpollEvent, 256), make([]byte, 4096)
	for {
		left := until - monotonic()
		if left <= 0 {
			return answers, nil
		}
		n, errno := rawWait(epfd, events, int(left/1e6)+1)
		if errno != 0 && errno != unix.EINTR {
			return answers, fmt.Errorf("epoll_wait: %w", errno)
		}
		for _, ev := range events[:n] {
			n, errno := fdtable.Receive(ev.Fd, buf)
			if errno != 0 || n == 0 {
				return answers, fmt.Errorf("a client is gone: %w", errno)
			}
			for ; n > 0; n -= wire.HeaderLen {
				if _, errno := fdtable.Send(ev.Fd, frame); errno != 0 {
					return answers, fmt.Errorf("answer: %w", errno)
				}
				answers++
			}
		}
	}
}
