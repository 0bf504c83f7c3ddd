package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// busyExample is a run with everything that the page draws.
func busyExample() *Run {
	r := example()
	r.Latency.Curve = nil
	for i := range 60 {
		q := 1 - math.Pow(10, -float64(i)/12)
		r.Latency.Curve = append(r.Latency.Curve, Point{q, 0.02 + 0.05*float64(i)/12})
	}
	r.Timeline = nil
	for i := range 30 {
		phase := []string{"connect", "warm-up", "measure", "measure", "drain"}[i*5/30]
		s := Second{At: float64(i + 1), Phase: phase, Clients: int64(min(10_000, 2000*i)), Deliveries: int64(100_000 * max(0, i-6)), SwarmBusy: 0.4,
			CPUSeconds: map[string]float64{}, RSSBytes: map[string]int64{}}
		for k, p := range r.Processes {
			s.CPUSeconds[p.Name], s.RSSBytes[p.Name] = float64(i)*0.3*float64(k+1), int64(30+5*k+i)<<20
		}
		if phase == "measure" {
			s.Heat = make([]int64, 30+i%5)
			for b := 20; b < len(s.Heat); b++ {
				s.Heat[b] = int64(100 - 3*(b-24)*(b-24))
				s.Heat[b] = max(0, s.Heat[b])
			}
		}
		r.Timeline = append(r.Timeline, s)
	}
	return r
}

func TestHTML(t *testing.T) {
	invalid := busyExample()
	invalid.Verdict.Invalidate("the swarm was <b>saturated</b>")
	withAgents := busyExample()
	withAgents.Agents = exampleAgents()
	for name, c := range map[string]struct {
		run  *Run
		want []string
		not  []string
	}{
		"good":    {busyExample(), []string{`<span class="verdict good">GOOD</span>room-10k`, "<svg", "the ceiling", "barrage bench room-10k", "latency.p99", "&lt;= 400 ms", "Where a push's time goes", "barrage_comet_push_written_seconds"}, []string{"INVALID", "<script", "http://", "https://", "src="}},
		"invalid": {invalid, []string{`<span class="verdict invalid">INVALID</span>`, "of an INVALID run", "&lt;b&gt;saturated"}, []string{"<b>saturated"}},
		"target":  {targetExample(), []string{"not known", "what the target uses is not known (clients at 10.0.0.1:3101"}, []string{"barrage_comet"}},
		"bad":     {badExample(), []string{`<span class="verdict failed">FAILED</span>`, "9,990 of 10,000 clients connected"}, nil},
		"agents":  {withAgents, []string{">Agents <", "10.0.0.7:3121", "12.5 ppm", "-1.25 s", "210 us", "Another CPU, 8 cores", "same machine", "lost", "clock.error"}, nil},
		"nothing": {&Run{}, []string{"<html"}, []string{"NaN", "Inf"}},
	} {
		var b bytes.Buffer
		if err := HTML(&b, c.run); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: %s is not in the page", name, want)
			}
		}
		for _, not := range append(c.not, "NaN", "Infinity") {
			if strings.Contains(b.String(), not) {
				t.Errorf("%s: %s is in the page", name, not)
			}
		}
	}
}

func TestAxis(t *testing.T) {
	plain := func(v float64) string { return fmt.Sprint(v) }
	labels := func(a axis) string {
		var list []string
		for _, tick := range a.ticks {
			list = append(list, tick.label)
		}
		return strings.Join(list, " ")
	}
	for _, c := range []struct {
		values []float64
		log    bool
		want   string
	}{
		{[]float64{0, 10}, false, "0 2 4 6 8 10"},
		{[]float64{3, 7.2}, false, "0 2 4 6"},
		{[]float64{0}, false, "0 0.2 0.4 0.6000000000000001 0.8 1"},
		{[]float64{0.003, 0.3}, true, "0.001 0.01 0.1 1"},
		{[]float64{1}, true, "1 10"},
	} {
		a := axis{log: c.log, format: plain}
		a.fill(c.values)
		if got := labels(a); got != c.want {
			t.Errorf("%v: ticks %s, want %s", c.values, got, c.want)
		}
		for _, v := range c.values {
			if at := a.at(v); at < -1e-9 || at > 1+1e-9 {
				t.Errorf("%v of %v is at %v", v, c.values, at)
			}
		}
	}
}

// browser starts Chromium, or skips the test where there is none.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("needs a browser: neither chromium nor google-chrome is on the PATH")
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox)
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stopAllocator)
	ctx, stop := chromedp.NewContext(allocator)
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// The page is whole in a browser, at a desktop's and a phone's width, light and dark:
// nothing is cut off, and nothing is missing.
func TestPageInABrowser(t *testing.T) {
	ctx := browser(t)
	file := filepath.Join(t.TempDir(), "report.html")
	var b bytes.Buffer
	if err := HTML(&b, busyExample()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.Navigate("file://"+file)); err != nil {
		t.Fatal(err)
	}
	for _, width := range []int64{1280, 390} {
		for _, scheme := range []string{"light", "dark"} {
			_, errMedia := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			_, errSize := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
				Width: width, Height: 900, DeviceScaleFactor: 1, Mobile: width < 500})
			if err := errors.Join(errMedia, errSize); err != nil {
				t.Fatal(err)
			}
			got, err := chromedp.Run(ctx, chromedp.Evaluate[string](`[
				document.querySelector(".verdict").innerText,
				document.scrollingElement.scrollWidth > innerWidth ? "too wide" : "fits",
				document.querySelectorAll("figure > svg").length + " charts",
				[...document.querySelectorAll("figure > svg path.line")].filter(p => p.getTotalLength() < 50).length + " empty lines",
				getComputedStyle(document.body).backgroundColor,
			].join("; ")`))
			ground := map[string]string{"light": "rgb(251, 251, 250)", "dark": "rgb(20, 24, 27)"}[scheme]
			if want := "GOOD; fits; 6 charts; 0 empty lines; " + ground; err != nil || got != want {
				t.Errorf("width %d, %s: %s, %v, want %s", width, scheme, got, err, want)
			}
		}
	}
}
