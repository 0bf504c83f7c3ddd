package harness

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/agent"
	"barrage/harness/cluster"
	"barrage/harness/report"
)

// readMachineLoad reads what the machine has done so far.
func readMachineLoad() agent.MachineLoad { return machineLoad("/proc", unix.ClockGettime) }

// machineLoad reads it from the files in the folder proc, and from a clock as clock_gettime(2) is.
// What the kernel doesn't tell (PSI may be off) stays 0.
func machineLoad(proc string, clock func(id int32, now *unix.Timespec) error) agent.MachineLoad {
	var l agent.MachineLoad
	if text, err := os.ReadFile(filepath.Join(proc, "stat")); err == nil {
		l.Busy, l.Steal = parseStat(string(text))
	}
	if text, err := os.ReadFile(filepath.Join(proc, "pressure/memory")); err == nil {
		l.MemoryWait = parsePressure(string(text))
	}
	if text, err := os.ReadFile(filepath.Join(proc, "self/net/netstat")); err == nil {
		l.TCPShort, l.TCPDropped = parseNetstat(string(text))
	}
	if text, err := os.ReadFile(filepath.Join(proc, "self/net/softnet_stat")); err == nil {
		l.Packets, l.PacketsDropped = parseSoftnet(string(text))
	}
	l.Processes = readProcesses(proc)
	var wall, forward unix.Timespec
	if clock(unix.CLOCK_REALTIME, &wall) == nil && clock(unix.CLOCK_MONOTONIC, &forward) == nil {
		l.Wall = time.Duration(wall.Nano() - forward.Nano())
	}
	return l
}

// parseStat reads the first line of /proc/stat (proc_stat(5)): user, nice, system, idle,
// iowait, irq, softirq, steal in hundredths of a second. Guests are part of user.
func parseStat(text string) (busy, steal time.Duration) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0
	}
	tick := func(i int) time.Duration {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		return time.Duration(n) * cluster.ClockTick
	}
	return tick(1) + tick(2) + tick(3), tick(8)
}

// parsePressure reads the total of the line "some" of /proc/pressure/memory, in µs.
func parsePressure(text string) time.Duration {
	for line := range strings.Lines(text) {
		_, total, ok := strings.Cut(line, "total=")
		if !ok || !strings.HasPrefix(line, "some") {
			continue
		}
		n, _ := strconv.ParseInt(strings.TrimSpace(total), 10, 64)
		return time.Duration(n) * time.Microsecond
	}
	return 0
}

// parseNetstat reads two of the counters of TcpExt in /proc/net/netstat: a line of names, and
// one of values.
func parseNetstat(text string) (short, dropped int64) {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i := range min(len(names), len(fields)) {
			n, _ := strconv.ParseInt(fields[i], 10, 64)
			switch names[i] {
			case "TCPMemoryPressures":
				short = n
			case "TCPRcvQDrop":
				dropped = n
			}
		}
		break
	}
	return short, dropped
}

// parseSoftnet reads the first two columns of /proc/net/softnet_stat, in hexadecimal, one line a
// processor: packets taken off its queue, and those that found it full. The sums are modulo 2^32,
// as the counters are.
func parseSoftnet(text string) (taken, dropped uint32) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		for i, sum := range []*uint32{&taken, &dropped} {
			n, _ := strconv.ParseUint(fields[i], 16, 32)
			*sum += uint32(n)
		}
	}
	return taken, dropped
}

// disturbance is what the machine did between two loads that was not ours, where ours is
// the processor time of the run's processes.
func disturbance(from, to agent.MachineLoad, ours, took time.Duration, cores int) report.Disturbance {
	machine := took.Seconds() * float64(cores)
	step := to.Wall - from.Wall
	// Each tells too little: of what packets take, and of processes that nobody waited for or sees.
	all := max(to.Busy-from.Busy, to.Processes-from.Processes)
	return report.Disturbance{
		OtherCPU:   max(0, ratio((all-ours).Seconds(), machine)),
		Steal:      ratio((to.Steal - from.Steal).Seconds(), machine),
		MemoryWait: ratio((to.MemoryWait - from.MemoryWait).Seconds(), took.Seconds()),
		ClockStep:  step.Seconds(),
		TCPShort:   to.TCPShort - from.TCPShort,
		TCPDropped: to.TCPDropped - from.TCPDropped,
		// Differences of counters that go round at 2^32.
		Packets:        int64(to.Packets-from.Packets) + int64(to.PacketsDropped-from.PacketsDropped),
		PacketsDropped: int64(to.PacketsDropped - from.PacketsDropped),
		HasPressure:    to.MemoryWait > 0 || fileExists("/proc/pressure/memory"),
	}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
