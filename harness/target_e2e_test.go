package harness_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"barrage/harness/report"
)

// A cluster that runs already is driven like one of the run's own, and what can't be known
// of it is not made up.
func TestTarget(t *testing.T) {
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"up"}
	for _, setting := range []string{
		"comet.tcp.bind", "comet.websocket.bind", "comet.rpcServer.addr", "comet.admin.addr", "job.admin.addr", "logic.httpServer.addr",
		"logic.rpcServer.addr", "logic.admin.addr", "services.discovery.addr", "services.admin.addr", "console.addr",
	} {
		args = append(args, "-"+setting+"=127.0.0.1:0")
	}
	out := new(watched)
	up := exec.Command(exe, args...)
	up.Stdout, up.Stderr = out, out
	up.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	defer up.Wait()
	defer up.Process.Signal(syscall.SIGTERM)
	pattern := regexp.MustCompile(`push API +http://([^/]+)/\S+\n +TCP +(\S+)\n +WebSocket +ws://([^/]+)/sub`)
	var found []string
	waitFor(t, "up is there", func() bool {
		found = pattern.FindStringSubmatch(out.String())
		return found != nil
	})
	address := "tcp=" + found[2] + ",ws=" + found[3] + ",push=" + found[1]
	b := start(t, "-target", address, "-set", "phases.measure=2s", "-set", "expect={lost: 0, server.cpu_per_delivery: <= 1ns}", "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
	}
	r := b.run(t)
	d := &r.Deliveries
	if r.Verdict.Status != report.Good || r.Target == nil || r.Target.Push != found[1] || d.Measured.Delivered == 0 || d.Measured.Delivered != d.Measured.Expected || r.Ceiling != nil {
		t.Errorf("%+v, target %+v, %+v", r.Verdict, r.Target, d)
	}
	if len(r.Processes) != 1 || r.Processes[0].Name != "harness" {
		t.Errorf("processes %+v", r.Processes)
	}
	if _, known := figure(t, r, "server.cpu_per_delivery"); known {
		t.Error("the target's CPU is known")
	}
	if s, ok := r.Stage(report.StageRest); !ok || s.Mean <= 0 {
		t.Errorf("stages %+v", r.Stages)
	}
	for _, want := range []string{"what the target uses is not known", "server.cpu_per_delivery is not known of the target"} {
		if !strings.Contains(b.stdout.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.stdout.String())
		}
	}

	// Its three roles are one process, which is counted once.
	admin := regexp.MustCompile(`admin +http://(\S+) \(comet\), (\S+) \(job\), (\S+) \(logic\)`).FindStringSubmatch(out.String())
	if admin == nil {
		t.Fatalf("no admin pages in\n%s", out)
	}
	b = start(t, "-target", address+",metrics="+admin[1]+",metrics="+admin[2]+",metrics=logic@http://"+admin[3]+"/metrics", "-set", "phases={warmup: 0s, measure: 2s}",
		"-set", "expect={lost: 0, comet.skipped: 0, server.cpu_per_delivery: <= 1s, comet.memory_per_connection: <= 1B}", "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
	}
	r = b.run(t)
	if len(r.Processes) != 2 || r.Processes[0].Role != "logic+job+comet" || r.Processes[0].CPUSeconds <= 0 || r.Processes[0].RSSBytes < 1<<20 || r.Processes[0].RSSPeakBytes < r.Processes[0].RSSBytes {
		t.Errorf("processes %+v", r.Processes)
	}
	for _, name := range []string{"server.cpu_per_delivery", "comet.frames_per_write", "comet.writes_per_second"} {
		if v, known := figure(t, r, name); !known || v <= 0 {
			t.Errorf("%s is %g, known %v", name, v, known)
		}
	}
	if _, known := figure(t, r, "comet.memory_per_connection"); known {
		t.Error("the target's memory per connection is known, though its garbage was not collected")
	}
	if f := &r.Deliveries; f.CometFrames != f.LedgerFrames || f.CometFrames == 0 || r.Comet.Writes == 0 {
		t.Errorf("%+v, %+v", f, r.Comet)
	}
	for _, s := range r.Stages {
		if s.Count != r.Latency.Last.Count {
			t.Errorf("%d pushes, stage %+v", r.Latency.Last.Count, s)
		}
	}
	if _, ok := r.Stage(report.StageReceive); !ok {
		t.Errorf("stages %+v", r.Stages)
	}

	// Of processes that have nothing but profiles, as goim's.
	b = start(t, "-target", address+",pprof=comet@"+admin[1], "-set", "phases={warmup: 0s, measure: 2s}", "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
	}
	r = b.run(t)
	if p := r.Processes[0]; len(r.Processes) != 2 || p.Role != "comet" || p.CPUSeconds <= 0 || p.GoHeapBytes < 1<<20 || p.RSSBytes != 0 {
		t.Errorf("processes %+v", r.Processes)
	}
	if r.Target.Server || r.Target.Comet || len(r.Target.Profiled) != 1 || !strings.Contains(b.stdout.String(), "by a CPU profile") {
		t.Errorf("target %+v in\n%s", r.Target, b.stdout.String())
	}

	// Against processes of the run's own, in turn.
	b = start(t, "-ceiling=false", "-vs", address, "-set", "phases={warmup: 0s, measure: 1s}", "smoke")
	if status := b.wait(t); status != 0 || !strings.Contains(b.stdout.String(), "B against A") {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	for side, targets := range map[string]bool{"a": false, "b": true} {
		files, err := filepath.Glob(filepath.Join(b.results, "smoke", "*", side, "1", "run.json"))
		if err != nil || len(files) != 1 {
			t.Fatalf("results of %s: %v, %v", side, files, err)
		}
		if r, err := report.ReadJSON(files[0]); err != nil || (r.Target != nil) != targets {
			t.Errorf("%s: target %+v, %v", side, r.Target, err)
		}
	}

	for _, c := range []struct{ target, want string }{
		{"tcp=a:1", "push is missing"}, {"tcp=a", "write it as"},
		{"tcp=a:1,push=b:2", "the target no address for them"},
		{address + ",metrics=" + found[1], "metrics says 404"},
	} {
		bad := start(t, "-target", c.target, "smoke")
		if status := bad.wait(t); status != 2 || !strings.Contains(bad.stderr.String(), c.want) {
			t.Errorf("%s: exit status %d, %s", c.target, status, bad.stderr)
		}
	}
}

func figure(t *testing.T, r *report.Run, name string) (v float64, known bool) {
	t.Helper()
	f, ok := report.FindFigure(name)
	if !ok {
		t.Fatalf("there is no figure %s", name)
	}
	return f.Of(r)
}
