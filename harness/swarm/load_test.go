package swarm

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// burn starts n processes that want the processor cpu for as long as the test lasts.
func burn(t *testing.T, cpu, n int) {
	t.Helper()
	var set unix.CPUSet
	set.Set(cpu)
	for range n {
		cmd := exec.Command("sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		if err := unix.SchedSetaffinity(cmd.Process.Pid, &set); err != nil {
			t.Fatal(err)
		}
	}
}

// spin works for d.
func spin(d time.Duration) {
	for end := ledger.Now() + int64(d); ledger.Now() < end; {
	}
}

// firstCPU returns the first processor that this process may use.
func firstCPU(t *testing.T) int {
	t.Helper()
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !allowed.IsSet(cpu) {
		cpu++
	}
	return cpu
}

// A thread that has work and shares its processor with three others is starved for three
// quarters of the time, and says so; one without work is not.
func TestStarvationIsMeasured(t *testing.T) {
	if _, err := os.Stat("/proc/thread-self/schedstat"); err != nil {
		t.Skipf("this kernel doesn't tell for how long a thread had no processor: %v", err)
	}
	swarm := newSwarm(t, Config{Streams: newStreams(t), Threads: 1})
	thread := swarm.threads[0]
	starved := func() float64 { return swarm.Snapshot().Threads[0].Starved }
	eventually(t, "a second has passed", func() bool { return swarm.Snapshot().Threads[0].CPU > 0 })
	eventually(t, "a thread without work is not starved", func() bool { return starved() < 0.1 })

	cpu := firstCPU(t)
	var set unix.CPUSet
	set.Set(cpu)
	var pinned error
	if err := thread.do(t.Context(), func() { pinned = unix.SchedSetaffinity(0, &set) }); err != nil || pinned != nil {
		t.Fatal(err, pinned)
	}
	burn(t, cpu, 3)
	ctx, cancel := context.WithCancel(t.Context())
	working := make(chan struct{})
	go func() {
		defer close(working)
		for thread.do(ctx, func() { spin(20 * time.Millisecond) }) == nil {
		}
	}()
	defer func() {
		cancel()
		<-working
	}()
	eventually(t, "a thread with work beside three others is starved", func() bool { return starved() > 0.5 })
}

// What has arrived and is not read, since the thread is held up, is in the read lag and in the
// latency for at least as long.
func TestReadLagIsMeasured(t *testing.T) {
	const hold = 50 * time.Millisecond
	streams := newStreams(t, ledger.Stream{ID: 1, Pushes: 1})
	server := newFaultyServer(t, func(string) faults {
		return faults{frames: []wire.Frame{{Ver: wire.Version, Op: 1000, Body: ledger.AppendBody(nil, ledger.Stamp{Stream: 1, Intended: ledger.Now()}, 64)}}}
	})
	swarm := newSwarm(t, Config{
		Targets: server.targets(), Streams: streams, Threads: 1, Clients: 1,
		Client: everybody(ledger.TCP, subscribe(t, streams, 1), func(int) Behaviour { return WellBehaved }),
	})
	ctx := testContext(t)
	if err := swarm.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	streams.Start(1)
	thread := swarm.threads[0]

	// Held up in a round of events until the push has lain there for a while.
	holding := make(chan struct{})
	release := make(chan struct{})
	ended := make(chan error, 1)
	var began, held int64
	go func() {
		ended <- thread.do(ctx, func() {
			socket := []unix.PollFd{{Fd: thread.clients[0].fd, Events: unix.POLLIN}}
			close(server.start)
			for socket[0].Revents == 0 {
				_, _ = unix.Poll(socket, int(testTimeout.Milliseconds())) // a signal only shortens it
			}
			began = ledger.Now()
			close(holding)
			<-release
			held = ledger.Now() - began
		})
	}()
	select {
	case <-holding:
	case err := <-ended:
		t.Fatal(err)
	}
	eventually(t, "the hold is over", func() bool { return ledger.Now()-began >= int64(hold) })
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second's longest read lag is the hold", func() bool { return int64(swarm.Snapshot().Threads[0].ReadLag) >= held })
	eventually(t, "the push is read", func() bool { return swarm.Accepted() == 1 })
	r, err := swarm.Finish(ctx, []ledger.Plan{{Stream: 1, Pushed: 1}})
	if err != nil {
		t.Fatal(err)
	}
	latency := r.Ledger.AllLatency()
	if held < int64(hold) || r.ReadLag.Max() < held || latency.Max() < held {
		t.Errorf("held up for %d ns; the read lag is %d, the push's latency %d", held, r.ReadLag.Max(), latency.Max())
	}
}
