package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// GoBench writes r in the format of Go's benchmarks, so that benchstat reads it: one line
// with every figure that r has, each under its own name as the unit. The files of several
// runs can be appended to each other.
// See https://go.googlesource.com/proposal/+/master/design/14313-benchmark-format.md.
func GoBench(w io.Writer, r *Run) error {
	e := &errWriter{w: w}
	for _, kv := range [][2]string{
		{"cpu", r.Environment.CPU}, {"cores", strconv.Itoa(r.Environment.Cores)}, {"kernel", r.Environment.Kernel},
		{"go", r.Environment.Go}, {"commit", r.Environment.Commit}, {"scenario", r.Scenario.Name},
		{"set", strings.Join(r.Scenario.Overrides, ", ")}, {"verdict", r.Verdict.Status},
	} {
		if kv[1] != "" {
			e.printf("%s: %s\n", kv[0], kv[1])
		}
	}
	var line strings.Builder
	for _, f := range FiguresOf(r) {
		v, ok := f.Of(r)
		if !ok {
			continue
		}
		if f.Better != Neither {
			better := "lower"
			if f.Better == More {
				better = "higher"
			}
			e.printf("Unit %s better=%s\n", f.benchUnit(), better)
		}
		fmt.Fprintf(&line, " %s %s", strconv.FormatFloat(v*f.benchScale(), 'g', 8, 64), f.benchUnit())
	}
	e.printf("%s 1%s\n", benchName(r.Scenario.Name), line.String())
	return e.err
}

// benchUnit is the figure's name with what its value is in, where that is a unit. It has no
// spaces, which the name of a line of pushes may have.
func (f Figure) benchUnit() string {
	name := strings.Join(strings.Fields(f.Name), "_")
	switch f.Unit {
	case Seconds:
		return name + "-ns"
	case Bytes:
		return name + "-B"
	case Rate:
		return name + "/s"
	default:
		return name
	}
}

func (f Figure) benchScale() float64 {
	if f.Unit == Seconds {
		return 1e9
	}
	return 1
}

// benchName makes BenchmarkRoom10k of room-10k.
func benchName(scenario string) string {
	var b strings.Builder
	b.WriteString("Benchmark")
	upper := true
	for _, r := range scenario {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			upper = true
			continue
		}
		if upper {
			r = unicode.ToUpper(r)
		}
		b.WriteRune(r)
		upper = false
	}
	return b.String()
}
