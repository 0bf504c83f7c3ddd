package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"barrage/harness/report"
)

// A Run is a stored run with its profiles.
type Run struct {
	Dir    string
	Report *report.Run
	has    map[string][]Kind // by process, what there is
}

// resultFile is a run's result in its folder.
const resultFile = "run.json"

// Load reads the runs that path names: a folder of results, a folder of such folders, or
// several of these, separated by commas. Runs without profiles are an error.
func Load(path string) ([]*Run, error) {
	var runs []*Run
	for part := range strings.SplitSeq(path, ",") {
		dirs, err := find(part)
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			r, err := open(dir)
			if err != nil {
				return nil, err
			}
			runs = append(runs, r)
		}
	}
	return runs, nil
}

// find returns the folders of results at or below path, in the order of their names.
func find(path string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() == resultFile {
			dirs = append(dirs, filepath.Dir(p))
		}
		return err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("find runs: %w", err)
	case len(dirs) == 0:
		return nil, fmt.Errorf("find runs: there is no %s in %s or below it", resultFile, path)
	}
	slices.Sort(dirs)
	return dirs, nil
}

func open(dir string) (*Run, error) {
	result, err := report.ReadJSON(filepath.Join(dir, resultFile))
	if err != nil {
		return nil, err
	}
	r := &Run{Dir: dir, Report: result, has: map[string][]Kind{}}
	files, err := os.ReadDir(filepath.Join(dir, Folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the profiles of a run: %w", err)
	}
	for _, f := range files {
		if process, k, ok := parseFileName(f.Name()); ok {
			r.has[process] = append(r.has[process], k)
		}
	}
	if len(r.has) == 0 {
		return nil, fmt.Errorf("%s has no profiles; they would lie in %s", dir, filepath.Join(dir, Folder))
	}
	return r, nil
}

// The choices of processes that are no process's name or role.
const (
	ServerProcesses = "server" // comet, logic and job
	AllProcesses    = "all"
)

// choose returns the names of the run's processes that choice stands for, each with a
// profile of kind k.
func (r *Run) choose(choice string, k Kind) ([]string, error) {
	var chosen, profiled []string
	words := []string{ServerProcesses, AllProcesses}
	for _, p := range r.processes() {
		profiled = append(profiled, p.Name)
		if p.Role != "" && p.Role != p.Name && !slices.Contains(words, p.Role) {
			words = append(words, p.Role)
		}
		if choice == AllProcesses || (choice != "" && choice == p.Role) || choice == p.Name || (choice == ServerProcesses && p.Server) {
			chosen = append(chosen, p.Name)
		}
	}
	if len(chosen) == 0 {
		slices.Sort(words[2:])
		return nil, fmt.Errorf("%s has profiles of no process %q; there are %s, and %s for several",
			r.Dir, choice, list(profiled), list(words))
	}
	var lacking []string
	for _, name := range chosen {
		if !slices.Contains(r.has[name], k) {
			slices.Sort(r.has[name])
			lacking = append(lacking, fmt.Sprintf("%s (it has %s)", name, list(r.has[name])))
		}
	}
	if len(lacking) > 0 {
		return nil, fmt.Errorf("%s has no %s profile of %s", r.Dir, k, strings.Join(lacking, ", "))
	}
	slices.Sort(chosen)
	return chosen, nil
}

// processes returns those with profiles: the report's in its order, then what it does not
// know.
func (r *Run) processes() []report.Process {
	var out []report.Process
	known := map[string]bool{}
	for _, p := range r.Report.Processes {
		known[p.Name] = true
		if len(r.has[p.Name]) > 0 {
			out = append(out, p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.has)) {
		if !known[name] {
			out = append(out, report.Process{Name: name})
		}
	}
	return out
}

// role returns a process's role, or its name where the report says none.
func (r *Run) role(process string) string {
	for _, p := range r.Report.Processes {
		if p.Name == process && p.Role != "" {
			return p.Role
		}
	}
	return process
}

// read returns a process's profile.
func (r *Run) read(process string, k Kind) (*profile.Profile, error) {
	path := filepath.Join(r.Dir, Folder, fileName(process, k))
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read a profile: %w", err)
	}
	defer f.Close()
	p, err := profile.Parse(f)
	if err != nil {
		return nil, fmt.Errorf("read the profile %s: %w", path, err)
	}
	return p, nil
}

// nearlyAll is the part of the measured phase that a profile must be of to count for all
// of it: what is missing then is less than what a phase's borders are off by.
const nearlyAll = 0.95

// deliveries returns how many arrived in the time that p is of.
func (r *Run) deliveries(p *profile.Profile) (float64, error) {
	d := &r.Report.Deliveries
	if d.Measured.Delivered <= 0 || d.Seconds <= 0 {
		return 0, fmt.Errorf("%s counts no deliveries, so nothing can be said per delivery", r.Dir)
	}
	took := time.Duration(p.DurationNanos).Seconds()
	if took <= 0 {
		return 0, fmt.Errorf("a profile of %s does not say what time it is of", r.Dir)
	}
	if took < nearlyAll*d.Seconds || took > d.Seconds/nearlyAll {
		begin := time.Unix(0, p.TimeNanos).Sub(r.Report.Started).Seconds()
		from, _ := r.deliveredUntil(begin)
		if until, ok := r.deliveredUntil(begin + took); ok && until > from {
			return until - from, nil
		}
	}
	// At the rate of the whole phase.
	return min(float64(d.Measured.Delivered)*took/d.Seconds, float64(d.Measured.Delivered+d.WarmUp.Delivered)), nil
}

// deliveredUntil returns how many had arrived by a moment, in seconds since the run's start:
// between two samples as many as of the time between them has passed. ok is false where the
// timeline says nothing.
func (r *Run) deliveredUntil(at float64) (n float64, ok bool) {
	points := r.Report.Timeline
	if len(points) == 0 {
		return 0, false
	}
	// The first sample is at the end of its second. What came behind the last one is known
	// from the ledger, and came within a second, or there were one more.
	first, last := points[0], points[len(points)-1]
	if at <= first.At {
		return float64(first.Deliveries) * max(0, at-first.At+1), true
	}
	if at > last.At {
		d := &r.Report.Deliveries
		rest := max(0, d.Measured.Delivered+d.WarmUp.Delivered-last.Deliveries)
		return float64(last.Deliveries) + float64(rest)*min(1, at-last.At), true
	}
	i := slices.IndexFunc(points, func(s report.Second) bool { return s.At >= at })
	before, after := points[i-1], points[i]
	part := (at - before.At) / (after.At - before.At)
	return float64(before.Deliveries) + part*float64(after.Deliveries-before.Deliveries), true
}

// clients returns how many were connected.
func (r *Run) clients() (float64, error) {
	if n := r.Report.Clients.Joined; n > 0 {
		return float64(n), nil
	}
	return 0, fmt.Errorf("%s had no clients, so nothing can be said per client", r.Dir)
}
