package harness

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/report"
)

// A machineLoad is what the whole machine has done so far, to tell a quiet one from one
// that was disturbed.
type machineLoad struct {
	busy       time.Duration // processor time of all tasks
	steal      time.Duration // that the hypervisor gave to others
	memoryWait time.Duration // in which some task waited for memory
	wall       time.Duration // the clock of day, less the one that only goes forward
	tcpShort   int64         // times that TCP's memory (net.ipv4.tcp_mem) ran short in this network
	tcpDropped int64         // packets with data for which a socket got no memory
}

// readMachineLoad reads it. What the kernel doesn't tell (PSI may be off) stays 0.
func readMachineLoad() machineLoad {
	var l machineLoad
	if text, err := os.ReadFile("/proc/stat"); err == nil {
		l.busy, l.steal = parseStat(string(text))
	}
	if text, err := os.ReadFile("/proc/pressure/memory"); err == nil {
		l.memoryWait = parsePressure(string(text))
	}
	if text, err := os.ReadFile("/proc/self/net/netstat"); err == nil {
		l.tcpShort, l.tcpDropped = parseNetstat(string(text))
	}
	var wall, forward unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME, &wall) == nil && unix.ClockGettime(unix.CLOCK_MONOTONIC, &forward) == nil {
		l.wall = time.Duration(wall.Nano() - forward.Nano())
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
		return time.Duration(n) * 10 * time.Millisecond
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

// disturbance is what the machine did between two loads that was not ours, where ours is
// the processor time of the run's processes.
func disturbance(from, to machineLoad, ours, took time.Duration, cores int) report.Disturbance {
	machine := took.Seconds() * float64(cores)
	step := to.wall - from.wall
	return report.Disturbance{
		OtherCPU:    max(0, ratio((to.busy-from.busy-ours).Seconds(), machine)),
		Steal:       ratio((to.steal - from.steal).Seconds(), machine),
		MemoryWait:  ratio((to.memoryWait - from.memoryWait).Seconds(), took.Seconds()),
		ClockStep:   step.Seconds(),
		TCPShort:    to.tcpShort - from.tcpShort,
		TCPDropped:  to.tcpDropped - from.tcpDropped,
		HasPressure: to.memoryWait > 0 || fileExists("/proc/pressure/memory"),
	}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
