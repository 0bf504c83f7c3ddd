package backing

import (
	"bufio"
	"bytes"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// withoutWarning runs f, which must be short, without the warning that librdkafka writes to
// stderr whenever a mock cluster is made: it has no brokers to connect to, being the broker.
// Whatever else is written to stderr meanwhile comes out a moment later.
func withoutWarning(f func()) {
	read, write, err := os.Pipe()
	if err != nil {
		f()
		return
	}
	defer read.Close()
	saved, err := unix.FcntlInt(uintptr(unix.Stderr), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		write.Close()
		f()
		return
	}
	stderr := os.NewFile(uintptr(saved), "stderr")
	defer stderr.Close()
	if err := unix.Dup3(int(write.Fd()), unix.Stderr, 0); err != nil {
		write.Close()
		f()
		return
	}
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		lines := bufio.NewReader(read)
		for {
			line, err := lines.ReadBytes('\n')
			if !bytes.Contains(line, []byte("|CONFWARN|")) {
				_, _ = stderr.Write(line) // there is nowhere to complain to
			}
			if err != nil {
				return
			}
		}
	}()
	f()
	_ = unix.Dup3(saved, unix.Stderr, 0) // both are open: it can't fail
	write.Close()
	// A process started meanwhile has a copy of the pipe's end: don't wait for that one.
	_ = read.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	<-passed
}
