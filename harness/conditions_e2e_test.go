package harness_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/report"
)

// Each test here causes one of the conditions that make a run invalid. The scenario's bounds
// are such that it alone speaks.

// invalid fails the test unless the run ended as one that is invalid, with a doubt that has
// each of the texts in it.
func (b *bench) invalid(t *testing.T, want ...string) *report.Run {
	t.Helper()
	if status := b.wait(t); status != 3 || !strings.HasPrefix(b.stdout.String(), "INVALID  ") {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	if v := &r.Verdict; v.Status != report.Invalid || len(v.Doubts) != len(want) {
		t.Errorf("%s: %q %q, want %q", v.Status, v.Doubts, v.Reasons, want)
	}
	for _, text := range want {
		if !strings.Contains(strings.Join(r.Verdict.Doubts, "\n"), text) || !strings.Contains(b.stdout.String(), text) {
			t.Errorf("%q is not in %q, or not in\n%s", text, r.Verdict.Doubts, b.stdout.String())
		}
	}
	return r
}

// measuring waits until the measured phase has begun.
func (b *bench) measuring(t *testing.T) {
	t.Helper()
	waitFor(t, "the measured phase begins", func() bool { return strings.Contains(b.stderr.String(), "s  measure") })
}

// measured says whether the measured phase is over.
func (b *bench) measured() bool { return strings.Contains(b.stderr.String(), "s  drain") }

// short makes smoke a run of a second's length.
var short = []string{"-ceiling=false", "-set", "phases.warmup=0s", "-set", "phases.measure=1s"}

func shortRun(more ...string) []string {
	return append(append(short[:len(short):len(short)], more...), "smoke")
}

// Clients that the server turns away.
func TestClientsThatCannotConnect(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"too many of them", []string{"-set", "cluster.comet.limit.connections=150"}, "150 of 200 clients connected"},
		{"too many of an address", []string{"-source", "127.0.0.1", "-set", "cluster.comet.limit.perAddress=120"},
			"120 of 200 clients connected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := start(t, shortRun(c.args...)...)
			r := b.invalid(t, c.want)
			failed := int64(0)
			for _, f := range r.Clients.Failures {
				failed += f.Count
				if len(f.Examples) == 0 {
					t.Errorf("no example of %s", f.Cause)
				}
			}
			if r.Clients.Joined+r.Clients.Failed != 200 || failed != r.Clients.Failed || r.Deliveries.Measured.Lost != 0 {
				t.Errorf("clients %+v, deliveries %+v", r.Clients, r.Deliveries.Measured)
			}
		})
	}
}

// A harness that stands still once, whatever it waits for meanwhile.
func TestHarnessThatStoodStill(t *testing.T) {
	b := start(t, shortRun("-set", "phases.measure=2s", "-set", "valid.hiccups=0.1")...)
	b.measuring(t)
	b.stop(t, 500*time.Millisecond)
	b.invalid(t, "the harness stood still for ")
}

// A harness that is stopped for parts of the measured phase sends late. A stop in which a push waits
// for its answer looks like a slow server, so there are several.
func TestStoppedPusher(t *testing.T) {
	b := start(t, shortRun("-set", "phases.measure=2s", "-set", "valid.pusher_lag=25ms")...)
	b.measuring(t)
	b.stopAgainAndAgain(t, 200*time.Millisecond, 300*time.Millisecond)
	r := b.invalid(t, "the pusher fell behind its schedule")
	if r.Pushes.Measured.Sent != r.Pushes.Measured.Intended {
		t.Errorf("pushes %+v", r.Pushes.Measured)
	}
}

// A swarm that is stopped again and again in the midst of what it reads, reads late.
func TestStoppedSwarm(t *testing.T) {
	b := start(t, shortRun("-set", "phases.measure=2s", "-set", "clients.rooms.count=1", "-set", "pushes.0.rate=200/s",
		"-set", "pushes.0.size=4KiB", "-set", "valid.read_lag=0.05")...)
	b.measuring(t)
	b.stopAgainAndAgain(t, 10*time.Millisecond, 12*time.Millisecond)
	b.invalid(t, "the swarm read late")
}

// stopAgainAndAgain stops the harness, but not the servers, for so long, and so often, until the
// measured phase is over.
func (b *bench) stopAgainAndAgain(t *testing.T, long, often time.Duration) {
	t.Helper()
	again := time.NewTicker(often)
	defer again.Stop()
	for late := time.Now().Add(time.Minute); !b.measured() && time.Now().Before(late); <-again.C {
		b.stop(t, long)
	}
}

// stop stops the harness, but not the servers, for so long.
func (b *bench) stop(t *testing.T, long time.Duration) {
	t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-time.After(long)
	if err := b.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// Others that the scheduler prefers leave the swarm no processor.
func TestStarvedSwarm(t *testing.T) {
	b := start(t, shortRun("-set", "phases.measure=3s", "-set", "valid.swarm_starved=0.05")...)
	b.measuring(t)
	b.giveWay(t)
	var stop atomic.Bool
	var busy sync.WaitGroup
	for range 2 * runtime.NumCPU() {
		busy.Go(func() {
			for !stop.Load() {
			}
		})
	}
	waitFor(t, "the measured phase is over", b.measured)
	stop.Store(true)
	busy.Wait()
	b.invalid(t, "the swarm was starved")
}

// giveWay has each thread of the harness, but not the servers, stand back behind all others.
func (b *bench) giveWay(t *testing.T) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", b.cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads %v, %v", threads, err)
	}
	for _, path := range threads {
		id, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, 19); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
}

// What the runs of a series have in common changes while the second one is under way.
func TestEnvironmentThatChangesBetweenRuns(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   []string
		root   bool
		change func(t *testing.T, pid int)
		want   string
	}{
		{"a limit", nil, false, lowerOpenFiles, "the limit of open files changed since the series' first run, from "},
		{"a setting of the kernel", []string{"-set", "cluster.network=own"}, true, narrowPorts,
			`net.ipv4.ip_local_port_range changed since the series' first run, from "32768 60999" to "40000 60999"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root && !mayMakeNetworks() {
				t.Skip("needs the right to make a network namespace (root)")
			}
			t.Parallel()
			b := start(t, shortRun(append(c.args, "-runs", "2")...)...)
			waitFor(t, "the second run begins", func() bool { return strings.Contains(b.stderr.String(), "run 2 of 2\n") })
			c.change(t, b.cmd.Process.Pid)
			if status := b.wait(t); status != 3 {
				t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
			}
			var verdicts []report.Verdict
			for _, run := range []string{"1", "2"} {
				files, err := filepath.Glob(filepath.Join(b.results, "smoke", "*", run, "run.json"))
				if err != nil || len(files) != 1 {
					t.Fatalf("results %v, %v", files, err)
				}
				r, err := report.ReadJSON(files[0])
				if err != nil {
					t.Fatal(err)
				}
				verdicts = append(verdicts, r.Verdict)
			}
			if v := verdicts[0]; v.Status != report.Good {
				t.Errorf("the first run: %+v", v)
			}
			if v := verdicts[1]; v.Status != report.Invalid || len(v.Doubts) != 1 || !strings.HasPrefix(v.Doubts[0], c.want) {
				t.Errorf("the second run: %+v, want %q", v, c.want)
			}
		})
	}
}

// lowerOpenFiles takes one from the process's hard limit of open files.
func lowerOpenFiles(t *testing.T, pid int) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Max--
	limit.Cur = min(limit.Cur, limit.Max)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
}

// narrowPorts changes a setting of the network that the process has to itself.
func narrowPorts(t *testing.T, pid int) {
	t.Helper()
	done := make(chan error)
	go func() {
		// The thread is in another network from here on: it ends with this function.
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
			if err != nil {
				return err
			}
			defer ns.Close()
			own, err := os.Readlink("/proc/self/ns/net")
			if err != nil {
				return err
			}
			if its, err := os.Readlink(ns.Name()); err != nil || its == own {
				return fmt.Errorf("the run is in this network, %s: %v", own, err)
			}
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 60999"), 0)
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// pressure is the kernel's account of waiting for memory, which may be off.
const pressure = "/proc/pressure/memory"

// Steal, waiting for memory, packets dropped, and TCP short of memory, by files that lie over
// those of /proc for this run alone, and change in the measured phase.
func TestDisturbedMachineOfARun(t *testing.T) {
	if !mayMount() {
		t.Skip("needs the right to mount a file system (root)")
	}
	if _, err := os.Stat(pressure); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	say := func(file, format string, args ...any) {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, fmt.Appendf(nil, format+"\n", args...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	machine := func(steal, waited, short, dropped, packets, lost int) {
		say("stat", "cpu  100 0 100 1000 0 0 0 %d 0 0", steal)
		say("memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=%d", waited)
		say("net/netstat", "TcpExt: TCPMemoryPressures TCPRcvQDrop\nTcpExt: %d %d", short, dropped)
		say("net/softnet_stat", "%08x %08x 00000000", packets, lost)
	}
	machine(0, 0, 0, 0, 0, 0)
	// A file of /proc/PID/net is looked up anew each time, so that no mount stays on it; the folder is not.
	script := "cd " + dir + " && mount --bind stat /proc/stat && mount --bind memory " + pressure + ` && mount --bind net /proc/$$/net && exec "$@"`
	b := startBy(t, script, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS},
		shortRun("-set", "valid.steal=0.05", "-set", "valid.memory_wait=0.05", "-set", "valid.packets_dropped=0.001")...)
	b.measuring(t)
	machine(1000*runtime.NumCPU(), 9_000_000, 1, 7, 10_000, 256)
	b.invalid(t, "the hypervisor took ", "processes waited for memory for ", "it dropped 7 packets that had arrived", "the machine dropped 256 packets that came in")
}
