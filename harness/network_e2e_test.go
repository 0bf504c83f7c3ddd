package harness_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const childEntries = "/proc/sys/net/ipv4/tcp_child_ehash_entries"

// mayMakeNetworks says whether this user may make a network namespace.
func mayMakeNetworks() bool {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	return cmd.Run() == nil
}

// In a network of its own a run has a table of connections of its size, and leaves nothing
// behind: neither a setting nor a process.
func TestOwnNetwork(t *testing.T) {
	if !mayMakeNetworks() {
		t.Skip("needs the right to make a network namespace (root)")
	}
	before, _ := os.ReadFile(childEntries)
	b := start(t, "-ceiling=false", "-set", "cluster.network=own", "-set", "phases.measure=1s",
		"-set", "cluster.comet_runtime.nice=3", "-set", "cluster.comet_runtime.timer_slack=1ms", "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	if r.Environment.Network != "own" || r.Clients.Joined != 200 {
		t.Errorf("network %q, %d clients", r.Environment.Network, r.Clients.Joined)
	}
	// The machine's settings are told, those that such a network hides, too.
	for _, name := range []string{"net.ipv4.tcp_mem", "net.core.netdev_max_backlog", "net.ipv4.tcp_rmem"} {
		if r.Environment.KernelSettings[name] == "" {
			t.Errorf("%s is not in %v", name, r.Environment.KernelSettings)
		}
	}
	if m := r.Memory; m == nil || m.Most.UsedBytes < m.Before.UsedBytes || m.Before.UsedBytes == 0 || m.Most.SlabBytes == 0 {
		t.Errorf("memory %+v", m)
	}
	if len(before) > 0 {
		// 200 clients have 400 ends, with two chains each.
		if got := r.Environment.KernelSettings["net.ipv4.tcp_ehash_entries"]; got != "1024" {
			t.Errorf("the table has %q chains, want 1024", got)
		}
		if after, _ := os.ReadFile(childEntries); string(after) != string(before) {
			t.Errorf("%s is %q, was %q", childEntries, after, before)
		}
	}
}

// What must be reached from outside can't be where nothing is reached.
func TestOwnNetworkWithMetricsForOthers(t *testing.T) {
	b := start(t, "-metrics", "127.0.0.1:0", "-set", "cluster.network=own", "smoke")
	if status := b.wait(t); status != 2 || !strings.Contains(b.stderr.String(), "set it to host or auto") {
		t.Errorf("exit status %d\n%s", status, b.stderr)
	}
}
