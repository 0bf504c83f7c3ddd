package report

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"barrage/harness/page/pagetest"
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
		// A sweep for each push to 10,000 clients; a write carries more frames as the run goes on.
		sweeps := int64(10 * max(0, i-6))
		s.Sweeps = &Sweeps{Sweeps: sweeps, Frames: 10_000 * sweeps, Writes: 10_000*sweeps - 100*sweeps*sweeps/10}
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

// The page is whole in a browser, at a desktop's and a phone's width, light and dark:
// nothing is cut off, and nothing is missing.
func TestPageInABrowser(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, busyExample()); err != nil {
		t.Fatal(err)
	}
	pagetest.Whole(t, b.Bytes(), `document.querySelector(".verdict").innerText, document.querySelectorAll("figure > svg").length + " charts"`, "GOOD; 8 charts")
}
