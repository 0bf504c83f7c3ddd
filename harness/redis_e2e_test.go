package harness_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"barrage/harness/report"
)

// With redis-server instead of the embedded one the line is the same, and the result says
// which one it was and what it used.
func TestRedisServer(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("needs redis-server on the PATH")
	}
	b := start(t, "-ceiling=false", "-set", "cluster.redis=server", "-set", "phases.measure=1s", "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	if !strings.HasPrefix(r.Environment.Redis, "redis-server ") || r.Clients.Joined != 200 {
		t.Errorf("redis %q, %d clients", r.Environment.Redis, r.Clients.Joined)
	}
	at := slices.IndexFunc(r.Processes, func(p report.Process) bool { return p.Role == "redis" })
	if at < 0 || r.Processes[at].Server || r.Processes[at].CPUTotal == 0 || r.Processes[at].RSSBytes == 0 {
		t.Errorf("processes %+v", r.Processes)
	}
}
