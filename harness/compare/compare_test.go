package compare

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"barrage/harness/report"
)

// update rewrites the golden files: go test ./harness/compare -update
var update = flag.Bool("update", false, "rewrite the golden files")

// run is a good run with a p99 latency and deliveries a CPU second.
func run(p99, perCPU float64) *report.Run {
	return &report.Run{
		Schema:      report.Schema,
		Scenario:    report.Scenario{Name: "room-10k", Text: "name: room-10k\n"},
		Verdict:     report.Verdict{Status: report.Good},
		Environment: report.Environment{CPU: "Some CPU", Cores: 2, MemoryBytes: 24 << 30, Kernel: "6.1", Go: "go1.26.8", Commit: "0123456789abcdef"},
		Latency:     report.Latency{All: report.Percentiles{Count: 1000, P50: p99 / 2, P99: p99}},
		Server:      report.Server{DeliveriesPerCPUSecond: perCPU, CPUSecondsPerMillion: 1e6 / perCPU},
	}
}

func side(name string, p99, perCPU []float64) Side {
	s := Side{Name: name}
	for i := range p99 {
		s.Runs = append(s.Runs, run(p99[i], perCPU[i]))
	}
	return s
}

func figure(t *testing.T, name string) report.Figure {
	t.Helper()
	f, ok := report.FindFigure(name)
	if !ok {
		t.Fatalf("there is no figure %s", name)
	}
	return f
}

func TestChange(t *testing.T) {
	less, more, none := figure(t, "latency.p99"), figure(t, "server.deliveries_per_cpu_second"), figure(t, "comet.frames_per_write")
	cases := []struct {
		name string
		f    report.Figure
		a, b []float64
		want Judgement
	}{
		{"clearly slower", less, []float64{10, 11, 10, 11}, []float64{20, 21, 22, 20}, Worse},
		{"clearly faster", less, []float64{20, 21, 22, 20}, []float64{10, 11, 10, 11}, Better},
		{"clearly more", more, []float64{10, 11, 10, 11}, []float64{20, 21, 22, 20}, Better},
		{"different without a judgement", none, []float64{10, 11, 10, 11}, []float64{20, 21, 22, 20}, Different},
		{"noise", less, []float64{10, 20, 15, 12}, []float64{11, 19, 14, 13}, Same},
		{"the same value", less, []float64{10, 10, 10, 10}, []float64{10, 10, 10, 10}, Same},
		{"three runs are too few", less, []float64{10, 10, 11}, []float64{20, 20, 21}, Unknown},
		{"one run is too few", less, []float64{10}, []float64{20}, Unknown},
		{"one run and many", less, []float64{10}, []float64{20, 20, 20, 20}, Unknown},
		{"nothing lost in both", figure(t, "lost"), []float64{0}, []float64{0}, Same},
		{"lost where nothing was", figure(t, "lost"), []float64{0, 0, 0, 0}, []float64{5, 6, 7, 8}, Worse},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ch := change(c.a, c.b)
			if got := ch.Judge(c.f); got != c.want {
				t.Errorf("judged %v, want %v: %+v", got, c.want, ch)
			}
			if ch.Low > ch.Ratio || ch.Ratio > ch.High {
				t.Errorf("%g is not within %g to %g", ch.Ratio, ch.Low, ch.High)
			}
		})
	}
	if change(nil, []float64{1}) != nil || change([]float64{1}, nil) != nil {
		t.Error("a change against nothing")
	}
}

// The interval is the one that goes with the test: of 6 and 6 runs the five outermost pairs
// of 36 are left out at each end (Mann-Whitney's table: U = 5 at 5%, two-sided).
func TestOutermost(t *testing.T) {
	for _, c := range []struct{ n, m, want int }{{1, 1, 0}, {3, 3, 0}, {4, 4, 1}, {5, 5, 3}, {6, 6, 6}, {8, 8, 14}, {10, 10, 24}, {20, 20, 128}, {50, 50, 966}, {51, 51, 1008}, {100, 100, 4198}} {
		if got := outermost(c.n, c.m); got != c.want {
			t.Errorf("%d and %d runs: %d, want %d", c.n, c.m, got, c.want)
		}
	}
}

// Samples of one distribution are called different about as often as the level allows.
func TestFalseAlarms(t *testing.T) {
	alarms, trials := 0, 0
	x := uint64(1)
	next := func() float64 { // a fixed sequence, so that the test is always the same
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		return 1 + float64(x%10_000)/10_000
	}
	for range 2000 {
		a, b := make([]float64, 6), make([]float64, 6)
		for i := range a {
			a[i], b[i] = next(), next()
		}
		trials++
		ch := change(a, b)
		if ch.Significant {
			alarms++
		}
		if ch.Significant != (ch.Low > 1 || ch.High < 1) {
			t.Fatalf("test and interval disagree: %+v", ch)
		}
	}
	if rate := float64(alarms) / float64(trials); rate > 0.06 || rate < 0.02 {
		t.Errorf("%.3f of the comparisons of equal sides are called different, want about 0.041", rate)
	}
}

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
		t.Errorf("%s differs; look at it, and run go test ./harness/compare -update if it is right. Got:\n%s", path, got)
	}
}

func example() []Side {
	a := side("results/a", []float64{0.100, 0.104, 0.098, 0.102, 0.101, 0.099}, []float64{1e6, 1.02e6, 0.99e6, 1.01e6, 1e6, 0.98e6})
	b := side("results/b", []float64{0.099, 0.103, 0.101, 0.100, 0.104, 0.098}, []float64{1.12e6, 1.15e6, 1.11e6, 1.13e6, 1.14e6, 1.1e6})
	c := side("results/c", []float64{0.2}, []float64{1e6})
	c.Runs[0].Environment.Kernel = "6.18"
	c.Runs[0].Verdict.Status = report.Invalid
	return []Side{a, b, c}
}

func TestText(t *testing.T) {
	figures := []report.Figure{figure(t, "lost"), figure(t, "latency.p50"), figure(t, "latency.p99"), figure(t, "server.deliveries_per_cpu_second"), figure(t, "ceiling.fraction")}
	c, err := Of(example(), figures)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Text(&b, c); err != nil {
		t.Fatal(err)
	}
	golden(t, "three.txt", b.Bytes())
	text, err := json.MarshalIndent(c.Summary(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "three.json", append(text, '\n'))
}

// What a few runs alone have is said to be of so many.
func TestFiguresOfAFewRuns(t *testing.T) {
	sides := example()[:2]
	for i, r := range slices.Concat(sides[0].Runs[:2], sides[1].Runs[:3]) {
		r.Ceiling = &report.Ceiling{WritesFraction: 0.9 + 0.01*float64(i)}
	}
	c, err := Of(sides, []report.Figure{figure(t, "ceiling.fraction"), figure(t, "server.deliveries_per_cpu_second")})
	if err != nil {
		t.Fatal(err)
	}
	words := Sentences(c)
	want := "B and A: 3 and 2 runs are too few to tell a difference from noise; four of each can. Medians differ in ceiling.fraction."
	if len(words) != 2 || words[1] != want {
		t.Errorf("got  %q\nwant %s", words, want)
	}
}

func TestSpread(t *testing.T) {
	for file, mark := range map[string]func([]*report.Run){
		"spread.txt": func([]*report.Run) {},
		"spread_doubtful.txt": func(runs []*report.Run) {
			runs[0].Verdict.Status, runs[3].Verdict.Status, runs[4].Verdict.Status = report.Invalid, report.Invalid, report.Failed
		},
	} {
		t.Run(file, func(t *testing.T) {
			s := example()[0]
			mark(s.Runs)
			var b bytes.Buffer
			if err := Spread(&b, Alone(s, []report.Figure{figure(t, "lost"), figure(t, "latency.p99"), figure(t, "ceiling.fraction")})); err != nil {
				t.Fatal(err)
			}
			golden(t, file, b.Bytes())
		})
	}
}

func TestWarnings(t *testing.T) {
	base := func() []Side {
		return []Side{side("a", []float64{1}, []float64{1}), side("b", []float64{1}, []float64{1})}
	}
	cases := []struct {
		name   string
		change func(*report.Run)
		want   string
	}{
		{"nothing", func(*report.Run) {}, ""},
		{"commit alone", func(r *report.Run) { r.Environment.Commit = "f" }, ""},
		{"scenario", func(r *report.Run) { r.Scenario.Text = "name: other\nx" }, "the scenario's text differs (a: name: room-10k ...; b: name: other ...)"},
		{"overrides", func(r *report.Run) { r.Scenario.Overrides = []string{"x=1"} }, "what -set changed differs (a: nothing; b: x=1)"},
		{"cores", func(r *report.Run) { r.Environment.Cores = 64 }, "cores differs (a: 2; b: 64)"},
		{"settings", func(r *report.Run) { r.Environment.KernelSettings = map[string]string{"net.core.somaxconn": "1"} }, "kernel settings differs (a: nothing; b: net.core.somaxconn=1)"},
		{"a cluster that ran already", func(r *report.Run) {
			r.Target = &report.Target{TCP: []string{"10.0.0.1:3101"}, WSS: []string{"10.0.0.1:3104"}, Push: "10.0.0.2:3111"}
		}, "the cluster differs (a: the run's own; b: clients at 10.0.0.1:3101, 10.0.0.1:3104, pushes at 10.0.0...)"},
		{"agents", func(r *report.Run) { r.Agents = []report.Agent{agent("10.0.0.7:3121", 8), agent("10.0.0.7:3122", 8)} },
			"where the clients were differs (a: the harness's process; b: 2 agents on 1 machine)|the agents' machines differs (a: nothing; b: Other CPU, 8 cores, 16.0 GiB)"},
		{"the harness's processors", func(r *report.Run) { r.Environment.HarnessProcs = 4 }, "the harness's processors differs (a: 0; b: 4)"},
		{"profiles", func(r *report.Run) { r.Profiles.Taken = 12 }, "whether profiles were taken differs (a: no; b: yes)"},
		{"profiles that failed", func(r *report.Run) { r.Profiles.Problems = []string{"logic: no answer"} }, "whether profiles were taken differs (a: no; b: yes)"},
		{"an early version", func(r *report.Run) { r.Deliveries.Measured.Delivered = 5 },
			"what CPU a delivery is of differs (a: all deliveries of the measured phase; b: measured deliveries)"},
		{"a ceiling of an early version", func(r *report.Run) { r.Clients.WSS, r.Ceiling = 5, &report.Ceiling{Clients: 5} },
			"the ceiling's sockets differs (a: of the clients' transports; b: plain ones for clients inside TLS)"},
		{"a ceiling inside TLS", func(r *report.Run) { r.Clients.WSS, r.Ceiling = 5, &report.Ceiling{Clients: 5, TLS: 5} }, ""},
		{"failed", func(r *report.Run) { r.Verdict.Status = report.CutShort }, "1 of 1 runs of b are CUT SHORT"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sides := base()
			c.change(sides[1].Runs[0])
			if got := strings.Join(warnings(sides), "|"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// A warning tells what differs, and no more: neither settings that are alike, nor the same
// words for both sides, nor long lists of folders.
func TestWarningsAreShort(t *testing.T) {
	setting := func(backlog string) map[string]string {
		return map[string]string{"fs.nr_open": "1048576", "net.core.netdev_max_backlog": backlog, "net.core.somaxconn": "4096"}
	}
	sides := []Side{side("results/room-10k/a,results/room-10k/b,results/room-10k/c", []float64{1, 1}, []float64{1, 1}), side("b", []float64{1}, []float64{1})}
	for i, s := range sides {
		for k, r := range s.Runs {
			r.Environment.KernelSettings = setting("1000")
			r.Scenario.Text = "# The same question\nmore: " + strings.Repeat("x", i+k)
		}
	}
	sides[1].Runs[0].Environment.KernelSettings = setting("2000")
	sides[0].Runs[0].Verdict.Status = report.Failed
	want := "1 of 2 runs of A are FAILED|the scenario's text differs|" +
		"kernel settings differs (A: net.core.netdev_max_backlog=1000; B: net.core.netdev_max_backlog=2000)"
	if got := strings.Join(warnings(sides), "|"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// agent is one on a machine with that many cores.
func agent(name string, cores int) report.Agent {
	return report.Agent{Name: name, Environment: report.Environment{CPU: "Other CPU", Cores: cores, MemoryBytes: 16 << 30}}
}

// The number of agents, of their machines, and what these are: each is told apart.
func TestWarningsOfAgents(t *testing.T) {
	two := []report.Agent{agent("10.0.0.7:3121", 8), agent("10.0.0.8:3121", 8)}
	for _, c := range []struct {
		name string
		b    []report.Agent
		want string
	}{
		{"the same", []report.Agent{agent("10.0.0.9:3121", 8), agent("10.0.0.7:3121", 8)}, ""},
		{"more agents", append(two[:2:2], agent("10.0.0.8:3122", 8)), "where the clients were differs (a: 2 agents on 2 machines; b: 3 agents on 2 machines)"},
		{"one machine", []report.Agent{agent("10.0.0.7:3121", 8), agent("10.0.0.7:3122", 8)}, "where the clients were differs (a: 2 agents on 2 machines; b: 2 agents on 1 machine)"},
		{"a smaller machine", []report.Agent{agent("10.0.0.7:3121", 8), agent("10.0.0.8:3121", 4)},
			"the agents' machines differs (a: Other CPU, 8 cores, 16.0 GiB; b: Other CPU, 4 cores, 16.0 GiB and Other CPU, 8 cores, 16.0...)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sides := []Side{side("a", []float64{1}, []float64{1}), side("b", []float64{1}, []float64{1})}
			sides[0].Runs[0].Agents, sides[1].Runs[0].Agents = two, c.b
			if got := strings.Join(warnings(sides), "|"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	c, err := Of(example(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		limit string
		want  []string // the sides
	}{
		{"latency.p99 +10%", []string{"C"}},
		{"latency.p99 +150%", nil},
		{"server.deliveries_per_cpu_second -5%", nil},
		{"server.deliveries_per_cpu_second +5%", []string{"B"}},
		{"server.cpu_per_delivery -5%", []string{"B"}},
		{"lost +0%", nil},
		{"server.deliveries_per_cpu_second -0%", nil},
		{"server.cpu_per_delivery -0%", []string{"B"}},
	} {
		l, err := ParseLimit(x.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, line := range l.Broken(c) {
			got = append(got, line[:1])
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%s is broken by %q, want %q: %s", x.limit, got, x.want, l.Broken(c))
		}
	}
	for text, down := range map[string]bool{
		"latency.line.chat-room.p99 +10%": false, "latency.line.one room.p99 -10%": true, " latency.p99\t+1e-1% ": false,
	} {
		if l, err := ParseLimit(text); err != nil || l.Down != down {
			t.Errorf("%q: %+v, %v", text, l, err)
		}
	}
	for text, want := range map[string]string{
		"latency.p99":        "write it as",
		"latency.p98 +10%":   "there is no figure latency.p98",
		"latency.p99 10%":    "is no change",
		"latency.p99 +10":    "is no change",
		"latency.p99 +many%": "is no change",
	} {
		if _, err := ParseLimit(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A side without the figure doesn't keep to a limit on it.
func TestLimitOnWhatIsNotThere(t *testing.T) {
	row := func(values ...[]float64) Row {
		f, _ := report.FindFigure("latency.p99")
		r := Row{Figure: f}
		for _, v := range values {
			r.Cells = append(r.Cells, summary(v))
		}
		for i := 1; i < len(values); i++ {
			r.Cells[i].Change = change(values[0], values[i])
		}
		return r
	}
	l, err := ParseLimit("latency.p99 +10%")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		rows []Row
		want string
	}{
		{"no side has it", nil, "latency.p99: no run has it"},
		{"A has it alone", []Row{row([]float64{1}, nil)}, "B: has no latency.p99, which A has"},
		{"B has it alone", []Row{row(nil, []float64{1})}, "A: has no latency.p99"},
	} {
		got := l.Broken(&Comparison{Rows: c.rows})
		if len(got) != 1 || !strings.HasPrefix(got[0], c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"set/1", "set/2", "alone"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := report.WriteJSON(filepath.Join(dir, name, resultFile), run(float64(i+1), 1)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string][]float64{
		dir + "/alone":                    {3},
		dir + "/alone/run.json":           {3},
		dir + "/set":                      {1, 2},
		dir + "/set/2," + dir + "/alone/": {2, 3},
	} {
		s, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []float64
		for _, r := range s.Runs {
			got = append(got, r.Latency.All.P99)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: runs with p99 %v, want %v", path, got, want)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir + "/empty", dir + "/nothing"} {
		if _, err := Load(path); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

// Figures of a line of pushes are compared like others, and one that no run has is refused.
func TestLinesOfPushes(t *testing.T) {
	sides := example()[:2]
	for i, s := range sides {
		for _, r := range s.Runs {
			for k, name := range []string{"big", "small"} {
				r.Pushes.Lines = append(r.Pushes.Lines, report.PushLine{Name: name, Latency: report.Percentiles{Count: 1, P99: float64(1 + i + k)}})
			}
		}
	}
	small := figure(t, "latency.line.small.p99")
	for name, figures := range map[string][]report.Figure{"all": nil, "one": {small}} {
		c, err := Of(sides, figures)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(c.Rows, func(row Row) bool { return row.Figure.Name == small.Name })
		if i < 0 || c.Rows[i].Cells[1].Median != 3 || c.Rows[i].Cells[1].Change.Judge(small) != Worse {
			t.Errorf("%s: row %d of %+v", name, i, c.Rows)
		}
	}
	want := `compare: latency.line.smal.p99: no run has a line of pushes called "smal"; there are big, small`
	if _, err := Of(sides, []report.Figure{figure(t, "latency.line.smal.p99")}); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestOf(t *testing.T) {
	if _, err := Of(example()[:1], nil); err == nil {
		t.Error("one side was compared")
	}
	if _, err := Of([]Side{{Name: "a"}, {Name: "b"}}, nil); err == nil {
		t.Error("sides without runs were compared")
	}
	c, err := Of(example(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range c.Rows {
		if row.Figure.Name == "ceiling.fraction" {
			t.Error("a figure that no run has is in the table")
		}
		if len(row.Cells) != 3 || row.Cells[0].Change != nil {
			t.Errorf("%s: %+v", row.Figure.Name, row.Cells)
		}
		if m := row.Cells[0].Median; math.IsNaN(m) || row.Cells[0].Low > m || row.Cells[0].High < m {
			t.Errorf("%s: %+v", row.Figure.Name, row.Cells[0])
		}
	}
}
