package harness_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"barrage/harness/live/livetest"
)

// terminal is a bench whose standard error is a terminal of its own.
type terminal struct {
	*bench
	ptmx, tty *os.File
	screen    *livetest.Screen
	read      chan struct{} // closed when all was read that the bench had written
}

const columns, rows = 110, 40

func startOnTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &terminal{bench: &bench{results: t.TempDir(), stderr: new(watched)}, read: make(chan struct{}), screen: livetest.NewScreen(t, columns, rows)}
	if s.ptmx, s.tty, err = pty.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.ptmx.Close(); s.tty.Close() })
	if err := pty.Setsize(s.ptmx, &pty.Winsize{Rows: rows, Cols: columns}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	s.cmd = exec.CommandContext(ctx, exe, append([]string{"bench", "-results", s.results}, args...)...)
	s.cmd.Dir = t.TempDir()
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = s.tty, &s.stdout, s.tty
	// Its controlling terminal, so that Ctrl-C is a signal to it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.read)
		_, _ = io.Copy(io.MultiWriter(s.stderr, s.screen), s.ptmx) // ends with EIO, when the last has closed the terminal
	}()
	return s
}

// modes are the terminal's settings.
func (s *terminal) modes(t *testing.T) *unix.Termios {
	t.Helper()
	modes, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return modes
}

// On a terminal the run is drawn. However it ends, the terminal is as it was, and what is
// left on it are lines that say what has been, one for each phase. The screen knows nothing
// but text, cursor up and clear: whatever else was written is an error.
func TestTerminal(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   []string
		end    func(t *testing.T, s *terminal)
		status int
		left   []string // on the screen at the end
	}{
		{"to its end", []string{"-set", "phases.measure=2s"}, func(*testing.T, *terminal) {}, 0, []string{"s  measure  ", "s  drain    ", "s  stop"}},
		{"Ctrl-C", []string{"-set", "phases.measure=1m"}, func(t *testing.T, s *terminal) {
			if _, err := s.ptmx.Write([]byte{3}); err != nil {
				t.Fatal(err)
			}
		}, 130, []string{"s  measure  "}},
		{"an error", []string{"-set", "phases.measure=1m"}, func(t *testing.T, s *terminal) {
			killComet(t, s.cmd.Process.Pid)
		}, 1, []string{"s  measure  ", "comet-1 ended by itself"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startOnTerminal(t, append(c.args, "-ceiling=false", "smoke")...)
			before := s.modes(t)
			waitFor(t, "latencies are drawn", func() bool {
				text := s.screen.Text()
				return strings.Contains(text, "[measure]") && strings.Contains(text, " p99 ")
			})
			for _, want := range []string{"measure    [", "s left", "200 of 200 connected", "0 missing, 0 duplicate", "comet-1 0."} {
				if text := s.screen.Text(); !strings.Contains(text, want) && strings.Contains(text, "[measure]") {
					t.Errorf("%q is not in\n%s", want, text)
				}
			}
			c.end(t, s)
			if status := s.wait(t); status != c.status {
				t.Errorf("exit status %d, want %d\n%s%s%s", status, c.status, s.stdout.String(), s.screen.Text(), s.logs())
			}
			if after := s.modes(t); !reflect.DeepEqual(before, after) {
				t.Errorf("the terminal's modes were %+v and are %+v", before, after)
			}
			s.tty.Close()
			<-s.read
			text := s.screen.Text()
			for _, want := range c.left {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not left in\n%s", want, text)
				}
			}
			if strings.Contains(text, "phases  ") || strings.Contains(text, "s left") || !s.screen.AtLineStart() {
				t.Errorf("the drawing is left over, or the cursor is not at the start of a line:\n%s", text)
			}
		})
	}
}

func killComet(t *testing.T, parent int) {
	t.Helper()
	for _, pid := range children(t, parent) {
		cmdline, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "cmdline"))
		if err == nil && bytes.Contains(cmdline, []byte("\x00comet\x00")) && syscall.Kill(pid, syscall.SIGKILL) == nil {
			return
		}
	}
	t.Fatal("found no comet")
}
