package harness

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"barrage/harness/cluster"
)

// readProcesses returns the processor time of all processes that can be seen under proc, and of the
// children that they have waited for. The kernel's own threads are left out: what they do may be the
// run's. It is what Busy of a load can't tell where much is received: the kernel counts a packet's way
// to its socket as its own time in /proc/stat, and as the time of the process that it interrupts, too.
func readProcesses(proc string) (sum time.Duration) {
	pattern := proc + "/[0-9]*/stat"
	files, _ := filepath.Glob(pattern) // which is right
	for range scans {
		sum = 0
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil { // else it has ended meanwhile
				sum += parseProcess(text)
			}
		}
		// The time of one that ended meanwhile may have been read twice, or not at all.
		now, _ := filepath.Glob(pattern)
		if slices.Equal(now, files) {
			break
		}
		files = now
	}
	return sum
}

// scans is how often the processes are read while some end or begin.
const scans = 5

// parseProcess reads utime, stime, cutime and cstime of /proc/PID/stat (proc_pid_stat(5)), which are
// fields 14 to 17, in hundredths of a second; 0 of a thread of the kernel's.
func parseProcess(stat []byte) (sum time.Duration) {
	fields := cluster.StatFields(stat)
	const flags, utime, cstime = 9 - cluster.FirstStatField, 14 - cluster.FirstStatField, 17 - cluster.FirstStatField
	const ofTheKernel = 0x00200000 // PF_KTHREAD
	if len(fields) <= cstime {
		return 0
	}
	if f, err := strconv.ParseUint(fields[flags], 10, 64); err != nil || f&ofTheKernel != 0 {
		return 0
	}
	for _, field := range fields[utime : cstime+1] {
		n, _ := strconv.ParseInt(field, 10, 64)
		sum += time.Duration(n) * cluster.ClockTick
	}
	return sum
}
