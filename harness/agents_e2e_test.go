package harness_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"barrage/harness/report"
)

// tokenVariable is the environment variable with the agents' token.
const tokenVariable = "BARRAGE_AGENT_TOKEN"

// An agentProcess is a running `barrage agent`.
type agentProcess struct {
	cmd  *exec.Cmd
	addr string
	log  *watched
}

func startAgent(t *testing.T, args ...string) *agentProcess {
	t.Helper()
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	a := &agentProcess{log: new(watched)}
	a.cmd = exec.Command(exe, append([]string{"agent", "-listen", "127.0.0.1:0"}, args...)...)
	a.cmd.Stderr = a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = a.cmd.Wait()
	})
	pattern := regexp.MustCompile(`waits for a coordinator" addr=(\S+)`)
	waitFor(t, "the agent listens", func() bool {
		found := pattern.FindStringSubmatch(a.log.String())
		if found != nil {
			a.addr = found[1]
		}
		return found != nil
	})
	return a
}

func addresses(agents ...*agentProcess) string {
	var list []string
	for _, a := range agents {
		list = append(list, a.addr)
	}
	return strings.Join(list, ",")
}

// Three agents give one verdict, as if one machine had run it, and are there for the next
// run.
func TestAgents(t *testing.T) {
	t.Setenv(tokenVariable, "a token of the tests")
	var agents []*agentProcess
	for range 3 {
		agents = append(agents, startAgent(t, "-insecure"))
	}
	for range 2 {
		b := start(t, "-agents", addresses(agents...), "-insecure", "-set", "phases.measure=2s", "smoke")
		if status := b.wait(t); status != 0 {
			t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
		}
		r := b.run(t)
		d := &r.Deliveries
		if r.Verdict.Status != report.Good || d.Measured.Delivered != 6300 || d.Measured.Delivered != d.Measured.Expected || d.CometFrames != d.LedgerFrames ||
			r.Latency.All.Count != 6300 || r.Latency.WebSocket.Count+r.Latency.TCP.Count != 6300 || r.Clients.Joined != 200 || r.Ceiling == nil || r.Ceiling.Clients != 200 || r.Ceiling.SweepMedian <= 0 {
			t.Errorf("%+v, %+v, latency %+v, clients %+v", r.Verdict, d, r.Latency, r.Clients)
		}
		if len(r.Agents) != 3 {
			t.Fatalf("agents %+v", r.Agents)
		}
		clients := int64(0)
		for i, a := range r.Agents {
			clients += a.Clients
			// They share this machine and its clock; only the processes' starts differ.
			if a.Name != agents[i].addr || a.Lost != "" || a.Joined != a.Clients || a.Threads < 1 || a.ReadLag.Count == 0 || a.Clock.Error <= 0 ||
				a.Environment.Cores != r.Environment.Cores || a.Disturbance != nil {
				t.Errorf("agent %+v", a)
			}
		}
		if clients != 200 {
			t.Errorf("the agents have %d clients", clients)
		}
		names := map[string]bool{}
		for _, p := range r.Processes {
			names[p.Name] = p.CPUTotal > 0 && p.RSSPeakBytes > 0
		}
		for _, a := range agents {
			if !names["agent "+a.addr] {
				t.Errorf("agent %s is not among the processes %+v", a.addr, r.Processes)
			}
		}
		if f, _ := report.FindFigure("clock.error"); f.Name == "" {
			t.Error("the figure is gone")
		} else if v, ok := f.Of(r); !ok || v <= 0 {
			t.Errorf("clock.error is %g", v)
		}
		if !strings.Contains(b.stdout.String(), "\nAgents\n") || strings.Contains(fmt.Sprint(r.Command), "a token of the tests") {
			t.Errorf("printed:\n%s", b.stdout.String())
		}
	}
	// Who doesn't know the token gets nothing.
	t.Setenv(tokenVariable, "another token of the tests")
	b := start(t, "-agents", addresses(agents...), "-insecure", "smoke")
	if status := b.wait(t); status != 2 || !strings.Contains(b.stderr.String(), "agent "+agents[0].addr+": the token is missing or wrong") {
		t.Errorf("exit status %d\n%s", status, b.stderr)
	}
}

// Whatever a scenario's clients do, they do it on agents too: inside TLS, with churn, room
// changes and a storm.
func TestAgentsWithClientsOfAllKinds(t *testing.T) {
	file := scenarioFile(t, `
name: kinds
clients:
  count: 80
  connect_rate: 1000/s
  transport: {tcp: 0.25, ws: 0.25, tcp+tls: 0.25, wss: 0.25}
  rooms: {count: 2, change: 1s}
  churn: {fraction: 0.2, lives: 1s, away: 100ms}
  storm: {fraction: 0.5, at: 1s}
pushes:
  - {kind: room, operation: 1000, rate: 20/s, size: 64B}
phases: {warmup: 500ms, measure: 3s}
`+lenient+`
expect: {lost: "<= 1000000", reordered: "<= 1000000", duplicate: "<= 1000000"}
`)
	b := start(t, "-agents", addresses(startAgent(t), startAgent(t)), file)
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	if r.Ceiling == nil || r.Ceiling.Clients != 80 || r.Ceiling.TLS != 40 || r.Ceiling.SendsPerSecond <= 0 {
		t.Errorf("ceiling %+v", r.Ceiling)
	}
	c, d := &r.Clients, &r.Deliveries
	if c.Joined != 80 || c.TCP != 20 || c.WebSocket != 20 || c.TCPTLS != 20 || c.WSS != 20 || d.Measured.Delivered == 0 || d.Measured.Lost > 0 || d.Bytes == 0 {
		t.Errorf("clients %+v, deliveries %+v", c, d)
	}
	for name, p := range map[string]report.Percentiles{"tcp": r.Latency.TCP, "ws": r.Latency.WebSocket, "tcp+tls": r.Latency.TCPTLS, "wss": r.Latency.WSS} {
		if p.Count == 0 {
			t.Errorf("no latency of %s", name)
		}
	}
	if h := r.Behaviour; h == nil || h.Churn != 16 || h.Rejoined == 0 || h.RoomChanges == 0 || h.Storm == nil || h.Storm.Clients == 0 || h.Storm.Back != h.Storm.Clients ||
		h.Storm.Rejoin.Count == 0 {
		t.Errorf("behaviour %+v", h)
	}
}

// An agent that is killed makes the run invalid, by name, and ends it.
func TestAgentThatDies(t *testing.T) {
	stays, dies := startAgent(t), startAgent(t)
	b := start(t, "-agents", addresses(stays, dies), "-set", "phases.measure=10m", "smoke")
	waitFor(t, "the measured phase begins", func() bool { return strings.Contains(b.stderr.String(), "s  measure") })
	under := children(t, b.cmd.Process.Pid)
	if err := dies.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if status := b.wait(t); status != 3 {
		t.Errorf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	want := "agent " + dies.addr + ": the agent was lost: "
	if r.Verdict.Status != report.Invalid || len(r.Verdict.Doubts) == 0 || !strings.HasPrefix(r.Verdict.Doubts[0], want) ||
		!strings.HasSuffix(r.Verdict.Doubts[0], "what its 100 clients received is in none of the figures") {
		t.Errorf("verdict %+v", r.Verdict)
	}
	if r.Agents[0].Lost != "" || r.Agents[1].Lost == "" || r.Deliveries.Measured.Delivered == 0 {
		t.Errorf("agents %+v, deliveries %+v", r.Agents, r.Deliveries)
	}
	for _, want := range []string{"INVALID  smoke: ", want, "(of an INVALID run)"} {
		if !strings.Contains(b.stdout.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.stdout.String())
		}
	}
	for _, pid := range under {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d was left behind", pid)
		}
	}
}

// An agent that goes when the clients' part is over takes the ceiling with it, and nothing else.
func TestAgentThatDiesInTheCeiling(t *testing.T) {
	stays, dies := startAgent(t), startAgent(t)
	b := start(t, "-agents", addresses(stays, dies), "-set", "phases.warmup=0s", "-set", "phases.measure=1s", "smoke")
	waitFor(t, "the agent has clients of the ceiling", func() bool { return strings.Count(dies.log.String(), "a run begins") == 2 })
	if err := dies.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if status := b.wait(t); status != 0 {
		t.Errorf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	r := b.run(t)
	if w := strings.Join(r.Warnings, "\n"); !strings.Contains(r.CeilingProblem, dies.addr) || w != "the ceiling could not be measured: "+r.CeilingProblem ||
		strings.Contains(w, "\n") {
		t.Errorf("warnings %q, problem %q", r.Warnings, r.CeilingProblem)
	}
	if r.Ceiling != nil || r.Deliveries.Measured.Delivered == 0 || r.Deliveries.Measured.Lost > 0 || r.Agents[1].Lost != "" {
		t.Errorf("ceiling %+v, deliveries %+v, agents %+v", r.Ceiling, r.Deliveries, r.Agents)
	}
}

// A coordinator that is killed leaves an agent that drops its clients and serves the next.
func TestCoordinatorThatDies(t *testing.T) {
	agent := startAgent(t)
	b := start(t, "-agents", agent.addr, "-set", "phases.measure=10m", "smoke")
	waitFor(t, "the measured phase begins", func() bool { return strings.Contains(b.stderr.String(), "s  measure") })
	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b.wait(t)
	waitFor(t, "the agent sees it", func() bool {
		return strings.Contains(agent.log.String(), "the coordinator is gone; its clients are dropped")
	})
	b = start(t, "-ceiling=false", "-agents", agent.addr, "-set", "phases.measure=1s", "smoke")
	if status := b.wait(t); status != 0 {
		t.Errorf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
}

// What can't work exits with status 2 and says what would be right.
func TestAgentUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-agents", "127.0.0.1", "smoke"}, `-agents "127.0.0.1": write it as HOST:PORT,HOST:PORT`},
		{[]string{"-agents", "a:1,a:1", "smoke"}, "a:1 is there twice"},
		{[]string{"-agents", "10.0.0.7:3121", "smoke"}, "the comets of the run listen on 127.0.0.1, which agent 10.0.0.7:3121 doesn't reach"},
		{[]string{"-agents", "127.0.0.1:1", "-advertise", "me", "smoke"}, `-advertise "me" is no IP address`},
		{[]string{"-advertise", "10.0.0.1", "-target", "tcp=a:1,push=b:2", "smoke"}, "-advertise and -target exclude each other"},
		{[]string{"-token-file", "none", "-agents", "127.0.0.1:1", "smoke"}, "read the token: open none"},
		{[]string{"-ca", "ca.pem", "smoke"}, "none is named (-agents)"},
		{[]string{"-agents", "127.0.0.1:1", "smoke"}, "agent 127.0.0.1:1: "},
	} {
		b := start(t, c.args...)
		if status := b.wait(t); status != 2 || !strings.Contains(b.stderr.String(), c.want) {
			t.Errorf("%q: exit status %d, want %q in:\n%s", c.args, status, c.want, b.stderr)
		}
	}
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"-h"}, 0, "barrage bench -agents 10.0.0.7:3121,10.0.0.8:3121"},
		{[]string{"-listen", "0.0.0.0:0"}, 2, "within others' reach: give -cert, -key and -ca (mutual TLS)"},
		{[]string{"-listen", "nowhere"}, 2, "address nowhere: missing port in address"},
		{[]string{"smoke"}, 2, `unexpected argument "smoke"`},
	} {
		out, err := exec.Command(exe, append([]string{"agent"}, c.args...)...).CombinedOutput()
		status := 0
		if exit, ok := err.(*exec.ExitError); ok {
			status = exit.ExitCode()
		}
		if status != c.status || !strings.Contains(string(out), c.want) {
			t.Errorf("%q: exit status %d, want %q in:\n%s", c.args, status, c.want, out)
		}
	}
}

// isolate finds a way to run commands in a network of their own, as root or as a user. Without
// one the test is skipped, or, where BARRAGE_NETWORKS is "required", as in CI, failed.
func isolate(t *testing.T) []string {
	t.Helper()
	without := t.Skipf
	if os.Getenv("BARRAGE_NETWORKS") == "required" {
		without = t.Fatalf
	}
	for _, tool := range []string{"unshare", "nsenter", "ip", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			without("network namespaces need %s (Debian: util-linux, iproute2): %v", tool, err)
		}
	}
	var tried []string
	for _, how := range [][]string{{"unshare", "-Urn"}, {"unshare", "-n"}} {
		try := exec.Command(how[0], append(how[1:], "bash", "-ec", "ip link set lo up; ip link add v1 type veth peer name v2")...)
		out, err := try.CombinedOutput()
		if err == nil {
			return how
		}
		tried = append(tried, fmt.Sprintf("%s: %v: %s", strings.Join(how, " "), err, strings.TrimSpace(string(out))))
	}
	without("this machine allows no network namespaces with a veth pair: %s", strings.Join(tried, "; "))
	return nil
}

// The run's network: the cluster and the coordinator at 10.77.0.1, and two agents, each in
// a network of its own behind a pair of virtual interfaces.
const twoNetworks = `
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
trap 'exit 1' TERM
ip link set lo up
ip addr add 10.77.0.1/32 dev lo
for i in 1 2; do
  # It waits for its interface before it becomes the agent.
  unshare -n bash -c "until ip -4 addr show dev up0 2>/dev/null | grep -q 10.77.$i.2 && ip route | grep -q default; do sleep 0.05; done
    exec $EXE agent -listen 10.77.$i.2:3121 -cert $DIR/agent$i.pem -key $DIR/agent$i.key -ca $DIR/ca.pem" 2>$DIR/agent$i.log &
  agent=$!
  until [ "$(readlink /proc/$agent/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
  ip link add down$i type veth peer name up0 netns $agent
  ip addr add 10.77.$i.1/24 dev down$i
  ip link set down$i up
  nsenter -t $agent -n ip link set lo up
  nsenter -t $agent -n ip addr add 10.77.$i.2/24 dev up0
  nsenter -t $agent -n ip link set up0 up
  nsenter -t $agent -n ip route add default via 10.77.$i.1
done
for i in 1 2; do
  until grep -q 'waits for a coordinator' $DIR/agent$i.log; do sleep 0.05; done
done
$EXE bench -results $DIR/results -agents 10.77.1.2:3121,10.77.2.2:3121 -advertise 10.77.0.1 \
  -cert $DIR/coordinator.pem -key $DIR/coordinator.key -ca $DIR/ca.pem -set phases.measure=2s smoke
`

// Agents in other networks, over mutual TLS, drive a cluster that advertises its address to
// them.
func TestAgentsInOtherNetworks(t *testing.T) {
	how := isolate(t)
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificates(t, dir, map[string]string{"agent1": "10.77.1.2", "agent2": "10.77.2.2", "coordinator": "10.77.0.1"})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, how[0], append(how[1:], "bash", "-ec", twoNetworks)...)
	cmd.Env = append(os.Environ(), "EXE="+exe, "DIR="+dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	logs := func() (text string) {
		for _, i := range []string{"1", "2"} {
			log, _ := os.ReadFile(filepath.Join(dir, "agent"+i+".log"))
			text += "--- agent " + i + "\n" + string(log)
		}
		return text
	}
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, logs())
	}
	b := &bench{results: filepath.Join(dir, "results"), stderr: new(watched)}
	r := b.run(t)
	if r.Verdict.Status != report.Good || r.Deliveries.Measured.Delivered != 6300 || r.Deliveries.CometFrames != r.Deliveries.LedgerFrames || r.Clients.Joined != 200 {
		t.Errorf("%+v, %+v\n%s", r.Verdict, r.Deliveries, out)
	}
	for i, a := range r.Agents {
		if want := fmt.Sprintf("10.77.%d.2:3121", i+1); a.Name != want || a.Joined != 100 || a.Lost != "" || a.Clock.Error <= 0 {
			t.Errorf("agent %+v", a)
		}
	}
	if len(r.Agents) != 2 || !strings.Contains(logs(), "coordinator=10.77.1.1:") {
		t.Errorf("agents %+v\n%s", r.Agents, logs())
	}
}

// certificates writes an authority's certificate to dir/ca.pem, and for each name one of it
// for an IP address.
func certificates(t *testing.T, dir string, addrs map[string]string) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tests"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	write := func(name string, template *x509.Certificate, key *ecdsa.PrivateKey) {
		der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
			if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("ca", ca, caKey)
	for name, addr := range addrs {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		write(name, &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			IPAddresses: []net.IP{net.ParseIP(addr)},
		}, key)
	}
}
