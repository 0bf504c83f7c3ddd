package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"barrage/server/wire"
)

// restartScript is a start script as goim's users have it: it ends what runs, and starts the
// three processes by their own names with their own files and flags; those of job lack dashes, as
// in goim's Makefile, and mean nothing to goim either.
const restartScript = `#!/bin/bash
cd "$(dirname "$0")"
mkdir -p log/comet log/logic log/job
for name in job logic comet; do
	if [ -f target/$name.pid ]; then
		kill $(cat target/$name.pid) && while kill -0 $(cat target/$name.pid) 2>/dev/null; do sleep 0.05; done
		rm -f target/$name.pid
	fi
done
nohup target/comet -conf=target/comet.toml -region=sh -zone=sh001 -deploy.env=dev -weight=10 -addrs=127.0.0.1 -debug=true -log_dir=log/comet -stderrthreshold=INFO > target/comet.out 2>&1 &
echo $! > target/comet.pid
nohup target/logic --conf=target/logic.toml --region=sh --zone=sh001 --deploy.env=dev --weight=10 --log_dir=log/logic -stderrthreshold=WARNING -v=1 > target/logic.out 2>&1 &
echo $! > target/logic.pid
REGION=sh ZONE=sh001 DEPLOY_ENV=dev nohup target/job -conf=target/job.toml -logtostderr deploy.env=prod weight=10 > target/job.out 2>&1 &
echo $! > target/job.pid
`

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// within waits until check returns no error.
func within(t *testing.T, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// A cluster moves over with its own files, flags and start script: the programs' names are
// links to this one.
func TestGoimsRestartScript(t *testing.T) {
	services := launch(t, "services", "-admin.addr=127.0.0.1:0")
	found := services.find(t, &services.stdout, `ready: kafka (\S+), redis (\S+), discovery (\S+), admin`)
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	tcp, api := freePort(t), freePort(t)
	addresses := strings.NewReplacer("127.0.0.1:9092", found[1], "127.0.0.1:6379", found[2], "127.0.0.1:7171", found[3],
		`":3101"`, `"`+tcp+`"`, `":3111"`, `"`+api+`"`, `":3102"`, `"127.0.0.1:0"`, `":3109"`, `"127.0.0.1:0"`, `":3119"`, `"127.0.0.1:0"`)
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"comet", "logic", "job"} {
		text, err := os.ReadFile(goimFile(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(target, name+".toml"), []byte(addresses.Replace(string(text))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"comet", "logic", "job"} {
		if err := os.Symlink(exe, filepath.Join(target, name)); err != nil {
			t.Fatal(err)
		}
	}
	script := filepath.Join(dir, "restart.sh")
	if err := os.WriteFile(script, []byte(restartScript), 0o755); err != nil {
		t.Fatal(err)
	}
	pid := func(name string) int {
		text, _ := os.ReadFile(filepath.Join(target, name+".pid"))
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	kill := func(signal syscall.Signal) {
		for _, name := range []string{"comet", "logic", "job"} {
			if n := pid(name); n > 0 {
				_ = syscall.Kill(n, signal)
			}
		}
	}
	restart := func() {
		t.Helper()
		run := exec.Command(script)
		run.Env = append(os.Environ(), asMain+"=1", "BARRAGE_ADMIN_ADDR=127.0.0.1:0")
		if out, err := run.CombinedOutput(); err != nil {
			t.Fatalf("restart: %v\n%s", err, out)
		}
	}
	t.Cleanup(func() {
		kill(syscall.SIGKILL)
		if t.Failed() {
			for _, pattern := range []string{"target/*.out", "log/*/*"} {
				files, _ := filepath.Glob(filepath.Join(dir, pattern))
				for _, f := range files {
					text, _ := os.ReadFile(f)
					t.Logf("%s\n%s", f, text)
				}
			}
		}
	})
	works := func() {
		t.Helper()
		within(t, "a push reaches a client", func() error {
			conn, err := net.DialTimeout("tcp", tcp, time.Second)
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			in := bufio.NewReader(conn)
			auth := wire.Frame{Ver: 1, Op: wire.OpAuth, Seq: 1, Body: []byte(`{"mid":123,"key":"","room_id":"live://1000","platform":"web","accepts":[1000,1001]}`)}
			if _, err := conn.Write(wire.AppendFrame(nil, auth)); err != nil {
				return err
			}
			if _, err := in.Peek(wire.HeaderLen); err != nil {
				return fmt.Errorf("no auth reply: %w", err)
			}
			readFrame(t, in)
			resp, err := http.Post("http://"+api+"/goim/push/room?operation=1000&type=live&room=1000", "", strings.NewReader(`{"test":1}`))
			if err != nil {
				return err
			}
			answer, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(answer) != `{"code":0,"message":""}` {
				return fmt.Errorf("push: %s, %v", answer, err)
			}
			if _, err := in.Peek(wire.HeaderLen); err != nil {
				return fmt.Errorf("the push does not arrive: %w", err)
			}
			if f := readFrame(t, in); string(f.Body) != `{"test":1}` || f.Op != 1000 {
				return fmt.Errorf("got %+v", f)
			}
			return nil
		})
	}
	restart()
	works()
	first := pid("comet")
	restart()
	if again := pid("comet"); again == first || again == 0 {
		t.Errorf("comet is process %d, and was %d", again, first)
	}
	works()

	// The flags of its log mean what they say.
	read := func(path ...string) string {
		text, _ := os.ReadFile(filepath.Join(append([]string{dir}, path...)...))
		return string(text)
	}
	within(t, "the logs", func() error {
		switch {
		case !strings.Contains(read("log", "comet", "comet.log"), "level=DEBUG"), !strings.Contains(read("log", "comet", "comet.log"), "comet serves"):
			return fmt.Errorf("comet.log: %s", read("log", "comet", "comet.log"))
		case !strings.Contains(read("target", "comet.out"), "level=INFO"), strings.Contains(read("target", "comet.out"), "level=DEBUG"):
			return fmt.Errorf("comet's stderr: %s", read("target", "comet.out"))
		case !strings.Contains(read("log", "logic", "logic.log"), "level=DEBUG"), strings.Contains(read("target", "logic.out"), "level=INFO"):
			return fmt.Errorf("logic's stderr: %s", read("target", "logic.out"))
		case !strings.Contains(read("target", "job.out"), "job serves"):
			return fmt.Errorf("job's stderr: %s", read("target", "job.out"))
		}
		return nil
	})
	if text := read("white_list.log"); strings.Count(text, "mid=123") < 2 {
		t.Errorf("the whitelist's log has %q", text)
	}
	kill(syscall.SIGTERM)
	within(t, "all end", func() error {
		for _, name := range []string{"comet", "logic", "job"} {
			if err := syscall.Kill(pid(name), 0); err == nil && !zombie(pid(name)) {
				return fmt.Errorf("%s still runs", name)
			}
		}
		return nil
	})
}

// zombie says whether a process has ended and waits for somebody to take note of it.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

// SIGHUP: what may change is taken over, what may not is said, a bad file changes nothing,
// and the log goes on in a new file.
func TestReloadBySignal(t *testing.T) {
	dir := t.TempDir()
	conf, log := filepath.Join(dir, "comet.toml"), filepath.Join(dir, "comet.log")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("[log]\nlevel = \"info\"\n")
	b := launch(t, "comet", "-conf", conf, "-discovery.nodes=127.0.0.1:1", "-host=c", "-tcp.bind=127.0.0.1:0", "-websocket.bind=127.0.0.1:0",
		"-rpcServer.addr=127.0.0.1:0", "-admin.addr=127.0.0.1:0", "-log_dir", dir)
	says := func(what string, n int) {
		t.Helper()
		within(t, what, func() error {
			text, err := os.ReadFile(log)
			if strings.Count(string(text), what) < n {
				return fmt.Errorf("%v: %s", err, text)
			}
			return nil
		})
	}
	hup := func() {
		t.Helper()
		if err := b.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	says("comet serves", 1)
	write("[log]\nlevel = \"debug\"\n[whitelist]\nwhitelist = [1]\n[limit]\nperAddress = 3\n[room]\nlogBytes = 8192\n")
	hup()
	says(`changed="whitelist.whitelist, limit.perAddress, log.level" level=DEBUG`, 1)
	says(`level=WARN msg="settings take effect at the next start" settings=room.logBytes`, 1)
	for _, bad := range []string{"[limit]\nperAdress = 3\n", "[limit]\nperAddress = -3\n", "[log]\nformat = \"xml\"\n"} {
		write(bad)
		hup()
	}
	says("nothing has changed", 1)
	// logrotate moves the file away.
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	write("[log]\nlevel = \"info\"\n")
	hup()
	says("the configuration is loaded again", 1)
	write("[log]\nformat = \"json\"\nstderrThreshold = \"INFO\"\ndir = \"elsewhere\"\n[console]\naddr = \"127.0.0.1:1\"\n")
	hup()
	// The folder is a flag, which the file doesn't change.
	says(`"settings":"console.addr"`, 1)
	says(`"changed":"log.format, log.stderrThreshold"`, 1)
	b.find(t, &b.stderr, `"changed":"log.format, log.stderrThreshold"`)
	b.end(t, syscall.SIGTERM)
}

// What logrotate sends to a process that is about to end doesn't keep it from ending in order.
func TestHangUpOfAProcessThatEnds(t *testing.T) {
	b := launch(t, "discovery", "-httpServer.addr=127.0.0.1:0", "-admin.addr=127.0.0.1:0")
	b.find(t, &b.stderr, "discovery serves")
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for b.cmd.Process.Signal(syscall.SIGHUP) == nil { // until it has ended
		runtime.Gosched()
	}
	if status := b.wait(t); status != exitGood {
		t.Errorf("exit status %d", status)
	}
}

// A role that takes nothing over says so.
func TestReloadOfWhatCannotChange(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "discovery.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("enableProtect = false\n")
	b := launch(t, "discovery", "-conf", conf, "-httpServer.addr=127.0.0.1:0", "-admin.addr=127.0.0.1:0")
	b.find(t, &b.stderr, "discovery serves")
	for _, c := range []struct{ text, says string }{
		{"enableProtect = true\n[log]\nverbosity = 1\n", `settings=enableProtect\n.* changed=log.verbosity level=DEBUG`},
		{"enableProtect = false\n", `changed=log.verbosity level=INFO`}, // as it started
	} {
		write(c.text)
		if err := b.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		b.find(t, &b.stderr, c.says)
	}
	if n := strings.Count(b.stderr.String(), "next start"); n != 1 {
		t.Errorf("%d warnings", n)
	}
	b.end(t, syscall.SIGTERM)
}

// All roles of one process take over what each of them can.
func TestReloadOfUp(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "up.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("[log]\nlevel = 'info'\n")
	b := launch(t, append([]string{"up", "-conf", conf}, anyPorts()...)...)
	b.find(t, &b.stdout, "Barrage is up")
	for _, c := range []struct{ text, says string }{
		{"[comet.whitelist]\nwhitelist = [7]\n[logic.node]\nheartbeat = '1m'\n[job.lane]\ncount = 2\n[log]\nlevel = 'info'\n",
			`settings=job.lane.count\n.* changed="comet.whitelist.whitelist, logic.node.heartbeat"`},
		{"[comet.whitelist]\nwhitelist = [8]\n[log]\nlevel = 'info'\n[logic.node]\nheartbeat = '1ns'\n", `nothing has changed" err="logic.node.heartbeat: 1ns is outside`},
		{"[comet.whitelist]\nwhitelist = [9]\n[log]\nlevel = 'info'\n[logic.backoff]\nbaseDelay = 9\nmaxDelay = 8\n", `is not taken over" err="logic: backoff.baseDelay: 9 is more than backoff.maxDelay, 8" changed=""`},
		{"[log]\nlevel = 'info'\n[logic.httpServer.auth]\nkeysFile = '/nowhere/keys'\n", `is not taken over" err=.*/nowhere/keys.* changed=comet.whitelist.whitelist`},
	} {
		write(c.text)
		if err := b.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		b.find(t, &b.stderr, c.says)
	}
	b.end(t, syscall.SIGTERM)
}

func TestPrintedConfigurationLoads(t *testing.T) {
	for _, role := range []string{"comet", "logic", "job", "discovery", "services", "up"} {
		first := launch(t, role, "-print-config", "-log.level=warn")
		if status := first.wait(t); status != exitGood {
			t.Fatalf("%s: exit status %d", role, status)
		}
		file := filepath.Join(t.TempDir(), "all.toml")
		if err := os.WriteFile(file, []byte(first.stdout.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		second := launch(t, role, "-conf", file, "--print-config")
		if status := second.wait(t); status != exitGood || second.stdout.String() != first.stdout.String() {
			t.Errorf("%s: exit status %d, or another text", role, status)
		}
		if !strings.Contains(first.stdout.String(), `level = "WARN"`) {
			t.Errorf("%s: the flag is not in what is printed", role)
		}
	}
}

func TestNameIsTheCommand(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"target/comet -conf=x", "comet -conf=x"},
		{"/usr/bin/logic", "logic"},
		{"./job --zone=a", "job --zone=a"},
		{"bin/barrage comet -h", "comet -h"},
		{"bin/barrage", ""},
		{"comet version", "version"},
	} {
		if got := strings.Join(arguments(strings.Fields(c.line)), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
}
