package harness_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"barrage/harness/report"
)

// Two versions in turn: A B, then B A, each run in a folder of its own, and one table that
// says what they say together.
func TestSeries(t *testing.T) {
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, "-ceiling=false", "-runs", "2", "-vs", exe, "-set", "phases.measure=1s", "-set", "phases.warmup=0s", "smoke")
	if status := b.wait(t); status != 0 {
		t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
	}
	files, err := filepath.Glob(filepath.Join(b.results, "smoke", "*", "*", "*", "run.json"))
	if err != nil || len(files) != 4 {
		t.Fatalf("results %v, %v", files, err)
	}
	var order []string
	slices.SortFunc(files, func(x, y string) int { return started(t, x).Compare(started(t, y)) })
	for _, f := range files {
		order = append(order, filepath.Base(filepath.Dir(filepath.Dir(f)))+filepath.Base(filepath.Dir(f)))
		for _, beside := range []string{"report.html", "summary.md", "bench.txt", "latency.hlog", "latency.hgrm"} {
			if info, err := os.Stat(filepath.Join(filepath.Dir(f), beside)); err != nil || info.Size() == 0 {
				t.Errorf("%s: %v", beside, err)
			}
		}
	}
	for _, beside := range []string{"series.txt", "compare.html"} {
		if info, err := os.Stat(filepath.Join(filepath.Dir(files[0]), "..", "..", beside)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", beside, err)
		}
	}
	if want := []string{"a1", "b1", "b2", "a2"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	for _, want := range []string{"B against A", "too few runs", "no difference that 4 runs can show in lost", "compare.html"} {
		if !strings.Contains(b.stdout.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.stdout.String())
		}
	}
}

// A series that is interrupted says what its whole runs said.
func TestInterruptedSeries(t *testing.T) {
	b := start(t, "-ceiling=false", "-runs", "3", "-set", "phases={warmup: 0s, measure: 1s}", "smoke")
	waitFor(t, "the second run begins", func() bool { return strings.Contains(b.stderr.String(), "run 2 of 3") })
	if err := b.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := b.wait(t); status != 130 || !strings.Contains(b.stdout.String(), "1 run") {
		t.Errorf("exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
	}
	if files, err := filepath.Glob(filepath.Join(b.results, "smoke", "*", "series.txt")); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
}

func started(t *testing.T, path string) time.Time {
	t.Helper()
	r, err := report.ReadJSON(path)
	if err != nil {
		t.Fatal(err)
	}
	return r.Started
}

// An expectation that doesn't hold is named, with what was measured, and is exit status 1.
func TestExpectationFails(t *testing.T) {
	b := start(t, "-ceiling=false", "-set", "phases.measure=1s", "-set", "phases.warmup=0s", "-set", "expect.latency.p99=<= 1us", "smoke")
	if status := b.wait(t); status != 1 {
		t.Fatalf("exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
	}
	r := b.run(t)
	if r.Verdict.Status != report.Failed || len(r.Verdict.Reasons) != 1 || !strings.Contains(r.Verdict.Reasons[0], "expected <= 1.00 us") {
		t.Errorf("%+v", r.Verdict)
	}
}

// Others at work on the machine make a run invalid, which is exit status 3.
func TestDisturbedRun(t *testing.T) {
	var stop atomic.Bool
	var busy sync.WaitGroup
	for range runtime.NumCPU() {
		busy.Go(func() {
			for !stop.Load() {
			}
		})
	}
	b := start(t, "-ceiling=false", "-set", "phases.measure=1s", "-set", "phases.warmup=0s", "-set", "valid.other_cpu=0.1", "smoke")
	status := b.wait(t)
	stop.Store(true)
	busy.Wait()
	if status != 3 {
		t.Fatalf("exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
	}
	r := b.run(t)
	if r.Verdict.Status != report.Invalid || len(r.Verdict.Doubts) != 1 || !strings.Contains(r.Verdict.Doubts[0], "valid.other_cpu") {
		t.Errorf("%+v", r.Verdict)
	}
	if !strings.HasPrefix(b.stdout.String(), "INVALID  smoke") || !strings.Contains(b.stdout.String(), "Latency from a push's intended time (of an INVALID run)") {
		t.Errorf("printed:\n%s", b.stdout.String())
	}
}
