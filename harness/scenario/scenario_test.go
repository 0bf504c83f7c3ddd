package scenario

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"barrage/harness/report"
	"barrage/scenarios"
)

const good = `name: good
description: what it asks
cluster:
  comets: 2
  comet: {room.minInterval: 10ms, limit.perAddress: 5}
  job: {comet.lanes: 8}
  comet_runtime: {procs: 1, memory: 64MiB}
clients:
  count: 100
  transport: {tcp: 0.25, ws: 0.75}
  connect_rate: 600/min
  heartbeat: 30s
  rooms: {count: 4, type: chat}
  members: 50
  accepts: [1001, 1000]
pushes:
  - {kind: room, operation: 1000, rate: 400/s, size: 64B, rooms: [1, 3]}
  - {name: some, kind: keys, operation: 1000, rate: 1/s, size: 1KiB, targets: 5, groups: 2, senders: 3}
  - {kind: all, operation: 1001, rate: 30/min, size: 16B, speed: 100}
phases: {warmup: 1s, measure: 20s, drain: 5s}
expect: {duplicate: 3}
`

func TestParse(t *testing.T) {
	s, err := Parse("good.yaml", []byte(good), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"GOMAXPROCS=1", "GOMEMLIMIT=67108864"}; !slices.Equal(s.Cluster.CometRuntime.Environment(), want) {
		t.Errorf("environment %v, want %v", s.Cluster.CometRuntime.Environment(), want)
	}
	if s.Cluster.Comets != 2 || !slices.Equal(s.Cluster.Comet, []Setting{{"limit.perAddress", "5"}, {"room.minInterval", "10ms"}}) {
		t.Errorf("cluster is %+v", s.Cluster)
	}
	c := s.Clients
	if c.Count != 100 || c.Transport != (Transport{TCP: 0.25, WebSocket: 0.75}) || c.Connect.Rate != 10 || c.Connect.Pending != 128 || c.Heartbeat != 30*time.Second ||
		c.Rooms.Key(3) != "chat://4" || c.Members != 50 || !slices.Equal(c.Accepts, []int32{1000, 1001}) {
		t.Errorf("clients are %+v", c)
	}
	room, keys, all := s.Pushes[0], s.Pushes[1], s.Pushes[2]
	if room.Name != "room" || !slices.Equal(room.Rooms, []int{0, 2}) || room.SendersPerTarget() != 4 || room.Streams() != 8 {
		t.Errorf("room line is %+v with %d senders", room, room.SendersPerTarget())
	}
	if keys.Name != "some" || keys.Sizes.Mean() != 1024 || keys.Targets != 5 || keys.Streams() != 6 {
		t.Errorf("keys line is %+v", keys)
	}
	if all.Rate != 0.5 || all.Speed != 100 || all.Streams() != 1 {
		t.Errorf("all line is %+v", all)
	}
	wantExpect := []report.Threshold{{Figure: "lost", Relation: report.AtMost}, {Figure: "duplicate", Relation: report.AtMost, Value: 3}, {Figure: "reordered", Relation: report.AtMost}}
	if s.Phases != (Phases{time.Second, 20 * time.Second, 5 * time.Second}) || !slices.Equal(s.Expect, wantExpect) || s.Text != good {
		t.Errorf("phases %+v, expect %+v", s.Phases, s.Expect)
	}
}

func TestParseMistakes(t *testing.T) {
	cases := []struct {
		name     string
		old, new string // replaced in good
		want     string // the message, whole or its start
	}{
		{"unknown field", "  count: 100\n", "  conut: 100\n",
			"x.yaml:9: clients.conut: unknown field; did you mean count?"},
		{"unknown section", "expect:", "expected:", "x.yaml:21: expected: unknown field; did you mean expect?"},
		{"field twice", "name: good\n", "name: good\nname: again\n", "x.yaml:2: name: is there twice"},
		{"bad name", "name: good", "name: ../up", `x.yaml:1: name: "../up" is no name`},
		{"not a number", "count: 100", "count: many", `x.yaml:9: clients.count: "many" is not a whole number; accepted: 1 to 10000000`},
		{"out of range", "count: 100", "count: 0", "x.yaml:9: clients.count: 0 is out of range; accepted: 1 to 10000000"},
		{"empty value", "count: 100", "count:", "x.yaml:9: clients.count: is empty; accepted: 1 to 10000000"},
		{"list for a number", "count: 100", "count: [1]", "x.yaml:9: clients.count: is a list; accepted"},
		{"rate without unit", "connect_rate: 600/min", "connect_rate: 600",
			`x.yaml:11: clients.connect_rate: "600" is not a rate; write it as 10/s or 90/min; accepted: 1/s to 1e+06/s`},
		{"wrong unit of a duration", "heartbeat: 30s", "heartbeat: 30B",
			`x.yaml:12: clients.heartbeat: "30B" is not a duration; write it as 500ms, 20s or 1m30s; accepted: 1s to 1h0m0s`},
		{"size without unit", "size: 64B", "size: 64", `x.yaml:17: pushes.0.size: "64" is not a size; write it as 64B`},
		{"no rate", "rate: 400/s, ", "", "x.yaml:17: pushes.0.rate: is missing; one of rate, ramp, burst, poisson, steps is wanted"},
		{"two rates", "rate: 400/s", "rate: 400/s, poisson: 3/s", "x.yaml:17: pushes.0.poisson: is there beside rate; one of them is wanted"},
		{"a ramp of nothing", "rate: 400/s", "ramp: {from: 0/s, to: 0/s}", "x.yaml:17: pushes.0.ramp: "},
		{"part of a ramp", "rate: 400/s", "ramp: {from: 0/s}", "x.yaml:17: pushes.0.ramp.to: is missing; accepted: 0/s to 100000/s"},
		{"a burst too thick", "rate: 400/s", "burst: {pushes: 1000000, every: 1ms}", "x.yaml:17: pushes.0.burst: "},
		{"step without a length", "rate: 400/s", "steps: [{rate: 3/s, for: 1s}, {rate: 3/s}]", "x.yaml:17: pushes.0.steps.1.for: is missing"},
		{"no steps", "rate: 400/s", "steps: []", "x.yaml:17: pushes.0.steps: "},
		{"no size", "size: 64B, rooms", "rooms", "x.yaml:17: pushes.0.size: is missing; one of size and sizes is wanted"},
		{"two sizes", "size: 64B, rooms", "size: 64B, sizes: {min: 16B, max: 32B}, rooms", "x.yaml:17: pushes.0.sizes: is there beside size"},
		{"sizes upside down", "size: 64B, rooms", "sizes: {min: 64B, max: 32B}, rooms", "x.yaml:17: pushes.0.sizes."},
		{"mean too high", "size: 64B, rooms", "sizes: {mean: 64B, max: 65B}, rooms", "x.yaml:17: pushes.0.sizes.mean: 64B is out of range"},
		{"min and mean", "size: 64B, rooms", "sizes: {min: 16B, mean: 64B, max: 165B}, rooms", "x.yaml:17: pushes.0.sizes.min: one of min and mean is wanted beside max"},
		{"keys past logic", "kind: keys, ", "kind: keys, via: kafka, ", "x.yaml:18: pushes.1.via: pushes of the kind keys can't go via kafka"},
		{"no such way", "kind: all, ", "kind: all, via: mail, ", `x.yaml:19: pushes.2.via: "mail" is no way in; accepted: http, kafka, comet`},
		{"size below the stamp", "size: 64B", "size: 8B", "x.yaml:17: pushes.0.size: 8B is out of range; accepted: 16B to 1048576B"},
		{"unknown kind", "kind: all", "kind: everyone", `x.yaml:19: pushes.2.kind: "everyone" is no kind of push; accepted: room, keys, mids, all`},
		{"field of another kind", "speed: 100", "targets: 1", "x.yaml:19: pushes.2.targets: unknown field"},
		{"protocol's own operation", "operation: 1001", "operation: 9", "x.yaml:19: pushes.2.operation: 9 is out of range; accepted: 1000 to 2147483647"},
		{"room that isn't there", "rooms: [1, 3]", "rooms: [5]", "x.yaml:17: pushes.0.rooms.0: 5 is out of range; accepted: 1 to 4"},
		{"range of rooms that aren't there", "rooms: [1, 3]", "rooms: [2-5]", "x.yaml:17: pushes.0.rooms.0: 5 is out of range; accepted: 2 to 4"},
		{"range upside down", "rooms: [1, 3]", "rooms: [3-2]", "x.yaml:17: pushes.0.rooms.0: 2 is out of range; accepted: 3 to 4"},
		{"no range", "rooms: [1, 3]", "rooms: [1-]", "x.yaml:17: pushes.0.rooms.0: "},
		{"room twice in a range", "rooms: [1, 3]", "rooms: [1-2, 2]", "x.yaml:17: pushes.0.rooms: room 2 is there twice"},
		{"room twice", "rooms: [1, 3]", "rooms: [1, 1]", "x.yaml:17: pushes.0.rooms: room 1 is there twice"},
		{"more groups than keys", "groups: 2", "groups: 21", "x.yaml:18: pushes.1.groups: 21 groups of 5 targets are more than the 100 of clients.keys"},
		{"transport adds up", "tcp: 0.25", "tcp: 0.3", "x.yaml:10: clients.transport: tcp, ws, tcp+tls and wss add up to 1.05"},
		{"transport not a mapping", "{tcp: 0.25, ws: 0.75}", "tcp", `x.yaml:10: clients.transport: is "tcp", a mapping of fields is wanted`},
		{"members missing", "kind: all, operation: 1001, rate: 30/min, size: 16B, speed: 100", "kind: mids, operation: 1001, rate: 1/s, size: 16B, targets: 51",
			"x.yaml:19: pushes.2.targets: 51 is out of range; accepted: 1 to 50"},
		{"measure missing", "measure: 20s, ", "", "x.yaml:20: phases.measure: is missing; accepted: 1s to 24h0m0s"},
		{"no phases", "phases: {warmup: 1s, measure: 20s, drain: 5s}\n", "", "x.yaml:1: phases: is missing"},
		{"key of a setting", "room.minInterval", "minInterval", "x.yaml:5: cluster.comet.minInterval: is not a configuration key"},
		{"tab", "  count: 100", "\tcount: 100", "x.yaml: yaml: line 9: found character that cannot start any token"},
		{"two documents", "expect: {duplicate: 3}\n", "---\nname: b\n", "x.yaml: holds more than one YAML document"},
		{"unknown figure", "expect: {duplicate: 3}", "expect: {latensy.p99: <= 3ms}", "x.yaml:21: expect.latensy.p99: unknown field; did you mean latency.p99?"},
		{"figure of another unit", "expect: {duplicate: 3}", "expect: {latency.p99: <= 3}", `x.yaml:21: expect.latency.p99: "<= 3" is no threshold: write it as <= 50ms`},
		{"line that isn't there", "expect: {duplicate: 3}", "expect: {latency.line.small.p99: <= 3ms}",
			`x.yaml:21: expect.latency.line.small.p99: there is no line of pushes with the name "small"; there are room, some, all`},
		{"unknown percentile of a line", "expect: {duplicate: 3}", "expect: {latency.line.some.p98: <= 3ms}",
			"x.yaml:21: expect.latency.line.some.p98: unknown field; did you mean latency.line.some.p9"},
		{"no number", "expect: {duplicate: 3}", "expect: {lost: few}", `x.yaml:21: expect.lost: "few" is no threshold: write it as 0, or <= 10`},
		{"bound out of range", "expect: {duplicate: 3}", "valid: {swarm_busy: 2}", "x.yaml:21: valid.swarm_busy: 2 is out of range; accepted: 0.01 to 1"},
		{"ramp that falls", "  heartbeat: 30s\n", "  heartbeat: 30s\n  connect_ramp: {from: 20/s, over: 2s}\n", "x.yaml:13: clients.connect_ramp.from: 20/s is more than the 10/s of clients.connect_rate"},
		{"behaviours add up", "  heartbeat: 30s\n", "  heartbeat: 30s\n  slow: {fraction: 0.6, rate: 1KiB/s}\n  churn: {fraction: 0.5, lives: 3s}\n", "x.yaml:9: clients: slow, stalled, churn and half_open add up to 1.1"},
		{"bytes a second", "  heartbeat: 30s\n", "  heartbeat: 30s\n  slow: {fraction: 0.6, rate: 1KiB}\n", `x.yaml:13: clients.slow.rate: "1KiB" is no number of bytes a second; write it as 512B/s or 1KiB/s; accepted: 1B/s to 1073741824B/s`},
		{"no switch", "  heartbeat: 30s\n", "  heartbeat: 30s\n  storm: {at: 1s, reset: 3}\n", `x.yaml:13: clients.storm.reset: is "3"; accepted: true or false`},
		{"no other room", "rooms: {count: 4, type: chat}", "rooms: {count: 1, change: 3s}", "x.yaml:13: clients.rooms.change: there is one room alone"},
		{"capacity of another line", "phases:", "capacity: {from: 1/s, to: 10/s, push: nobody}\nphases:", `x.yaml:20: capacity.push: there is no line of pushes with the name "nobody"`},
		{"a mode without what it needs", "phases:", "mode: capacity\nphases:", "x.yaml:20: mode: is capacity, and there is no capacity: say from which rate to which"},
		{"a mode that there isn't", "phases:", "mode: fast\nphases:", `x.yaml:20: mode: "fast" is none; accepted: auto, run, capacity`},
		{"capacity upside down", "phases:", "capacity: {from: 10/s, to: 1/s}\nphases:", "x.yaml:20: capacity.to: 1/s is below the 10/s of capacity.from"},
		{"no such redis", "comets: 2", "redis: valkey", `x.yaml:4: cluster.redis: "valkey" is none; accepted: embedded, server, auto`},
		{"too many streams", "rate: 400/s", "rate: 400/s, senders: 0", "x.yaml:17: pushes.0.senders: 0 is out of range; accepted: 1 to 1024"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(good, c.old, c.new, 1)
			if text == good {
				t.Fatalf("%q is not in the text", c.old)
			}
			_, err := Parse("x.yaml", []byte(text), nil)
			if err == nil {
				t.Fatal("was accepted")
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if strings.HasPrefix(line, c.want) {
					return
				}
			}
			t.Errorf("got  %v\nwant %s", err, c.want)
		})
	}
}

func TestExpectations(t *testing.T) {
	text := strings.Replace(good, "expect: {duplicate: 3}\n", `expect:
  latency.p99: <= 50ms
  latency.last.p50: < 1m30s # a minute and a half
  ceiling.fraction: >= 0.9
  ceiling.cpu_fraction: 80%
  server.cpu_per_delivery: <= 200ns
  server.deliveries_per_cpu_second: > 5000000
  deliveries.per_second: 1000/s
  comet.memory_per_connection: <= 4KiB
  ceiling.latency_factor: <=1.5
  lost: == 0
valid: {other_cpu: 0.5, pusher_lag: 1s}
`, 1)
	for _, form := range []string{text, strings.NewReplacer("\n  ceiling.fraction: >= 0.9", "", "valid:", "# >= here: >= 5\nvalid:").Replace(text)} {
		s, err := Parse("x.yaml", []byte(form), []string{"expect.latency.p50=>= 1ms", "expect.ceiling.fraction=>= 0.9"})
		if err != nil {
			t.Fatal(err)
		}
		want := []report.Threshold{
			{Figure: "lost", Relation: report.Equal},
			{Figure: "duplicate", Relation: report.AtMost},
			{Figure: "reordered", Relation: report.AtMost},
			{Figure: "deliveries.per_second", Relation: report.AtLeast, Value: 1000},
			{Figure: "latency.p50", Relation: report.AtLeast, Value: 0.001},
			{Figure: "latency.p99", Relation: report.AtMost, Value: 0.05},
			{Figure: "latency.last.p50", Relation: report.Below, Value: 90},
			{Figure: "server.cpu_per_delivery", Relation: report.AtMost, Value: 200e-9},
			{Figure: "server.deliveries_per_cpu_second", Relation: report.Above, Value: 5e6},
			{Figure: "comet.memory_per_connection", Relation: report.AtMost, Value: 4096},
			{Figure: "ceiling.fraction", Relation: report.AtLeast, Value: 0.9},
			{Figure: "ceiling.cpu_fraction", Relation: report.AtLeast, Value: 0.8},
			{Figure: "ceiling.latency_factor", Relation: report.AtMost, Value: 1.5},
		}
		if !slices.Equal(s.Expect, want) {
			t.Errorf("got  %v\nwant %v", s.Expect, want)
		}
		if s.Bounds.OtherCPU != 0.5 || s.Bounds.PusherLag != time.Second || s.Bounds.SwarmBusy != DefaultBounds().SwarmBusy {
			t.Errorf("bounds %+v", s.Bounds)
		}
	}
	// Comparisons in one line, and a folded text that is none.
	flow := strings.Replace(good, "expect: {duplicate: 3}", "expect: {ceiling.fraction: >= 0.9, latency.p50: >1ms}", 1)
	flow = strings.Replace(flow, "description: what it asks\n", "description: >\n  what\n  it asks\n", 1)
	s, err := Parse("x.yaml", []byte(flow), nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Description != "what it asks" || len(s.Expect) != 5 {
		t.Errorf("description %q, expect %v", s.Description, s.Expect)
	}
}

// What misbehaves, and how clients arrive.
func TestBehaviours(t *testing.T) {
	text := strings.Replace(good, "  heartbeat: 30s\n", `  heartbeat: 30s
  connect_ramp: {from: 1/s, over: 10s}
  connect_pending: 100
  receive_buffer: 4KiB
  slow: {fraction: 0.1, rate: 1KiB/s}
  stalled: {fraction: 0.05}
  churn: {fraction: 0.2, lives: 30s, away: 2s}
  half_open: {fraction: 0.15, lives: 1m}
  storm: {at: 5s, reset: true}
`, 1)
	s, err := Parse("x.yaml", []byte(strings.Replace(text, "type: chat", "type: chat, zipf: 1, change: 20s", 1)), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := s.Clients
	if c.Connect != (Connect{Rate: 10, From: 1, Over: 10 * time.Second, Pending: 100}) || c.ReceiveBuffer != 4096 ||
		c.Slow != (Slow{0.1, 1024}) || c.Stalled != 0.05 || c.Churn != (Churn{0.2, 30 * time.Second, 2 * time.Second}) ||
		c.HalfOpen != (HalfOpen{0.15, time.Minute}) || c.Storm != (Storm{1, 5 * time.Second, true}) ||
		c.Rooms.Zipf != 1 || c.Rooms.Change != 20*time.Second {
		t.Errorf("clients are %+v", c)
	}
	// 55 arrive in the ramp, the other 45 at 10 a second.
	if got := c.Connect.Takes(100).Round(time.Millisecond); got != 14500*time.Millisecond {
		t.Errorf("100 clients take %v", got)
	}
	// Half of the ramp's time brings 1*5 + 0.45*25 clients.
	if got := c.Connect.Takes(16); got < 4900*time.Millisecond || got > 5*time.Second {
		t.Errorf("16 clients take %v", got)
	}
}

// When pushes are due, in the measured phase and before it, and how large they are.
func TestSchedulesAndSizes(t *testing.T) {
	for _, c := range []struct {
		rate             string
		measured, warmUp int // pushes
		senders          int // to each of two rooms
	}{
		{"rate: 400/s", 8000, 400, 4},
		{"ramp: {from: 10/s, to: 30/s}", 400, 10, 1},
		{"ramp: {from: 0/s, to: 100/s, over: 10s}", 1500, 1, 1},
		{"burst: {pushes: 100, every: 5s}", 400, 100, 50},
		{"burst: {pushes: 1000, every: 1s}", 20000, 1000, 64},
		{"poisson: 50/s", -1, -1, 1},
		{"steps: [{rate: 10/s, for: 5s}, {rate: 200/s, for: 5s}]", 50 + 15*200, 10, 2},
		{"rate: 4000/s, via: kafka", 80000, 4000, 1},
	} {
		s, err := Parse("x.yaml", []byte(strings.Replace(good, "rate: 400/s", c.rate, 1)), nil)
		if err != nil {
			t.Errorf("%s: %v", c.rate, err)
			continue
		}
		p := s.Pushes[0]
		measured, warmUp := p.Schedule.Pushes(s.Phases.Measure), p.WarmUp.Pushes(s.Phases.Warmup)
		if c.measured >= 0 && (measured != c.measured || warmUp != c.warmUp) || p.SendersPerTarget() != c.senders || p.Rate != float64(measured)/20 {
			t.Errorf("%s: %d pushes, %d in the warm-up, %d senders, %g a second; want %d, %d and %d", c.rate, measured, warmUp, p.SendersPerTarget(), p.Rate, c.measured, c.warmUp, c.senders)
		}
	}
	for sizes, mean := range map[string]float64{"sizes: {min: 16B, max: 48B}": 32, "sizes: {mean: 100B, max: 1KiB}": 100} {
		s, err := Parse("x.yaml", []byte(strings.Replace(good, "size: 64B, rooms", sizes+", seed: 7, rooms", 1)), nil)
		if err != nil {
			t.Errorf("%s: %v", sizes, err)
		} else if got := s.Pushes[0].Sizes.Mean(); got < mean-0.5 || got > mean+0.5 {
			t.Errorf("%s: mean %g", sizes, got)
		}
	}
}

func TestScale(t *testing.T) {
	s, err := Parse("x.yaml", []byte(good), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		factor float64
		want   []string
	}{
		{0.5, []string{"clients.count=50", "clients.members=25", "clients.rooms.count=2", "pushes.0.rooms=[1-2]", "pushes.1.groups=1"}},
		{10, []string{"clients.count=1000", "clients.members=500", "clients.rooms.count=40", "pushes.0.rooms=[1, 21]", "pushes.1.groups=20"}},
		{1, nil},
		{0.0001, []string{"clients.count=1", "clients.members=1", "clients.rooms.count=1", "pushes.0.rooms=[1]", "pushes.1.groups=1"}},
	} {
		if got, err := s.Scale(c.factor); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%g: %v, %v", c.factor, got, err)
		}
	}
	for _, factor := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		if _, err := s.Scale(factor); err == nil {
			t.Errorf("%g was accepted", factor)
		}
	}
}

func TestRoomSizes(t *testing.T) {
	for _, c := range []struct {
		rooms   int
		zipf    float64
		clients int
		want    []int
	}{
		{3, 0, 9, []int{3, 3, 3}},
		{3, 0, 11, []int{4, 4, 3}},
		{3, 1, 3, []int{1, 1, 1}},
		{4, 1, 54, []int{25, 13, 9, 7}},
		{2, 3, 11, []int{9, 2}},
	} {
		if got := (Rooms{Count: c.rooms, Zipf: c.zipf}).Sizes(c.clients); !slices.Equal(got, c.want) {
			t.Errorf("%d clients in %d rooms with exponent %g: %v, want %v", c.clients, c.rooms, c.zipf, got, c.want)
		}
	}
}

// Each field of the table is one that the reader reads, in the range and with the default
// that the table gives.
func TestEveryFieldIsRead(t *testing.T) {
	for _, f := range fields {
		if f.help == "" || !strings.HasSuffix(f.help, ".") {
			t.Errorf("%s: its help is %q", f.path, f.help)
		}
		at := strings.ReplaceAll(f.path, "*", "0")
		if at == "name" || at == "pushes" {
			continue
		}
		base := good
		if strings.HasPrefix(at, "pushes.0.") {
			name := strings.TrimPrefix(at, "pushes.0.")
			kind := map[string]string{"rooms": "room", "speed": "all"}[name]
			if kind == "" {
				kind = "keys"
			}
			first, _, _ := strings.Cut(name, ".")
			rate, size := "rate: 400/s", "size: 64B"
			switch first {
			case "ramp", "burst", "poisson":
				rate = ""
			case "steps":
				rate = "steps: [{rate: 1/s, for: 1s}]"
			case "sizes":
				size = ""
			}
			base = strings.Replace(good, "{kind: room, operation: 1000, rate: 400/s, size: 64B, rooms: [1, 3]}",
				"{"+strings.Join(slices.DeleteFunc([]string{"kind: " + kind, "operation: 1000", rate, size}, func(s string) bool { return s == "" }), ", ")+"}", 1)
		}
		wrong := "{a: {b: c}}"
		if f.form == formObject || f.form == formSettings || f.form == formThresholds {
			wrong = "[3]"
		}
		_, err := Parse("x.yaml", []byte(base), []string{at + "=" + wrong})
		if err == nil || !strings.Contains(err.Error(), at) || strings.Contains(err.Error(), at+": unknown field") {
			t.Errorf("%s=%s: %v", at, wrong, err)
		}
	}
}

// Every scenario of the catalogue fits the schema, and what the reader refuses in a field
// alone the schema refuses as well.
func TestSchema(t *testing.T) {
	var b bytes.Buffer
	if err := WriteSchema(&b); err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(&b)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("scenario.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("scenario.json")
	if err != nil {
		t.Fatal(err)
	}
	check := func(text string) error {
		var v any
		if err := yaml.Unmarshal(quoteComparisons([]byte(text)), &v); err != nil {
			t.Fatal(err)
		}
		// As JSON has it.
		asJSON, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		in, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			t.Fatal(err)
		}
		return s.Validate(in)
	}
	for _, text := range []string{good, strings.Replace(good, "duplicate: 3", "latency.line.some.p99: 3s", 1)} {
		if err := check(text); err != nil {
			t.Errorf("the example: %v", err)
		}
	}
	files, err := fs.Glob(scenarios.Files, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := fs.ReadFile(scenarios.Files, file)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(string(text)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, change := range [][2]string{
		{"count: 100", "conut: 100"}, {"count: 100", "count: 0"}, {"count: 100", "count: many"}, {"600/min", "600"}, {"30s", "30B"},
		{"64B", "64"}, {"kind: all", "kind: everyone"}, {"operation: 1001", "operation: 9"}, {"duplicate: 3", "latensy: 3"}, {"duplicate: 3", "latency.line.some.p98: 3s"}, {"room.minInterval", "minInterval"},
	} {
		if err := check(strings.Replace(good, change[0], change[1], 1)); err == nil {
			t.Errorf("%s instead of %s fits the schema", change[1], change[0])
		}
	}
}

// What is expected of a line of pushes is of one line.
func TestExpectationOfLinesWithOneName(t *testing.T) {
	text := strings.NewReplacer("name: some", "name: room", "duplicate: 3", "latency.line.room.p99: 3s, lots: 1").Replace(good)
	_, err := Parse("x.yaml", []byte(text), nil)
	var p Problems
	if !errors.As(err, &p) || len(p) != 2 {
		t.Fatal(err)
	}
	if want := `x.yaml:21: expect.latency.line.room.p99: 2 lines of pushes have the name "room"; give each its own (pushes.*.name)`; p[0].Error() != want {
		t.Errorf("got  %s\nwant %s", p[0].Error(), want)
	}
	if !strings.HasPrefix(p[1].Message, "unknown field") {
		t.Error(p[1])
	}
}

func TestParseReportsAllProblemsInOrder(t *testing.T) {
	text := strings.NewReplacer("count: 100", "count: x", "rate: 1/s", "rate: 0/s", "lost", "x", "duplicate: 3", "duplicate: -1").Replace(good)
	_, err := Parse("x.yaml", []byte(text), nil)
	var p Problems
	if !errors.As(err, &p) {
		t.Fatalf("error is %v", err)
	}
	var lines []int
	for _, x := range p {
		lines = append(lines, x.Line)
	}
	if !slices.Equal(lines, []int{9, 18, 21}) {
		t.Errorf("problems in lines %v:\n%v", lines, err)
	}
}

func TestParseEmpty(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n"} {
		if _, err := Parse("x.yaml", []byte(text), nil); err == nil || !strings.Contains(err.Error(), "x.yaml:1: is empty") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"[]", "3", "null"} {
		if _, err := Parse("x.yaml", []byte(text), nil); err == nil || !strings.Contains(err.Error(), "a mapping of fields is wanted") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestOverrides(t *testing.T) {
	s, err := Parse("x.yaml", []byte(good), []string{
		"clients.count=200", "pushes.0.rate=10/s", "pushes.0.rooms=all", "cluster.comet.room.minInterval=50ms",
		"cluster.logic.kafka.linger=5ms", "expect.lost=7", "expect.latency.line.some.p99=< 5ms",
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Clients.Count != 200 || s.Pushes[0].Rate != 10 || len(s.Pushes[0].Rooms) != 4 || s.Expect[0].Value != 7 ||
		s.Expect[3] != (report.Threshold{Figure: "latency.line.some.p99", Relation: report.Below, Value: 0.005}) ||
		s.Cluster.Comet[1] != (Setting{"room.minInterval", "50ms"}) || s.Cluster.Logic[0] != (Setting{"kafka.linger", "5ms"}) {
		t.Errorf("scenario is %+v", s)
	}
	for o, want := range map[string]string{
		"clients.count":      `-set "clients.count": write it as FIELD=VALUE`,
		"pushes.7.rate=1/s":  `-set pushes.7.rate: "7" is no element of a list of 3; accepted: 0 to 2`,
		"name.x=1":           `-set name.x: there is nothing below "name"`,
		"clients.count=x":    `x.yaml with -set: clients.count: "x" is not a whole number`,
		"clients.cuont=5":    `x.yaml with -set: clients.cuont: unknown field; did you mean count?`,
		"phases.measure={}":  "x.yaml with -set: phases.measure: is a mapping; accepted",
		"phases.measure=[":   `-set phases.measure: "[" is no YAML value`,
		"phases.measure=":    `-set phases.measure: "" is no YAML value`,
		"phases.measure=1ms": "x.yaml with -set: phases.measure: 1ms is out of range; accepted: 1s to 24h0m0s",
	} {
		if _, err := Parse("x.yaml", []byte(good), []string{o}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", o, err, want)
		}
	}
}

func TestBuiltInScenariosAreValid(t *testing.T) {
	files, err := fs.Glob(scenarios.Files, "*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("found %v: %v", files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".yaml")
		s, err := Find(name, scenarios.Files, nil)
		if err != nil {
			t.Error(err)
			continue
		}
		if s.Name != name || s.Description == "" || !strings.HasPrefix(s.Text, "# ") {
			t.Errorf("%s: its name is %q, and it must begin with a comment on the question it answers", file, s.Name)
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if _, err := Find("room-1k", scenarios.Files, nil); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "did you mean room-10k?") {
		t.Errorf("unknown name: %v", err)
	}
	if _, err := Find("none.yaml", scenarios.Files, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.MkdirAll("scenarios", 0o755); err != nil {
		t.Fatal(err)
	}
	own := strings.Replace(good, "name: good", "name: smoke", 1)
	if err := os.WriteFile(filepath.Join("scenarios", "smoke.yaml"), []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err := Find("smoke", scenarios.Files, nil); err != nil || s.Clients.Count != 100 {
		t.Errorf("the working directory's own comes first: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good), "clients.count=5")
	f.Add([]byte("a: &x [1]\nclients: *x"), "pushes.0=1")
	f.Add([]byte("clients: {rooms: {count: 3}}\npushes: [{kind: room}, 3]"), "a.b.c.d=1")
	f.Fuzz(func(t *testing.T, text []byte, set string) {
		s, err := Parse("x.yaml", text, []string{set})
		if err == nil && (s.Clients.Count < 1 || len(s.Pushes) == 0 || s.Phases.Measure <= 0) {
			t.Errorf("accepted %+v", s)
		}
		_, _ = Parse("x.yaml", text, nil)
	})
}

// A capacity is looked for where it is asked for, and mode says otherwise.
func TestMode(t *testing.T) {
	for _, c := range []struct {
		overrides []string
		looks     bool
	}{
		{nil, false},
		{[]string{"capacity={from: 1/s, to: 10/s}"}, true},
		{[]string{"capacity={from: 1/s, to: 10/s}", "mode=capacity"}, true},
		{[]string{"capacity={from: 1/s, to: 10/s}", "mode=run"}, false},
		{[]string{"mode=run"}, false},
	} {
		s, err := Find("smoke", scenarios.Files, c.overrides)
		if err != nil || (s.Capacity != nil) != c.looks {
			t.Errorf("%q: %+v, %v", c.overrides, s, err)
		}
	}
}
