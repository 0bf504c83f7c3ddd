package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"barrage/harness/report"
)

func TestTop(t *testing.T) {
	r := store(t, t.TempDir(), result(), example(t, 900))
	for _, c := range []struct {
		golden, choice string
		by             Order
		n              int
	}{{"top.txt", ServerProcesses, ByFlat, 4}, {"top-cum.txt", "comet", ByCum, 0}, {"top-job.txt", "job", ByFlat, 0}} {
		var b bytes.Buffer
		if err := Top(side(t, "RUN", c.choice, CPU, r), c.by).WriteText(&b, c.n); err != nil {
			t.Fatal(err)
		}
		golden(t, c.golden, b.Bytes())
	}
	var b bytes.Buffer
	s := side(t, "RUN", "logic", CPU, r)
	s.Runs[0].Run.Dir = "RUN" // instead of the test's own
	if err := Top(s, ByFlat).WriteJSON(&b, 2); err != nil {
		t.Fatal(err)
	}
	golden(t, "top.json", b.Bytes())
}

func TestTopOfOtherKinds(t *testing.T) {
	stacks := []string{"main.main barrage/server/comet.(*session).grow 400", "main.main +bytes.growSlice 100"}
	heap := build(t, Heap, 1024, stacks...)
	heap.Period = 512 << 10
	r := store(t, t.TempDir(), result(), map[string]*profile.Profile{
		"comet-1.heap": heap, "comet-1.alloc": build(t, Alloc, 1024, stacks...), "comet-1.mutex": build(t, Mutex, 50_000, stacks...),
		"comet-1.block": build(t, Block, 2_000_000, stacks...), "comet-1.goroutine": build(t, Goroutine, 1, stacks...),
	})
	var b bytes.Buffer
	for _, k := range []Kind{Heap, Alloc, Mutex, Block, Goroutine} {
		if err := Top(side(t, "RUN", "comet-1", k, r), ByFlat).WriteText(&b, 0); err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n")
	}
	golden(t, "top-kinds.txt", b.Bytes())
}

// What is not there is named, with what is.
func TestMissing(t *testing.T) {
	dir := t.TempDir()
	r := store(t, dir, result(), map[string]*profile.Profile{"comet-1.cpu": build(t, CPU, tick, "main.main 1"), "logic.goroutine": build(t, Goroutine, 1, "main.main 1")})
	cases := []struct {
		name, choice string
		kind         Kind
		want         string
	}{
		{"a process that is none", "comet-9", CPU, `no process "comet-9"; there are logic, comet-1, and server, all, comet for several`},
		{"one that has no profile", "job", CPU, `no process "job"`},
		{"one without this kind", "comet-1", Heap, "has no heap profile of comet-1 (it has cpu)"},
		{"several, one without this kind", ServerProcesses, CPU, "has no cpu profile of logic (it has goroutine)"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := r.Costs(c.choice, c.kind); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := ParseKind("memory"); err == nil || !strings.Contains(err.Error(), `"memory"; there are cpu, heap, alloc, mutex, block, goroutine`) {
		t.Errorf("an unknown kind: %v", err)
	}
	if _, err := ParseOrder("name"); err == nil || !strings.Contains(err.Error(), "flat, cum") {
		t.Errorf("an unknown order: %v", err)
	}
	if _, err := Load(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is none: %v", err)
	}
	if _, err := Load(filepath.Join(dir, Folder)); err == nil || !strings.Contains(err.Error(), "no run.json") {
		t.Errorf("a folder without a run: %v", err)
	}
	bare := t.TempDir()
	if err := report.WriteJSON(filepath.Join(bare, resultFile), result()); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(bare); err == nil || !strings.Contains(err.Error(), "has no profiles") {
		t.Errorf("a run without profiles: %v", err)
	}
	without := result()
	without.Deliveries = report.Deliveries{}
	none := store(t, t.TempDir(), without, map[string]*profile.Profile{"comet-1.cpu": build(t, CPU, tick, "main.main 1")})
	if _, err := none.Costs("comet-1", CPU); err == nil || !strings.Contains(err.Error(), "no deliveries") {
		t.Errorf("a run without deliveries: %v", err)
	}
	other := store(t, t.TempDir(), result(), map[string]*profile.Profile{"comet-1.cpu": build(t, Goroutine, 1, "main.main 1")})
	if _, err := other.Costs("comet-1", CPU); err == nil || !strings.Contains(err.Error(), "a cpu profile has values of cpu, this one has goroutine") {
		t.Errorf("a profile of another kind: %v", err)
	}
}

// A folder of runs is several of them, and so are folders with commas between.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	p := map[string]*profile.Profile{"comet-1.cpu": build(t, CPU, tick, "main.main 1")}
	for _, name := range []string{"b", "a", "c/d"} {
		store(t, filepath.Join(dir, name), result(), p)
	}
	for _, c := range []struct {
		path string
		want []string
	}{{dir, []string{"a", "b", "c/d"}}, {filepath.Join(dir, "c") + "," + filepath.Join(dir, "a"), []string{"c/d", "a"}}} {
		runs, err := Load(c.path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range runs {
			name, _ := filepath.Rel(dir, r.Dir)
			got = append(got, name)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: runs %v, want %v", c.path, got, c.want)
		}
	}
}

// The deliveries are those of the profile's own time.
func TestDeliveries(t *testing.T) {
	run := func(change func(*report.Run)) *Run {
		r := result()
		change(r)
		return &Run{Dir: "RUN", Report: r}
	}
	same := func(*report.Run) {}
	cases := []struct {
		name       string
		change     func(*report.Run)
		from, took time.Duration
		want       float64
	}{
		{"the measured phase", same, 5 * time.Second, 20 * time.Second, 2_000_000},
		{"nearly all of it", same, 5 * time.Second, 19500 * time.Millisecond, 1_950_000},
		{"a part of it", same, 10 * time.Second, 5 * time.Second, 500_000},
		{"a part between samples", same, 10500 * time.Millisecond, 4 * time.Second, 400_000},
		{"warm-up, measured phase and drain", same, 2500 * time.Millisecond, 24 * time.Second, 2_200_000},
		{"a ramp", func(r *report.Run) {
			for i := range r.Timeline {
				if r.Timeline[i].At == 15 {
					r.Timeline[i].Deliveries -= 50_000
				}
			}
		}, 14 * time.Second, time.Second, 50_000},
		{"no timeline", func(r *report.Run) { r.Timeline = nil }, 10 * time.Second, 5 * time.Second, 500_000},
		{"no timeline, longer than the phase", func(r *report.Run) { r.Timeline = nil }, 0, 60 * time.Second, 2_200_000},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := &profile.Profile{TimeNanos: began.Add(c.from).UnixNano(), DurationNanos: int64(c.took)}
			got, err := run(c.change).deliveries(p)
			if err != nil || got < c.want-1 || got > c.want+1 {
				t.Errorf("%g deliveries (%v), want %g", got, err, c.want)
			}
		})
	}
	if _, err := run(same).deliveries(&profile.Profile{}); err == nil {
		t.Error("a profile of no time has deliveries")
	}
}

// Whatever a file holds, it is an error or its costs add up.
func FuzzCosts(f *testing.F) {
	for _, k := range Kinds() {
		var b bytes.Buffer
		if err := build(f, k, tick, "main.main +barrage/x.f ? 7", "main.main 1").WriteUncompressed(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := profile.ParseUncompressed(text)
		if err != nil || p.CheckValid() != nil {
			return
		}
		for _, k := range Kinds() {
			c := &Costs{Run: &Run{Report: result()}, Kind: k, Processes: []string{"comet-1"}, Divisor: 1}
			if c.add(p, 1, "comet") != nil {
				continue
			}
			sum := 0.0
			for name, fn := range c.functions() {
				sum += fn.flat
				if fn.cum < fn.flat*(1-1e-9) || fn.cumEvents < fn.flatEvents*(1-1e-9) {
					t.Errorf("%s: %q costs %g by itself and %g in all", k, name, fn.flat, fn.cum)
				}
			}
			if math.Abs(sum-c.Total) > 1e-9*c.Total {
				t.Errorf("%s: functions cost %g of %g", k, sum, c.Total)
			}
			s := &Side{Name: "A", Runs: []*Costs{c}, functions: []map[string]*function{c.functions()}}
			if err := WriteFlame(io.Discard, s, s); err != nil {
				t.Error(err)
			}
		}
	})
}
