package harness_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"barrage/harness/report"
)

// binary builds the real binary, once for all tests of the package.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "barrage-e2e-")
	if err != nil {
		return "", err
	}
	built = dir
	exe := filepath.Join(dir, "barrage")
	build := exec.Command("go", "build", "-o", exe, "barrage")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binary: %w\n%s", err, out)
	}
	return exe, nil
})

// built is the folder of the binary, "" where no test has asked for it.
var built string

func TestMain(m *testing.M) {
	status := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(status)
}

// A bench is a running `barrage bench`.
type bench struct {
	cmd     *exec.Cmd
	results string
	stdout  bytes.Buffer
	stderr  *watched
}

// watched keeps what is written, and can be asked while it is.
type watched struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// start runs `barrage bench args` in a folder that holds nothing.
func start(t *testing.T, args ...string) *bench {
	t.Helper()
	return startBy(t, `exec "$@"`, nil, args...)
}

// startLimited is start with a limit of open files.
func startLimited(t *testing.T, openFiles string, args ...string) *bench {
	t.Helper()
	return startBy(t, "ulimit -n "+openFiles+` && exec "$@"`, nil, args...)
}

// startBy is start by a shell's script, to which "$@" is the command, and "$4" the folder of its
// results. attr says how the shell is started; nil is as usual.
func startBy(t *testing.T, script string, attr *syscall.SysProcAttr, args ...string) *bench {
	t.Helper()
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{results: t.TempDir(), stderr: new(watched)}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	b.cmd = exec.CommandContext(ctx, "sh", append([]string{"-c", script, "sh", exe, "bench", "-results", b.results}, args...)...)
	b.cmd.Dir, b.cmd.SysProcAttr = t.TempDir(), attr
	b.cmd.Stdout, b.cmd.Stderr = &b.stdout, b.stderr
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return b
}

// wait returns the exit status.
func (b *bench) wait(t *testing.T) int {
	t.Helper()
	err := b.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return b.cmd.ProcessState.ExitCode()
}

// run returns the one result that the bench wrote.
func (b *bench) run(t *testing.T) *report.Run {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.results, "*", "*", "run.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("results %v, %v\n%s%s", files, err, b.stdout.String(), b.stderr)
	}
	r, err := report.ReadJSON(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// cometsOf returns how many comets a run had.
func cometsOf(r *report.Run) (n int) {
	for _, p := range r.Processes {
		if p.Role == "comet" {
			n++
		}
	}
	return n
}

// logs returns the logs of the processes under test, for a failed test's message.
func (b *bench) logs() string {
	var text strings.Builder
	files, _ := filepath.Glob(filepath.Join(b.results, "*", "*", "logs", "*"))
	for _, f := range files {
		log, _ := os.ReadFile(f)
		fmt.Fprintf(&text, "--- %s\n%s", filepath.Base(f), log)
	}
	return text.String()
}

// children returns the processes that were started by the process pid.
func children(t *testing.T, pid int) (list []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // ended in between
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			list = append(list, child)
		}
	}
	return list
}

// lenient are bounds with which nothing that a busy machine does makes a run invalid.
const lenient = "valid: {swarm_busy: 1, swarm_starved: 1, read_lag: 10, hiccups: 1, pusher_lag: 1m, " +
	"other_cpu: 1, steal: 1, memory_wait: 1, packets_dropped: 1, clock_error: 10}"

// scenarioFile writes a scenario to a file of its own, and returns its path.
func scenarioFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "scenario.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// waitFor waits until what holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute until %s", what)
		}
	}
}

// fitsSchema holds the run's run.json against the published schema.
func (b *bench) fitsSchema(t *testing.T) {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("../docs/run.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(b.results, "*", "*", "run.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("results %v, %v", files, err)
	}
	f, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	run, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(run); err != nil {
		t.Errorf("%s: %v", files[0], err)
	}
}

// The whole line, with every kind of push: each of them reaches everyone that it is meant
// for and nobody else, once and in order, and the result says all that it promises.
func TestSmoke(t *testing.T) {
	b := start(t, "smoke")
	status := b.wait(t)
	if status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	b.fitsSchema(t)
	if r.Verdict.Status != report.Good || !strings.HasPrefix(b.stdout.String(), "GOOD  smoke: ") || !strings.Contains(b.stdout.String(), b.results) {
		t.Errorf("verdict %+v, printed:\n%s", r.Verdict, b.stdout.String())
	}
	c := &r.Clients
	if c.Joined != 200 || c.TCP != 100 || c.WebSocket != 100 || c.Failed+c.ClosedEarly != 0 || c.ConnectSeconds <= 0 || c.HeartbeatsSent == 0 {
		t.Errorf("clients: %+v", c)
	}
	// By line: pushes in 3 s times the clients that each is for.
	want := map[string]report.Counts{"room": {Expected: 120 * 50}, "keys": {Expected: 30 * 5}, "mids": {Expected: 30 * 10}, "all": {Expected: 15 * 200}}
	for _, l := range r.Pushes.Lines {
		if l.Deliveries.Expected != want[l.Name].Expected || l.Deliveries.Delivered != l.Deliveries.Expected || l.Pushes.Acknowledged != l.Pushes.Intended {
			t.Errorf("line %s: %+v", l.Name, l)
		}
	}
	if len(r.Pushes.Lines) != 4 {
		t.Errorf("%d lines of pushes", len(r.Pushes.Lines))
	}
	d := &r.Deliveries
	if d.Measured.Delivered != 9450 || d.WarmUp.Delivered != 3150 || d.CometFrames != 12_600 || d.LedgerFrames != 12_600 || !d.Drained || d.PerSecond <= 0 {
		t.Errorf("deliveries: %+v", d)
	}
	l := &r.Latency
	if l.All.Count != 9450 || l.TCP.Count+l.WebSocket.Count != 9450 || l.Last.Count != 195 || l.All.P50 <= 0 || l.All.P50 > l.All.Max || l.First.P50 > l.Last.P50 {
		t.Errorf("latency: %+v", l)
	}
	names := map[string]bool{}
	for _, p := range r.Processes {
		names[p.Name] = true
		if p.RSSPeakBytes < 1<<20 || p.CPUTotal <= 0 || p.PSSBytes <= 0 || p.GoHeapBytes <= 0 {
			t.Errorf("process %+v", p)
		}
	}
	for _, name := range []string{"services", "logic", "comet-1", "job", "harness"} {
		if !names[name] {
			t.Errorf("process %s is missing in %v", name, names)
		}
	}
	if r.Server.CPUSeconds <= 0 || r.Comet.UserBytesPerConnection <= 0 || r.Comet.Writes <= 0 || r.Comet.FramesPerWrite <= 0 {
		t.Errorf("server %+v, comet %+v", r.Server, r.Comet)
	}
	if j := r.Job; j == nil || j.GivenUp != 0 || len(j.Dropped) == 0 || j.Dropped["comet_dead"] != 0 {
		t.Errorf("job: %+v", j)
	}
	if g := r.Ceiling; g == nil || g.Clients != 200 || g.SweepMedian <= 0 || g.SendsPerSecond <= 0 || g.WritesFraction <= 0 {
		t.Errorf("ceiling: %+v", g)
	}
	e := &r.Environment
	if e.Cores != runtime.NumCPU() || e.Kernel == "" || !strings.HasPrefix(r.Scenario.Text, "# Does the whole line work?") || len(r.Timeline) < 3 {
		t.Errorf("environment %+v, %d samples", e, len(r.Timeline))
	}
}

// Two comets: clients and pushes are spread over both, and still nothing is missing.
func TestSeveralComets(t *testing.T) {
	b := start(t, "-ceiling=false", "-profile", "-set", "cluster.comets=3", "-set", "phases.measure=2s", "-set", "cluster.comet.room.minInterval=20ms", "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	comets := cometsOf(r)
	files, err := filepath.Glob(filepath.Join(b.results, "smoke", "*", "profiles", "*.pb.gz"))
	if err != nil || len(files) != 7*6 || r.Profiles.Taken != len(files) || len(r.Profiles.Problems) > 0 {
		t.Errorf("profiles %v, %v, %+v; want six kinds of seven processes", files, err, r.Profiles)
	}
	if comets != 3 || r.Ceiling != nil || r.Deliveries.Measured.Delivered != r.Deliveries.Measured.Expected || len(r.Scenario.Overrides) != 3 {
		t.Errorf("%d comets, %+v", comets, r.Deliveries)
	}
}

// One comet holds more clients than the limit of open files, and nothing is missing.
func TestTables(t *testing.T) {
	b := startLimited(t, "800", "-ceiling=false", "-set", "cluster.tables=auto", "-set", "clients.count=1200",
		"-set", "clients.heartbeat=2s", "-set", "phases.measure=3s", "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	comets := cometsOf(r)
	if comets != 1 || r.Clients.Joined != 1200 || r.Deliveries.Measured.Delivered != r.Deliveries.Measured.Expected {
		t.Errorf("%d comets, %+v, %+v", comets, r.Clients, r.Deliveries)
	}
	if log := b.logs(); !strings.Contains(log, "-limit.descriptorTables=5") || !strings.Contains(log, "connections=3630") {
		t.Errorf("not five tables of 800:\n%s", log)
	}
}

// Ctrl-C in every phase: all processes end, and the exit status is that of an interrupt.
// From the first client on there is a report, marked as cut short.
func TestInterrupt(t *testing.T) {
	for _, c := range []struct {
		phase  string
		args   []string
		report bool
	}{
		{"start", nil, false},
		{"connect", []string{"-set", "clients.connect_rate=20/s"}, true},
		{"warm-up", []string{"-set", "phases.warmup=1m"}, true},
		{"measure", []string{"-set", "phases.measure=1m"}, true},
		// What waits for the next sweep is under way for seconds.
		{"drain", []string{"-set", "cluster.comet.room.minInterval=10s", "-set", "phases.measure=1s"}, true},
		{"ceiling", nil, true},
	} {
		t.Run(c.phase, func(t *testing.T) {
			b := start(t, append(c.args, "smoke")...)
			waitFor(t, c.phase+" begins", func() bool { return strings.Contains(b.stderr.String(), "s  "+c.phase) })
			var under []int
			waitFor(t, "processes run", func() bool {
				under = children(t, b.cmd.Process.Pid)
				return len(under) > 0
			})
			if err := b.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if status := b.wait(t); status != 130 {
				t.Errorf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
			}
			if took := time.Since(begin); took > 40*time.Second {
				t.Errorf("took %s to end", took)
			}
			for _, pid := range under {
				if err := syscall.Kill(pid, 0); err == nil {
					t.Errorf("process %d was left behind", pid)
				}
			}
			if !c.report {
				if !strings.Contains(b.stderr.String(), "interrupted") {
					t.Errorf("said %s", b.stderr)
				}
				return
			}
			r := b.run(t)
			if r.Verdict.Status != report.CutShort || !strings.HasPrefix(b.stdout.String(), "CUT SHORT") || r.Deliveries.Measured.Lost > 0 && r.Deliveries.Drained {
				t.Errorf("verdict %+v", r.Verdict)
			}
		})
	}
}

// A comet that is killed makes the run fail, and says which process it was.
func TestAProcessThatDies(t *testing.T) {
	b := start(t, "-set", "phases.measure=1m", "smoke")
	waitFor(t, "the measured phase begins", func() bool { return strings.Contains(b.stderr.String(), "measure") })
	killed := false
	for _, pid := range children(t, b.cmd.Process.Pid) {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && bytes.Contains(cmdline, []byte("\x00comet\x00")) {
			killed = syscall.Kill(pid, syscall.SIGKILL) == nil
		}
	}
	if !killed {
		t.Fatal("found no comet")
	}
	if status := b.wait(t); status != 1 || !strings.Contains(b.stderr.String(), "comet-1 ended by itself (signal: killed)") {
		t.Errorf("exit status %d\n%s", status, b.stderr)
	}
}

// What can't be run exits with status 2 and says what would be right.
func TestUsage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(file, []byte("name: bad\nclients: {conut: 5}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "one scenario is wanted, got 0"},
		{[]string{"a", "b"}, "one scenario is wanted, got 2"},
		{[]string{"smok"}, "did you mean smoke?"},
		{[]string{"none.yaml"}, "none.yaml: no such file"},
		{[]string{"smoke", "-seiling"}, "barrage bench: unknown flag -seiling; did you mean -ceiling?"},
		{[]string{"-set", "clients.count=none", "smoke"}, `clients.count: "none" is not a whole number; accepted: 1 to 10000000`},
		{[]string{file}, file + ":2: clients.conut: unknown field; did you mean count?"},
		{[]string{"-set", "cluster.comet.room.minIntervall=1s", "smoke"}, "minInterval"},
		{[]string{"-set", "clients.count=5000000", "smoke"}, "this machine can't run the scenario as it is"},
	} {
		b := start(t, c.args...)
		if status := b.wait(t); status != 2 || !strings.Contains(b.stderr.String(), c.want) {
			t.Errorf("%q: exit status %d, want %q in:\n%s", c.args, status, c.want, b.stderr)
		}
	}
}
