package cluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

// memory returns what a process without metrics says of its memory: Go's own statistics at
// the end of its heap profile, under their names in metrics.
func (p *Process) memory(ctx context.Context) (Metrics, error) {
	body, err := p.fetch(ctx, "its heap", p.pages[0].URL+"/heap?debug=1")
	if err != nil {
		return nil, err
	}
	m := Metrics{}
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " = ")
		if series := memoryNames[name]; ok && series != "" {
			// Stack's is "in use / from the system".
			value, _, _ = strings.Cut(value, " / ")
			if v, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				m[series] = v
			}
		}
	}
	if len(m) == 0 {
		return nil, fmt.Errorf("%s: its heap profile has no statistics of Go's at its end", p.Name)
	}
	return m, nil
}

// memoryNames are the names in metrics of the lines that count.
var memoryNames = map[string]string{
	"# HeapInuse": "go_memstats_heap_inuse_bytes",
	"# Stack":     "go_memstats_stack_inuse_bytes",
}

// ProfileCPU returns the processor time that a process of which only profiles are known uses
// in the next d, by a CPU profile of its own. That takes d, and costs the process about a
// hundredth.
func (p *Process) ProfileCPU(ctx context.Context, d time.Duration) (time.Duration, error) {
	seconds := max(1, int(d.Round(time.Second).Seconds()))
	slow := &Process{Name: p.Name, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+profileTimeout)
	defer cancel()
	body, err := slow.fetch(ctx, "a CPU profile", fmt.Sprintf("%s/profile?seconds=%d", p.pages[0].URL, seconds))
	if err != nil {
		return 0, err
	}
	parsed, err := profile.ParseData(body)
	if err != nil {
		return 0, fmt.Errorf("CPU profile of %s: %w", p.Name, err)
	}
	for i, kind := range parsed.SampleType {
		if kind.Type != "cpu" || kind.Unit != "nanoseconds" {
			continue
		}
		sum := int64(0)
		for _, s := range parsed.Sample {
			sum += s.Value[i]
		}
		// Of a profile that isn't exactly as long as d.
		if took := parsed.DurationNanos; took > 0 {
			sum = int64(float64(sum) * float64(d) / float64(took))
		}
		return time.Duration(sum), nil
	}
	return 0, fmt.Errorf("CPU profile of %s: it has no CPU time", p.Name)
}

// profileTimeout is how much longer than it is long a profile may take.
const profileTimeout = 10 * time.Second
