package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// update rewrites the golden files: go test ./harness/report -update
var update = flag.Bool("update", false, "rewrite the golden files")

// golden fails unless got is the file's content.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; look at it, and run go test ./harness/report -update if it is right. Got:\n%s", path, got)
	}
}

// percentiles returns some that are told apart.
func percentiles(count int64, unit float64) Percentiles {
	return Percentiles{Count: count, Mean: 2 * unit, P50: unit, P90: 3 * unit, P99: 10 * unit, P999: 20.5 * unit, Max: 33.25 * unit}
}

// example is a run in which every figure is there.
func example() *Run {
	at := time.Date(2024, 11, 24, 7, 0, 0, 0, time.UTC)
	counts := Counts{Expected: 2_000_000, Delivered: 2_000_000, Unexpected: map[string]int64{}}
	pushes := PushCounts{Intended: 200, Sent: 200, Acknowledged: 200}
	warmUp := PushCounts{Intended: 30, Sent: 30, Acknowledged: 30}
	return &Run{
		Schema:   Schema,
		Scenario: Scenario{Name: "room-10k", Description: "10,000 clients in one room.", File: "scenarios/room-10k.yaml", Text: "name: room-10k\n", Overrides: []string{}},
		Started:  at, Ended: at.Add(45 * time.Second), Command: []string{"barrage", "bench", "room-10k"},
		Verdict: Verdict{Status: Good, Doubts: []string{}, Reasons: []string{}, Checks: []Check{
			{Figure: "lost", Wanted: "<= 0", Text: "0", Holds: true},
			{Figure: "latency.p99", Wanted: "<= 400 ms", Want: 0.4, Got: 0.3, Text: "300 ms", Holds: true},
		}},
		Environment: Environment{
			CPU: "Some CPU", Cores: 2, MemoryBytes: 24 << 30, Kernel: "6.1.0", System: "Debian GNU/Linux 12 (bookworm)", Go: "go1.26.8",
			Commit: "0123456789abcdef0123456789abcdef01234567", OpenFilesSoft: 20_000, OpenFilesHard: 20_000,
			KernelSettings: map[string]string{"net.core.somaxconn": "4096"}, Broker: "a mock", HarnessProcs: 2,
		},
		Clients: Clients{
			Count: 10_000, TCP: 5000, WebSocket: 5000, Rooms: 1, Joined: 10_000, ConnectSeconds: 2.5, JoinedPerSecond: 4000, WantedPerSecond: 4000,
			ConnectToJoined: percentiles(10_000, 0.0012), Failures: []CauseCount{}, EarlyCloses: []CauseCount{}, HeartbeatsSent: 4835, ControlFramesRead: 14_835,
		},
		Pushes: Pushes{
			Measured: pushes, WarmUp: warmUp, Lag: percentiles(200, 0.0001), Ack: percentiles(200, 0.003), Errors: []string{},
			Lines: []PushLine{{Name: "room", Kind: "room", Rate: 10, BodyBytes: 64, Streams: 1, Pushes: pushes, Deliveries: counts}},
		},
		Deliveries: Deliveries{
			Measured: counts, WarmUp: Counts{Expected: 300_000, Delivered: 300_000, Unexpected: map[string]int64{}},
			Seconds: 20.1, PerSecond: 99_502.5, Drained: true, DrainTime: 0.06, Bytes: 184_000_000, KernelBytes: 184_000_000, CometBytes: 184_000_000, CometFrames: 2_300_000, LedgerFrames: 2_300_000,
		},
		Latency: Latency{
			All: percentiles(2_000_000, 0.03), TCP: percentiles(1_000_000, 0.029), WebSocket: percentiles(1_000_000, 0.031),
			First: percentiles(200, 0.004), Last: percentiles(200, 0.055), Spread: percentiles(200, 0.051),
			Curve: []Point{{0.5, 0.03}, {0.99, 0.3}, {1, 0.9975}},
		},
		Stages: []Stage{
			{Name: StageSend, What: "due to sent", Place: OnTheWay, Count: 200, Mean: 0.0002, P50: 0.0001, P99: 0.001, Source: "harness"},
			{Name: StageRequest, What: "sent to accepted by logic", Place: OnTheWay, Count: 200, Mean: 0.0003, P50: 0.0002, P99: 0.0012, Source: "logic, barrage_logic_push_arrival_seconds"},
			{Name: StageAccept, What: "accepted by logic to accepted by comet", Place: OnTheWay, Count: 200, Mean: 0.005, P50: 0.004, P99: 0.02, Source: "comet, barrage_comet_push_accepted_seconds"},
			{Name: StageQueue, What: "of it until job has read it", Place: PartOfOne, Count: 200, Mean: 0.004, P50: 0.003, P99: 0.015, Source: "job, barrage_job_read_seconds"},
			{Name: StageHandover, What: "from there until job has comet's answer", Place: PartOfOne, Count: 200, Mean: 0.0015, P50: 0.001, P99: 0.006, Source: "job, barrage_job_handover_seconds"},
			{Name: StageWrite, What: "accepted by comet to written", Place: OnTheWay, Count: 200, Mean: 0.1, P50: 0.05, P99: 0.5, Source: "comet, barrage_comet_push_written_seconds"},
			{Name: StageReceive, What: "written to the last receipt", Place: OnTheWay, Count: 200, Mean: 0.0045, Source: "what the others leave", Difference: true},
			{Name: StageAck, What: "sent to acknowledged", Place: Beside, Count: 200, Mean: 0.006, P50: 0.003, P99: 0.03, Source: "harness"},
		},
		Fairness: &Fairness{
			Clients: 10_000, Means: percentiles(10_000, 0.06), Slow: 100, SlowMean: 0.126,
			Slowest: []SlowClient{
				{Client: 8123, Transport: "websocket", Room: "live://1000", Receipts: 200, Mean: 0.2}, {Client: 17, Transport: "tcp", Room: "live://1000", Receipts: 200, Mean: 0.18},
				{Client: 18, Transport: "tcp", Receipts: 199, Mean: 0.15}, {Client: 21, Transport: "tcp", Room: "live://1000", Receipts: 200, Mean: 0.149},
			},
			Halves: &FairHalves{Clients: 10_000, Slow: 100, Same: 7, Chance: 1, P: 0.00005, Again: 1.08, Correlation: 0.12},
		},
		Processes: []Process{
			{Name: "services", Role: "services", CPUSeconds: 0.77, UserSeconds: 0.5, CPUTotal: 1, CoresUsed: 0.0385, RSSBytes: 60 << 20, RSSPeakBytes: 61 << 20, PSSBytes: 30 << 20, GoHeapBytes: 13 << 20, Goroutines: 40, Descriptors: 30},
			{Name: "comet-1", Role: "comet", Server: true, CPUSeconds: 15.8, UserSeconds: 2.5, CPUTotal: 18, CoresUsed: 0.79, RSSBytes: 90 << 20, RSSPeakBytes: 102 << 20, PSSBytes: 64 << 20, GoHeapBytes: 54 << 20, Goroutines: 25, Descriptors: 10_020},
			{Name: "harness", Role: "harness", CPUSeconds: 11.5, UserSeconds: 3, CPUTotal: 14, CoresUsed: 0.575, RSSBytes: 43 << 20, RSSPeakBytes: 43 << 20, PSSBytes: 43 << 20, GoHeapBytes: 8 << 20, Goroutines: 20},
		},
		Server: Server{
			Seconds: 20.15, Deliveries: 2_000_000, CPUSeconds: 17.2, DeliveriesPerCPUSecond: 116_279, CPUSecondsPerMillion: 8.6, CometCPUSeconds: 15.8,
			CometDeliveriesPerCPUSec: 126_582, ServicesCPUSeconds: 0.77, HarnessCPUSeconds: 11.5,
		},
		Comet: Comet{
			UserBytesPerConnection: 3500, HeapBytesPerConnection: 3490, RSSBytesPerConnection: 5400,
			Frames: 2_000_000, Writes: 1_950_000, WrittenBytes: 170_000_000, EAGAIN: 3, Skipped: map[string]int64{"log_overrun": 0, "backed_up": 0}, Closed: map[string]int64{"peer": 0},
			FramesPerWrite: 1.0256, BytesPerWrite: 87.2, SweepingSeconds: 10.4, WritesPerSecond: 96_774, WritesPerBusySecond: 187_500, WritesPerCPUSecond: 123_417,
		},
		Ceiling: &Ceiling{
			Clients: 10_000, SweepThreads: 2, Sweeps: 20, SweepMedian: 0.05, SweepP99: 0.061, SweepMax: 0.062,
			Threads: 2, BytesPerSend: 89, FramesPerSend: 1, SendsPerSecond: 200_000, SendsPerCPUSecond: 130_000, Skipped: 0,
			WritesFraction: 0.9375, WritesCPUFraction: 0.949, LatencyFactor: 6,
		},
		Swarm:       Swarm{Threads: 2, BusyMost: 0.44, BusyMean: 0.41, ReadLag: percentiles(1000, 0.00002), Hiccups: 0.003},
		Disturbance: Disturbance{OtherCPU: 0.012, Steal: 0.001, HasPressure: true, Packets: 2_000_000, PacketsDropped: 12},
		Memory: &Memory{
			TotalBytes: 24 << 30, Before: MachineMemory{UsedBytes: 2 << 30, SlabBytes: 300 << 20},
			Most: MachineMemory{UsedBytes: 3 << 30, SlabBytes: 500 << 20, TCPBytes: 40 << 20},
		},
		Timeline: []Second{{
			At: 10, Phase: "measure", Clients: 10_000, Deliveries: 1_200_000, P50: 0.03, P99: 0.3,
			CPUSeconds: map[string]float64{"comet-1": 8}, RSSBytes: map[string]int64{"comet-1": 90 << 20}, SwarmBusy: 0.4, Heat: []int64{0, 5, 100},
		}},
	}
}

// exampleAgents are one of another machine, one of the harness's own, and one that was lost.
func exampleAgents() []Agent {
	return []Agent{
		{Name: "10.0.0.7:3121", Clients: 4000, Joined: 4000, Threads: 2, ReadLag: percentiles(500, 0.00003), Hiccups: 0.002,
			Clock: Clock{Offset: -1.25, Error: 0.00021, Drift: 12.5e-6}, Environment: Environment{CPU: "Another CPU", Cores: 8, MemoryBytes: 16 << 30, Kernel: "6.2.0"},
			Disturbance: &Disturbance{OtherCPU: 0.015, Steal: 0.001}},
		{Name: "127.0.0.1:3121", Clients: 3000, Joined: 3000, Threads: 2, ReadLag: percentiles(500, 0.00002), Clock: Clock{Offset: 0.000012, Error: 0.0001, Drift: -1e-6}},
		{Name: "10.0.0.8:3121", Clients: 3000, Joined: 2990, Threads: 2, Lost: "the agent was lost: it ended"},
	}
}

// badExample is a run in which everything went wrong.
func badExample() *Run {
	r := example()
	r.Verdict = Verdict{}
	r.Verdict.Fail("9,990 of 10,000 clients connected")
	r.Verdict.Fail("5 of 2300000 deliveries lost, at most 0 accepted")
	r.Scenario.Overrides = []string{"pushes.0.rate=20/s"}
	r.Clients.Joined, r.Clients.Failed, r.Clients.ClosedEarly = 9990, 10, 2
	r.Clients.Failures = []CauseCount{{Cause: "connect_refused", Count: 10, Examples: []string{"client 3: connection refused"}}}
	r.Clients.EarlyCloses = []CauseCount{{Cause: "server_reset", Count: 2, Examples: []string{"client 4: reset", "client 9: reset"}}}
	bad := Counts{Expected: 2_000_000, Delivered: 1_999_995, Lost: 5, Duplicate: 3, Reordered: 1, Unknown: 4, Unexpected: map[string]int64{"no_stamp": 2, "not_subscribed": 5}}
	r.Pushes.Measured = PushCounts{Intended: 200, Sent: 199, Acknowledged: 190, Failed: 6, Unknown: 3}
	r.Pushes.Errors = []string{"stream 1, push 3: refused: HTTP status 200, code -500"}
	r.Pushes.Lines = append(r.Pushes.Lines, PushLine{Name: "everyone", Kind: "all", Rate: 0.5, BodyBytes: 2048, Streams: 1, Pushes: r.Pushes.Measured, Deliveries: bad})
	r.Deliveries.Measured, r.Deliveries.Drained, r.Deliveries.DrainTime, r.Deliveries.CometFrames = bad, false, 10, 2_300_001
	r.Job = &Job{GivenUp: 1, Dropped: map[string]int64{"comet_dead": 12, "refused": 0}}
	r.Warnings = []string{"the Pushgateway did not answer"}
	r.Comet.Skipped["log_overrun"] = 5
	r.Comet.Closed = map[string]int64{"auth_failed": 10, "slow": 2, "peer": 0}
	r.Latency.WebSocket = Percentiles{}
	r.Fairness.Halves = nil
	r.Ceiling, r.Environment.Commit = nil, ""
	return r
}

// targetExample is a run against a cluster that ran already, of which nothing is known.
func targetExample() *Run {
	r := example()
	r.Target = &Target{TCP: []string{"10.0.0.1:3101"}, WebSocket: []string{"10.0.0.1:3102"}, Push: "10.0.0.2:3111", Metrics: []string{}, Profiled: []string{}, Problems: []string{}}
	r.Processes, r.Ceiling, r.Comet, r.Deliveries.CometFrames = r.Processes[2:], nil, Comet{}, 0
	r.Server = Server{Seconds: r.Server.Seconds, HarnessCPUSeconds: r.Server.HarnessCPUSeconds}
	r.Stages = []Stage{r.Stages[0], {Name: StageRest, What: "sent to the last receipt", Place: OnTheWay, Count: 200, Mean: 0.1098, Source: "what the others leave", Difference: true}, r.Stages[7]}
	for _, expected := range []Threshold{{"server.cpu_per_delivery", AtMost, 2e-7}, {"comet.skipped", AtMost, 0}} {
		r.Verdict.Checks = append(r.Verdict.Checks, expected.Check(r))
	}
	return r
}

// knownTargetExample is one whose metrics are known, of two comets and of all others, though
// one of the comets could not be read in the end.
func knownTargetExample(all bool) *Run {
	r := targetExample()
	known := example()
	r.Target.Metrics = []string{"http://10.0.0.1:3190/metrics", "http://10.0.0.3:3190/metrics", "http://10.0.0.2:3191/metrics"}
	r.Target.Server, r.Target.Comet = all, all
	comet := known.Processes[1]
	comet.PSSBytes, comet.UserSeconds = 0, 0
	other, rest := comet, comet
	comet.Name, other.Name, rest.Name, rest.Role = "comet@10.0.0.1:3190", "comet@10.0.0.3:3190", "logic+job@10.0.0.2:3191", "logic+job"
	if !all {
		r.Target.Profiled = []string{rest.Name}
		rest.RSSBytes, rest.RSSPeakBytes = 0, 0
		r.Target.Problems = []string{"ask comet@10.0.0.3:3190 for metrics: connection refused"}
		r.Processes = append([]Process{comet, rest}, r.Processes...)
		return r
	}
	r.Processes = append([]Process{comet, other, rest}, r.Processes...)
	r.Comet, r.Server, r.Stages = known.Comet, known.Server, known.Stages
	r.Comet.UserBytesPerConnection, r.Comet.HeapBytesPerConnection, r.Comet.RSSBytesPerConnection, r.Server.ServicesCPUSeconds = 0, 0, 0, 0
	r.Deliveries.CometFrames = r.Deliveries.LedgerFrames + 1000
	r.Verdict.Checks = example().Verdict.Checks
	for _, expected := range []Threshold{{"server.cpu_per_delivery", AtMost, 1e-5}, {"comet.memory_per_connection", AtMost, 4096}, {"stage.write.p99", Below, 1}} {
		r.Verdict.Checks = append(r.Verdict.Checks, expected.Check(r))
	}
	return r
}

func TestText(t *testing.T) {
	invalid := example()
	invalid.Verdict.Invalidate("other processes took 20% of the machine, at most 10% is accepted (valid.other_cpu)")
	withAgents := example()
	withAgents.Agents = exampleAgents()
	cutShort := example()
	cutShort.Verdict.Status = CutShort
	for name, c := range map[string]struct {
		run   *Run
		style Style
	}{
		"good.txt":      {example(), Style{}},
		"bad.txt":       {badExample(), Style{}},
		"invalid.txt":   {invalid, Style{}},
		"agents.txt":    {withAgents, Style{}},
		"cut_short.txt": {cutShort, Style{Colour: true}},

		"target.txt":        {targetExample(), Style{}},
		"target_partly.txt": {knownTargetExample(false), Style{}},
		"target_known.txt":  {knownTargetExample(true), Style{}},
	} {
		var b bytes.Buffer
		if err := Text(&b, c.run, c.style); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
	}
}

// The schema is published: a name that changes here breaks those who read run.json.
func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.json")
	if err := WriteJSON(path, example()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "run.json", text)
	r, err := ReadJSON(path)
	if err != nil || !reflect.DeepEqual(r, example()) {
		t.Errorf("read back: %v, %+v", err, r)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("files left: %v, %v", files, err)
	}
}

func TestReadJSONRefuses(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		`{"schema":2}`: "it has schema 2, this binary knows 1 to 1",
		`{}`:           "it has schema 0",
		`{"schema":1`:  "unexpected end",
	} {
		path := filepath.Join(dir, "run.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadJSON(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := ReadJSON(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestWriteFileLeavesNothingHalfWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "run.json")
	if err := os.Mkdir(path, 0o755); err != nil { // a rename onto it fails
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("x")); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error is %v", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("files left: %v, %v", files, err)
	}
	if err := WriteFile(filepath.Join(dir, "none", "run.json"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	// A device without room, as a full disk is.
	if full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0); err == nil {
		defer full.Close()
		if err := Text(full, example(), Style{}); err == nil {
			t.Error("a full device was written to")
		}
	}
}

func TestEveryFieldHasAName(t *testing.T) {
	var check func(typ reflect.Type)
	seen := map[reflect.Type]bool{}
	check = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() || seen[typ] {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || name != strings.ToLower(name) {
				t.Errorf("%s.%s is called %q in run.json", typ.Name(), f.Name, name)
			}
			check(f.Type)
		}
	}
	check(reflect.TypeFor[Run]())
	if _, err := json.Marshal(Run{}); err != nil {
		t.Error(err)
	}
}

func TestPercentilesOf(t *testing.T) {
	if p := PercentilesOf(nil); p != (Percentiles{}) {
		t.Errorf("of nothing: %+v", p)
	}
	h := hdrhistogram.New(1000, 60e9, 3)
	for ms := int64(1); ms <= 1000; ms++ {
		if err := h.RecordValue(ms * 1e6); err != nil {
			t.Fatal(err)
		}
	}
	p := PercentilesOf(h)
	for _, c := range []struct{ got, want float64 }{{p.Mean, 0.5005}, {p.P50, 0.5}, {p.P90, 0.9}, {p.P99, 0.99}, {p.P999, 0.999}, {p.Max, 1}} {
		if c.got < c.want*0.999 || c.got > c.want*1.001 {
			t.Errorf("got %g, want %g: %+v", c.got, c.want, p)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1,000"}, {count(-1234567), "-1,234,567"},
		{digits(0), "0"}, {digits(0.0123456), "0.0123"}, {digits(1.239), "1.24"}, {digits(12.34), "12.3"}, {digits(12345.6), "12,346"},
		{many(950), "950"}, {many(123_456), "123k"}, {many(9_870_000), "9.87M"},
		{span(0), "0"}, {span(5e-9), "5.00 ns"}, {span(1.5e-6), "1.50 us"}, {span(0.0334), "33.4 ms"}, {span(61), "61.0 s"},
		{size(0), "0 B"}, {size(64), "64 B"}, {size(87.25), "87.2 B"}, {size(3584), "3.50 KiB"}, {size(3 << 30), "3.00 GiB"},
		{Plural(1, "room"), "1 room"}, {Plural(2000, "room"), "2,000 rooms"}, {percent(0.937), "94%"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

// The ceiling is only worth what it was measured with: how often, and over which sockets.
func TestTextSaysWhatTheCeilingIsOf(t *testing.T) {
	plain, partly, secure, large := example(), example(), example(), example()
	for _, r := range []*Run{plain, partly, secure} {
		r.Clients.TCP, r.Clients.WSS = 9000, 1000
	}
	partly.Ceiling.TLS, secure.Ceiling.TLS = 1000, 10_000
	large.Ceiling.Clients, large.Ceiling.Sweeps = 1_000_000, 1
	for name, c := range map[string]struct {
		run  *Run
		want string
	}{
		"of an early version": {plain, "each of 10,000 sockets (plain, without TLS), first send to last receipt: 50.0 ms in the median of 20 sweeps, 61.0 ms p99\n"},
		"some inside TLS":     {partly, "each of 10,000 sockets (1,000 inside TLS), first send"},
		"all inside TLS":      {secure, "each of 10,000 sockets inside TLS, first send"},
		"a single sweep":      {large, "each of 1,000,000 sockets, first send to last receipt: 50.0 ms in the one sweep that there was time for\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := Text(&b, c.run, Style{}); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(b.String(), c.want) {
				t.Errorf("%q is not in\n%s", c.want, b.String())
			}
		})
	}
}
