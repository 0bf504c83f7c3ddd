// Package selftest checks the harness itself: a Server that is faulty by plan, and that
// stamps what it really did, is driven by the installed binary as a user would do it
// (barrage bench -target), and the run.json that comes of it must say what was planned:
// each loss, duplicate and swap, each delay and stall, and that a swarm which can't keep
// up is no judge of anything.
package selftest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"barrage/harness/report"
)

// Options say how the checks are run.
type Options struct {
	Exe      string    // the binary to check; its subcommand bench is run
	Dir      string    // gets a folder for each run, with its run.json and what bench said
	Progress io.Writer // gets a line for each check that is done; nil for none
}

// A Result is what became of a check.
type Result struct {
	Name     string
	Outcome  Outcome
	Figures  []Figure
	Why      []string // it is Unclear
	Attempts int
	Dir      string // of the last attempt
}

// attempts is how often a check is made whose outcome is unclear, or whose times came out wrong: of
// twenty pushes one that the machine delays decides a percentile, and a wrong harness is wrong each
// time. In Run none is made again
// after patience, so that all are done well within limit. What is under way then is cut off, and
// has the rest of a minute to end in.
const (
	attempts = 3
	patience = 30 * time.Second
	limit    = 55 * time.Second
)

// errOverdue is the cause of the end of a check that is cut off.
var errOverdue = fmt.Errorf("it was not done %v after the selftest's start, by when all checks are to be", limit)

// Run runs all checks, those that don't disturb each other at the same time, and returns
// their results in the order of Cases. A check that takes too long is Unclear. The error is
// that a check could not be made at all.
func Run(ctx context.Context, opt Options) ([]Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errOverdue)
	defer cancel()
	p := newPulse()
	defer p.stop()
	list := Cases()
	begin := time.Now()
	results := make([]Result, len(list))
	var (
		mu   sync.Mutex
		errs []error
	)
	check := func(i int) {
		r, err := try(ctx, opt, list[i], p, begin.Add(patience))
		mu.Lock()
		defer mu.Unlock()
		results[i] = r
		if err != nil {
			errs = append(errs, fmt.Errorf("check %q: %w", list[i].Name, err))
			return
		}
		if opt.Progress != nil {
			fmt.Fprintf(opt.Progress, "%-12s %s\n", r.Outcome, r.Name)
		}
	}
	var crowd sync.WaitGroup
	turns := make(chan struct{})
	go func() { // after the crowd, one by one
		defer close(turns)
		crowd.Wait()
		for i, c := range list {
			if c.when == oneByOne {
				check(i)
			}
		}
	}()
	var long sync.WaitGroup
	for i, c := range list {
		switch c.when {
		case inTheCrowd:
			crowd.Go(func() { check(i) })
		case meanwhile:
			long.Go(func() { check(i) })
		}
	}
	<-turns
	long.Wait()
	for i, c := range list {
		if c.when == alone {
			check(i)
		}
	}
	return results, errors.Join(errs...)
}

// try makes a check, again before a time where its outcome is unclear, or a time is wrong.
func try(ctx context.Context, opt Options, c Case, p *pulse, again time.Time) (Result, error) {
	var r Result
	for attempt := 1; attempt <= attempts; attempt++ {
		dir := filepath.Join(opt.Dir, fmt.Sprintf("%s-%d", c.ID, attempt))
		begin := time.Now()
		run, did, err := drive(ctx, opt.Exe, dir, c)
		if errors.Is(err, errOverdue) {
			return Result{Name: c.Name, Outcome: Unclear, Why: []string{err.Error()}, Attempts: attempt, Dir: dir}, nil
		}
		if err != nil {
			return Result{Name: c.Name, Dir: dir}, err
		}
		r = judge(c, run, did, p.lateness(begin, time.Now()))
		r.Attempts, r.Dir = attempt, dir
		if r.Outcome == AsPlanned || r.Outcome == Wrong && !c.Timed || time.Now().After(again) {
			break
		}
	}
	return r, nil
}

// A benched is what bench left.
type benched struct {
	*report.Run
	exit int
}

// drive runs the binary's bench against a server of the case's.
func drive(ctx context.Context, exe, dir string, c Case) (*benched, *Did, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make a folder: %w", err)
	}
	file := filepath.Join(dir, c.ID+".yaml")
	if err := os.WriteFile(file, c.Scenario, 0o644); err != nil {
		return nil, nil, fmt.Errorf("write the scenario: %w", err)
	}
	s, err := StartServer(c.Plan)
	if err != nil {
		return nil, nil, err
	}
	run, err := bench(ctx, exe, dir, file, s)
	did, stopErr := s.Stop()
	return run, did, errors.Join(err, stopErr)
}

// bench runs bench and reads its run.json.
func bench(ctx context.Context, exe, dir, file string, s *Server) (*benched, error) {
	said, err := os.Create(filepath.Join(dir, "bench.txt"))
	if err != nil {
		return nil, fmt.Errorf("keep what bench says: %w", err)
	}
	defer said.Close()
	cmd := exec.CommandContext(ctx, exe, "bench", "-results", dir, "-ceiling=false", "-target", fmt.Sprintf("tcp=%s,ws=%s,push=%s", s.TCP, s.WS, s.Push), file)
	cmd.Stdout, cmd.Stderr = said, said
	// In order, and by us alone: of a group of its own, so that the terminal's Ctrl-C reaches it once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 15 * time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("run bench: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*", "run.json"))
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("bench left with exit status %d and %d results; %s has what it said", cmd.ProcessState.ExitCode(), len(files), said.Name())
	}
	r, err := report.ReadJSON(files[0])
	if err != nil {
		return nil, err
	}
	return &benched{r, cmd.ProcessState.ExitCode()}, nil
}
