// Package profile says where processor time, memory and waiting go, per delivery: it takes
// profiles of all processes of a run, files them with the run's result, and later adds
// them up by function, holds one run's against another's, and draws them as flame graphs.
// In come pprof profiles over HTTP and run.json; out go .pb.gz files that go tool pprof
// opens, tables, and self-contained HTML pages.
package profile

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/pprof/profile"

	"barrage/harness/report"
)

// Folder is where a run's profiles lie in its folder of results.
const Folder = "profiles"

// extension ends the names of profiles, behind process and kind: comet-1.cpu.pb.gz.
const extension = ".pb.gz"

// fileName names the profile of a process.
func fileName(process string, k Kind) string { return process + "." + string(k) + extension }

// parseFileName undoes fileName; ok is false for what is no profile of ours.
func parseFileName(name string) (process string, k Kind, ok bool) {
	base, ok := strings.CutSuffix(name, extension)
	if !ok {
		return "", "", false
	}
	dot := strings.LastIndexByte(base, '.')
	if dot <= 0 {
		return "", "", false
	}
	k, err := ParseKind(base[dot+1:])
	return base[:dot], k, err == nil
}

// Labels say what a profile is of, inside the profile.
type Labels struct {
	Scenario string
	Commit   string // of the binary under test; "" where unknown
}

// label writes the labels into p: to each sample, so that go tool pprof tells the
// processes of several files apart (-tagfocus process=comet-1), and as comments, which a
// profile without samples keeps too.
func (l Labels) label(p *profile.Profile, process string) {
	for _, pair := range [][2]string{{"scenario", l.Scenario}, {"process", process}, {"commit", l.Commit}} {
		if pair[1] == "" {
			continue
		}
		p.SetLabel(pair[0], []string{pair[1]})
		p.Comments = append(p.Comments, pair[0]+": "+pair[1])
	}
}

// save writes p, labelled, into dir and returns the file's path.
func save(p *profile.Profile, dir, process string, k Kind, l Labels) (string, error) {
	l.label(p, process)
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		return "", fmt.Errorf("encode the %s profile: %w", k, err)
	}
	path := filepath.Join(dir, fileName(process, k))
	if err := report.WriteFile(path, b.Bytes()); err != nil {
		return "", err
	}
	return path, nil
}

// minus returns what p's values of the named types grew by since base, without the types
// that are not named.
func minus(p, base *profile.Profile, types ...string) (*profile.Profile, error) {
	for _, q := range []*profile.Profile{p, base} {
		if err := keep(q, types); err != nil {
			return nil, err
		}
	}
	base.Scale(-1)
	d, err := profile.Merge([]*profile.Profile{p, base})
	if err != nil {
		return nil, fmt.Errorf("subtract what had been before: %w", err)
	}
	// What the estimates of two moments make less than nothing was nothing.
	some := d.Sample[:0]
	for _, s := range d.Sample {
		positive := false
		for i := range s.Value {
			s.Value[i] = max(0, s.Value[i])
			positive = positive || s.Value[i] > 0
		}
		if positive {
			some = append(some, s)
		}
	}
	d.Sample = some
	return d, nil
}

// keep removes all values but those of the named types, which then have types' order.
func keep(p *profile.Profile, types []string) error {
	var columns []int
	var kept []*profile.ValueType
	for _, name := range types {
		for i, t := range p.SampleType {
			if t.Type == name {
				columns, kept = append(columns, i), append(kept, t)
			}
		}
	}
	if len(kept) != len(types) {
		return fmt.Errorf("it lacks one of the values %s", strings.Join(types, ", "))
	}
	for _, s := range p.Sample {
		values := make([]int64, len(columns))
		for i, c := range columns {
			values[i] = s.Value[c]
		}
		s.Value = values
	}
	p.SampleType, p.DefaultSampleType = kept, ""
	return nil
}
