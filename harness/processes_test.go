package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"barrage/harness/agent"
)

func TestParseProcess(t *testing.T) {
	for _, c := range []struct {
		stat string
		want time.Duration
	}{
		{"7 (a) b) S 1 7 7 0 -1 4194304 9 9 9 9 100 20 3 4 20 0 1 0 5", 1270 * time.Millisecond},
		{"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 100 20 0 0 20 0 1 0 5", 0},
		{"7 (short) S 1 7", 0},
		{"", 0},
	} {
		if got := parseProcess([]byte(c.stat)); got != c.want {
			t.Errorf("%q: %s, want %s", c.stat, got, c.want)
		}
	}
}

// What a child used is there while it runs, and does not go away with it.
func TestReadProcesses(t *testing.T) {
	before := readProcesses("/proc")
	if before <= 0 {
		t.Fatalf("all processes together used %s", before)
	}
	if err := exec.Command(os.Args[0], "-test.run=^$").Run(); err != nil {
		t.Fatal(err)
	}
	if after := readProcesses("/proc"); after < before {
		t.Errorf("%s, after %s", after, before)
	}
	dir := t.TempDir()
	for _, file := range []string{"7/stat", "self/stat", "8/status"} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("7 (a) S 1 7 7 0 -1 0 9 9 9 9 100 0 0 0 20 0 1 0 5"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := readProcesses(dir); got != time.Second {
		t.Errorf("%s, want 1s", got)
	}
}

// The kernel may count what a run's processes do for packets as no task's: what other processes did
// shows all the same.
func TestOtherProcessesShowBehindPackets(t *testing.T) {
	const took = 10 * time.Second
	cores := runtime.NumCPU()
	all := took * time.Duration(cores)
	from := agent.MachineLoad{Busy: time.Hour, Processes: 2 * time.Hour}
	to := agent.MachineLoad{Busy: from.Busy + all*7/10, Processes: from.Processes + all}
	if d := disturbance(from, to, all*8/10, took, cores); d.OtherCPU < 0.19 || d.OtherCPU > 0.21 {
		t.Errorf("%+v, want a fifth", d)
	}
	to.Processes = from.Processes // some ended, whose parent did not wait for them
	if d := disturbance(from, to, all/2, took, cores); d.OtherCPU < 0.19 || d.OtherCPU > 0.21 {
		t.Errorf("%+v, want a fifth", d)
	}
}
