package console

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A process is one of barrage's.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has

	mu   sync.Mutex
	said bytes.Buffer // mu guards
}

// Write takes what the process says on stdout and stderr.
func (p *process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(text)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// find waits for what the process says and returns the first group of pattern.
func (p *process) find(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		if found := re.FindStringSubmatch(p.text()); found != nil {
			return found[1]
		}
		select {
		case <-p.ended:
			p.t.Fatalf("the process ended without saying %s:\n%s", pattern, p.text())
		case <-time.After(20 * time.Millisecond): // between two looks
		}
	}
	p.t.Fatalf("the process does not say %s:\n%s", pattern, p.text())
	return ""
}

func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		p.t.Fatalf("the process does not end:\n%s", p.text())
	}
}

// A cluster is barrage as real processes, with a comet that can be started anew.
type cluster struct {
	t         *testing.T
	binary    string
	discovery string
	api       string // the push API's address
	webSocket string // comet's WebSocket address
	logic     *process
	comet     *process
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, binary: filepath.Join(t.TempDir(), "barrage"), api: freeAddr(t), webSocket: freeAddr(t)}
	if out, err := exec.Command("go", "build", "-o", c.binary, "barrage").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	services := c.launch("services", "-admin.addr=")
	kafka, redis := services.find(`ready: kafka (\S+),`), services.find(`redis (\S+),`)
	c.discovery = services.find(`discovery (\S+),`)
	nodes := "-discovery.nodes=" + c.discovery
	_, port, err := net.SplitHostPort(c.webSocket)
	if err != nil {
		t.Fatal(err)
	}
	c.logic = c.launch("logic", nodes, "-kafka.brokers="+kafka, "-redis.addr="+redis, "-httpServer.addr="+c.api,
		"-rpcServer.addr=127.0.0.1:0", "-admin.addr=127.0.0.1:0", "-online.period=200ms", "-node.wsPort="+port, "-demo=127.0.0.1:0")
	job := c.launch("job", nodes, "-kafka.brokers="+kafka, "-admin.addr=127.0.0.1:0")
	c.startComet()
	ready(t, c.logic)
	ready(t, job)
	return c
}

func (c *cluster) startComet() {
	c.t.Helper()
	c.comet = c.launch("comet", "-discovery.nodes="+c.discovery, "-host=comet-1", "-addrs=127.0.0.1", "-tcp.bind=", "-websocket.bind="+c.webSocket,
		"-rpcServer.addr=127.0.0.1:0", "-admin.addr=127.0.0.1:0", "-online.period=200ms", "-drain.window=0s")
	ready(c.t, c.comet)
}

func (c *cluster) launch(args ...string) *process {
	c.t.Helper()
	p := &process{t: c.t, cmd: exec.Command(c.binary, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the state has what it says
		close(p.ended)
	}()
	c.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if c.t.Failed() {
			c.t.Logf("barrage %s\n%s", strings.Join(args, " "), p.text())
		}
	})
	return p
}

// ready waits until the process says that it is.
func ready(t *testing.T, p *process) {
	t.Helper()
	page := p.find(`serves"? ?.*admin[=":]+([0-9.]+:[0-9]+)`)
	text := ""
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) { // between two looks
		resp, err := http.Get("http://" + page + "/readyz")
		if err != nil {
			text = err.Error()
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && resp.StatusCode == http.StatusOK {
			return
		}
		text = string(body)
	}
	t.Fatalf("not ready: %s", text)
}

// push does what curl would.
func (c *cluster) push(route, body string) {
	c.t.Helper()
	resp, err := http.Post("http://"+c.api+"/goim/push/"+route, "text/plain", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.HasPrefix(text, []byte(`{"code":0,`)) {
		c.t.Fatalf("push %s: %s %v", route, text, err)
	}
}

// freeAddr is a port of loopback that was free just now.
func freeAddr(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// serveConsole runs the page in this process until the test ends.
func serveConsole(t *testing.T, cfg Config, deps Deps) *Server {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func (s *Server) pageURL() string { return fmt.Sprintf("http://%s/", s.Addr()) }
