package live

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vbauerster/mpb/v8"

	"barrage/harness/live/livetest"
)

// Lines for a log: one for each phase, and one for a sample every few seconds.
func TestPlain(t *testing.T) {
	var b strings.Builder
	v := Plain(&b).(*plain)
	v.Phase(Start, "services, logic, job and 1 comet(s)")
	v.Phase(Connect, "")
	v.last = v.last.Add(-plainEvery)
	v.Sample(sample(1))
	v.Phase(Measure, "")
	v.Sample(sample(2)) // too soon
	v.last = v.last.Add(-plainEvery)
	v.Sample(sample(4))
	v.Warn("metrics: nobody is there")
	v.Phase(Ceiling, "plain sends of 330 B to 200 sockets")
	v.Close()
	want := `   0.0s  start    services, logic, job and 1 comet(s)
   0.0s  connect  
   0.0s  connect  1100 of 1200 clients, 4 failed
   0.0s  measure  
   0.0s  measure  1000 deliveries/s, p50 50.1 ms, p99 99.1 ms; comet 0.25 cores, busiest swarm thread 50%
   0.0s  measure  warning: metrics: nobody is there
   0.0s  ceiling  plain sends of 330 B to 200 sockets
`
	got := regexp.MustCompile(`(?m)^ *\d+\.\ds`).ReplaceAllString(b.String(), "   0.0s")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

var phases = []Phase{
	{Name: Start, Length: 4 * time.Second, About: true}, {Name: Connect, Length: time.Second, About: true}, {Name: WarmUp, Length: 3 * time.Second},
	{Name: Measure, Length: time.Hour}, {Name: Drain, Length: 10 * time.Second, AtMost: true},
}

// drawn draws, and returns when what stood to be drawn is on the screen: the third is taken
// when the second is under way, so the first is done.
func drawn(draw chan<- any) {
	for range 3 {
		draw <- time.Now()
	}
}

// What is drawn stands in place, what is over stands above it, and at the end nothing is
// left of the drawing.
func TestTerminal(t *testing.T) {
	screen := livetest.NewScreen(t, 100, 30)
	draw := make(chan any)
	v := newTerminal(screen, phases, mpb.WithManualRefresh(draw), mpb.WithConsoleWriter(screen.Console()))
	v.Phase(Start, "services, logic, job and 1 comet(s)")
	draw <- time.Now()
	v.Phase(Connect, "")
	v.Sample(sample(1))
	draw <- time.Now()
	v.Sample(sample(2))
	v.Phase(Measure, "")
	v.Sample(sample(3))
	drawn(draw)
	v.Warn("metrics: nobody is there")
	v.Sample(sample(4))
	drawn(draw)
	text := screen.Text()
	for _, want := range []string{
		`(?m)^ +\d+\.\ds  start    services, logic, job and 1 comet\(s\)$`,
		`(?m)^ +\d+\.\ds  connect$`,
		`(?m)^ +\d+\.\ds  measure  warning: metrics: nobody is there$`,
		`(?m)^measure +\[[=>]* +\]  1h0m0s left$`,
		`(?m)^phases      start   connect   warm-up  \[measure\]  drain$`,
		`(?m)^clients    1,099 of 1,200 connected, 4 failed, 1 lost their connection$`,
		`(?m)^deliveries 1,000/s   p50 50\.1 ms   p99 99\.1 ms$`,
		`(?m)^order      7 missing, 5 duplicate, 6 reordered$`,
		`(?m)^cores      comet-1 0\.25  harness 0\.50; busiest swarm thread 50%$`,
	} {
		if len(regexp.MustCompile(want).FindAllString(text, -1)) != 1 {
			t.Errorf("%s is not there once in\n%s", want, text)
		}
	}
	v.Close()
	v.Close()
	v.Phase(Drain, "after the end")
	v.Warn("after the end")
	text = screen.Text()
	if strings.Contains(text, "[") || strings.Contains(text, "order  ") || strings.Contains(text, "after the end") || !screen.AtLineStart() {
		t.Errorf("after the end:\n%s", text)
	}
	if lines := strings.Count(text, "\n"); lines != 4 {
		t.Errorf("%d lines are left, want one for each phase and the warning:\n%s", lines, text)
	}
}

// A narrow terminal cuts lines instead of breaking them, or the drawing would climb.
func TestNarrowTerminal(t *testing.T) {
	screen := livetest.NewScreen(t, 40, 30)
	draw := make(chan any)
	v := newTerminal(screen, phases, mpb.WithManualRefresh(draw), mpb.WithConsoleWriter(screen.Console()))
	v.Phase(Measure, "")
	v.Sample(sample(3))
	drawn(draw)
	drawn(draw)
	if text := screen.Text(); strings.Count(text, "\n") > 6 || strings.Count(text, "phases") != 1 {
		t.Errorf("drew\n%s", text)
	}
	v.Close()
}

func TestHowLongAPhaseStillTakes(t *testing.T) {
	at := began
	connecting := sample(1) // 1104 of 1200 have come to an end
	for _, c := range []struct {
		name  string
		scene scene
		after time.Duration
		done  float64
		left  string
	}{
		{"of a known length", scene{phase: Phase{Name: Measure, Length: 10 * time.Second}}, 2500 * time.Millisecond, 0.25, "  8s left"},
		{"an estimate", scene{phase: Phase{Name: Start, Length: 4 * time.Second, About: true}}, time.Second, 0.25, "  about 3s left"},
		{"longer than the estimate", scene{phase: Phase{Name: Start, Length: 4 * time.Second, About: true}}, 5 * time.Second, 1, "  any moment"},
		{"a limit", scene{phase: Phase{Name: Drain, Length: 10 * time.Second, AtMost: true}}, 0, 0, "  at most 10s left"},
		{"without a length", scene{phase: Phase{Name: Stop}}, time.Second, 0, ""},
		{"connecting", scene{phase: Phase{Name: Connect, Length: time.Hour, About: true}, now: connecting}, 23 * time.Second, 0.92, "  about 2s left"},
		{"connecting, before the first sample", scene{phase: Phase{Name: Connect, Length: 3 * time.Second, About: true}}, 0, 0, "  about 3s left"},
	} {
		c.scene.entered = at
		if done, left := c.scene.done(at.Add(c.after)), c.scene.left(at.Add(c.after)); done != c.done || left != c.left {
			t.Errorf("%s: %v done, %q; want %v, %q", c.name, done, left, c.done, c.left)
		}
	}
}
