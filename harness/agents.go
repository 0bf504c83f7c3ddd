package harness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"barrage/harness/agent"
	"barrage/harness/ceiling"
	"barrage/harness/cluster"
	"barrage/harness/ledger"
	"barrage/harness/live"
	"barrage/harness/pusher/load"
	"barrage/harness/report"
	"barrage/harness/scenario"
	"barrage/harness/swarm"
)

// population is the run's clients: a swarm in this process, or a fleet of agents.
type population interface {
	Connect(context.Context) error
	Snapshot() swarm.Snapshot
	ChangeRooms(ctx context.Context, on bool) error
	Storm(ctx context.Context, fraction float64, reset bool) (swarm.StormReport, error)
	Drain(context.Context, []ledger.Plan) (bool, error)
	Finish(context.Context, []ledger.Plan) (*swarm.Report, error)
	Close() error
}

func targetsOf(c *cluster.Cluster) swarm.Targets {
	return swarm.Targets{TCP: c.TCP, WS: c.WS, TCPTLS: c.TCPTLS, WSS: c.WSS}
}

// swarmConfig describes the part of a layout's clients whose numbers are part modulo parts.
// They connect from sources, where there are any; those inside TLS trust what is in trusts,
// or, where it is nil, what the system does.
func swarmConfig(l *layout, targets swarm.Targets, trusts *x509.CertPool, sources []netip.Addr, part, parts int) swarm.Config {
	c := &l.scenario.Clients
	share := func(rate float64) int { return max(1, int(rate/float64(parts)+0.5)) }
	cfg := swarm.Config{
		Targets: targets, LocalAddrs: sources, Streams: l.streams, Heartbeat: c.Heartbeat, ReceiveBuffer: c.ReceiveBuffer,
		Clients: load.Part(c.Count, part, parts), Client: func(i int) swarm.Client { return l.client(i*parts + part) },
		ConnectRate: share(c.Connect.Rate), ConnectFrom: share(c.Connect.From), ConnectOver: c.Connect.Over,
		ConnectPending: max(1, c.Connect.Pending/parts), InTurn: c.Rooms.Count == 1,
		Behaviours: swarm.Behaviours{
			SlowRate: c.Slow.Rate, ChurnLives: c.Churn.Lives, ChurnAway: c.Churn.Away,
			HalfOpenLives: c.HalfOpen.Lives, RoomChange: c.Rooms.Change,
		},
	}
	if l.crowd.secure() > 0 {
		cfg.TLS = &tls.Config{RootCAs: trusts}
	}
	return cfg
}

// roleAgent is an agent's role among the processes; its name there says which it is.
const roleAgent = "agent"

func agentName(address string) string { return roleAgent + " " + address }

// dialAgents has the agents make the clients ready.
func (r *run) dialAgents(ctx context.Context) error {
	cfg := *r.opt.Agents
	cfg.Lost = func(name string, err error) {
		r.progress.view.Warn(fmt.Sprintf("agent %s: %v; the run ends here", name, err))
	}
	r.progress.phase(live.Connect, "agents get ready: "+strings.Join(cfg.Addrs, ", "))
	job := r.agentJob()
	job.Targets, job.Authority = targetsOf(r.cluster), r.cluster.Authority
	fleet, err := agent.Dial(ctx, cfg, job, r.layout.streams)
	if err != nil {
		return &EnvironmentError{Problems: strings.Split(err.Error(), "\n")}
	}
	r.fleet, r.swarm = fleet, fleet
	return nil
}

// agentJob is what every job of the run's agents has in common.
func (r *run) agentJob() agent.Job {
	s := r.opt.Scenario
	return agent.Job{File: s.File, Scenario: report.Shown(s.Text), Overrides: report.ShownAll(r.opt.Overrides)}
}

// receiveElsewhere has the agents be the receiving side of the ceiling. lost is called when one of them goes.
func (r *run) receiveElsewhere(lost func(error)) func(context.Context, ceiling.Job) (ceiling.Receivers, error) {
	return func(ctx context.Context, j ceiling.Job) (ceiling.Receivers, error) {
		declared, err := j.Streams()
		if err != nil {
			return nil, err
		}
		cfg := *r.opt.Agents
		cfg.Lost = func(name string, err error) { lost(fmt.Errorf("agent %s: %w", name, err)) }
		job := r.agentJob()
		job.Targets, job.Authority, job.Ceiling = j.Targets, j.Authority, &j
		fleet, err := agent.Dial(ctx, cfg, job, declared)
		if err != nil {
			return nil, err
		}
		return fleet, nil
	}
}

// whileWhole returns a context that ends with ctx, and when an agent is lost.
func (r *run) whileWhole(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.fleet == nil {
		return context.WithCancel(ctx)
	}
	return r.fleet.WhileWhole(ctx)
}

// agents is what the report says of each agent.
func (r *run) agents() []report.Agent {
	if r.fleet == nil {
		return nil
	}
	members := r.fleet.Members()
	took := time.Duration(r.end.at - r.begin.at)
	var list []report.Agent
	for _, m := range members {
		a := report.Agent{
			Name: m.Name, Clients: m.Clients, Joined: m.Joined, Environment: m.Environment, Threads: len(m.Threads),
			ReadLag: report.PercentilesOf(m.ReadLag),
			Clock:   report.Clock{Offset: m.Clock.Offset.Seconds(), Error: m.Clock.Error.Seconds(), Drift: m.Clock.Drift},
		}
		if m.Lost != nil {
			a.Lost = m.Lost.Error()
		}
		from, began := r.begin.agents[m.Name]
		to, ended := r.end.agents[m.Name]
		if began && ended {
			a.Hiccups = ratio((to.Hiccups - from.Hiccups).Seconds(), took.Seconds())
		}
		if began && ended && m.Boot != bootID() {
			ours := time.Duration(0) // of all agents on that machine
			for _, n := range members {
				if n.Boot == m.Boot {
					ours += r.end.agents[n.Name].Usage.CPU() - r.begin.agents[n.Name].Usage.CPU()
				}
			}
			d := disturbance(from.MachineLoad, to.MachineLoad, ours, took, m.Environment.Cores)
			a.Disturbance = &d
		}
		list = append(list, a)
	}
	return list
}

// agentsHere is the processor time that agents on this machine used between the borders.
func (r *run) agentsHere() (used time.Duration) {
	if r.fleet == nil {
		return 0
	}
	for _, m := range r.fleet.Members() {
		from, began := r.begin.agents[m.Name]
		to, ended := r.end.agents[m.Name]
		if began && ended && m.Boot == bootID() {
			used += to.Usage.CPU() - from.Usage.CPU()
		}
	}
	return used
}

// agentProcesses are the agents among the run's processes.
func (r *run) agentProcesses() []report.Process {
	var list []report.Process
	for _, name := range slices.Sorted(maps.Keys(r.end.agents)) {
		to := r.end.agents[name].Usage
		list = append(list, r.process(agentName(name), roleAgent, r.begin.agents[name].Usage, to, report.Process{
			CPUTotal: to.CPU().Seconds(), RSSBytes: to.RSS, RSSPeakBytes: to.Peak,
		}))
	}
	return list
}

// farAgent returns the first agent that is on another machine, or "".
func (o *Options) farAgent() string {
	if o.Agents != nil {
		for _, addr := range o.Agents.Addrs {
			if !agent.IsLoopback(addr) {
				return addr
			}
		}
	}
	return ""
}

// checkReach says what keeps the agents from reaching the clients' targets.
func checkReach(opt *Options) error {
	addr := opt.farAgent()
	if addr == "" || opt.Target != nil || opt.Advertise != "" {
		return nil
	}
	return &EnvironmentError{Problems: []string{fmt.Sprintf(
		"the comets of the run listen on 127.0.0.1, which agent %s doesn't reach: name an address of this machine that it does (-advertise IP), or a cluster that runs already (-target)", addr)}}
}

// lostDoubts names the agents that are missing: whatever else is wrong may follow from it.
func lostDoubts(r *report.Run) []string {
	var list doubtList
	for _, a := range r.Agents {
		list.when(a.Lost != "", "agent %s: %s; what its %s received is in none of the figures", a.Name, a.Lost, report.Plural(int(a.Clients), "client"))
	}
	return list
}

// agentDoubts returns why those that are there may have made the figures.
func agentDoubts(r *report.Run, b scenario.Bounds) []string {
	var list doubtList
	limit := max(b.ClockError*r.Latency.All.P50, clockErrorFloor.Seconds())
	for _, a := range r.Agents {
		list.when(a.Lost == "" && a.Clock.Error > limit, "agent %s: latencies may be off by %s, since its clock is another one; at most %s is accepted (valid.clock_error)",
			a.Name, seconds(a.Clock.Error), seconds(limit))
		list.when(a.Hiccups > b.Hiccups, "agent %s: "+hiccupDoubt, a.Name, percent(a.Hiccups), percent(b.Hiccups))
		if a.Disturbance != nil {
			for _, doubt := range disturbanceDoubts(a.Disturbance, b) {
				list.when(true, "agent %s: %s", a.Name, doubt)
			}
		}
	}
	return list
}

// clockErrorFloor is accepted whatever the latency is.
const clockErrorFloor = time.Millisecond

// agentChanged says in what the agents differ from those of a series' first run, or
// nothing.
func agentChanged(first, now []report.Agent) string {
	for i := range min(len(first), len(now)) {
		if change := changedSince(&first[i].Environment, &now[i].Environment); change != "" {
			return fmt.Sprintf("agent %s: %s", now[i].Name, change)
		}
	}
	return ""
}
