package harness_test

import (
	"bytes"
	"encoding/pem"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
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
	found, out := startUp(t)
	address := "tcp=" + found[2] + ",ws=" + found[3] + ",push=" + found[1]
	b := start(t, "-target", address, "-set", "phases.measure=2s", "-set", "expect={lost: 0, server.cpu_per_delivery: <= 1ns}", "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
	}
	r := b.run(t)
	d := &r.Deliveries
	if r.Verdict.Status != report.Good || r.Target == nil || r.Target.Push != found[1] || d.Measured.Delivered == 0 || d.Measured.Delivered != d.Measured.Expected {
		t.Errorf("%+v, target %+v, %+v", r.Verdict, r.Target, d)
	}
	if len(r.Processes) != 1 || r.Processes[0].Name != "harness" {
		t.Errorf("processes %+v", r.Processes)
	}
	// It is on this machine, of which there is a ceiling; but not of what its comet wrote.
	if v, known := figure(t, r, "ceiling.latency_factor"); !known || v <= 0 || r.Ceiling.Clients != 200 {
		t.Errorf("ceiling %+v", r.Ceiling)
	}
	if _, known := figure(t, r, "ceiling.fraction"); known || strings.Contains(b.stdout.String(), "comet reaches") {
		t.Errorf("the target's writes are known:\n%s", b.stdout.String())
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
	for _, name := range []string{"server.cpu_per_delivery", "comet.frames_per_write", "comet.writes_per_second", "ceiling.fraction"} {
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
	b = start(t, "-ceiling=false", "-target", address+",pprof=comet@"+admin[1], "-set", "phases={warmup: 0s, measure: 2s}", "smoke")
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

// startUp runs `barrage up args` until the test ends. It returns the addresses of the push API,
// for TCP and for WebSocket, as the submatches 1 to 3 of what it says, which is out.
func startUp(t *testing.T, args ...string) (found []string, out *watched) {
	t.Helper()
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"up"}, args...)
	for _, setting := range []string{
		"comet.tcp.bind", "comet.websocket.bind", "comet.rpcServer.addr", "comet.admin.addr", "job.admin.addr", "logic.httpServer.addr",
		"logic.rpcServer.addr", "logic.admin.addr", "services.discovery.addr", "services.admin.addr", "console.addr",
	} {
		args = append(args, "-"+setting+"=127.0.0.1:0")
	}
	out = new(watched)
	up := exec.Command(exe, args...)
	up.Stdout, up.Stderr = out, out
	up.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		up.Process.Signal(syscall.SIGTERM)
		up.Wait()
	})
	pattern := regexp.MustCompile(`push API +http://([^/]+)/\S+\n +TCP +(\S+)\n +WebSocket +ws://([^/]+)/sub`)
	waitFor(t, "up is there", func() bool {
		found = pattern.FindStringSubmatch(out.String())
		return found != nil
	})
	return found, out
}

// A cluster that asks for a key is pushed to with one, through a proxy that speaks TLS too, and
// the key is written down nowhere.
func TestTargetThatAsksForAKey(t *testing.T) {
	const key = "a-key-that-nobody-writes-down"
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	found, _ := startUp(t, "-logic.httpServer.auth.keysFile="+keyFile)
	logic := &url.URL{Scheme: "http", Host: found[1]}
	proxy := httptest.NewUnstartedServer(http.StripPrefix("/chat", httputil.NewSingleHostReverseProxy(logic)))
	proxy.Config.ErrorLog = log.New(io.Discard, "", 0) // it would have a line for each refused handshake
	proxy.StartTLS()
	defer proxy.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	clients := "tcp=" + found[2] + ",ws=" + found[3] + ",push="
	for _, c := range []struct {
		name, push, environment string
		args                    []string
		status                  int
		want                    string // in what it says
	}{
		{"by the environment", found[1], key, nil, 0, ""},
		{"by a file, over TLS", proxy.URL + "/chat", "", []string{"-push-key-file", keyFile, "-push-ca", ca}, 0, ""},
		{"the file before the environment", logic.String(), "another key", []string{"-push-key-file", keyFile}, 0, ""},
		{"no key", found[1], "", nil, 1, "authorization: missing; send Authorization: Bearer KEY"},
		{"a certificate that nobody knows", proxy.URL + "/chat", key, nil, 1, "certificate signed by unknown authority"},
		{"authorities without TLS", found[1], key, []string{"-push-ca", ca}, 2, "has none without https://"},
		{"a file of authorities that has none", proxy.URL, key, []string{"-push-ca", keyFile}, 2, "has no certificate in PEM"},
		{"a file that isn't there", found[1], "", []string{"-push-key-file", keyFile + "s"}, 2, "read the push key: open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("BARRAGE_PUSH_KEY", c.environment)
			args := append(c.args, "-ceiling=false", "-target", clients+c.push, "-set", "phases={warmup: 0s, measure: 1s}", "smoke")
			b := start(t, args...)
			status := b.wait(t)
			said := b.stdout.String() + b.stderr.String()
			if status != c.status || !strings.Contains(said, c.want) {
				t.Fatalf("exit status %d, want %d and %q in\n%s", status, c.status, c.want, said)
			}
			if status == 0 {
				r := b.run(t)
				if d := &r.Deliveries.Measured; r.Target.Push != c.push || d.Delivered == 0 || d.Delivered != d.Expected {
					t.Errorf("target %+v, %+v", r.Target, d)
				}
			}
			if strings.Contains(said, key) {
				t.Errorf("the key is in\n%s", said)
			}
			err := filepath.WalkDir(b.results, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					return err
				}
				text, err := os.ReadFile(path)
				if bytes.Contains(text, []byte(key)) {
					t.Errorf("the key is in %s", path)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}

	b := start(t, "-push-ca", ca, "smoke")
	if status := b.wait(t); status != 2 || !strings.Contains(b.stderr.String(), "are about a target, and none is named") {
		t.Errorf("exit status %d, %s", status, b.stderr)
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
