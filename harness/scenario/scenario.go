// Package scenario is the YAML file that says everything about a run: text in, a checked
// Scenario out, or every mistake in the file with its line, field and accepted range.
package scenario

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"barrage/harness/report"
)

// A Scenario is one run: what is started, who connects, what is pushed and for how long.
type Scenario struct {
	Name        string // also the folder of its results
	Description string // the question that the run answers
	Cluster     Cluster
	Clients     Clients
	Pushes      []Push
	Capacity    *Capacity // nil: one run at the rates that the lines have
	Phases      Phases
	Expect      []report.Threshold // lost, duplicate and reordered at most 0 unless the file says otherwise
	Bounds      Bounds
	Metrics     Metrics

	File string // where it was read from
	Text string // the file, byte for byte
}

// Cluster is the processes under test.
type Cluster struct {
	Comets  int       // 0: as many as the descriptor limit needs
	Tables  int       // of descriptors in each comet, AsNeeded, or 0 for the process's one
	Redis   string    // embedded, server or auto
	Network string    // auto, host or own
	Comet   []Setting // configuration of every comet, over its defaults
	Logic   []Setting
	Job     []Setting

	CometRuntime Runtime
}

// AsNeeded is a number of tables that the clients' count tells.
const AsNeeded = -1

// Runtime is what a process may take of the machine; zeros leave it as it is.
type Runtime struct {
	Procs      int           // GOMAXPROCS
	GC         int           // GOGC, in percent
	Memory     int           // GOMEMLIMIT, in bytes
	TimerSlack time.Duration // how late the kernel may wake a thread that sleeps for a time
	Nice       int           // how far it stands back behind other processes, see nice(1)
}

// Environment returns what r asks of Go's runtime as variables of a process's environment.
func (r Runtime) Environment() (list []string) {
	for _, v := range []struct {
		name  string
		value int
	}{{"GOMAXPROCS", r.Procs}, {"GOGC", r.GC}, {"GOMEMLIMIT", r.Memory}} {
		if v.value > 0 {
			list = append(list, fmt.Sprintf("%s=%d", v.name, v.value))
		}
	}
	return list
}

// A Setting is one configuration value of a role, by its key (room.minInterval).
type Setting struct {
	Key   string
	Value string
}

// Capacity is a search for the highest rate that holds.
type Capacity struct {
	Push      int // the line of pushes whose rate is looked for
	From, To  float64
	Precision float64 // how far apart the ends of the bracket may lie, as a part of the lower one
	Confirm   int     // runs that each end must have had, all with the same outcome
	Trials    int     // runs in all, at most
}

// Phases are the lengths of the run's parts.
type Phases struct {
	Warmup  time.Duration // pushes that count for loss and not for latency
	Measure time.Duration
	Drain   time.Duration // at most this long for what is under way at the end
}

// ErrNotFound says that a scenario's name stands for no file.
var ErrNotFound = errors.New("no such scenario")

// Find reads the scenario that arg names: a file, or the name of one of the scenarios in
// builtin (its *.yaml files) when arg has neither a folder nor an extension. A file
// scenarios/NAME.yaml of the working directory comes before the built-in one.
func Find(arg string, builtin fs.FS, overrides []string) (*Scenario, error) {
	if strings.ContainsRune(arg, filepath.Separator) || filepath.Ext(arg) != "" {
		text, err := os.ReadFile(arg)
		if err != nil {
			return nil, fmt.Errorf("read scenario: %w", err)
		}
		return Parse(arg, text, overrides)
	}
	name := arg + ".yaml"
	file := filepath.Join("scenarios", name)
	if text, err := os.ReadFile(file); err == nil {
		return Parse(file, text, overrides)
	}
	text, err := fs.ReadFile(builtin, name)
	if err == nil {
		return Parse(file, text, overrides)
	}
	names, _ := fs.Glob(builtin, "*.yaml")
	for i, n := range names {
		names[i] = strings.TrimSuffix(n, ".yaml")
	}
	slices.Sort(names)
	hint := ""
	if near := nearest(arg, names); near != "" {
		hint = fmt.Sprintf(", did you mean %s?", near)
	}
	return nil, fmt.Errorf("%w: %q%s (built in: %s)", ErrNotFound, arg, hint, strings.Join(names, ", "))
}
