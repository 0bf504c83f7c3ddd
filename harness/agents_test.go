package harness

import (
	"strings"
	"testing"

	"barrage/harness/agent"
	"barrage/harness/scenario"
	"barrage/harness/swarm"
)

const agentScenario = `
name: parts
clients: {count: 23, connect_rate: 1000/s, rooms: {count: 3}, members: 5, accepts: [1001], transport: {tcp: 0.5, ws: 0.5}}
pushes:
  - {kind: room, operation: 1000, rate: 10/s, size: 64B}
  - {kind: mids, operation: 1001, rate: 10/s, size: 64B, targets: 5}
phases: {warmup: 1s, measure: 2s}
`

// The parts of the agents are the scenario's clients, each once and as it is without
// agents, and their streams start when the pusher's do.
func TestPartsOfAScenario(t *testing.T) {
	overrides := []string{"clients.count=20"}
	s, err := scenario.Parse("parts.yaml", []byte(agentScenario), overrides)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, parts := range []int{1, 3, 20, 30} {
		rate := 0
		seen := map[string]bool{}
		for part := range parts {
			w, err := agentWork(agent.Job{
				File: "parts.yaml", Scenario: agentScenario, Overrides: overrides, Part: part, Parts: parts,
				Targets: swarm.Targets{TCP: []string{"10.0.0.1:1"}, WS: []string{"10.0.0.1:2"}},
			}, nil, machine{})
			if err != nil {
				t.Fatal(err)
			}
			rate += w.Swarm.ConnectRate
			for i := range w.Swarm.Clients {
				got, want := w.Swarm.Client(i), l.client(i*parts+part)
				if seen[got.Key] {
					t.Errorf("%d parts: %s is there twice", parts, got.Key)
				}
				seen[got.Key] = true
				if got.Key != want.Key || got.Kind != want.Kind || got.Mid != want.Mid || got.Room != want.Room || got.Subscription.Len() != want.Subscription.Len() {
					t.Errorf("%d parts: client %d of part %d is %+v, want %+v", parts, i, part, got, want)
				}
			}
			if len(w.Starts) != len(l.pushes) {
				t.Fatalf("%d starts of %d streams", len(w.Starts), len(l.pushes))
			}
			for i, p := range l.pushes {
				if w.Starts[i] != (agent.Start{Stream: p.ID, After: p.Due(0)}) {
					t.Errorf("stream %d starts at %+v, the pusher's at %v", p.ID, w.Starts[i], p.Due(0))
				}
			}
		}
		if len(seen) != 20 || rate < 980 || rate > 1020 {
			t.Errorf("%d parts have %d clients, and connect %d a second", parts, len(seen), rate)
		}
	}
}

// What an agent can't do it says, with what would help.
func TestJobsThatAnAgentCannotDo(t *testing.T) {
	for _, c := range []struct {
		name    string
		text    string
		machine machine
		want    string
	}{
		{"no scenario", "clients: {}", machine{}, "job.yaml:1: "},
		{"too little memory", agentScenario, machine{available: 100 << 20}, "20000 clients need about 234 MiB of memory, 100 MiB are available: end other programs there, or spread the clients over more agents"},
	} {
		_, err := agentWork(agent.Job{File: "job.yaml", Scenario: c.text, Overrides: []string{"clients.count=20000"}, Parts: 1}, nil, c.machine)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
