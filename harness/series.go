package harness

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"barrage/harness/cluster"
	"barrage/harness/report"
)

// A Variant is what is under test: a binary's processes, or a cluster that runs already.
type Variant struct {
	Name   string // a folder's name
	Exe    string
	Commit string
	Target *cluster.Target // nil for a binary
}

// A SeriesResult is where the runs of a series lie.
type SeriesResult struct {
	Dir  string
	Dirs []string        // of each variant, with a folder for each of its runs
	Runs [][]*report.Run // by variant
}

// Series runs the scenario of opt several times for each variant. The variants take turns,
// and each round goes the other way round than the one before (A B, B A, A B ...), so that
// a machine that drifts does so for all of them alike. A run that is cut short ends the
// series, and is not one of its runs; those until then are returned with ErrInterrupted, or with
// the error that ended the series.
func Series(ctx context.Context, opt Options, variants []Variant, runs int) (*SeriesResult, error) {
	dir, err := makeDir(opt.Results, opt.Scenario.Name, time.Now())
	if err != nil {
		return nil, err
	}
	s := &SeriesResult{Dir: dir, Runs: make([][]*report.Run, len(variants))}
	for _, v := range variants {
		own := dir
		if len(variants) > 1 {
			own = filepath.Join(dir, v.Name)
		}
		s.Dirs = append(s.Dirs, own)
	}
	var first *report.Run
	for round := range runs {
		for k := range variants {
			i := k
			if round%2 == 1 {
				i = len(variants) - 1 - k
			}
			one := opt
			one.First = first
			one.Exe, one.Commit, one.Target = variants[i].Exe, variants[i].Commit, variants[i].Target
			one.Dir = filepath.Join(s.Dirs[i], strconv.Itoa(round+1))
			if opt.Progress != nil {
				name := ""
				if len(variants) > 1 {
					name = " of " + variants[i].Name
				}
				fmt.Fprintf(opt.Progress, "run %d of %d%s\n", round+1, runs, name)
			}
			result, err := Run(ctx, one)
			if err != nil {
				return s, err
			}
			if first == nil {
				first = result.Run
			}
			if result.Run.Verdict.Status == report.CutShort {
				return s, ErrInterrupted
			}
			s.Runs[i] = append(s.Runs[i], result.Run)
		}
	}
	return s, nil
}

// changesSince says in what a run's environment and its agents' differ from those of the
// series' first run, or nothing where first is nil.
func changesSince(first, now *report.Run) (list []string) {
	if first == nil {
		return nil
	}
	for _, change := range []string{changedSince(&first.Environment, &now.Environment), agentChanged(first.Agents, now.Agents)} {
		if change != "" {
			list = append(list, change)
		}
	}
	return list
}

// changedSince says in what the environment differs from that of a series' first run, or
// nothing.
func changedSince(first, now *report.Environment) string {
	for _, x := range []struct {
		what          string
		before, after any
	}{
		{"the processor", first.CPU, now.CPU},
		{"the number of cores", first.Cores, now.Cores},
		{"the memory", first.MemoryBytes, now.MemoryBytes},
		{"the kernel", first.Kernel, now.Kernel},
		{"the limit of open files", first.OpenFilesHard, now.OpenFilesHard},
		{"the Redis", first.Redis, now.Redis},
		{"the network", first.Network, now.Network},
		{"the harness's processors", first.HarnessProcs, now.HarnessProcs},
	} {
		if x.before != x.after && x.before != "" && x.after != "" { // a target's Redis is not known
			return fmt.Sprintf("%s changed since the series' first run, from %v to %v", x.what, x.before, x.after)
		}
	}
	for name, before := range first.KernelSettings {
		// tcp_mem and the like are read once; what changes is somebody's doing.
		if after := now.KernelSettings[name]; after != before {
			return fmt.Sprintf("%s changed since the series' first run, from %q to %q", name, before, after)
		}
	}
	return ""
}
