package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/report"
	"barrage/harness/scenario"
)

// procFiles are the files of testdata/proc, recorded on a machine with two processors.
var procFiles = []string{"stat", "pressure/memory", "self/net/netstat", "self/net/softnet_stat"}

// A procChange is by how much a number of a file of /proc has grown.
type procChange struct {
	file        string
	line, field int // from 0; a line's fields are what is between blanks, and =
	by          int64
}

// growProc writes the recorded files into dir, with the changes made.
func growProc(t *testing.T, dir string, changes ...procChange) {
	t.Helper()
	for _, name := range procFiles {
		text, err := os.ReadFile(filepath.Join("testdata/proc", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			if c.file == name {
				text = []byte(c.of(t, string(text)))
			}
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// of returns the text with the change made.
func (c procChange) of(t *testing.T, text string) string {
	t.Helper()
	base, form := 10, "%d"
	if strings.HasSuffix(c.file, "softnet_stat") {
		base, form = 16, "%08x"
	}
	lines := strings.Split(text, "\n")
	fields := strings.Fields(strings.ReplaceAll(lines[c.line], "=", " = "))
	n, err := strconv.ParseUint(fields[c.field], base, 64)
	if err != nil {
		t.Fatalf("%s: %v", c.file, err)
	}
	fields[c.field] = fmt.Sprintf(form, int64(n)+c.by)
	lines[c.line] = strings.ReplaceAll(strings.Join(fields, " "), " = ", "=")
	return strings.Join(lines, "\n")
}

// Numbers of the recorded files.
const (
	tick = int64(100) // a second of /proc/stat

	pressures = 61  // TCPMemoryPressures of self/net/netstat
	rcvQDrop  = 121 // TCPRcvQDrop
)

func userTime(seconds int64) procChange  { return procChange{"stat", 0, 1, seconds * tick} }
func stealTime(seconds int64) procChange { return procChange{"stat", 0, 8, seconds * tick} }

// What a machine's files and clocks say at both ends of ten seconds makes the run's verdict.
func TestDisturbedMachine(t *testing.T) {
	const (
		took  = 10 * time.Second
		ours  = 5 * time.Second
		cores = 2
	)
	for _, c := range []struct {
		name    string
		changes []procChange
		jump    time.Duration // of the clock of day
		want    []string
	}{
		{"calm", []procChange{userTime(6), stealTime(1), {"pressure/memory", 0, 12, 100_000}}, 0, nil},
		{"calm, and the clock of day slewed with the other", nil, 50 * time.Microsecond, nil},
		{"others at work", []procChange{userTime(9)}, 0, []string{"other processes took 20% of the machine, at most 10% is accepted (valid.other_cpu)"}},
		{"others at work in the kernel", []procChange{{"stat", 0, 3, 9 * tick}}, 0, []string{"other processes took 20% of the machine, at most 10% is accepted (valid.other_cpu)"}},
		{"waiting for disks is no work", []procChange{{"stat", 0, 5, 20 * tick}}, 0, nil},
		{"steal", []procChange{stealTime(2)}, 0, []string{"the hypervisor took 10% of the machine for others, at most 5% is accepted (valid.steal)"}},
		{"memory short", []procChange{{"pressure/memory", 0, 12, 2_000_000}}, 0,
			[]string{"processes waited for memory for 20% of the time, at most 5% is accepted (valid.memory_wait)"}},
		{"the clock of day put ahead", nil, time.Hour, []string{"the clock of day jumped by 1h0m0s"}},
		{"the clock of day put back", nil, -20 * time.Millisecond, []string{"the clock of day jumped by -20ms"}},
		{"TCP without memory", []procChange{{"self/net/netstat", 1, pressures, 1}, {"self/net/netstat", 1, rcvQDrop, 30}}, 0,
			[]string{"the kernel's memory for TCP ran short (net.ipv4.tcp_mem), and it dropped 30 packets that had arrived: peers send them again when they have waited long enough"}},
		{"TCP with little memory, and nothing dropped", []procChange{{"self/net/netstat", 1, pressures, 1}}, 0, nil},
		{"packets dropped", []procChange{{"self/net/softnet_stat", 0, 0, 500_000}, {"self/net/softnet_stat", 1, 0, 498_000}, {"self/net/softnet_stat", 1, 1, 2000}}, 0,
			[]string{"the machine dropped 2,000 packets that came in, 0.2% of all, since a processor's queue was full (net.core.netdev_max_backlog); at most 0.1% is accepted (valid.packets_dropped): TCP sends them again, 200 ms later or more"}},
		{"all at once", []procChange{userTime(9), stealTime(2)}, time.Second, []string{"the clock of day jumped by 1s",
			"other processes took 20% of the machine, at most 10% is accepted (valid.other_cpu)", "the hypervisor took 10% of the machine for others, at most 5% is accepted (valid.steal)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, after := t.TempDir(), t.TempDir()
			growProc(t, before)
			growProc(t, after, c.changes...)
			from := machineLoad(before, clocks(time.Hour, 1000*time.Hour))
			to := machineLoad(after, clocks(time.Hour+took, 1000*time.Hour+took+c.jump))
			r := &report.Run{
				Deliveries:  report.Deliveries{Measured: report.Counts{Expected: 1, Delivered: 1}, CometFrames: 1, LedgerFrames: 1},
				Disturbance: disturbance(from, to, ours, took, cores),
			}
			v := verdict(r, &scenario.Scenario{Bounds: scenario.DefaultBounds()})
			want := report.Invalid
			if len(c.want) == 0 {
				want = report.Good
			}
			if v.Status != want || !slices.Equal(v.Doubts, c.want) || len(v.Reasons) > 0 {
				t.Errorf("%s: %q %q, want %s: %q", v.Status, v.Doubts, v.Reasons, want, c.want)
			}
		})
	}
}

// clocks are a machine's that has been up for so long, at a time of day.
func clocks(up, day time.Duration) func(int32, *unix.Timespec) error {
	return func(id int32, now *unix.Timespec) error {
		*now = unix.NsecToTimespec(map[int32]time.Duration{unix.CLOCK_MONOTONIC: up, unix.CLOCK_REALTIME: day}[id].Nanoseconds())
		return nil
	}
}

// A machine that tells nothing is no reason for a doubt.
func TestMachineThatTellsNothing(t *testing.T) {
	l := machineLoad(t.TempDir(), func(int32, *unix.Timespec) error { return unix.EINVAL })
	if d := disturbance(l, l, 0, time.Second, 2); len(disturbanceDoubts(&d, scenario.DefaultBounds())) > 0 {
		t.Errorf("%+v", d)
	}
}
