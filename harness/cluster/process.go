package cluster

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Process is one process under test.
type Process struct {
	Name  string // comet-1; also the name of its log
	Role  string // the subcommand; those of a target's process, joined by +
	Admin string // address of its admin pages; "" for a target's process

	pages []Page   // a target's: where its metrics are, all of one process
	roles []string // and what it is

	client   *http.Client
	cmd      *exec.Cmd
	log      string // path
	stopping atomic.Bool
	done     chan struct{} // closed when it has ended
	state    error         // set before done is closed
}

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// An ExitError says that a process ended that was to go on.
type ExitError struct {
	Name string
	Err  error    // nil for exit status 0
	Tail []string // the last lines of its log
	Log  string   // path of the log
}

// Error names the process, its exit status and the end of its log.
func (e *ExitError) Error() string {
	state := "exit status 0"
	if e.Err != nil {
		state = e.Err.Error()
	}
	text := fmt.Sprintf("%s ended by itself (%s); its log is %s", e.Name, state, e.Log)
	for _, line := range e.Tail {
		text += "\n  | " + line
	}
	return text
}

// Unwrap returns the exit status.
func (e *ExitError) Unwrap() error { return e.Err }

// A spawner starts processes on one OS thread that lives until close. The kernel kills a
// child when the thread that started it ends (PDEATHSIG speaks of threads), and Go may end
// any other thread at any time.
type spawner struct{ calls chan func() }

func newSpawner() *spawner {
	s := &spawner{calls: make(chan func())}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for call := range s.calls {
			call()
		}
	}()
	return s
}

func (s *spawner) do(call func() error) error {
	done := make(chan error)
	s.calls <- func() { done <- call() }
	return <-done
}

func (s *spawner) close() { close(s.calls) }

// start runs exe as p in a process group of its own, so that a terminal's Ctrl-C reaches
// the harness alone, which then stops the processes in order. Whatever happens to the
// harness, the kernel kills the process with it.
func (s *spawner) start(p *Process, dir, exe string, args, env []string, slack time.Duration) error {
	p.log, p.done = filepath.Join(dir, p.Name+".log"), make(chan struct{})
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close()
	fmt.Fprintf(log, "$ %s\n", strings.Join(slices.Concat(env, []string{exe}, args), " "))
	p.cmd = exec.Command(exe, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	start := p.cmd.Start
	if slack > 0 {
		start = func() error { return withTimerSlack(slack, p.cmd.Start) }
	}
	if err := s.do(start); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	return nil
}

// withTimerSlack calls start with the calling thread's timer slack set to slack, which a
// process that is started has too, and all of its threads.
func withTimerSlack(slack time.Duration, start func() error) error {
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0)
	}
	if err != nil {
		return fmt.Errorf("set a timer slack of %v: %w", slack, err)
	}
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(before), 0, 0, 0) // what was accepted is again
	return start()
}

// StandBack gives the threads of a process that the cluster has started a niceness: see
// nice(1).
func (p *Process) StandBack(nice int) error {
	// A process that has ended already is reported by wait.
	if err := unix.Setpriority(unix.PRIO_PGRP, p.PID(), nice); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("give %s the niceness %d: %w", p.Name, nice, err)
	}
	return nil
}

// wait waits for the end and calls died if nobody had asked for it.
func (p *Process) wait(died func(*ExitError)) {
	p.state = p.cmd.Wait()
	p.kill() // what it may have left in its group: at once, since later the number may be another's
	close(p.done)
	if !p.stopping.Load() {
		died(&ExitError{Name: p.Name, Err: p.state, Tail: p.tail(), Log: p.log})
	}
}

// stop asks the process to end and kills its group when it hasn't after grace. It returns
// an error where it had to, or where the exit status tells of a failure.
func (p *Process) stop(grace time.Duration) error {
	p.stopping.Store(true)
	select {
	case <-p.done: // long ago, and reported then
		return nil
	default:
	}
	// It fails only for a process that has ended.
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.kill()
		<-p.done
		return fmt.Errorf("%s did not end within %s of SIGTERM and was killed", p.Name, grace)
	}
	var exit *exec.ExitError
	if errors.As(p.state, &exit) {
		return fmt.Errorf("%s: %w after SIGTERM", p.Name, exit)
	}
	return nil
}

func (p *Process) kill() {
	// Without a process left in the group this fails, as wanted.
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
}

const tailLines = 12

// tail returns the last lines of the log.
func (p *Process) tail() []string {
	f, err := os.Open(p.log)
	if err != nil {
		return nil
	}
	defer f.Close()
	const most = 8 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return nil
		}
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[max(0, len(lines)-tailLines):]
}
