package harness

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"barrage/harness/agent"
	"barrage/harness/cluster"
	"barrage/harness/report"
	"barrage/harness/scenario"
)

func TestVerdict(t *testing.T) {
	good := func() *report.Run {
		return &report.Run{
			Clients: report.Clients{Count: 10, Joined: 10},
			Pushes: report.Pushes{
				Measured: report.PushCounts{Intended: 5, Sent: 5, Acknowledged: 5},
				WarmUp:   report.PushCounts{Intended: 2, Sent: 2, Acknowledged: 2},
				Lag:      report.Percentiles{Count: 5, P99: 0.001},
			},
			Deliveries: report.Deliveries{
				Measured: report.Counts{Expected: 50, Delivered: 50}, WarmUp: report.Counts{Expected: 20, Delivered: 20},
				CometFrames: 70, LedgerFrames: 70,
			},
			Latency: report.Latency{All: report.Percentiles{Count: 50, P50: 0.02, P99: 0.05}},
		}
	}
	lossless := []report.Threshold{{Figure: "lost", Relation: report.AtMost}, {Figure: "duplicate", Relation: report.AtMost}, {Figure: "reordered", Relation: report.AtMost}}
	cases := []struct {
		name   string
		expect []report.Threshold // nil: lossless
		change func(*report.Run)
		status string
		want   []string
	}{
		{"good", nil, func(*report.Run) {}, report.Good, nil},
		{"lost and accepted", []report.Threshold{{Figure: "lost", Relation: report.AtMost, Value: 2}},
			func(r *report.Run) { r.Deliveries.Measured.Lost, r.Deliveries.Measured.Delivered = 2, 48 }, report.Good, nil},
		{"one more lost", []report.Threshold{{Figure: "lost", Relation: report.AtMost, Value: 2}}, func(r *report.Run) {
			r.Deliveries.Measured.Lost, r.Deliveries.Measured.Delivered = 2, 48
			r.Deliveries.WarmUp.Lost, r.Deliveries.WarmUp.Delivered = 1, 19
		}, report.Failed, []string{"lost is 3, expected <= 2"}},
		{"duplicate", nil, func(r *report.Run) { r.Deliveries.Measured.Duplicate = 1 }, report.Failed, []string{"duplicate is 1, expected <= 0"}},
		{"reordered", nil, func(r *report.Run) { r.Deliveries.Measured.Reordered = 1 }, report.Failed, []string{"reordered is 1, expected <= 0"}},
		{"out of balance", nil, func(r *report.Run) { r.Deliveries.Measured.Delivered = 49 }, report.Failed, []string{"measured: the ledger does not balance: 50 expected, 49 delivered, 0 lost"}},
		{"closed", nil, func(r *report.Run) { r.Clients.ClosedEarly = 1 }, report.Failed, []string{"1 clients lost their connection"}},
		{"not sent", nil, func(r *report.Run) { r.Pushes.Measured.Sent, r.Pushes.Measured.Acknowledged = 4, 4 }, report.Failed, []string{"measured: 1 of 5 pushes were not sent"}},
		{"not acknowledged", nil, func(r *report.Run) { r.Pushes.WarmUp.Acknowledged = 1 }, report.Failed, []string{"warm-up: 1 of 2 pushes were not acknowledged"}},
		{"unexpected", nil, func(r *report.Run) {
			r.Deliveries.Measured.Unexpected = map[string]int64{"no_stamp": 3, "not_subscribed": 1}
		}, report.Failed, []string{"measured: 3 frames that nothing accounts for (no_stamp)", "measured: 1 frames that nothing accounts for (not_subscribed)"}},
		{"comet differs", nil, func(r *report.Run) { r.Deliveries.CometFrames = 71 }, report.Failed, []string{"comet counts 71 frames handed out, the ledger 70 received"}},
		{"the kernel differs", nil, func(r *report.Run) { r.Deliveries.Bytes, r.Deliveries.KernelBytes = 999, 1000 },
			report.Failed, []string{"the kernel counts 1000 bytes handed to the clients, the swarm 999 read"}},
		{"the kernel counts less, and a client was reset", nil, func(r *report.Run) {
			r.Deliveries.Bytes, r.Deliveries.KernelBytes, r.Deliveries.KernelUncounted = 1000, 990, 1
		}, report.Good, nil},
		{"nothing measured", nil, func(r *report.Run) { r.Deliveries.Measured = report.Counts{} }, report.Failed, []string{"nothing was to be delivered in the measured phase"}},
		{"latency as expected", []report.Threshold{{Figure: "latency.p99", Relation: report.AtMost, Value: 0.05}}, func(*report.Run) {}, report.Good, nil},
		{"latency over its threshold", []report.Threshold{{Figure: "latency.p99", Relation: report.Below, Value: 0.05}}, func(*report.Run) {},
			report.Failed, []string{"latency.p99 is 50.0 ms, expected < 50.0 ms"}},
		{"ceiling expected and not measured", []report.Threshold{{Figure: "ceiling.fraction", Relation: report.AtLeast, Value: 0.9}}, func(*report.Run) {},
			report.Failed, []string{"ceiling.fraction is not measured, expected >= 90.0%"}},

		{"not connected", nil, func(r *report.Run) { r.Clients.Joined = 9 }, report.Invalid, []string{"9 of 10 clients connected"}},
		{"swarm starved", nil, func(r *report.Run) { r.Swarm.Starved = 0.6 },
			report.Invalid, []string{"the swarm was starved: a thread had work and no processor for 60% of the measured phase, at most 50% is accepted (valid.swarm_starved)"}},
		{"swarm saturated", nil, func(r *report.Run) { r.Swarm.BusyMean = 0.97 },
			report.Invalid, []string{"the swarm was saturated: its busiest thread was busy for 97% of the measured phase, at most 95% is accepted (valid.swarm_busy)"}},
		{"swarm read late", nil, func(r *report.Run) { r.Swarm.ReadLag.P99 = 0.02 },
			report.Invalid, []string{"the swarm read late: p99 20ms behind the kernel's word, more than 25% of the p99 latency (valid.read_lag)"}},
		{"harness stood still", nil, func(r *report.Run) { r.Swarm.Hiccups = 0.02 },
			report.Invalid, []string{"the harness stood still for 2% of the measured phase, in gaps of 50 ms and more; at most 1% is accepted (valid.hiccups)"}},
		{"an agent stood still", nil, func(r *report.Run) {
			r.Agents = []report.Agent{{Name: "a:1", Hiccups: 0.02}, {Name: "b:2", Hiccups: 0.01}}
		},
			report.Invalid, []string{"agent a:1: stood still for 2% of the measured phase, in gaps of 50 ms and more; at most 1% is accepted (valid.hiccups)"}},
		{"pusher late", nil, func(r *report.Run) { r.Pushes.Own.P99 = 0.1 },
			report.Invalid, []string{"the pusher fell behind its schedule: p99 100ms late by its own doing, at most 25ms is accepted (valid.pusher_lag)"}},
		{"clock stepped", nil, func(r *report.Run) { r.Disturbance.ClockStep = -0.5 }, report.Invalid, []string{"the clock of day jumped by -500ms"}},
		{"others at work", nil, func(r *report.Run) { r.Disturbance.OtherCPU = 0.2 },
			report.Invalid, []string{"other processes took 20% of the machine, at most 10% is accepted (valid.other_cpu)"}},
		{"steal", nil, func(r *report.Run) { r.Disturbance.Steal = 0.2 },
			report.Invalid, []string{"the hypervisor took 20% of the machine for others, at most 5% is accepted (valid.steal)"}},
		{"memory short", nil, func(r *report.Run) { r.Disturbance.MemoryWait = 0.2 },
			report.Invalid, []string{"processes waited for memory for 20% of the time, at most 5% is accepted (valid.memory_wait)"}},
		{"TCP without memory", nil, func(r *report.Run) { r.Disturbance.TCPShort, r.Disturbance.TCPDropped = 1, 1200 },
			report.Invalid, []string{"the kernel's memory for TCP ran short (net.ipv4.tcp_mem), and it dropped 1,200 packets that had arrived: peers send them again when they have waited long enough"}},
		{"packets dropped", nil, func(r *report.Run) { r.Disturbance.Packets, r.Disturbance.PacketsDropped = 1_000_000, 2000 },
			report.Invalid, []string{"the machine dropped 2,000 packets that came in, 0.2% of all, since a processor's queue was full (net.core.netdev_max_backlog); at most 0.1% is accepted (valid.packets_dropped): TCP sends them again, 200 ms later or more"}},
		{"few packets dropped", nil, func(r *report.Run) { r.Disturbance.Packets, r.Disturbance.PacketsDropped = 1_000_000, 1000 }, report.Good, nil},
		{"peers that don't read", nil, func(r *report.Run) { r.Disturbance.TCPDropped = 1200 }, report.Good, nil},
		{"a ceiling that failed", nil, func(r *report.Run) { r.CeilingProblem = "no memory" }, report.Good, nil},
		{"a ceiling that failed, and is expected", []report.Threshold{{Figure: "ceiling.fraction", Relation: report.AtLeast, Value: 0.9}}, func(r *report.Run) { r.CeilingProblem = "no memory" },
			report.Invalid, []string{"ceiling.fraction can't be judged: the ceiling could not be measured: no memory"}},
		{"an agent lost", nil, func(r *report.Run) {
			r.Agents = []report.Agent{{Name: "a:1"}, {Name: "b:2", Clients: 1, Lost: "the agent was lost: it ended"}}
		}, report.Invalid, []string{"agent b:2: the agent was lost: it ended; what its 1 client received is in none of the figures"}},
		{"an agent's clock", nil, func(r *report.Run) {
			r.Agents = []report.Agent{{Name: "a:1", Clock: report.Clock{Error: 0.002, Offset: 3600}}, {Name: "b:2", Clock: report.Clock{Error: 0.0021}}}
		}, report.Invalid, []string{"agent b:2: latencies may be off by 2.1ms, since its clock is another one; at most 2ms is accepted (valid.clock_error)"}},
		{"an agent's clock, and a latency that is short", nil, func(r *report.Run) {
			r.Latency.All.P50 = 0.001
			r.Agents = []report.Agent{{Name: "a:1", Clock: report.Clock{Error: 0.001}}}
		}, report.Good, nil},
		{"an agent's machine", nil, func(r *report.Run) {
			r.Agents = []report.Agent{{Name: "a:1", Disturbance: &report.Disturbance{Steal: 0.2, ClockStep: 1}}, {Name: "b:2", Disturbance: &report.Disturbance{}}}
		}, report.Invalid, []string{"agent a:1: the clock of day jumped by 1s",
			"agent a:1: the hypervisor took 20% of the machine for others, at most 5% is accepted (valid.steal)"}},
		{"invalid comes first and stays", nil, func(r *report.Run) {
			r.Deliveries.Measured.Reordered, r.Disturbance.Steal, r.Clients.Joined = 1, 0.2, 9
		},
			report.Invalid, []string{"9 of 10 clients connected", "the hypervisor took 20% of the machine for others, at most 5% is accepted (valid.steal)", "reordered is 1, expected <= 0"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := good()
			c.change(r)
			if c.expect == nil {
				c.expect = lossless
			}
			v := verdict(r, &scenario.Scenario{Expect: c.expect, Bounds: scenario.DefaultBounds()})
			if !slices.Equal(slices.Concat(v.Doubts, v.Reasons), c.want) || v.Status != c.status {
				t.Errorf("%s: %q %q, want %s: %q", v.Status, v.Doubts, v.Reasons, c.status, c.want)
			}
			if len(v.Checks) != len(c.expect) {
				t.Errorf("%d checks of %d expectations", len(v.Checks), len(c.expect))
			}
		})
	}
}

// What the warm-up left to be delivered is part of what the measured phase's CPU time was spent on.
func TestLeftoverOfTheWarmUp(t *testing.T) {
	for _, c := range []struct {
		name  string
		begun cluster.Metrics // of the comets
		want  int64
	}{
		{"all had been handed out", cluster.Metrics{metricFrames: 1100}, 0},
		{"some had not", cluster.Metrics{metricFrames: 800}, 300},
		{"more than arrived", cluster.Metrics{metricFrames: 2000}, 0},
		{"not known", nil, 0},
	} {
		r := &run{idle: cometMemory{frames: 100}, begin: border{metrics: map[string]cluster.Metrics{cluster.RoleComet: c.begun}}}
		if got := r.leftover(1000); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestMachineLoad(t *testing.T) {
	busy, steal := parseStat("cpu  100 20 30 4000 5 6 7 80 9 0\ncpu0 1 2 3\n")
	if busy != 1500*time.Millisecond || steal != 800*time.Millisecond {
		t.Errorf("busy %v, steal %v", busy, steal)
	}
	for _, junk := range []string{"", "cpu", "cpu 1 2", "intr 1 2 3 4 5 6 7 8 9"} {
		if busy, steal := parseStat(junk); busy != 0 || steal != 0 {
			t.Errorf("%q: %v, %v", junk, busy, steal)
		}
	}
	if got := parsePressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=1500\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"); got != 1500*time.Microsecond {
		t.Errorf("pressure %v", got)
	}
	from := agent.MachineLoad{Busy: time.Second, Steal: time.Second, MemoryWait: time.Second, Wall: time.Hour}
	to := agent.MachineLoad{Busy: 11 * time.Second, Steal: 2 * time.Second, MemoryWait: 3 * time.Second, Wall: time.Hour - time.Second}
	d := disturbance(from, to, 8*time.Second, 10*time.Second, 2)
	if d.OtherCPU != 0.1 || d.Steal != 0.05 || d.MemoryWait != 0.2 || d.ClockStep != -1 {
		t.Errorf("%+v", d)
	}
	const netstat = "TcpExt: SyncookiesSent TCPMemoryPressures TCPRcvQDrop\nTcpExt: 5 6 7\nIpExt: InNoRoutes\nIpExt: 8\n"
	if short, dropped := parseNetstat(netstat); short != 6 || dropped != 7 {
		t.Errorf("TCP short of memory %d times, %d packets dropped", short, dropped)
	}
	for _, junk := range []string{"", "TcpExt: TCPMemoryPressures", "TcpExt: TCPMemoryPressures\nTcpExt:", "TcpExt: TCPMemoryPressures\nTcpExt: x y"} {
		if short, dropped := parseNetstat(junk); short != 0 || dropped != 0 {
			t.Errorf("%q: %d, %d", junk, short, dropped)
		}
	}
	const softnet = "000000ff 00000001 00000082 00000000\nffffffff 00000002 00000096 00000000\n"
	if taken, dropped := parseSoftnet(softnet); taken != 254 || dropped != 3 {
		t.Errorf("%d packets taken, %d dropped", taken, dropped)
	}
	for _, junk := range []string{"", "\n", "ff", "x y"} {
		if taken, dropped := parseSoftnet(junk); taken != 0 || dropped != 0 {
			t.Errorf("%q: %d, %d", junk, taken, dropped)
		}
	}
	around := disturbance(agent.MachineLoad{Packets: 1<<32 - 10, PacketsDropped: 1<<32 - 1}, agent.MachineLoad{Packets: 80, PacketsDropped: 9}, 0, time.Second, 1)
	if around.Packets != 100 || around.PacketsDropped != 10 {
		t.Errorf("%d packets, %d dropped", around.Packets, around.PacketsDropped)
	}
	now := readMachineLoad()
	if now.Busy == 0 || now.Wall == 0 || now.Packets == 0 {
		t.Errorf("this machine: %+v", now)
	}
}

func TestPreflight(t *testing.T) {
	s := func(clients, comets int) *scenario.Scenario {
		return &scenario.Scenario{Clients: scenario.Clients{Count: clients}, Cluster: scenario.Cluster{Comets: comets}}
	}
	tables := func(clients, comets, tables int, tls float64) *scenario.Scenario {
		s := s(clients, comets)
		s.Cluster.Tables, s.Clients.Transport.WSS = tables, tls
		return s
	}
	const gib = 1 << 30
	cases := []struct {
		name     string
		scenario *scenario.Scenario
		machine  machine
		comets   cometPlan
		problem  string
	}{
		{"fits", s(10_000, 1), machine{20_000, 8 * gib, 0}, cometPlan{comets: 1}, ""},
		{"auto takes one", s(10_000, 0), machine{20_000, 8 * gib, 0}, cometPlan{comets: 1}, ""},
		{"auto takes three", s(50_000, 0), machine{20_000, 8 * gib, 0}, cometPlan{comets: 3}, ""},
		{"too few descriptors", s(10_000, 1), machine{1024, 8 * gib, 0}, cometPlan{}, "ulimit -Hn 10512 && ulimit -n 10512"},
		{"two comets are too few", s(10_000, 2), machine{4096, 8 * gib, 0}, cometPlan{}, "ulimit -n 5512"},
		{"none at all", s(10, 0), machine{64, 8 * gib, 0}, cometPlan{}, "the hard limit is 64"},
		{"too little memory", s(100_000, 0), machine{200_000, gib, 0}, cometPlan{}, "need about 2262 MiB of memory, 1024 MiB are available"},
		{"enough memory where agents have the clients", s(100_000, 0), machine{200_000, 2 * gib, agentMemoryPerClient}, cometPlan{comets: 1}, ""},
		{"one comet with tables", tables(1_000_000, 0, scenario.AsNeeded, 0), machine{20_000, 20 * gib, 0}, cometPlan{comets: 1, tables: 52}, ""},
		{"two comets with tables", tables(1_000_000, 2, scenario.AsNeeded, 0), machine{20_000, 20 * gib, 0}, cometPlan{comets: 2, tables: 26}, ""},
		{"so many tables", tables(30_000, 0, 2, 0), machine{20_000, 20 * gib, 0}, cometPlan{comets: 1, tables: 2}, ""},
		{"too few tables", tables(50_000, 1, 2, 0), machine{20_000, 20 * gib, 0}, cometPlan{}, "a comet needs 50512 open files"},
		{"tables and TLS", tables(10_000, 1, 2, 1), machine{20_000, 20 * gib, 0}, cometPlan{}, "clients inside TLS can't be in tables"},
		{"memory unknown", s(10, 1), machine{openFiles: 20_000}, cometPlan{comets: 1}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			comets, err := preflight(c.scenario, c.machine)
			if c.problem == "" {
				if err != nil || comets != c.comets {
					t.Errorf("%+v, %v", comets, err)
				}
				return
			}
			if e := new(EnvironmentError); !errors.As(err, &e) || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("error is %v, want %q in it", err, c.problem)
			}
		})
	}
}

func TestReadEnvironment(t *testing.T) {
	e := readEnvironment("abc")
	if e.CPU == "" || e.Cores < 1 || e.MemoryBytes < 1<<28 || e.Kernel == "" || e.OpenFilesHard == 0 || e.Commit != "abc" ||
		e.KernelSettings["net.ipv4.ip_local_port_range"] == "" {
		t.Errorf("%+v", e)
	}
}

func TestEnvironmentThatChanges(t *testing.T) {
	first := readEnvironment("a")
	now := readEnvironment("b") // another commit is no change
	if got := changedSince(&first, &now); got != "" {
		t.Error(got)
	}
	if got := changesSince(nil, &report.Run{Environment: now}); len(got) > 0 {
		t.Error(got)
	}
	now.Cores = first.Cores + 1
	if got := changedSince(&first, &now); !strings.HasPrefix(got, "the number of cores changed since the series' first run") {
		t.Errorf("got %q", got)
	}
	before, after := []report.Agent{{Name: "a:1", Environment: first}}, []report.Agent{{Name: "a:1", Environment: now}}
	if got := agentChanged(before, after); !strings.HasPrefix(got, "agent a:1: the number of cores changed") {
		t.Errorf("got %q", got)
	}
	if got := agentChanged(before, before); got != "" {
		t.Error(got)
	}
	now.Cores = first.Cores
	now.KernelSettings = map[string]string{"net.core.somaxconn": "1"}
	if got := changedSince(&first, &now); !strings.Contains(got, "changed since the series' first run") {
		t.Errorf("got %q", got)
	}
}

func TestResultFoldersDoNotCollide(t *testing.T) {
	results := filepath.Join(t.TempDir(), "results")
	at := time.Date(2024, 11, 24, 7, 5, 3, 0, time.FixedZone("", 3600))
	for _, want := range []string{"20241124T060503Z", "20241124T060503Z-2", "20241124T060503Z-3"} {
		dir, err := makeResultDir(results, "smoke", at)
		if err != nil || dir != filepath.Join(results, "smoke", want) {
			t.Errorf("%s, %v", dir, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "logs")); err != nil {
			t.Error(err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := makeResultDir(file, "smoke", at); err == nil {
		t.Error("a file was taken for a folder")
	}
}
