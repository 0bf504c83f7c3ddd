package harness_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"barrage/harness/report"
)

// A capacityFile is what the tests read of capacity.json.
type capacityFile struct {
	Holds     float64         `json:"holds_per_second"`
	Breaks    float64         `json:"breaks_per_second"`
	Confirmed bool            `json:"confirmed"`
	CutShort  bool            `json:"cut_short"`
	Trials    []capacityTrial `json:"trials"`

	dir string // where it lies
}

type capacityTrial struct {
	Rate    float64 `json:"rate_per_second"`
	Outcome string  `json:"outcome"`
	Reason  string  `json:"reason"`
	Run     string  `json:"run"`
}

// capacity reads the only capacity.json of a search over a scenario.
func (b *bench) capacity(t *testing.T, scenario string) (c capacityFile) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.results, scenario, "*", "capacity.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("results %v, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	c.dir = filepath.Dir(files[0])
	return c
}

// A search over one rate: two runs that agree, in folders of their own, and a bracket with
// one end.
func TestCapacity(t *testing.T) {
	file := scenarioFile(t, `name: small
clients: {count: 20, connect_rate: 200/s, rooms: {count: 1}, accepts: [1000]}
pushes: [{kind: room, operation: 1000, rate: 1/s, size: 64B}]
capacity: {from: 20/s, to: 20/s, confirm: 2}
phases: {warmup: 0s, measure: 1s, drain: 20s}
`+lenient+`
`)
	b := start(t, file)
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	if want := "small, room: 20 pushes a second hold, and nothing in the range was found not to."; !strings.Contains(b.stdout.String(), want) {
		t.Errorf("%q is not in\n%s", want, b.stdout.String())
	}
	runs, err := filepath.Glob(filepath.Join(b.results, "small", "*", "*", "run.json"))
	if err != nil || len(runs) != 2 {
		t.Fatalf("runs %v, %v", runs, err)
	}
	for _, file := range runs {
		if r, err := report.ReadJSON(file); err != nil || r.Ceiling == nil || r.Ceiling.Clients != 20 || r.Ceiling.WritesFraction <= 0 {
			t.Errorf("%s has no ceiling of its own: %+v, %v", file, r, err)
		}
	}
	if got := b.capacity(t, "small"); got.Holds != 20 || len(got.Trials) != 2 || got.Trials[1].Outcome != "held" || got.Trials[1].Rate != 20 {
		t.Errorf("capacity.json says %+v", got)
	}
	refused := start(t, "-runs", "2", file)
	if status := refused.wait(t); status != 2 || !strings.Contains(refused.stderr.String(), "-runs and -vs don't go with it") {
		t.Errorf("exit status %d, %s", status, refused.stderr)
	}
}

// A search that is interrupted says what it had found, and that it was.
func TestInterruptedCapacity(t *testing.T) {
	t.Parallel()
	file := scenarioFile(t, `name: interrupted
clients: {count: 20, connect_rate: 200/s, rooms: {count: 1}, accepts: [1000]}
pushes: [{kind: room, operation: 1000, rate: 1/s, size: 64B}]
capacity: {from: 20/s, to: 100/s}
phases: {warmup: 0s, measure: 1s, drain: 20s}
`+lenient+`
`)
	b := start(t, "-ceiling=false", file)
	waitFor(t, "the second trial begins", func() bool { return strings.Contains(b.stderr.String(), "trial 2: ") })
	if err := b.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := b.wait(t); status != 130 || !strings.Contains(b.stdout.String(), "CUT SHORT") {
		t.Errorf("exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
	}
	got := b.capacity(t, "interrupted")
	if !got.CutShort || len(got.Trials) != 1 || got.Trials[0].Outcome != "held" {
		t.Errorf("capacity.json says %+v", got)
	}
}

// A bracket of which both ends come from runs: twenty clients receive more than a thousand
// deliveries in the second that is measured where there are more than fifty pushes, on any
// machine.
func TestCapacityBracket(t *testing.T) {
	t.Parallel()
	file := scenarioFile(t, `name: bracket
clients: {count: 20, connect_rate: 200/s, rooms: {count: 1}, accepts: [1000]}
pushes: [{kind: room, operation: 1000, rate: 1/s, size: 64B}]
capacity: {from: 30/s, to: 1000/s, precision: 0.5, confirm: 2}
phases: {warmup: 0s, measure: 1s, drain: 20s}
`+lenient+`
expect: {deliveries: <= 1000}
`)
	b := start(t, "-ceiling=false", file)
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	for _, want := range []string{"bracket, room: 42.4 pushes a second hold, 60 do not.", "Each end of the bracket had 2 runs at least, all with the same outcome."} {
		if !strings.Contains(b.stdout.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.stdout.String())
		}
	}
	got := b.capacity(t, "bracket")
	const broke = "deliveries is 1,200, expected <= 1,000"
	want := []capacityTrial{{30, "held", "", "1"}, {60, "broke", broke, "2"}, {42.4, "held", "", "3"}, {42.4, "held", "", "4"}, {60, "broke", broke, "5"}}
	if got.Holds != 42.4 || got.Breaks != 60 || !got.Confirmed || !slices.Equal(got.Trials, want) {
		t.Errorf("capacity.json says %+v", got)
	}
	for _, trial := range want {
		r, err := report.ReadJSON(filepath.Join(got.dir, trial.Run, "run.json"))
		if err != nil {
			t.Fatal(err)
		}
		if held := r.Verdict.Status == report.Good; held != (trial.Outcome == "held") || r.Pushes.Measured.Acknowledged != int64(trial.Rate+0.9) {
			t.Errorf("run %s at %g pushes a second: %+v, %+v", trial.Run, trial.Rate, r.Verdict, r.Pushes.Measured)
		}
	}
}
