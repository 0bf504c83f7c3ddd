// Package fdtable gives OS threads tables of file descriptors of their own. RLIMIT_NOFILE
// holds per table, so with enough of them one process has any number of sockets open.
package fdtable

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limit returns how many descriptors a table may hold: the soft limit of open files.
func Limit() (int, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("fdtable: read the limit of open files: %w", err)
	}
	return int(min(r.Cur, 1<<30)), nil
}

// RaiseLimit raises the soft limit of open files to the hard one.
func RaiseLimit() error {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return fmt.Errorf("fdtable: read the limit of open files: %w", err)
	}
	r.Cur = r.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return fmt.Errorf("fdtable: raise the limit of open files: %w", err)
	}
	return nil
}

// Shared returns, in ascending order, what a thread with a table of its own must keep of
// the process's: standard streams, and every epoll and eventfd.
//
// The Go runtime calls epoll_wait on its epoll, and writes to its eventfd, from whatever
// thread restarts the world or sets a timer, these too. If those numbers were closed
// there, or taken by a socket, it would abort the process.
func Shared() ([]int, error) {
	// Make sure that the runtime has made them: a pipe is polled.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("fdtable: start the runtime's poller: %w", err)
	}
	defer r.Close()
	defer w.Close()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("fdtable: list open files: %w", err)
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

// Go runs f on an OS thread of its own, with a table of file descriptors of its own that
// holds only keep, and returns at once; f gets the error where that can't be done. keep is
// what Shared returns, and whatever else f uses of the process's. When f returns the thread
// ends, and the kernel closes whatever f left open. f must use no os or net: their
// descriptors belong to the process's table.
func Go(keep []int, f func(err error)) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread is never ended by the runtime, and its table is the
			// one that /proc/self/fd shows. Hold it until f has another one.
			started := make(chan struct{})
			Go(keep, func(err error) {
				close(started)
				f(err)
			})
			<-started
			runtime.UnlockOSThread()
			return
		}
		// Never unlocked: the thread must not go back to the runtime.
		f(unshare(keep))
	}()
}

func unshare(keep []int) error {
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return fmt.Errorf("fdtable: unshare the table of file descriptors: %w", err)
	}
	first := 0
	for _, fd := range append(slices.Sorted(slices.Values(keep)), -1) {
		last := fd - 1
		if fd < 0 {
			last = 1<<31 - 1
		}
		if first <= last {
			if err := unix.CloseRange(uint(first), uint(last), 0); err != nil {
				return fmt.Errorf("fdtable: close inherited file descriptors %d to %d: %w", first, last, err)
			}
		}
		first = fd + 1
	}
	return nil
}

// Send is send(2) of b on fd, a non-blocking socket of the calling thread's table, without
// telling the scheduler: it doesn't sleep. It returns how many bytes the socket took.
func Send(fd int32, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

// Sendfile is sendfile(2) of the first n bytes of a file to fd, like Send. Where the file is one in
// memory, the socket gets references to its pages: nothing is copied.
func Sendfile(fd, file int32, n int) (int, unix.Errno) {
	var offset int64
	sent, _, errno := unix.RawSyscall6(unix.SYS_SENDFILE, uintptr(fd), uintptr(file), uintptr(unsafe.Pointer(&offset)), uintptr(n), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sent), 0
}

// Receive is recv(2) into b from fd, like Send. It spares what read(2) does for files of any kind.
func Receive(fd int32, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// Poll is epoll_wait(2) on epfd that doesn't wait, like Receive. It returns how many events there
// are.
func Poll(epfd int, events []unix.EpollEvent) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// Signal adds one to an eventfd: who waits for it wakes. Any value but 0 would, so the byte order
// is no matter.
func Signal(eventfd int) error {
	one := [8]byte{1}
	if _, err := unix.Write(eventfd, one[:]); err != nil {
		return os.NewSyscallError("write", err)
	}
	return nil
}

// Wait is Poll that waits for the first event, so many milliseconds at most, or -1 for any, and
// tells the scheduler.
func Wait(epfd int, events []unix.EpollEvent, ms int) (int, unix.Errno) {
	n, err := unix.EpollWait(epfd, events, ms)
	if err != nil {
		return 0, err.(unix.Errno)
	}
	return n, 0
}
