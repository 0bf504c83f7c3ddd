package scenario

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"barrage/harness/report"
)

// Bounds are what makes a run invalid: past one of them the harness or the machine, and not
// the server, may have made the figures.
type Bounds struct {
	SwarmBusy      float64       // mean busy fraction of the busiest swarm thread, measured phase
	Starved        float64       // mean fraction of the time in which a swarm thread had work and no processor, measured phase
	ReadLag        float64       // 99th percentile of the swarm's read lag, as a fraction of the latency's
	Hiccups        float64       // fraction of the measured phase in which the harness or an agent stood still, in gaps of 50 ms and more
	PusherLag      time.Duration // 99th percentile of a push's lateness
	OtherCPU       float64       // CPU time of processes that are not part of the run, as a fraction of the machine's
	Steal          float64       // CPU time that the hypervisor gave to others, as a fraction of the machine's
	MemoryWait     float64       // fraction of the time in which tasks waited for memory (PSI)
	PacketsDropped float64       // packets that the machine dropped before any socket had them, as a fraction of all that came in
	ClockError     float64       // by how much an agent's clock may put latencies wrong, as a fraction of their median; 1 ms is always accepted
}

// DefaultBounds hold where a scenario says nothing.
func DefaultBounds() Bounds {
	return readBounds(new(reader).object(nil, "valid"))
}

func readBounds(o *object) Bounds {
	b := Bounds{
		SwarmBusy:      scalar(o, "swarm_busy", fraction),
		Starved:        scalar(o, "swarm_starved", fraction),
		ReadLag:        scalar(o, "read_lag", fraction),
		Hiccups:        scalar(o, "hiccups", fraction),
		PusherLag:      scalar(o, "pusher_lag", duration),
		OtherCPU:       scalar(o, "other_cpu", fraction),
		Steal:          scalar(o, "steal", fraction),
		MemoryWait:     scalar(o, "memory_wait", fraction),
		PacketsDropped: scalar(o, "packets_dropped", fraction),
		ClockError:     scalar(o, "clock_error", fraction),
	}
	o.done()
	return b
}

// exact are the figures that a scenario expects to be 0 when it says nothing of them.
var exact = []string{"lost", "duplicate", "reordered"}

// readExpect reads thresholds, by the names of report's figures, those of the lines of pushes
// among them.
func readExpect(o *object, pushes []Push) []report.Threshold {
	var list []report.Threshold
	for _, name := range exact {
		if o.fields[name] == nil {
			list = append(list, report.Threshold{Figure: name, Relation: report.AtMost})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.fields)) {
		f, known := report.FindFigure(name)
		if !known {
			continue // done names it, and the nearest that is known
		}
		if line, ok := report.LineOf(name); ok {
			if err := oneLine(line, pushes); err != nil {
				o.problem(name, "%v", err)
				delete(o.fields, name) // done would report it again
				continue
			}
		}
		text := o.text(name, "")
		t, err := parseThreshold(f, text)
		if err != nil {
			o.problem(name, "%v", err)
			continue
		}
		list = append(list, t)
	}
	order := report.FigureNames(lineNames(pushes)...)
	o.asked = order
	o.done()
	slices.SortFunc(list, func(a, b report.Threshold) int {
		return slices.Index(order, a.Figure) - slices.Index(order, b.Figure)
	})
	return list
}

// lineNames returns the names of lines of pushes, each once.
func lineNames(pushes []Push) (names []string) {
	for _, p := range pushes {
		if !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
	}
	return names
}

// oneLine is an error unless exactly one line of pushes has the name.
func oneLine(name string, pushes []Push) error {
	n := 0
	for _, p := range pushes {
		if p.Name == name {
			n++
		}
	}
	switch n {
	case 0:
		return fmt.Errorf("there is no line of pushes with the name %q; there are %s", name, strings.Join(lineNames(pushes), ", "))
	case 1:
		return nil
	default:
		return fmt.Errorf("%d lines of pushes have the name %q; give each its own (pushes.*.name)", n, name)
	}
}

// parseThreshold reads "<= 50ms". A value alone is the most that is accepted, or the least
// where more is better.
func parseThreshold(f report.Figure, text string) (report.Threshold, error) {
	t := report.Threshold{Figure: f.Name, Relation: report.AtMost}
	if f.Better == report.More {
		t.Relation = report.AtLeast
	}
	rest := strings.TrimSpace(text)
	for _, r := range []report.Relation{report.AtMost, report.AtLeast, "==", report.Below, report.Above, report.Equal} {
		if cut, ok := strings.CutPrefix(rest, string(r)); ok {
			rest, t.Relation = strings.TrimSpace(cut), r
			if r == "==" {
				t.Relation = report.Equal
			}
			break
		}
	}
	v, err := parseFigure(f.Unit, rest)
	if err != nil {
		return t, fmt.Errorf("%q is no threshold: %w", text, err)
	}
	t.Value = v
	return t, nil
}

// parseFigure reads a value in a figure's unit.
func parseFigure(u report.Unit, text string) (float64, error) {
	number := func(example string) (float64, error) {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			return 0, fmt.Errorf("write it as %s", example)
		}
		return v, nil
	}
	switch u {
	case report.Seconds:
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return 0, fmt.Errorf("write it as <= 50ms")
		}
		return d.Seconds(), nil
	case report.Bytes:
		n, err := parseSize(text)
		if err != nil {
			return 0, fmt.Errorf("write it as <= 4KiB")
		}
		return float64(n), nil
	case report.Rate:
		v, err := parseRate(text)
		if err != nil || v < 0 {
			return 0, fmt.Errorf("write it as >= 1000/s")
		}
		return v, nil
	case report.Fraction:
		if n, ok := strings.CutSuffix(text, "%"); ok {
			text = strings.TrimSpace(n)
			v, err := number("90%")
			return v / 100, err
		}
		return number(">= 0.9, or >= 90%")
	case report.Factor:
		return number("<= 1.5")
	default:
		return number("0, or <= 10")
	}
}

// comparison is a YAML value that begins with the sign >, which YAML itself takes for the
// beginning of a folded text, although nothing but a number stands behind it.
var comparison = regexp.MustCompile(`(:[ \t]+)(>=?[ \t]*[0-9.][^,}#\n"']*?)([ \t]*(?:[,}#\n]|$))`)

// quoteComparisons makes the comparisons of text YAML, and leaves its lines as they are.
func quoteComparisons(text []byte) []byte {
	return comparison.ReplaceAll(text, []byte(`$1"$2"$3`))
}
