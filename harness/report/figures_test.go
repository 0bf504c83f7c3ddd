package report

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"
)

// twoLines is a run with a line of pushes to big rooms and one to small ones.
func twoLines() *Run {
	r := example()
	big, small := r.Pushes.Lines[0], r.Pushes.Lines[0]
	big.Name, big.Latency = "big", percentiles(1000, 0.03)
	small.Name, small.Latency = "the small.p99", percentiles(1000, 0.001)
	r.Pushes.Lines = []PushLine{big, small}
	return r
}

func TestFiguresOfALine(t *testing.T) {
	twice, silent := twoLines(), twoLines()
	twice.Pushes.Lines[1].Name = "big"
	silent.Pushes.Lines[0].Latency = Percentiles{}
	for _, c := range []struct {
		name   string
		run    *Run
		figure string
		want   float64 // 0: the run doesn't have it
	}{
		{"median", twoLines(), "latency.line.big.p50", 0.03},
		{"p99", twoLines(), "latency.line.big.p99", 0.3},
		{"a name with a dot and a space", twoLines(), "latency.line.the small.p99.max", 0.03325},
		{"another line's name", twoLines(), "latency.line.small.p99", 0},
		{"two lines of the name", twice, "latency.line.big.p99", 0},
		{"a line that nothing arrived of", silent, "latency.line.big.p99", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, known := FindFigure(c.figure)
			if !known || f.Name != c.figure || f.Unit != Seconds || f.Better != Less {
				t.Fatalf("figure %+v, %v", f, known)
			}
			if got, ok := f.Of(c.run); ok != (c.want > 0) || ok && (got < c.want*0.999 || got > c.want*1.001) {
				t.Errorf("%v, %v, want %v", got, ok, c.want)
			}
		})
	}
	for _, name := range []string{"latency.line.p99", "latency.line..p99", "latency.line.big", "latency.line.big.p98", "latency.big.p99"} {
		if f, ok := FindFigure(name); ok {
			t.Errorf("%s is %+v", name, f)
		}
	}
}

// The lines' figures are listed where there are several lines, or something is expected of one.
func TestFiguresOf(t *testing.T) {
	expected := example()
	expected.Verdict.Checks = append(expected.Verdict.Checks, Threshold{"latency.line.room.p99", AtMost, 1}.Check(expected))
	for _, c := range []struct {
		name string
		runs []*Run
		want []string
	}{
		{"no run", nil, nil},
		{"one line", []*Run{example()}, nil},
		{"one line of which something is expected", []*Run{expected}, []string{"latency.line.room.p99"}},
		{"several", []*Run{twoLines(), example(), twoLines()}, []string{"latency.line.big.p99", "latency.line.the small.p99.p99"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, f := range FiguresOf(c.runs...) {
				if _, ok := LineOf(f.Name); ok && f.Primary {
					got = append(got, f.Name)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Whatever shows a run shows what is expected of a line, and benchstat's reader takes it.
func TestALineIsShown(t *testing.T) {
	r := twoLines()
	r.Verdict.Checks = append(r.Verdict.Checks, Threshold{"latency.line.the small.p99.p50", Below, 0.002}.Check(r))
	var page, markdown, text, bench bytes.Buffer
	if err := HTML(&page, r); err != nil {
		t.Fatal(err)
	}
	if err := Markdown(&markdown, r); err != nil {
		t.Fatal(err)
	}
	if err := Text(&text, r, Style{}); err != nil {
		t.Fatal(err)
	}
	if err := GoBench(&bench, r); err != nil {
		t.Fatal(err)
	}
	for name, shown := range map[string]string{"page": page.String(), "summary": markdown.String(), "text": text.String()} {
		if !strings.Contains(shown, "latency.line.the small.p99.p50") {
			t.Errorf("the %s doesn't show what is expected:\n%s", name, shown)
		}
	}
	reader := benchfmt.NewReader(&bench, "bench.txt")
	for reader.Scan() {
		if rec, ok := reader.Result().(*benchfmt.Result); ok {
			if got, ok := rec.Value("latency.line.the_small.p99.p50-sec"); !ok || got != 0.001 {
				t.Errorf("bench.txt has %v, %v", got, ok)
			}
		}
	}
	if err := reader.Err(); err != nil {
		t.Error(err)
	}
}
