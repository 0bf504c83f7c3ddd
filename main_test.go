package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"barrage/server/wire"
)

// asMain makes this test's binary be barrage, so that the tests run real processes.
const asMain = "BARRAGE_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// A buffer collects what a process writes.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A barrage is a process of this command.
type barrage struct {
	cmd            *exec.Cmd
	stdout, stderr buffer
	ended          chan struct{} // closed when it has
}

func launch(t *testing.T, args ...string) *barrage {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &barrage{cmd: exec.Command(exe, args...), ended: make(chan struct{})}
	b.cmd.Env = append(os.Environ(), asMain+"=1")
	b.cmd.Stdout, b.cmd.Stderr = &b.stdout, &b.stderr
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = b.cmd.Wait() // the state has what it says
		close(b.ended)
	}()
	t.Cleanup(func() {
		_ = b.cmd.Process.Kill()
		<-b.ended
		if t.Failed() {
			t.Logf("barrage %s\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), &b.stdout, &b.stderr)
		}
	})
	return b
}

// wait returns the exit status.
func (b *barrage) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-b.ended:
		return b.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		t.Fatal("the process does not end")
		return -1
	}
}

func (b *barrage) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := b.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	if status := b.wait(t); status != exitGood {
		t.Errorf("after %v the exit status is %d", signal, status)
	}
}

// find waits for text in out that matches pattern and returns the match's groups.
func (b *barrage) find(t *testing.T, out *buffer, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) {
		if found := re.FindStringSubmatch(out.String()); found != nil {
			return found
		}
		select {
		case <-b.ended:
			t.Fatalf("the process ended without saying %s", pattern)
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("the process does not say %s", pattern)
	return nil
}

// anyPorts are flags that have up listen on ports that are free.
func anyPorts() []string {
	var flags []string
	for _, setting := range []string{
		"comet.tcp.bind", "comet.websocket.bind", "comet.rpcServer.addr", "comet.admin.addr", "job.admin.addr",
		"logic.httpServer.addr", "logic.rpcServer.addr", "logic.admin.addr", "services.discovery.addr", "services.admin.addr", "console.addr",
	} {
		flags = append(flags, "-"+setting+"=127.0.0.1:0")
	}
	return flags
}

func push(t *testing.T, url, body string) {
	t.Helper()
	resp, err := http.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Code int }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Code != 0 {
		t.Fatalf("push: code %d, %v", answer.Code, err)
	}
}

// What up prints works as printed, and Ctrl-C ends it in order.
func TestUpIsWhatItSays(t *testing.T) {
	b := launch(t, append([]string{"up"}, anyPorts()...)...)
	url := b.find(t, &b.stdout, `curl -d 'hello' '(http://[^']+)'`)[1]
	line := b.find(t, &b.stdout, `(?m)^  (bash -c .*)$`)[1]
	tcp := b.find(t, &b.stdout, `TCP +(\S+)`)[1]
	if got := b.stderr.String(); got != "" {
		t.Errorf("stderr has %q", got)
	}

	conn, err := net.DialTimeout("tcp", tcp, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	auth := wire.Frame{Ver: wire.Version, Op: wire.OpAuth, Seq: 5, Body: []byte(`{"room_id":"live://1000"}`)}
	if _, err := conn.Write(wire.AppendFrame(nil, auth)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	if reply := readFrame(t, in); reply.Op != wire.OpAuthReply || reply.Seq != 5 {
		t.Fatalf("the answer to auth is %+v", reply)
	}

	shell := exec.Command("bash", "-c", "exec "+line)
	shown, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = shell.Process.Kill()
		_ = shell.Wait()
	}()
	shellSaw := make(chan bool, 1)
	go func() {
		var all []byte
		chunk := make([]byte, 1024)
		for {
			n, err := shown.Read(chunk)
			all = append(all, chunk[:n]...)
			if bytes.Contains(all, []byte("hello")) || err != nil {
				shellSaw <- err == nil
				return
			}
		}
	}()
	pushed, deadline := 0, time.After(20*time.Second)
	for seen := false; !seen; { // the shell's session may begin after the first pushes
		push(t, url, "hello")
		pushed++
		select {
		case seen = <-shellSaw:
			if !seen {
				t.Fatal("the shell line ended without the push")
			}
		case <-time.After(200 * time.Millisecond):
		case <-deadline:
			t.Fatal("the shell line shows no push")
		}
	}
	for range pushed {
		if got := readFrame(t, in); got.Op != 1000 || string(got.Body) != "hello" {
			t.Fatalf("pushed hello, got %+v", got)
		}
	}
	b.end(t, syscall.SIGINT)
}

func readFrame(t *testing.T, in *bufio.Reader) wire.Frame {
	t.Helper()
	header, err := in.Peek(wire.HeaderLen)
	if err != nil {
		t.Fatal(err)
	}
	whole := make([]byte, binary.BigEndian.Uint32(header))
	if _, err := io.ReadFull(in, whole); err != nil {
		t.Fatal(err)
	}
	frame, _, err := wire.Decode(whole, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func TestATakenPortIsOneLine(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	taken := listener.Addr().String()
	for _, setting := range []string{
		"comet.tcp.bind", "comet.websocket.bind", "comet.rpcServer.addr", "comet.admin.addr", "logic.httpServer.addr",
		"logic.rpcServer.addr", "logic.admin.addr", "job.admin.addr", "services.discovery.addr", "services.redis.addr",
		"services.admin.addr", "console.addr",
	} {
		t.Run(setting, func(t *testing.T) {
			b := launch(t, slices.Concat([]string{"up"}, anyPorts(), []string{"-" + setting + "=" + taken})...)
			status := b.wait(t)
			text := b.stderr.String()
			if status != exitUsage || strings.Count(text, "\n") != 1 || !strings.Contains(text, setting) || !strings.Contains(text, taken) {
				t.Errorf("exit status %d, stderr %q", status, text)
			}
		})
	}
}

// The roles as processes of their own find each other, and each ends well.
func TestRolesAsProcesses(t *testing.T) {
	services := launch(t, "services", "-admin.addr=127.0.0.1:0")
	found := services.find(t, &services.stdout, `ready: kafka (\S+), redis (\S+), discovery (\S+), admin (\S+)\n`)
	var addrs struct{ Kafka, Redis, Discovery string }
	if err := json.Unmarshal([]byte(get(t, "http://"+found[4]+"/services")), &addrs); err != nil {
		t.Fatal(err)
	}
	if addrs.Kafka != found[1] || addrs.Redis != found[2] || addrs.Discovery != found[3] {
		t.Errorf("/services has %+v, the line %q", addrs, found)
	}
	nodes := "-discovery.nodes=" + addrs.Discovery
	logic := launch(t, "logic", nodes, "-kafka.brokers="+addrs.Kafka, "-redis.addr="+addrs.Redis,
		"-httpServer.addr=127.0.0.1:0", "-rpcServer.addr=127.0.0.1:0", "-admin.addr=127.0.0.1:0")
	job := launch(t, "job", nodes, "-kafka.brokers="+addrs.Kafka, "-admin.addr=127.0.0.1:0")
	comet := launch(t, "comet", nodes, "-host=comet-1", "-tcp.bind=127.0.0.1:0", "-websocket.bind=127.0.0.1:0",
		"-rpcServer.addr=127.0.0.1:0", "-admin.addr=127.0.0.1:0", "-log.format=json", "-debug")
	for _, b := range []*barrage{logic, job, comet} {
		page := b.find(t, &b.stderr, `serves"? ?.*admin[=":]+([0-9.]+:[0-9]+)`)[1]
		deadline := time.Now().Add(60 * time.Second)
		for {
			text := get(t, "http://"+page+"/readyz")
			if !strings.Contains(strings.ReplaceAll(text, ": ok\n", ""), ":") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("not ready: %s", text)
			}
			time.Sleep(50 * time.Millisecond) // between two looks
		}
	}
	for _, b := range []*barrage{comet, job, logic, services} {
		b.end(t, syscall.SIGTERM)
	}
}

func TestDiscoveryAsProcess(t *testing.T) {
	b := launch(t, "discovery", "-httpServer.addr=127.0.0.1:0", "-admin.addr=127.0.0.1:0")
	addr := b.find(t, &b.stderr, `discovery node serves".* addr=(\S+)`)[1]
	if text := get(t, "http://"+addr+"/discovery/fetch?env=dev&appid=infra.discovery&status=1"); !strings.Contains(text, addr) {
		t.Errorf("the node lists itself as %s", text)
	}
	b.end(t, syscall.SIGINT)
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		stdout string
		stderr string
	}{
		{"", exitUsage, "", "usage: barrage COMMAND"},
		{"help", exitGood, "barrage bench room-10k", ""},
		{"-h", exitGood, "examples:", ""},
		{"commet", exitUsage, "", `unknown command "commet"; did you mean barrage comet?`},
		{"frobnicate", exitUsage, "", `unknown command "frobnicate" (barrage help`},
		{"version", exitGood, "commit", ""},
		{"version now", exitUsage, "", `unexpected argument "now"`},
		{"comet -h", exitGood, "-websocket.bind", ""},
		{"logic -help", exitGood, "-httpServer.addr", ""},
		{"job --help", exitGood, "-kafka.brokers", ""},
		{"discovery -h", exitGood, "-enableProtect", ""},
		{"services -h", exitGood, "-kafka.partitions", ""},
		{"up -h", exitGood, "-logic.httpServer.addr", ""},
		{"comet -tcp.bnd=:1", exitUsage, "", "did you mean -tcp.bind?"},
		{"comet -log.format=xml", exitUsage, "", "log.format"},
		{"comet -room.slowPolicy=wait", exitUsage, "", "room.slowPolicy"},
		{"logic -httpServer.addr=x", exitUsage, "", "httpServer.addr"},
		{"job -lane.count=0", exitUsage, "", "lane.count"},
		{"discovery -httpServer.addr=x", exitUsage, "", "httpServer.addr"},
		{"services -kafka.partitions=0", exitUsage, "", "kafka.partitions"},
		{"up -job.kafka.options=x " + strings.Join(anyPorts(), " "), exitUsage, "", "kafka.options"},
		{"bench -h", exitGood, "barrage bench -explain room-10k", ""},
		{"bench -seiling smoke", exitUsage, "", "barrage bench: unknown flag -seiling; did you mean -ceiling? (barrage bench -h lists them)"},
		{"bench smoke --seiling=false", exitUsage, "", "unknown flag -seiling; did you mean -ceiling?"},
		{"bench -frobnicate smoke", exitUsage, "", "unknown flag -frobnicate (barrage bench -h"},
		{"bench smoke -runs many", exitUsage, "", `flag -runs: "many" is not a whole number (run it N times, 1 to 100;`},
		{"bench -runs=9999999999999999999 smoke", exitUsage, "", `flag -runs: "9999999999999999999" is not a whole number (`},
		{"bench -runs=101 smoke", exitUsage, "", "-runs is 101, accepted is 1 to 100"},
		{"bench -scale=half smoke", exitUsage, "", `flag -scale: "half" is not a number (make the scenario so many times as large: 0.1`},
		{"bench -ceiling=no smoke", exitUsage, "", `flag -ceiling: "no" is not true or false (measure what`},
		{"bench smoke -set", exitUsage, "", "flag -set: a value is missing (set a field=value of the scenario;"},
		{"bench -- -list", exitUsage, "", "-list"},
		{"agent --help", exitGood, "barrage agent -listen 10.0.0.7:3121", ""},
		{"agent -listn=:1", exitUsage, "", "barrage agent: unknown flag -listn; did you mean -listen? (barrage agent -h lists them)"},
		{"agent -insecure=perhaps", exitUsage, "", `flag -insecure: "perhaps" is not true or false (let the token`},
		{"agent -token-file", exitUsage, "", "flag -token-file: a value is missing (file of the token"},
		{"agent smoke -insecure", exitUsage, "", `unexpected argument "smoke"`},
		{"compare -help", exitGood, "barrage compare -all", ""},
		{"compare a b -fail_on=x", exitUsage, "", "barrage compare: unknown flag -fail_on; did you mean -fail-on?"},
		{"compare -all=some a b", exitUsage, "", `flag -all: "some" is not true or false (show every figure`},
		{"compare -fail-on", exitUsage, "", "flag -fail-on: a value is missing (a limit such as 'latency.p99 +10%';"},
		{"compare a", exitUsage, "", "two sides or more are wanted, got 1"},
		{"profile -h", exitGood, "barrage profile top -kind alloc", ""},
		{"profile top -knid cpu r", exitUsage, "", "barrage profile: unknown flag -knid; did you mean -kind? (barrage profile -h lists them)"},
		{"profile top -x r", exitUsage, "", "unknown flag -x (barrage profile -h"},
		{"profile top r -n few", exitUsage, "", `flag -n: "few" is not a whole number (show so many functions, 0 for all)`},
		{"profile top -kind=ram r", exitUsage, "", "-kind: "},
	} {
		t.Run(c.args, func(t *testing.T) {
			var stdout, stderr buffer
			status := run(t.Context(), strings.Fields(c.args), &stdout, &stderr)
			if status != c.status {
				t.Errorf("exit status %d, want %d", status, c.status)
			}
			if !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
			}
			if c.status == exitUsage && c.args != "" && strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("stderr is not one line: %q", &stderr)
			}
		})
	}
}

func TestPartsEndInOrder(t *testing.T) {
	var order []string
	newPart := func(name string, end error) part {
		return part{name, func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name) // one after the other, or the race detector says so
			return end
		}}
	}
	trouble := errors.New("trouble")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := runParts(ctx, newPart("a", nil), newPart("b", trouble), newPart("c", nil))
	if !errors.Is(err, trouble) || err.Error() != "stop b: trouble" {
		t.Errorf("error is %v", err)
	}
	if got := fmt.Sprint(order); got != "[a b c]" {
		t.Errorf("ended in the order %s", got)
	}

	order = nil
	failing := part{"broken", func(context.Context) error { return trouble }}
	silent := part{"silent", func(context.Context) error { return nil }}
	if err := runParts(t.Context(), newPart("a", nil), failing); !errors.Is(err, trouble) || fmt.Sprint(order) != "[a]" {
		t.Errorf("a part that fails: %v, order %v", err, order)
	}
	if err := runParts(t.Context(), silent, newPart("z", nil)); err == nil || !strings.Contains(err.Error(), "silent: ended by itself") {
		t.Errorf("a part that ends by itself: %v", err)
	}
}
