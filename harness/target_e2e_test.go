package harness_test

import (
	"os/exec"
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
	b := start(t, "-target", "tcp="+found[2]+",ws="+found[3]+",push="+found[1], "-set", "phases.measure=2s", "smoke")
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
	if f, _ := report.FindFigure("server.cpu_per_delivery"); f.Name == "" {
		t.Error("the figure is gone")
	} else if _, known := f.Of(r); known {
		t.Error("the target's CPU is known")
	}
	for _, want := range []string{"what the target uses is not known"} {
		if !strings.Contains(b.stdout.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.stdout.String())
		}
	}
	for _, c := range []struct{ target, want string }{
		{"tcp=a:1", "push is missing"}, {"push=a:1", "tcp, ws, tcp+tls and wss are all missing"}, {"udp=a:1,push=b:2", `"udp" is none of tcp, ws, tcp+tls, wss, push`}, {"tcp=a", "write it as"},
		{"tcp=a:1,push=b:2", "the target no address for them"},
	} {
		bad := start(t, "-target", c.target, "smoke")
		if status := bad.wait(t); status != 2 || !strings.Contains(bad.stderr.String(), c.want) {
			t.Errorf("%s: exit status %d, %s", c.target, status, bad.stderr)
		}
	}
}
