package harness

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"barrage/harness/agent"
	"barrage/harness/cluster"
	"barrage/harness/ledger"
	"barrage/harness/report"
	"barrage/harness/scenario"
)

// agentMemoryPerClient is what a client takes of an agent's machine: its socket, with some
// data under way, and the swarm's share.
const agentMemoryPerClient = 12 << 10

// AgentServer describes an agent on this machine, which is of a binary of the given version
// and commit. Its clients connect from sources, or from what the kernel chooses.
func AgentServer(security agent.Security, sources []netip.Addr, build, commit string, log *slog.Logger) agent.ServerConfig {
	return agent.ServerConfig{
		Security: security, Build: build, Boot: bootID(), Log: log,
		Prepare: func(j agent.Job) (agent.Work, error) { return agentWork(j, sources, readMachine()) },
		Environment: func() report.Environment {
			e := readEnvironment(commit)
			e.Broker, e.Redis = "", ""
			return e
		},
		Load: agentLoad,
	}
}

// agentWork lays a job's scenario out as its coordinator does.
func agentWork(j agent.Job, sources []netip.Addr, m machine) (agent.Work, error) {
	s, err := scenario.Parse(j.File, []byte(j.Scenario), j.Overrides)
	if err != nil {
		return agent.Work{}, err
	}
	l, err := newLayout(s)
	if err != nil {
		return agent.Work{}, err
	}
	var trusts *x509.CertPool
	if len(j.Authority) > 0 {
		trusts = x509.NewCertPool()
		if !trusts.AppendCertsFromPEM(j.Authority) {
			return agent.Work{}, errors.New("the certificate of the targets is no PEM certificate")
		}
	}
	var w agent.Work
	if j.Ceiling == nil {
		w.Swarm = swarmConfig(l, j.Targets, trusts, sources, j.Part, j.Parts)
	} else {
		if w.Swarm, err = j.Ceiling.Swarm(l.crowd.kind, j.Part, j.Parts); err != nil {
			return agent.Work{}, err
		}
		w.Swarm.LocalAddrs = sources
	}
	perClient := float64(agentMemoryPerClient) + s.Clients.Transport.Secure()*memoryOfTLS/2
	if need := int64(float64(w.Swarm.Clients) * perClient); m.available > 0 && m.available < need {
		return agent.Work{}, fmt.Errorf("%d clients need about %d MiB of memory, %d MiB are available: end other programs there, or spread the clients over more agents",
			w.Swarm.Clients, need>>20, m.available>>20)
	}
	for _, p := range l.pushes {
		if p.Pushes > 0 && j.Ceiling == nil {
			w.Starts = append(w.Starts, agent.Start{Stream: p.ID, After: p.Due(0)})
		}
	}
	return w, nil
}

func agentLoad() agent.Load {
	usage, _ := cluster.ReadUsage(os.Getpid()) // a machine whose /proc can't be read fails before a run
	return agent.Load{MachineLoad: readMachineLoad(), Usage: usage, Hiccups: hiccups().until(ledger.Now())}
}

// bootID names the running kernel: containers and network namespaces of one machine have
// the same one, as they have its processors. "" where it can't be read.
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
