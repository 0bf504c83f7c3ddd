package selftest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/report"
)

// buildDir is where the binary lies, "" before it is built.
var buildDir string

// build builds the real binary, once for all tests of the package.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "barrage-selftest-")
	if err != nil {
		return "", err
	}
	buildDir = dir
	exe := filepath.Join(dir, "barrage")
	command := exec.Command("go", "build", "-o", exe, "barrage")
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binary: %w\n%s", err, out)
	}
	return exe, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if buildDir != "" {
		os.RemoveAll(buildDir)
	}
	os.Exit(status)
}

func built(t *testing.T) string {
	t.Helper()
	exe, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// unclear ends a test that the machine disturbed: it is skipped, or, where BARRAGE_SELFTEST is
// "required", as in CI, failed.
func unclear(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("BARRAGE_SELFTEST") == "required" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// check makes one check of exe, a few times where it is unclear. One that stays so ends the test,
// with the machine's reasons.
func check(t *testing.T, exe string, c Case) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	p := newPulse()
	defer p.stop()
	r, err := try(ctx, Options{Exe: exe, Dir: t.TempDir()}, c, p, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Text(&b, []Result{r}); err != nil {
		t.Fatal(err)
	}
	t.Log(b.String())
	if r.Outcome == Unclear {
		unclear(t, "this machine doesn't let it be checked now: %s", strings.Join(r.Why, "; "))
	}
	return r
}

// Latencies from a millisecond on are reported as the server made them; the selftest, which
// runs below, has the others up to a second, the stalls and the omissions.
func TestDelaysAreReported(t *testing.T) {
	for _, d := range []time.Duration{2 * time.Millisecond, 10 * time.Millisecond, 250 * time.Millisecond} {
		t.Run(d.String(), func(t *testing.T) {
			if r := check(t, built(t), Delayed(d)); r.Outcome != AsPlanned {
				t.Error("not reported as the server did")
			}
		})
	}
}

// What is planned for 10,000 clients, all faults at random, is reported exactly. The faults
// strike the first push of a pair alone, so that each pair can be counted on its own.
func TestFaultsOf10kClientsAreReported(t *testing.T) {
	const clients, pushes, beside = 10_000, 10, 500 // pushes of each room; descriptors that are no clients
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < clients+beside {
		unclear(t, "%d open files are allowed, the server's side needs %d: ulimit -n %d", limit.Cur, clients+beside, clients+beside)
	}
	text, err := os.ReadFile("testdata/faulty-10k.yaml")
	if err != nil {
		t.Fatal(err)
	}
	fault := func(client int, seq uint32) Fault {
		// A half of the pairs is struck.
		if r := rand.New(rand.NewPCG(uint64(client), uint64(seq))); seq%2 == 0 && r.IntN(2) == 0 {
			return Fault(r.IntN(int(faults)))
		}
		return Deliver
	}
	refused := func(seq uint32) bool { return seq == 4 || seq == 7 }
	want := report.Counts{Unexpected: map[string]int64{}}
	for client := range clients {
		for seq := range uint32(pushes) {
			f := fault(client, seq)
			switch f {
			case Double:
				want.Duplicate++
			case Swap:
				want.Reordered++
			case WithBare:
				want.Unexpected["no_stamp"]++
			case WithAlien:
				want.Unexpected["unknown_stream"]++
			case Astray:
				want.Unexpected["not_subscribed"]++
			}
			// Of a push that was refused nobody knows whether it is owed.
			switch {
			case refused(seq) && f != Drop:
				want.Unknown++
			case !refused(seq) && f == Drop:
				want.Lost++
			case !refused(seq):
				want.Delivered++
			}
		}
	}
	want.Expected = want.Delivered + want.Lost
	var got *benched
	c := Case{ID: "faulty-10k", Name: "every fault at once", Scenario: text, Plan: Plan{Fault: fault, Refuse: refused}, Status: report.Failed}
	c.Figures = func(r *benched, did *Did) []Figure {
		got = r
		m := &r.Deliveries.Measured
		list := []Figure{
			exactly("clients", clients, int64(did.Clients), r.Clients.Joined),
			exactly("pushes", 2*pushes, int64(did.Pushes), r.Pushes.Measured.Sent),
			exactly("refused", 4, int64(did.Refused), r.Pushes.Measured.Failed),
			exactly("delivered, unknown among them", want.Delivered+want.Unknown, did.Delivered(), m.Delivered+m.Unknown),
			exactly("unknown", want.Unknown, want.Unknown, m.Unknown),
			exactly("expected", want.Expected, want.Expected, m.Expected),
			exactly("lost", want.Lost, want.Lost, m.Lost),
			exactly("duplicate", want.Duplicate, did.Faults[Double], m.Duplicate),
			exactly("reordered", want.Reordered, did.Faults[Swap], m.Reordered),
			exactly("frames", did.Frames, did.Frames, r.Deliveries.LedgerFrames),
			exactly("latencies", did.Delivered(), did.Delivered(), r.Latency.All.Count),
			exactly("bytes, kernel's less swarm's", 0, 0, r.Deliveries.KernelBytes-r.Deliveries.Bytes),
			verdict(report.Failed, r),
		}
		for reason, f := range map[string]Fault{"no_stamp": WithBare, "unknown_stream": WithAlien, "not_subscribed": Astray} {
			list = append(list, exactly(reason, want.Unexpected[reason], did.Faults[f], m.Unexpected[reason]))
		}
		return list
	}
	if r := check(t, built(t), c); r.Outcome != AsPlanned {
		t.Errorf("not reported as planned; the verdict's reasons:\n%s", strings.Join(got.Verdict.Reasons, "\n"))
	}
}

// The command says that all is well with the real harness, in under a minute, and leaves
// nothing behind.
func TestSelftest(t *testing.T) {
	exe := built(t)
	for range attempts {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, exe, "bench", "-selftest")
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "TMPDIR="+cmd.Dir)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		status := cmd.ProcessState.ExitCode()
		t.Logf("exit status %d, %v\n%s%s", status, err, said.String(), out)
		if status == 3 {
			continue
		}
		left, err := os.ReadDir(cmd.Dir)
		if status != 0 || !strings.HasPrefix(string(out), "PASSED  selftest: 10 checks") || err != nil || len(left) > 0 {
			t.Errorf("exit status %d, left %v, %v", status, left, err)
		}
		return
	}
	unclear(t, "this machine doesn't let it be checked now")
}

// A check that is not done by the selftest's end is cut off, and is no proof of anything.
func TestACheckThatTakesTooLong(t *testing.T) {
	hung := filepath.Join(t.TempDir(), "barrage")
	if err := os.WriteFile(hung, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errOverdue)
	defer cancel()
	p := newPulse()
	defer p.stop()
	r, err := try(ctx, Options{Exe: hung, Dir: t.TempDir()}, Delayed(time.Second), p, time.Now().Add(time.Minute))
	if err != nil || r.Outcome != Unclear || r.Attempts != 1 || len(r.Why) != 1 || !strings.Contains(r.Why[0], "it was not done 55s after the selftest's start") {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSelftestTakesNoScenario(t *testing.T) {
	cmd := exec.Command(built(t), "bench", "-selftest", "smoke")
	out, err := cmd.CombinedOutput()
	if status := cmd.ProcessState.ExitCode(); status != 2 || !strings.Contains(string(out), "has scenarios of its own") {
		t.Errorf("exit status %d, %v, %s", status, err, out)
	}
}

// A harness that reports one loss less than there was is found out.
func TestALyingHarnessIsFound(t *testing.T) {
	liar := filepath.Join(t.TempDir(), "barrage")
	// Its arguments are bench -results DIR ...
	script := fmt.Sprintf("#!/bin/sh\n%s \"$@\"\nstatus=$?\nsed -i 's/\"lost\": 500/\"lost\": 499/' \"$3\"/*/*/run.json\nexit $status\n", built(t))
	if err := os.WriteFile(liar, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r := check(t, liar, counted("loss", "1 frame in 10 is dropped", Drop))
	wrong := map[string]string{}
	for _, f := range r.Figures {
		if f.Outcome == Wrong {
			wrong[f.Name] = f.Reported
		}
	}
	if r.Outcome != Wrong || r.Attempts != 1 || len(wrong) != 1 || wrong["lost"] != "499" {
		t.Errorf("%s after %d attempts, wrong: %v", r.Outcome, r.Attempts, wrong)
	}
}

// A binary that is none of ours is an error, and no verdict.
func TestAHarnessThatDoesNotRun(t *testing.T) {
	for exe, want := range map[string]string{"/bin/true": "exit status 0 and 0 results", "/bin/false": "exit status 1 and 0 results", "/does/not/exist": "no such file"} {
		_, _, err := drive(t.Context(), exe, t.TempDir(), Delayed(time.Second))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", exe, err, want)
		}
	}
}
