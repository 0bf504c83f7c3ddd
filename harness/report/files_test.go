package report

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/perf/benchfmt"
	"golang.org/x/sys/unix"
)

func TestMarkdown(t *testing.T) {
	for name, r := range map[string]*Run{"good.md": example(), "bad.md": badExample(), "target.md": knownTargetExample(false)} {
		var b bytes.Buffer
		if err := Markdown(&b, r); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
	}
}

func TestShown(t *testing.T) {
	for text, want := range map[string]string{
		"metrics: {pushgateway: 'https://me:secret@push.example.com/x', every: 5s}": "metrics: {pushgateway: 'https://xxxxx@push.example.com/x', every: 5s}",
		"metrics.remote_write=http://token@10.0.0.1:9090/api?a=b@c":                 "metrics.remote_write=http://xxxxx@10.0.0.1:9090/api?a=b@c",
		"tcp=a:1,metrics=job@https://u:p@a/x,metrics=http://b:7/m@x":                "tcp=a:1,metrics=job@https://xxxxx@a/x,metrics=http://b:7/m@x",
		"live://1000": "live://1000",
	} {
		if got := Shown(text); got != want {
			t.Errorf("%s\nis  %s\nnot %s", text, got, want)
		}
	}
	if got := ShownAll(nil); got == nil || len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestCommandLine(t *testing.T) {
	got := CommandLine([]string{"barrage", "bench", "-set", "expect.latency.p99=<= 5ms", "it's", "", "room-10k"})
	if want := `barrage bench -set 'expect.latency.p99=<= 5ms' 'it'\''s' '' room-10k`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What benchstat's own reader makes of bench.txt is what the run says.
func TestGoBench(t *testing.T) {
	r := example()
	var b bytes.Buffer
	if err := GoBench(&b, r); err != nil {
		t.Fatal(err)
	}
	golden(t, "bench.txt", b.Bytes())
	reader := benchfmt.NewReader(&b, "bench.txt")
	results := 0
	better := map[string]string{}
	for reader.Scan() {
		switch rec := reader.Result().(type) {
		case *benchfmt.SyntaxError:
			t.Fatal(rec)
		case *benchfmt.UnitMetadata:
			better[rec.Unit] = rec.Value
		case *benchfmt.Result:
			results++
			if string(rec.Name) != "Room10k" || rec.GetConfig("commit") != r.Environment.Commit || rec.GetConfig("scenario") != "room-10k" {
				t.Errorf("%s of %s", rec.Name, rec.GetConfig("commit"))
			}
			for unit, want := range map[string]float64{
				"latency.p99-sec": 0.3, "lost": 0, "server.deliveries_per_cpu_second": 116_279, "comet.memory_per_connection-B": 3500,
				"deliveries.per_second/s": 99_502.5, "ceiling.fraction": 0.9375,
			} {
				if got, ok := rec.Value(unit); !ok || math.Abs(got-want) > 1e-6*want {
					t.Errorf("%s is %v (%v), want %v", unit, got, ok, want)
				}
			}
		}
	}
	if err := reader.Err(); err != nil || results != 1 {
		t.Errorf("%d results, %v", results, err)
	}
	if better["latency.p99-sec"] != "lower" || better["server.deliveries_per_cpu_second"] != "higher" {
		t.Errorf("better: %v", better)
	}
}

// uniform has a value each millisecond from 1 to 1000 ms.
func uniform(t *testing.T) *hdrhistogram.Histogram {
	t.Helper()
	h := hdrhistogram.New(1000, int64(time.Minute), 3)
	for ms := range 1000 {
		if err := h.RecordValue(int64(ms+1) * 1e6); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func TestHDRLog(t *testing.T) {
	h, r := uniform(t), example()
	r.Verdict.Invalidate("the swarm was\nsaturated")
	r.Verdict.Fail("5 deliveries lost")
	var b bytes.Buffer
	if err := HDRLog(&b, r, []NamedHistogram{{"all", h}, {"tcp", nil}, {"websocket", h}}); err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(b.String(), "#[StartTime")
	if want := "\n#[Verdict: INVALID: the swarm was saturated; 5 deliveries lost]\n"; !strings.HasSuffix(head, want) {
		t.Errorf("begins with %q, want %q in it", head, want)
	}
	reader := hdrhistogram.NewHistogramLogReader(&b)
	for _, tag := range []string{"all", "websocket"} {
		got, err := reader.NextIntervalHistogram()
		if err != nil || got == nil {
			t.Fatalf("%v, %v", got, err)
		}
		if got.Tag() != tag || got.TotalCount() != 1000 || got.ValueAtQuantile(50) != h.ValueAtQuantile(50) || got.Max() != h.Max() {
			t.Errorf("%s: %d values, median %d, most %d", got.Tag(), got.TotalCount(), got.ValueAtQuantile(50), got.Max())
		}
	}
	if more, _ := reader.NextIntervalHistogram(); more != nil {
		t.Error("a third histogram")
	}
	if h.Tag() != "" {
		t.Error("the caller's histogram was changed")
	}
}

// Readers of percentile tables (HdrHistogram's plotFiles.html, hdr-plot) take lines of four
// numbers, and leave out what begins with #.
func TestPercentileTable(t *testing.T) {
	r := example()
	r.Verdict.Invalidate("the swarm was saturated")
	var b bytes.Buffer
	if err := PercentileTable(&b, r, uniform(t)); err != nil {
		t.Fatal(err)
	}
	verdict, table, _ := strings.Cut(b.String(), "\n")
	if want := "#[Verdict: INVALID: the swarm was saturated]"; verdict != want {
		t.Errorf("begins with %q, want %q", verdict, want)
	}
	if !strings.Contains(table, "Total count    =         1000") || !strings.Contains(table, "500.") {
		t.Error(table)
	}
	rows := 0
	for line := range strings.Lines(b.String()) {
		if f := strings.Fields(line); line[0] != '#' && len(f) == 4 {
			if _, err := strconv.ParseFloat(f[0], 64); err == nil {
				rows++
			}
		}
	}
	if want := len(CurveOf(uniform(t))); rows != want {
		t.Errorf("%d rows, want %d", rows, want)
	}
	b.Reset()
	if err := PercentileTable(&b, r, nil); err != nil || b.Len() != 0 {
		t.Errorf("nothing measured: %q, %v", b.String(), err)
	}
}

func TestCurve(t *testing.T) {
	curve := CurveOf(uniform(t))
	if len(curve) < 20 || len(curve) > 100 {
		t.Errorf("%d points", len(curve))
	}
	for i, p := range curve {
		if want := p.Quantile; math.Abs(p.Seconds-want) > 0.02 && p.Quantile > 0.01 {
			t.Errorf("at %v: %v s", p.Quantile, p.Seconds)
		}
		if i > 0 && (p.Quantile < curve[i-1].Quantile || p.Seconds < curve[i-1].Seconds) {
			t.Errorf("point %d goes back: %v behind %v", i, p, curve[i-1])
		}
	}
	if last := curve[len(curve)-1]; last.Quantile != 1 {
		t.Errorf("ends at %v", last)
	}
	if got := CurveOf(nil); got == nil || len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestHeat(t *testing.T) {
	for _, c := range []struct {
		seconds float64
		bucket  int
	}{{0, 0}, {50e-6, 0}, {100e-6, 0}, {101e-6, 1}, {1e-3, 10}, {1.01e-3, 11}, {0.1, 30}, {1, 40}, {100, 60}, {1e6, heatBuckets - 1}} {
		if got := heatBucket(c.seconds); got != c.bucket {
			t.Errorf("%v s is in bucket %d, want %d", c.seconds, got, c.bucket)
		}
	}
	heat := HeatOf(uniform(t))
	sum := int64(0)
	for _, n := range heat {
		sum += n
	}
	if sum != 1000 || len(heat) != 41 && len(heat) != 42 || slices.Max(heat) < 150 {
		t.Errorf("%v", heat)
	}
	if HeatOf(nil) != nil {
		t.Error("of nothing")
	}
}

// Where there is no room for a file the error says so, and neither it nor a part of it is left.
func TestWriteFileWithoutRoom(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	// What a file may have is the nearest thing to a full disk that needs no rights.
	small := limit
	small.Cur = 4096
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	err := WriteFile(filepath.Join(dir, "run.json"), make([]byte, 10_000))
	if restored := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); restored != nil {
		t.Fatal(restored)
	}
	if !errors.Is(err, unix.EFBIG) || !strings.HasPrefix(err.Error(), "write "+filepath.Join(dir, "run.json")) {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
