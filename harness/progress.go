package harness

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"barrage/harness/cluster"
	"barrage/harness/report"
)

// progress tells a person how far a run is: on a terminal one line that is redrawn, else a
// line for each phase and one every few seconds.
type progress struct {
	terminal bool
	began    time.Time

	mu   sync.Mutex // guards what follows
	w    io.Writer
	open bool // the terminal's line is not ended yet
	last time.Time
}

const plainEvery = 5 * time.Second

func newProgress(w io.Writer, terminal bool) *progress {
	if w == nil {
		w = io.Discard
	}
	return &progress{w: w, terminal: terminal, began: time.Now()}
}

// phase says that a phase begins.
func (p *progress) phase(name, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLine()
	p.last = time.Now()
	p.write(name, what)
}

// tick says where the phase is.
func (p *progress) tick(name, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.terminal && time.Since(p.last) < plainEvery {
		return
	}
	p.last = time.Now()
	p.write(name, what)
}

// write writes a line. Nobody's report fails because of it.
func (p *progress) write(name, what string) {
	line := fmt.Sprintf("%6.1fs  %-8s %s", time.Since(p.began).Seconds(), name, what)
	if !p.terminal {
		fmt.Fprintln(p.w, line)
		return
	}
	// Without the terminal's line wrap, or a long line could not be redrawn.
	fmt.Fprintf(p.w, "\r\x1b[K\x1b[?7l%s\x1b[?7h", line)
	p.open = true
}

func (p *progress) endLine() {
	if p.open {
		fmt.Fprintln(p.w)
	}
	p.open = false
}

// end leaves the terminal at the start of a line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLine()
}

// timeline collects the samples of a run. Each phase has one goroutine that adds to it,
// and the phases don't overlap.
type timeline []report.Second

// watch samples the run once a second under the name of a phase, and shows each sample,
// until the returned function is called, which waits for it.
func (r *run) watch(phase string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	r.progress.phase(phase, "")
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				r.sample(phase)
			}
		}
	}()
	var once sync.Once
	return func() {
		once.Do(func() { close(quit) })
		<-done
	}
}

// sample adds a second to the timeline and shows it.
func (r *run) sample(phase string) {
	snap := r.swarm.Snapshot()
	s := report.Second{
		At: time.Since(r.began).Seconds(), Phase: phase, Clients: snap.Joined - snap.ClosedEarly, Deliveries: snap.Accepted,
		CPUSeconds: map[string]float64{}, RSSBytes: map[string]int64{},
	}
	if snap.Latency != nil && snap.Latency.TotalCount() > 0 {
		s.P50 = float64(snap.Latency.ValueAtQuantile(50)) / 1e9
		s.P99 = float64(snap.Latency.ValueAtQuantile(99)) / 1e9
		s.Heat = report.HeatOf(snap.Latency)
	}
	for _, t := range snap.Threads {
		s.SwarmBusy = max(s.SwarmBusy, t.Busy)
	}
	usage := r.cluster.Usage()
	if own, err := cluster.ReadUsage(os.Getpid()); err == nil {
		usage[harnessName] = own
	}
	for name, u := range usage {
		s.CPUSeconds[name], s.RSSBytes[name] = u.CPU().Seconds(), u.RSS
	}
	perSecond, comet := 0.0, 0.0
	if n := len(r.timeline); n > 0 {
		before := r.timeline[n-1]
		took := s.At - before.At
		perSecond = ratio(float64(s.Deliveries-before.Deliveries), took)
		for _, p := range r.cluster.Role(cluster.RoleComet) {
			comet += ratio(s.CPUSeconds[p.Name]-before.CPUSeconds[p.Name], took)
		}
	}
	r.timeline = append(r.timeline, s)
	if phase == "connect" {
		r.progress.tick(phase, fmt.Sprintf("%d of %d clients, %d failed", snap.Joined, snap.Clients, snap.Failed))
		return
	}
	latency := ""
	if s.P99 > 0 { // of measured pushes alone
		latency = fmt.Sprintf(", p50 %.1f ms, p99 %.1f ms", s.P50*1e3, s.P99*1e3)
	}
	r.progress.tick(phase, fmt.Sprintf("%.0f deliveries/s%s; comet %.2f cores, busiest swarm thread %.0f%%",
		perSecond, latency, comet, s.SwarmBusy*100))
}
