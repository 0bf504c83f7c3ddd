package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"barrage/harness/selftest"
)

// benchSelftest holds this binary's harness against a server that is faulty by plan and
// returns the exit status. What the runs leave is kept where one of them is not as planned.
func benchSelftest(ctx context.Context, stdout, stderr io.Writer) int {
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintf(stderr, "barrage bench: find this binary: %v\n", err)
		return benchUsageError
	}
	dir, err := os.MkdirTemp("", "barrage-selftest-")
	if err != nil {
		fmt.Fprintf(stderr, "barrage bench: make a folder for the selftest: %v\n", err)
		return benchUsageError
	}
	ctx, stop := signal.NotifyContext(ctx, endSignals()...)
	defer stop()
	fmt.Fprintln(stderr, "runs of this binary's bench against a server that is faulty by plan, about 40 s")
	results, err := selftest.Run(ctx, selftest.Options{Exe: exe, Dir: dir, Progress: stderr})
	if err == nil {
		err = selftest.Text(stdout, results)
	}
	worst := selftest.Worst(results)
	if err == nil && worst == selftest.AsPlanned || ctx.Err() != nil {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "barrage bench: interrupted; all processes have ended")
		return benchInterrupted
	case err != nil:
		fmt.Fprintf(stderr, "barrage bench: selftest: %v\n", err)
		return benchFailed
	}
	return map[selftest.Outcome]int{selftest.AsPlanned: benchGood, selftest.Unclear: benchInvalid, selftest.Wrong: benchFailed}[worst]
}
