package profile

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"barrage/harness/report"
)

// update rewrites the golden files: go test ./harness/profile -update
var update = flag.Bool("update", false, "rewrite the golden files")

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
		t.Errorf("%s differs; look at it, and run go test ./harness/profile -update if it is right. Got:\n%s", path, got)
	}
}

// began is when the tests' runs began; their measured phase is from 5 s to 25 s of it.
var began = time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)

// build makes a profile of lines such as "main.main barrage/x.f +slices.Sort 12": a stack,
// the outermost first, where + marks what was put into its caller, with the number of
// events. Each event is worth unit.
func build(t testing.TB, k Kind, unit int64, lines ...string) *profile.Profile {
	t.Helper()
	p := &profile.Profile{TimeNanos: began.Add(5 * time.Second).UnixNano(), DurationNanos: int64(20 * time.Second)}
	types := map[Kind][][2]string{
		CPU:       {{"samples", "count"}, {"cpu", "nanoseconds"}},
		Heap:      {{"alloc_objects", "count"}, {"alloc_space", "bytes"}, {"inuse_objects", "count"}, {"inuse_space", "bytes"}},
		Alloc:     {{"alloc_objects", "count"}, {"alloc_space", "bytes"}},
		Mutex:     {{"contentions", "count"}, {"delay", "nanoseconds"}},
		Block:     {{"contentions", "count"}, {"delay", "nanoseconds"}},
		Goroutine: {{"goroutine", "count"}},
	}[k]
	for _, pair := range types {
		p.SampleType = append(p.SampleType, &profile.ValueType{Type: pair[0], Unit: pair[1]})
	}
	mapping := &profile.Mapping{ID: 1, File: "/usr/bin/barrage", HasFunctions: true}
	p.Mapping = []*profile.Mapping{mapping}
	functions := map[string]*profile.Function{}
	for _, line := range lines {
		words := strings.Fields(line)
		events := int64(0)
		if _, err := fmt.Sscan(words[len(words)-1], &events); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		var stack []*profile.Location // innermost first
		for _, word := range words[:len(words)-1] {
			name, inlined := strings.CutPrefix(word, "+")
			f := functions[name]
			if f == nil {
				f = &profile.Function{ID: uint64(len(functions) + 1), Name: name}
				functions[name] = f
				p.Function = append(p.Function, f)
			}
			if inlined {
				stack[0].Line = append([]profile.Line{{Function: f}}, stack[0].Line...)
				continue
			}
			l := &profile.Location{ID: uint64(len(p.Location) + 1), Mapping: mapping}
			if name != "?" {
				l.Line = []profile.Line{{Function: f}}
			}
			p.Location = append(p.Location, l)
			stack = append([]*profile.Location{l}, stack...)
		}
		s := &profile.Sample{Location: stack}
		for i := range types {
			s.Value = append(s.Value, events*[]int64{1, unit}[i%2])
		}
		p.Sample = append(p.Sample, s)
	}
	if k == CPU {
		p.PeriodType, p.Period = &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, unit
	}
	if err := p.CheckValid(); err != nil {
		t.Fatal(err)
	}
	return p
}

// result is a good run of 2,000,000 measured deliveries in 20 s to 10,000 clients.
func result() *report.Run {
	r := &report.Run{
		Schema: report.Schema, Started: began,
		Scenario:    report.Scenario{Name: "room-10k", Text: "name: room-10k\n"},
		Verdict:     report.Verdict{Status: report.Good},
		Environment: report.Environment{CPU: "Some CPU", Cores: 2, Go: "go1.26.8", Commit: "0123456789ab"},
		Clients:     report.Clients{Joined: 10_000},
		Deliveries:  report.Deliveries{Measured: report.Counts{Delivered: 2_000_000}, WarmUp: report.Counts{Delivered: 200_000}, Seconds: 20},
		Processes: []report.Process{
			{Name: "services", Role: "services", CPUSeconds: 1}, {Name: "logic", Role: "logic", Server: true, CPUSeconds: 1},
			{Name: "job", Role: "job", Server: true, CPUSeconds: 1}, {Name: "comet-1", Role: "comet", Server: true, CPUSeconds: 10},
			{Name: "comet-2", Role: "comet", Server: true, CPUSeconds: 10}, {Name: "harness", Role: "harness", CPUSeconds: 5},
		},
		Server: report.Server{Seconds: 20},
	}
	// 100,000 a second from 3 s to 25 s.
	for i := 1; i <= 25; i++ {
		phase := "connect"
		switch {
		case i > 5:
			phase = "measure"
		case i > 3:
			phase = "warm-up"
		}
		r.Timeline = append(r.Timeline, report.Second{At: float64(i), Phase: phase, Deliveries: int64(max(0, i-3) * 100_000)})
	}
	return r
}

// store writes a run with its profiles, by their files' names without extension, into a
// folder of dir and loads it.
func store(t testing.TB, dir string, r *report.Run, profiles map[string]*profile.Profile) *Run {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, Folder), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := report.WriteJSON(filepath.Join(dir, resultFile), r); err != nil {
		t.Fatal(err)
	}
	for name, p := range profiles {
		process, k, ok := parseFileName(name + extension)
		if !ok {
			t.Fatalf("%q is no process and kind", name)
		}
		if _, err := save(p, filepath.Join(dir, Folder), process, k, Labels{Scenario: "room-10k", Commit: r.Environment.Commit}); err != nil {
			t.Fatal(err)
		}
	}
	runs, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(runs) != 1 {
		t.Fatalf("%d runs, want 1", len(runs))
	}
	return runs[0]
}

// side makes one of runs and calls it name.
func side(t testing.TB, name, choice string, k Kind, runs ...*Run) *Side {
	t.Helper()
	s, err := NewSide(name, runs, choice, k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const tick = 10_000_000 // ns, of a CPU profile

// example are server profiles of two comets, job and logic with a few thousand samples,
// sweep being the part that tests change.
func example(t testing.TB, sweep int) map[string]*profile.Profile {
	t.Helper()
	comet := build(t, CPU, tick,
		fmt.Sprintf("runtime.goexit barrage/server/comet.(*shard).run barrage/server/comet.(*shard).sweep +barrage/server/comet.(*log).since %d", sweep/10),
		fmt.Sprintf("runtime.goexit barrage/server/comet.(*shard).run barrage/server/comet.(*shard).sweep barrage/server/comet.(*session).send syscall.Syscall6 %d", sweep),
		"runtime.goexit barrage/server/comet.(*shard).run barrage/server/comet.(*log).since 12",
		"runtime.goexit runtime.gcBgMarkWorker runtime.gcDrain 30",
		"runtime.goexit runtime/pprof.profileWriter runtime/pprof.(*profileBuilder).build 3",
		"runtime.goexit github.com/cloudwego/netpoll.(*defaultPoll).Wait golang.org/x/sys/unix.Syscall6 8",
	)
	return map[string]*profile.Profile{
		"comet-1.cpu": comet, "comet-2.cpu": comet.Copy(),
		"job.cpu":      build(t, CPU, tick, "runtime.goexit barrage/server/job.(*lane).run google.golang.org/grpc.(*ClientConn).Invoke 20", "runtime._ExternalCode ? 25"),
		"logic.cpu":    build(t, CPU, tick, "runtime.goexit barrage/server/logic.(*Server).push barrage/server/logic.(*Server).push github.com/redis/go-redis/v9.(*Client).Do 14"),
		"services.cpu": build(t, CPU, tick, "runtime.goexit 5"),
	}
}
