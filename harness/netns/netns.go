// Package netns gives a run a network of its own: a network namespace in which there is
// nothing but a loopback interface, and whose table of established connections is as large
// as the run's sockets ask for. The kernel looks each packet's socket up in that table. The
// machine's own has 262,144 chains on 24 GiB, whatever it is used for, and with both ends
// of a million connections in it each look-up goes through eight sockets that are in no
// cache.
package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// variable is set in the environment of a process that Enter has started anew.
const variable = "BARRAGE_OWN_NETWORK"

// ErrNotPermitted says that this process may not make a network namespace (CAP_SYS_ADMIN).
var ErrNotPermitted = errors.New("making a network namespace is not permitted: it takes root")

// Inside says whether this process is in a network that Enter has made.
func Inside() bool { return os.Getenv(variable) != "" }

// Enter starts the program exe anew, with this process's arguments, environment and number,
// in a network of its own that is made for so many sockets. It returns only where that can't
// be done. What the process has open stays open only if it is not close-on-exec.
func Enter(exe string, sockets int) error {
	hidden := settingsHere()
	// The new program takes the calling thread's namespaces; this thread must not go back to
	// the runtime if it can't be started.
	runtime.LockOSThread()
	restore := askFor(sockets)
	err := unix.Unshare(unix.CLONE_NEWNET)
	restore()
	if errors.Is(err, unix.EPERM) {
		runtime.UnlockOSThread()
		return ErrNotPermitted
	}
	if err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := raiseLoopback(); err != nil {
		return err
	}
	lengthenQueues()
	if err := unix.Exec(exe, os.Args, append(os.Environ(), variable+"=1", settings+"="+hidden)); err != nil {
		return fmt.Errorf("start %s in its own network: %w", exe, err)
	}
	return nil
}

// childEntries is how large the table of the next namespace becomes that is made from this
// one; 0 is as the machine's. It is there since Linux 6.1.
const childEntries = "/proc/sys/net/ipv4/tcp_child_ehash_entries"

// askFor asks for a table with two chains a socket. Without the setting, or the right to
// change it, the new network shares the machine's table: that is slower, and no error.
// restore puts the setting back, also from another network: the file stays that of this one.
func askFor(sockets int) (restore func()) {
	none := func() {}
	before, err := os.ReadFile(childEntries)
	if err != nil {
		return none
	}
	f, err := os.OpenFile(childEntries, os.O_WRONLY, 0)
	if err != nil {
		return none
	}
	const most = 1 << 24 // the kernel's
	entries := 1 << 10
	for entries < most && entries < 2*sockets {
		entries <<= 1
	}
	if _, err := f.WriteString(strconv.Itoa(entries)); err != nil {
		f.Close()
		return none
	}
	return func() {
		_, _ = f.WriteAt(bytes.TrimSpace(before), 0) // what was there is accepted
		f.Close()
	}
}

// lengthenQueues lets listeners have as many connections wait as the kernel allows, and not the
// 4,096 of a new network: with everything on one machine a server that wants to accept may have to
// wait for a processor for longer than so many clients take to connect. Without the right to, it
// stays as it is.
func lengthenQueues() { _ = os.WriteFile("/proc/sys/net/core/somaxconn", []byte("65535"), 0) }

// settings is set in the environment of a process that Enter has started anew: what the files of
// hiddenSettings said.
const settings = "BARRAGE_MACHINE_SETTINGS"

// hiddenSettings are those of the kernel that hold for a network, too, and can be read from the
// machine's own alone.
var hiddenSettings = []string{"net.ipv4.tcp_mem", "net.core.netdev_max_backlog", "net.core.rmem_max", "net.core.wmem_max"}

// settingsHere writes what the hidden settings are, as Setting reads them.
func settingsHere() string {
	var list []string
	for _, name := range hiddenSettings {
		if value := read(name); value != "" {
			list = append(list, name+"="+value)
		}
	}
	return strings.Join(list, ";")
}

// Setting returns one of the kernel's settings under /proc/sys by its name, as net.ipv4.tcp_mem, and ""
// where it can't be read. Of those that a network of its own hides it is the machine's.
func Setting(name string) string {
	if value := read(name); value != "" {
		return value
	}
	for s := range strings.SplitSeq(os.Getenv(settings), ";") {
		if value, ok := strings.CutPrefix(s, name+"="); ok {
			return value
		}
	}
	return ""
}

func read(name string) string {
	text, _ := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	return strings.Join(strings.Fields(string(text)), " ")
}

// raiseLoopback brings the loopback interface up, which a new namespace has, but down.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	return nil
}
