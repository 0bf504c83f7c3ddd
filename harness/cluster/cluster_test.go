package cluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is its own fake of the roles: with this variable set it behaves as one,
// with the value's word for the process's name: "job=deaf comet-2=dies".
const fakeEnv = "BARRAGE_TEST_FAKE_ROLES"

func TestMain(m *testing.M) {
	behaviour, fake := os.LookupEnv(fakeEnv)
	if fake && len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(fakeRole(os.Args[1], os.Args[2:], behaviour))
	}
	os.Exit(m.Run())
}

func fakeRole(role string, args []string, behaviour string) int {
	values := map[string]string{}
	for _, a := range args {
		k, v, _ := strings.Cut(strings.TrimPrefix(a, "-"), "=")
		values[k] = v
	}
	name := role
	if role == RoleComet {
		name = values["host"]
	}
	does := ""
	for word := range strings.FieldsSeq(behaviour) {
		if who, what, _ := strings.Cut(word, "="); who == name {
			does = what
		}
	}
	fmt.Println("this is", name, "with", args)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	switch does {
	case "fails":
		fmt.Fprintln(os.Stderr, "tcp.bind: address already in use")
		return 2
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	case "child":
		// The child stays in the group and would outlive its parent.
		child := exec.Command("sleep", "600")
		if err := child.Start(); err != nil {
			return 1
		}
		fmt.Println("child", child.Process.Pid)
	}
	dead := make(chan struct{})
	begin := time.Now()
	http.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if does == "unready" || time.Since(begin) < 100*time.Millisecond {
			http.Error(w, "kafka: connecting", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/services", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"kafka":"k:1","redis":"r:2","discovery":"d:3"}`)
	})
	http.HandleFunc("/die", func(w http.ResponseWriter, r *http.Request) { close(dead) })
	http.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "# HELP a b\na 1\nb_total{reason=\"x y\"} 2.5e3\nb_total{reason=\"z\"} 3\n")
	})
	go http.ListenAndServe(values["admin.addr"], nil)
	select {
	case <-stop:
		fmt.Println("stopped in order")
		return 0
	case <-dead:
		fmt.Println("panic: something")
		return 3
	}
}

func startFake(t *testing.T, behaviour string, cfg Config) (*Cluster, chan *ExitError, error) {
	t.Setenv(fakeEnv, behaviour)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Exe, cfg.Logs = exe, t.TempDir()
	died := make(chan *ExitError, 10)
	c, err := Start(t.Context(), cfg, func(e *ExitError) { died <- e })
	if err == nil {
		t.Cleanup(func() { c.Stop() })
	}
	return c, died, err
}

// gone fails unless the process ends soon.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for syscall.Kill(pid, 0) == nil {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(stat), ") Z ") {
			return // ended, and its new parent has not asked yet
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d still lives", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestStartAndStop(t *testing.T) {
	c, died, err := startFake(t, "comet-2=child", Config{
		Comets: 2, Comet: []string{"-room.minInterval=10ms"}, Logic: []string{"-a=b"}, Job: []string{"-c=d"}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var pids []int
	for _, p := range c.Processes() {
		names = append(names, p.Name)
		pids = append(pids, p.PID())
	}
	if want := []string{"services", "logic", "comet-1", "comet-2", "job"}; !slices.Equal(names, want) {
		t.Errorf("processes %v, want %v", names, want)
	}
	if len(c.TCP) != 2 || len(c.WS) != 2 || c.TCP[0] == c.WS[0] || c.Push == "" || len(c.Role(RoleComet)) != 2 {
		t.Errorf("addresses: push %q, tcp %v, ws %v", c.Push, c.TCP, c.WS)
	}
	use := c.Usage(t.Context())
	if len(use) != 5 || use["job"].RSS < 1<<20 || use["job"].Peak < use["job"].RSS {
		t.Errorf("usage %+v", use)
	}
	m, err := c.Role(RoleComet)[0].Metrics(t.Context())
	if err != nil || m["a"] != 1 || m.Sum("b_total") != 2503 || m.By("b_total")["x y"] != 2500 {
		t.Errorf("metrics %v: %v", m, err)
	}
	log, err := os.ReadFile(filepath.Join(c.cfg.Logs, "comet-2.log"))
	if err != nil || !strings.Contains(string(log), "-room.minInterval=10ms") || !strings.Contains(string(log), "-discovery.nodes=d:3") {
		t.Errorf("log of comet-2: %s, %v", log, err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		gone(t, pid)
	}
	var child int
	for line := range strings.Lines(string(log)) {
		fmt.Sscanf(line, "child %d", &child)
	}
	if child == 0 {
		t.Fatalf("no child in %s", log)
	}
	gone(t, child)
	if len(died) > 0 {
		t.Errorf("asked to stop, yet reported: %v", <-died)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

func TestAProcessThatFailsAtTheStart(t *testing.T) {
	for _, name := range []string{"services", "logic", "comet-1", "job"} {
		_, _, err := startFake(t, name+"=fails", Config{Comets: 1})
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Name != name || !strings.Contains(err.Error(), "| tcp.bind: address already in use") ||
			!strings.Contains(err.Error(), "exit status 2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAProcessThatNeverGetsReady(t *testing.T) {
	_, _, err := startFake(t, "comet-1=unready", Config{Comets: 1, Ready: 500 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "comet-1 is not ready after 500ms") || !strings.Contains(err.Error(), "kafka: connecting") {
		t.Errorf("error is %v", err)
	}
}

func TestAProcessThatDiesIsReported(t *testing.T) {
	c, died, err := startFake(t, "", Config{Comets: 1})
	if err != nil {
		t.Fatal(err)
	}
	job := c.Role(RoleJob)[0]
	// The answer may be cut off by the death that it causes.
	_, _ = job.Get(t.Context(), "/die")
	select {
	case e := <-died:
		if e.Name != "job" || !strings.Contains(e.Error(), "| panic: something") || !strings.Contains(e.Error(), "exit status 3") {
			t.Errorf("reported: %v", e)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not reported")
	}
	if u := c.Usage(t.Context()); len(u) != 3 {
		t.Errorf("usage of %d processes, three still live", len(u))
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

func TestAProcessDeafToSigtermIsKilled(t *testing.T) {
	c, _, err := startFake(t, "job=deaf", Config{Comets: 1, Grace: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	pid := c.Role(RoleJob)[0].PID()
	if err := c.Stop(); err == nil || !strings.Contains(err.Error(), "job did not end within 300ms") {
		t.Errorf("stop says %v", err)
	}
	gone(t, pid)
}

func TestCancelWhileStarting(t *testing.T) {
	t.Setenv(fakeEnv, "logic=unready")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begin := time.Now()
	_, err = Start(ctx, Config{Exe: exe, Logs: t.TempDir(), Comets: 1}, func(*ExitError) {})
	if err == nil || time.Since(begin) > 8*time.Second {
		t.Errorf("after %s: %v", time.Since(begin), err)
	}
}

// A harness that is killed outright takes its processes with it.
func TestProcessesDieWithTheHarness(t *testing.T) {
	if at := flag.Lookup("test.run"); os.Getenv("BARRAGE_TEST_HARNESS") != "" && at != nil {
		c, _, err := startFake(t, "", Config{Comets: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range c.Processes() {
			fmt.Println("pid", p.PID())
		}
		fmt.Println("up")
		select {}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	harness := exec.Command(exe, "-test.run=^TestProcessesDieWithTheHarness$")
	harness.Env = append(os.Environ(), "BARRAGE_TEST_HARNESS=1")
	out, err := harness.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := harness.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for {
		var word string
		if _, err := fmt.Fscan(out, &word); err != nil || word == "up" {
			break
		}
		if pid, err := strconv.Atoi(word); err == nil {
			pids = append(pids, pid)
		}
	}
	if err := harness.Process.Kill(); err != nil {
		t.Error(err)
	}
	harness.Wait()
	if len(pids) != 4 {
		t.Fatalf("%d processes were started", len(pids))
	}
	for _, pid := range pids {
		gone(t, pid)
	}
}

func TestPorts(t *testing.T) {
	a, err := NewPorts()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b := &Ports{low: a.low, high: a.high, next: a.next} // another run that starts at the same place
	defer b.Close()
	seen := map[string]bool{}
	for range 20 {
		for _, p := range []*Ports{a, b} {
			at, err := p.Take()
			if err != nil {
				t.Fatal(err)
			}
			if seen[at] {
				t.Fatalf("%s was given twice", at)
			}
			seen[at] = true
		}
	}
	for _, c := range []struct {
		low, high, first, last int
	}{
		{32768, 60999, 10000, 32767},
		{1024, 49151, 49152, 65535},
		{15000, 65535, 10000, 14999},
		{1024, 65535, 0, 0},
	} {
		first, last, err := span(c.low, c.high)
		if first != c.first || last != c.last || (err != nil) != (c.last == 0) {
			t.Errorf("span(%d, %d) is %d to %d, %v", c.low, c.high, first, last, err)
		}
	}
	if _, _, err := localPortRange("x"); err == nil {
		t.Error("a range of x was accepted")
	}
}

func TestParseUsage(t *testing.T) {
	stat := "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 1 1 1"
	status := "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"
	u, err := parseUsage([]byte(stat), []byte(status))
	if want := (Usage{2500 * time.Millisecond, 500 * time.Millisecond, 1 << 20, 2 << 20}); err != nil || u != want || u.CPU() != 3*time.Second {
		t.Errorf("%+v, %v", u, err)
	}
	for _, bad := range []string{"", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 4194560 100 0 0 0 x 50 0"} {
		if _, err := parseUsage([]byte(bad), nil); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if pss, err := ReadPSS(os.Getpid()); err != nil || pss < 1<<20 {
		t.Errorf("PSS %d, %v", pss, err)
	}
}
