package harness

import (
	"bufio"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/ceiling"
	"barrage/harness/cluster"
	"barrage/harness/netns"
	"barrage/harness/report"
	"barrage/harness/scenario"
)

// readEnvironment describes this machine. What can't be read stays empty: it is for the
// reader of a result, and no reason to fail.
func readEnvironment(commit string) report.Environment {
	e := report.Environment{
		CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), MemoryBytes: readMemInfo()["MemTotal"],
		System: strings.Trim(field("/etc/os-release", "PRETTY_NAME"), `"`), Go: runtime.Version(), Commit: commit,
		Broker: "librdkafka's mock cluster in the services process, memory only", HarnessProcs: runtime.GOMAXPROCS(0),
		KernelSettings: map[string]string{}, Network: report.HostNetwork,
	}
	if netns.Inside() {
		e.Network = report.OwnNetwork
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		e.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		e.OpenFilesSoft, e.OpenFilesHard = r.Cur, r.Max
	}
	for _, name := range []string{
		"net.ipv4.ip_local_port_range", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem", "net.ipv4.tcp_mem",
		"net.ipv4.tcp_ehash_entries", "net.ipv4.tcp_congestion_control",
		"net.core.somaxconn", "net.core.netdev_max_backlog", "net.core.rmem_max", "net.core.wmem_max", "fs.file-max", "fs.nr_open",
	} {
		if value := netns.Setting(name); value != "" {
			e.KernelSettings[name] = value
		}
	}
	return e
}

// field returns the first value of a name in a file of "name : value" or "name=value" lines.
func field(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		i := strings.IndexAny(lines.Text(), ":=")
		if i >= 0 && strings.TrimSpace(lines.Text()[:i]) == name {
			return strings.TrimSpace(lines.Text()[i+1:])
		}
	}
	return ""
}

// An EnvironmentError says why a run can't take place on this machine as it is.
type EnvironmentError struct{ Problems []string }

// Error returns a line for each problem, with what mends it.
func (e *EnvironmentError) Error() string {
	return "this machine can't run the scenario as it is:\n  - " + strings.Join(e.Problems, "\n  - ")
}

// machine is what preflight holds a scenario against.
type machine struct {
	openFiles uint64 // hard limit; the processes raise their soft one to it
	available int64  // memory in bytes, 0 where unknown
	elsewhere int64  // bytes of memoryPerClient that agents have
}

func readMachine() machine {
	m := machine{available: readMemInfo()["MemAvailable"]}
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		m.openFiles = r.Max
	}
	return m
}

// What a run takes beside its clients, and for each of them: a pair of sockets costs the
// kernel 8.2 KB when idle and more with data under way, comet and Redis 3 KB,
// the swarm 256 B.
const (
	filesBeside     = 512 // descriptors of a comet that are no clients
	memoryBeside    = 700 << 20
	memoryPerClient = 16 << 10
	memoryOfTLS     = 40 << 10 // on top, for both ends
)

// memoryNeeded returns what a run of s takes of the machine, in bytes.
func (m machine) memoryNeeded(s *scenario.Scenario) int64 {
	n := float64(s.Clients.Count)
	return memoryBeside + int64(n*memoryPerClient) + int64(n*s.Clients.Transport.Secure()*memoryOfTLS) - int64(s.Clients.Count)*m.elsewhere
}

// machine returns what this machine has, and spares, for a run with o.
func (o *Options) machine() machine {
	m := readMachine()
	if o.Agents != nil {
		m.elsewhere = agentMemoryPerClient
	}
	return m
}

// A cometPlan is the comets of a run.
type cometPlan struct {
	comets int
	tables int // of descriptors in each, 0 for the process's one
}

// filesInTable are descriptors of a table that are no clients, and those by which one may be fuller than
// another.
const filesInTable = 512

// clients returns how many a comet can have where a table has so many open files.
func (p cometPlan) clients(openFiles int) int {
	if p.tables == 0 {
		return max(0, openFiles-filesBeside)
	}
	return p.tables * tableHolds(openFiles)
}

// flags returns what each comet is told.
func (p cometPlan) flags() []string {
	if p.tables == 0 {
		return nil
	}
	return []string{fmt.Sprintf("-limit.descriptorTables=%d", p.tables)}
}

// openFiles returns how many a comet, or a table of its, needs for its part of the clients.
func (p cometPlan) openFiles(clients int) int {
	each := ratioUp(clients, max(1, p.comets))
	if p.tables == 0 {
		return each + filesBeside
	}
	return ratioUp(each, p.tables) + filesInTable
}

func tableHolds(openFiles int) int { return max(0, openFiles-filesInTable) }

// fits returns the comets of its own that a run gets, or an EnvironmentError.
func (o *Options) fits(m machine) (plan cometPlan, err error) {
	if o.Target == nil {
		plan, err = preflight(o.Scenario, m)
	} else {
		err = fitTarget(o.Scenario, o.Target)
	}
	if err == nil {
		err = checkReach(o)
	}
	return plan, err
}

// measuresCeiling reports whether a run ends with the ceiling: it is this machine's, so the server must be here. What
// agents elsewhere call 127.0.0.1 is not.
func (o *Options) measuresCeiling() bool {
	switch {
	case o.NoCeiling:
		return false
	case o.Target == nil:
		return true
	}
	at := o.Target.Here()
	return at != "" && (o.farAgent() == "" || !net.ParseIP(at).IsLoopback())
}

// ceilingTakes returns about how long the ceiling takes.
func ceilingTakes(s *scenario.Scenario) time.Duration {
	n := s.Clients.Count
	return ceiling.Takes(n, int(float64(n)*s.Clients.Transport.Secure()))
}

// fitTarget says what a scenario asks of a cluster that isn't there.
func fitTarget(s *scenario.Scenario, t *cluster.Target) error {
	var problems []string
	for _, x := range []struct {
		name, key string
		fraction  float64
		addrs     []string
	}{
		{"TCP", "tcp", s.Clients.Transport.TCP, t.TCP}, {"WebSocket", "ws", s.Clients.Transport.WebSocket, t.WS},
		{"TCP inside TLS", "tcp+tls", s.Clients.Transport.TCPTLS, t.TCPTLS}, {"WebSocket inside TLS", "wss", s.Clients.Transport.WSS, t.WSS},
	} {
		if x.fraction > 0 && len(x.addrs) == 0 {
			problems = append(problems, fmt.Sprintf("the scenario has clients on %s, and the target no address for them: name one (%s=HOST:PORT), or set clients.transport", x.name, x.key))
		}
	}
	if len(s.Cluster.Comet)+len(s.Cluster.Logic)+len(s.Cluster.Job) > 0 {
		problems = append(problems, "the scenario has settings for its own processes (cluster), which a target doesn't take")
	}
	if len(problems) > 0 {
		return &EnvironmentError{Problems: problems}
	}
	return nil
}

// preflight returns the comets that the scenario gets, or an EnvironmentError.
func preflight(s *scenario.Scenario, m machine) (plan cometPlan, err error) {
	var problems []string
	clients, openFiles := s.Clients.Count, int(min(m.openFiles, 1<<30))
	plan = cometPlan{comets: s.Cluster.Comets, tables: s.Cluster.Tables}
	if plan.tables == scenario.AsNeeded {
		plan.comets = max(1, plan.comets)
		plan.tables = ratioUp(ratioUp(clients, plan.comets), tableHolds(openFiles))
	} else if plan.comets == 0 {
		plan.comets = ratioUp(clients, plan.clients(openFiles))
	}
	if each := ratioUp(clients, max(1, plan.comets)); plan.comets == 0 || each > plan.clients(openFiles) {
		need := each + filesBeside
		problems = append(problems, fmt.Sprintf(
			"a comet needs %d open files for its clients, the hard limit is %d: run `ulimit -Hn %d && ulimit -n %d` as root in this shell, or set cluster.comets: auto or cluster.tables: auto in the scenario",
			need, m.openFiles, need, need))
	}
	if plan.tables > 0 && s.Clients.Transport.Secure() > 0 {
		problems = append(problems, "clients inside TLS can't be in tables of descriptors: set cluster.tables: 0, or clients.transport without tcp+tls and wss")
	}
	if need := m.memoryNeeded(s); m.available > 0 && m.available < need {
		problems = append(problems, fmt.Sprintf(
			"%d clients and their servers need about %d MiB of memory, %d MiB are available: end other programs, or run it smaller with -scale %.2g",
			clients, need>>20, m.available>>20, max(0.01, math.Floor(float64(m.available-memoryBeside)/float64(need-memoryBeside)*100)/100)))
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		problems = append(problems, "/proc is not mounted: mount -t proc proc /proc")
	}
	if len(problems) > 0 {
		return plan, &EnvironmentError{Problems: problems}
	}
	return plan, nil
}

// ratioUp returns a/b rounded up, and 0 where b is 0.
func ratioUp(a, b int) int {
	if b == 0 {
		return 0
	}
	return (a + b - 1) / b
}
