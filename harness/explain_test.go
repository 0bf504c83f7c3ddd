package harness

import (
	"strings"
	"testing"

	"barrage/harness/agent"
	"barrage/harness/cluster"
	"barrage/harness/scenario"
	"barrage/scenarios"
)

func TestExplain(t *testing.T) {
	for name, want := range map[string][]string{
		"room-10k": {
			"logic, job and 1 comet as processes",
			"10,000 clients connect, 4000 a second at most, 5,000 over TCP and 5,000 over WebSocket, all in the room live://1.",
			"room: at 10 a second of 64 bytes to the room, by 1 sequential sender: 2,000,000 deliveries are measured",
			"For 3s, which count for loss and order and not for latency, and then for 20s",
			"  lost <= 0 (", "It takes about 42s", "10512 open files",
		},
		"smoke": {
			"200 clients connect", "spread evenly over 4 rooms (live://1 ...)", "They are 100 members.",
			"room: at 40 a second of 64 bytes to the 4 rooms in turn, by 4 sequential senders: 6,000 deliveries are measured",
			"keys: at 10 a second of 64 bytes to 5 keys at a time, 2 groups in turn, by 2 sequential senders: 150 deliveries",
			"mids: at 10 a second of 256 bytes to 5 members at a time, 2 groups in turn, by 2 sequential senders: 300 deliveries",
			"all: at 5 a second of 1024 bytes to everybody who accepts operation 1003, by 1 sequential sender: 3,000 deliveries",
			"9,450 deliveries are measured in all",
		},
	} {
		s, err := scenario.Find(name, scenarios.Files, nil)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := Explain(&b, &Options{Scenario: s}); err != nil {
			t.Fatal(err)
		}
		for _, text := range want {
			if !strings.Contains(b.String(), text) {
				t.Errorf("%q is not in\n%s", text, b.String())
			}
		}
	}
	s, err := scenario.Find("room-10k", scenarios.Files, []string{"clients.count=9000000", "cluster.comet.room.minInterval=50ms"})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := Explain(&b, &Options{Scenario: s, NoCeiling: true}); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"comet has room.minInterval=50ms", "this machine can't run the scenario as it is"} {
		if !strings.Contains(b.String(), text) {
			t.Errorf("%q is not in\n%s", text, b.String())
		}
	}
	if strings.Contains(b.String(), "plain send loop") {
		t.Error("a ceiling is announced that is left out")
	}
}

// What is at another place is said to be there, and nothing of this machine's is claimed for it.
func TestExplainElsewhere(t *testing.T) {
	s, err := scenario.Find("room-100k", scenarios.Files, nil)
	if err != nil {
		t.Fatal(err)
	}
	target := &cluster.Target{TCP: []string{"10.0.0.1:3101"}, WS: []string{"10.0.0.1:3102"}, Push: "10.0.0.2:3111"}
	agents := &agent.FleetConfig{Addrs: []string{"10.0.0.7:3121", "10.0.0.8:3121"}}
	for _, c := range []struct {
		name      string
		opt       Options
		want, not []string
	}{
		{
			"a target", Options{Scenario: s, Target: target},
			[]string{"drives a cluster that runs already", "clients go to 10.0.0.1:3101 and 10.0.0.1:3102, pushes to 10.0.0.2:3111", "none of its metrics are named"},
			[]string{"embedded Kafka", "network namespace", "plain send loop", "MiB of memory"},
		},
		{
			"agents", Options{Scenario: s, Agents: agents, Advertise: "10.0.0.1"},
			[]string{"The clients are at 10.0.0.7:3121 and 10.0.0.8:3121 (barrage agent), 50000 for each", "Comets listen for them on 10.0.0.1", "embedded Kafka", "open files",
				"a plain send loop over as many sockets to the agents measures what the kernel and the network allow, for about 25s."},
			[]string{"network namespace"},
		},
		{
			"agents that can't reach the comets", Options{Scenario: s, Agents: agents},
			[]string{"-advertise"}, nil,
		},
		{
			"both", Options{Scenario: s, Agents: agents, Target: target},
			[]string{"drives a cluster that runs already", "The clients are at 10.0.0.7:3121"}, []string{"embedded Kafka", "Comets listen", "plain send loop"},
		},
	} {
		var b strings.Builder
		if err := Explain(&b, &c.opt); err != nil {
			t.Fatal(err)
		}
		for _, text := range c.want {
			if !strings.Contains(b.String(), text) {
				t.Errorf("%s: %q is not in\n%s", c.name, text, b.String())
			}
		}
		for _, text := range c.not {
			if strings.Contains(b.String(), text) {
				t.Errorf("%s: %q is in\n%s", c.name, text, b.String())
			}
		}
	}
}

// The ceiling's part has its length from the number of clients, and how many of them are inside TLS.
func TestExplainCeiling(t *testing.T) {
	for name, want := range map[string]string{
		"room-10k": "as many sockets measures what the kernel allows, for about 13s.",
		"wss-10k":  "as many sockets measures what the kernel allows, for about 25s.",
		"room-1m":  "as many sockets measures what the kernel allows, for about 1m50s.",
	} {
		s, err := scenario.Find(name, scenarios.Files, nil)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := Explain(&b, &Options{Scenario: s}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s: %q is not in\n%s", name, want, b.String())
		}
	}
}

// Every scenario that comes with the binary is one, and can be laid out.
func TestCatalogue(t *testing.T) {
	files, err := scenarios.Files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name, yaml := strings.CutSuffix(f.Name(), ".yaml")
		if !yaml {
			continue
		}
		s, err := scenario.Find(name, scenarios.Files, nil)
		if err != nil {
			t.Error(err)
			continue
		}
		if s.Name != name || !strings.HasPrefix(s.Text, "# ") {
			t.Errorf("%s: it is called %s, or has no comment that says its question", name, s.Name)
		}
		l, err := newLayout(s)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, n := range l.deliveries() {
			if n == 0 {
				t.Errorf("%s: line %s delivers nothing", name, s.Pushes[i].Name)
			}
		}
	}
}
