package fdtable

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startThreads returns what runs a function on each of n threads, which have tables of
// their own with nothing but keep and what is shared. They end with the test.
func startThreads(t *testing.T, n int, keep ...int) (onEach func(f func() error)) {
	t.Helper()
	shared, err := Shared()
	if err != nil {
		t.Fatal(err)
	}
	keep = append(keep, shared...)
	work, results, ended := make([]chan func() error, n), make(chan error, n), make(chan struct{}, n)
	for i := range work {
		work[i] = make(chan func() error)
		Go(keep, func(err error) {
			defer func() { ended <- struct{}{} }()
			results <- err
			for f := range work[i] {
				results <- f()
			}
		})
	}
	collect := func() {
		t.Helper()
		for range n {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() {
		for i := range work {
			close(work[i])
		}
		for range n {
			<-ended
		}
	})
	collect()
	return func(f func() error) {
		t.Helper()
		for i := range work {
			work[i] <- f
		}
		collect()
	}
}

func TestListenerOfTheProcessReallyCloses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	startThreads(t, 4)
	l.Close()
	conn, err := net.DialTimeout("tcp", l.Addr().String(), time.Second)
	if err == nil {
		conn.Close()
		t.Fatal("a closed listener still accepts: a thread holds it open")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
}

func TestPipesOfTheProcessReallyClose(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	startThreads(t, 4)
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read of a pipe without writers: %v, want EOF", err)
	}
	stdin.Close()
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	select {
	case err := <-exited:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		_ = cmd.Process.Kill()
		t.Error("the child never saw the end of its stdin")
	}
}

// The runtime polls its own epoll from these threads too: garbage collections that they
// start themselves, and timers, must not abort the process.
func TestRuntimeSurvivesOnAThread(t *testing.T) {
	onEach := startThreads(t, 4)
	for range 20 {
		onEach(func() error {
			runtime.GC()
			time.AfterFunc(time.Microsecond, func() {}).Reset(time.Nanosecond)
			return nil
		})
	}
}

// However the descriptors to keep are ordered, and wherever they lie, the thread has them,
// and what it opens itself is not the process's.
func TestTableHoldsWhatIsKept(t *testing.T) {
	var kept [2]*os.File
	for i := range kept {
		f, err := os.Create(filepath.Join(t.TempDir(), "kept"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		kept[i] = f
	}
	high, low := int(kept[1].Fd()), int(kept[0].Fd())
	before := descriptors(t)
	onEach := startThreads(t, 2, high, low)
	onEach(func() error {
		for _, fd := range []int{high, low} {
			if _, err := unix.Write(fd, []byte("x")); err != nil {
				return fmt.Errorf("write to a kept descriptor: %w", err)
			}
		}
		for range 50 {
			if _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return fmt.Errorf("make a socket: %w", err)
			}
		}
		return nil
	})
	if after := descriptors(t); !slices.Equal(before, after) {
		t.Errorf("the process has the descriptors %v, had %v", after, before)
	}
	for _, f := range kept {
		if info, err := f.Stat(); err != nil || info.Size() != 2 {
			t.Errorf("%d bytes from 2 threads, %v", info.Size(), err)
		}
	}
}

// The limit of open files is each table's own.
func TestEachTableHasTheWholeLimit(t *testing.T) {
	limit, err := Limit()
	if err != nil {
		t.Fatal(err)
	}
	const most = 20_000
	if limit > most {
		t.Skipf("the limit of open files is %d: more than %d descriptors a thread are no test", limit, most)
	}
	startThreads(t, 2)(func() error {
		for n := 0; ; n++ {
			_, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if err == unix.EMFILE && n > limit/2 {
				return nil
			}
			if err != nil {
				return fmt.Errorf("after %d of %d descriptors: %w", n, limit, err)
			}
		}
	})
}

func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}
