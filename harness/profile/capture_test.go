package profile

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"barrage/harness/report"
)

// pages serves net/http/pprof as an admin server does, of this process; rates keeps what
// was set.
func pages(t *testing.T) (addr string, rates *[]Rates) {
	t.Helper()
	rates = new([]Rates)
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("PUT "+ratesPath, func(w http.ResponseWriter, r *http.Request) {
		var set Rates
		if err := json.NewDecoder(r.Body).Decode(&set); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		runtime.SetMutexProfileFraction(set.MutexFraction)
		runtime.SetBlockProfileRate(set.BlockNanoseconds)
		*rates = append(*rates, set)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), rates
}

// work uses processor, memory and a contended lock until stop is called.
func work() (stop func()) {
	quit := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	for range 2 {
		all.Go(func() {
			var kept [][]byte
			for {
				select {
				case <-quit:
					runtime.KeepAlive(kept)
					return
				default:
				}
				mu.Lock()
				kept = append(kept[:len(kept):len(kept)], bytes.Repeat([]byte("x"), 64<<10))
				if len(kept) > 64 {
					kept = nil
				}
				busyLoop()
				mu.Unlock()
			}
		})
	}
	return func() { close(quit); all.Wait() }
}

//go:noinline
func busyLoop() {
	x := uint64(1)
	for range 200_000 {
		x ^= x << 13
		x ^= x >> 7
	}
	runtime.KeepAlive(x)
}

func TestCapture(t *testing.T) {
	// What is in use is counted by collections: something has to have lived through one.
	kept := bytes.Repeat([]byte("kept"), 4<<20)
	defer runtime.KeepAlive(kept)
	runtime.GC()
	addr, rates := pages(t)
	for _, c := range []struct{ name, addr string }{{"a process with admin pages", addr}, {"this process", ""}} {
		t.Run(c.name, func(t *testing.T) {
			stop := work()
			dir := t.TempDir()
			settled := make(chan struct{})
			done := make(chan Captured)
			go func() {
				done <- Capture(t.Context(), Config{
					Targets: []Target{{Name: "comet-1", Addr: c.addr}}, Dir: filepath.Join(dir, Folder), Duration: 1900 * time.Millisecond,
					Rates: Rates{MutexFraction: 1, BlockNanoseconds: 1}, Labels: Labels{Scenario: "room-10k", Commit: "abc"}, Settled: settled,
				})
			}()
			waitFor(t, filepath.Join(dir, Folder, "comet-1.cpu.pb.gz"))
			if _, err := os.Stat(filepath.Join(dir, Folder, "comet-1.heap.pb.gz")); err == nil {
				t.Error("the profiles of the end are there before it is settled")
			}
			stop()
			close(settled)
			got := <-done
			if len(got.Problems) > 0 {
				t.Errorf("problems: %q", got.Problems)
			}
			var want []string
			for _, k := range Kinds() {
				want = append(want, filepath.Join(dir, Folder, "comet-1."+string(k)+".pb.gz"))
			}
			slices.Sort(want)
			if !slices.Equal(got.Files, want) {
				t.Errorf("files %q, want %q", got.Files, want)
			}
			check(t, dir)
		})
	}
	if want := []Rates{{1, 1}, {}}; !slices.Equal(*rates, want) {
		t.Errorf("the rates set were %v, want %v", *rates, want)
	}
}

func waitFor(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Fatalf("%s does not come", path)
}

// check reads what was captured as a run, and finds work in it.
func check(t *testing.T, dir string) {
	t.Helper()
	r := result()
	r.Timeline = nil
	if err := report.WriteJSON(filepath.Join(dir, resultFile), r); err != nil {
		t.Fatal(err)
	}
	runs, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Kinds() {
		p, err := runs[0].read("comet-1", k)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"scenario: room-10k", "process: comet-1", "commit: abc"} {
			if !slices.Contains(p.Comments, want) {
				t.Errorf("%s: the comments are %q, without %q", k, p.Comments, want)
			}
		}
		for _, s := range p.Sample {
			if !slices.Equal(s.Label["process"], []string{"comet-1"}) || !slices.Equal(s.Label["commit"], []string{"abc"}) {
				t.Fatalf("%s: a sample with the labels %v", k, s.Label)
			}
		}
		if p.TimeNanos == 0 || (k.flow() && p.DurationNanos < int64(900*time.Millisecond)) {
			t.Errorf("%s: it is of %d, for %d ns", k, p.TimeNanos, p.DurationNanos)
		}
		s := side(t, "RUN", "comet-1", k, runs[0])
		function := map[Kind]string{CPU: "busyLoop", Alloc: "bytes.Repeat", Mutex: "work.func", Block: "work.func"}[k]
		least := 0.3
		if k == Block {
			least = 0.01 // idle goroutines wait much longer than those that are held up
		}
		if function == "" {
			if s.Runs[0].Total <= 0 {
				t.Errorf("%s: nothing is in it", k)
			}
			continue
		}
		found := slices.ContainsFunc(Top(s, ByCum).Rows, func(row TopRow) bool {
			return strings.Contains(row.Function, function) && row.Cum.Value > least*s.Runs[0].Total
		})
		if !found {
			t.Errorf("%s: %s is not much of it", k, function)
		}
	}
}

// Whatever can't be had is said, and the rest is there.
func TestCaptureProblems(t *testing.T) {
	addr, _ := pages(t)
	old := http.NewServeMux() // a process that lets nobody set its rates
	old.HandleFunc("/debug/pprof/", pprof.Index)
	old.HandleFunc("/debug/pprof/profile", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Could not enable CPU profiling: cpu profiling already in use", http.StatusInternalServerError)
	})
	oldServer := httptest.NewServer(old)
	defer oldServer.Close()
	stuck := http.NewServeMux() // and one that keeps those that were set
	stuck.HandleFunc("/debug/pprof/", pprof.Index)
	stuck.HandleFunc("PUT "+ratesPath, func(w http.ResponseWriter, r *http.Request) {
		var set Rates
		if err := json.NewDecoder(r.Body).Decode(&set); err != nil || set == (Rates{}) {
			http.Error(w, "not now", http.StatusInternalServerError)
		}
	})
	stuckServer := httptest.NewServer(stuck)
	defer stuckServer.Close()
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	dir := t.TempDir()
	got := Capture(t.Context(), Config{
		Targets: []Target{{"comet-1", addr}, {"goim", strings.TrimPrefix(oldServer.URL, "http://")}, {"dead", strings.TrimPrefix(dead.URL, "http://")},
			{"stuck", strings.TrimPrefix(stuckServer.URL, "http://")}},
		Dir: dir, Duration: time.Second, Rates: DefaultRates(), Start: time.Now().Add(10 * time.Millisecond),
	})
	text := strings.Join(got.Problems, "\n")
	for _, want := range []string{
		"goim: record waiting for mutex and block profiles: it does not serve PUT /profilerates",
		"goim: take the cpu profile: GET http://", "already in use", "dead: take the cpu profile: Get ", "dead: take the heap profile: ", "stuck: stop to record waiting: ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it is not said that %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "comet-1") {
		t.Errorf("comet-1 has problems:\n%s", text)
	}
	for _, want := range []string{"comet-1.cpu", "comet-1.heap", "comet-1.mutex", "goim.heap", "goim.alloc", "goim.goroutine"} {
		if !slices.Contains(got.Files, filepath.Join(dir, want+extension)) {
			t.Errorf("%s is not among the files %q", want, got.Files)
		}
	}
	for _, file := range got.Files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := profile.ParseData(text); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Capture(t.Context(), Config{Dir: blocked}); len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "make a folder for profiles") {
		t.Errorf("without a folder: %q", got.Problems)
	}
}

// With its context a capture ends at once, and turns the recording of waits off again.
func TestCaptureEnds(t *testing.T) {
	addr, rates := pages(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	begin := time.Now()
	got := Capture(ctx, Config{Targets: []Target{{"comet-1", addr}, {"harness", ""}}, Dir: t.TempDir(), Duration: time.Hour, Rates: DefaultRates()})
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "cut short") {
		t.Errorf("problems: %q", got.Problems)
	}
	if n := len(*rates); n != 2 || (*rates)[1] != (Rates{}) {
		t.Errorf("the rates set were %v", *rates)
	}
	// The profiler is free again, as soon as the page has seen that nobody waits for it.
	deadline := time.Now().Add(20 * time.Second)
	for got.Problems != nil && time.Now().Before(deadline) {
		got = Capture(t.Context(), Config{Targets: []Target{{Name: "harness"}}, Dir: t.TempDir(), Duration: time.Second})
	}
	if len(got.Problems) > 0 {
		t.Errorf("afterwards: %q", got.Problems)
	}
}
