package swarm

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sharedDescriptors returns what a thread with a table of its own must keep of the
// process's: standard streams, and every epoll and eventfd.
//
// The Go runtime calls epoll_wait on its epoll, and writes to its eventfd, from whatever
// thread restarts the world or sets a timer, ours included. If those numbers were closed
// here, or taken by a socket, it would abort the process.
func sharedDescriptors() ([]int, error) {
	// Make sure that the runtime has made them: a pipe is polled.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("swarm: start the runtime's poller: %w", err)
	}
	defer r.Close()
	defer w.Close()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("swarm: list open files: %w", err)
	}
	keep := []int{0, 1, 2}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		target, err := os.Readlink(dir + "/" + e.Name())
		if err != nil {
			continue // closed in between
		}
		if strings.Contains(target, "[eventpoll]") || strings.Contains(target, "[eventfd]") {
			keep = append(keep, fd)
		}
	}
	slices.Sort(keep)
	return keep, nil
}

// ownThread runs f on an OS thread of its own, with a table of file descriptors of its own
// that holds only keep (sorted), and returns at once. When f returns the thread ends, and
// the kernel closes whatever f left open. f must use no os or net: their descriptors belong
// to the process's table.
func ownThread(keep []int, f func(err error)) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread is never ended by the runtime, and its table is the
			// one that /proc/self/fd shows. Hold it until f has another one.
			started := make(chan struct{})
			ownThread(keep, func(err error) {
				close(started)
				f(err)
			})
			<-started
			runtime.UnlockOSThread()
			return
		}
		// Never unlocked: the thread must not go back to the runtime.
		f(unshareTable(keep))
	}()
}

func unshareTable(keep []int) error {
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return fmt.Errorf("swarm: unshare the table of file descriptors: %w", err)
	}
	first := 0
	for _, fd := range append(slices.Clone(keep), -1) {
		last := fd - 1
		if fd < 0 {
			last = 1<<31 - 1
		}
		if first <= last {
			if err := unix.CloseRange(uint(first), uint(last), 0); err != nil {
				return fmt.Errorf("swarm: close inherited file descriptors %d to %d: %w", first, last, err)
			}
		}
		first = fd + 1
	}
	return nil
}
