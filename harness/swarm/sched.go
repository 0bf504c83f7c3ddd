package swarm

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"
)

// A runQueue is the calling thread's own account of how long it was ready to run and had no
// processor, by /proc/thread-self/schedstat (the kernel's Documentation/scheduler/sched-stats).
// That time is inside what epoll_wait seems to take.
type runQueue struct {
	fd   int // -1: the kernel doesn't tell
	last int64
}

// openRunQueue must be called by the thread that reads.
func openRunQueue() runQueue {
	fd, err := unix.Open("/proc/thread-self/schedstat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return runQueue{fd: -1}
	}
	q := runQueue{fd: fd}
	q.waited()
	return q
}

// waited returns the nanoseconds of waiting since the last call.
func (q *runQueue) waited() int64 {
	if q.fd < 0 {
		return 0
	}
	var b [96]byte
	n, err := unix.Pread(q.fd, b[:], 0)
	if err != nil {
		return 0
	}
	// Nanoseconds on a processor, nanoseconds in a queue for one, and how often.
	fields := bytes.Fields(b[:n])
	if len(fields) < 2 {
		return 0
	}
	total, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	since := total - q.last
	q.last = total
	return since
}

func (q *runQueue) close() {
	if q.fd >= 0 {
		_ = unix.Close(q.fd)
	}
}
