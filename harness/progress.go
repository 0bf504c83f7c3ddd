package harness

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"barrage/harness/cluster"
	"barrage/harness/ledger"
	"barrage/harness/live"
	"barrage/harness/pusher"
	"barrage/harness/report"
	"barrage/harness/swarm"
)

// progress tells how far a run is: a person, and Prometheus.
type progress struct {
	view    live.View
	metrics *live.Metrics
	sender  *live.Sender // nil where the scenario names no destination
	pushes  pusher.Progress
	end     func() (warnings []string) // shows the end; only the first call does anything
}

func newProgress(opt *Options, dir string, began time.Time) *progress {
	p := &progress{metrics: live.NewMetrics(live.Info{Scenario: opt.Scenario.Name, Commit: opt.Commit, Began: began})}
	switch {
	case opt.Progress == nil:
		p.view = live.Plain(io.Discard)
	case opt.Terminal:
		p.view = live.Terminal(opt.Progress, planned(opt))
	default:
		p.view = live.Plain(opt.Progress)
	}
	opt.Metrics.Show(p.metrics)
	if to := opt.Scenario.Metrics; to.Pushgateway != "" || to.RemoteWrite != "" {
		p.sender = live.Send(p.metrics, live.Destinations(to), labels(opt, dir), p.view.Warn)
	}
	p.end = sync.OnceValue(func() []string {
		p.metrics.SetPhase("")
		defer p.view.Close()
		return p.sender.Close()
	})
	return p
}

// labels tell the run's metrics from those of other machines and runs.
func labels(opt *Options, dir string) live.Labels {
	l := live.Labels{Run: dir}
	if within, err := filepath.Rel(opt.Results, dir); err == nil && filepath.IsLocal(within) {
		l.Run = within // smoke/20060102T150405Z
	}
	var err error
	if l.Instance, err = os.Hostname(); err != nil {
		l.Instance = "unknown"
	}
	return l
}

// planned returns the phases that a run is going to have.
func planned(opt *Options) []live.Phase {
	s := opt.Scenario
	list := []live.Phase{{Name: live.Start, Length: startTakes, About: true}}
	if opt.Target != nil {
		list[0] = live.Phase{Name: live.Target}
	}
	list = append(list,
		live.Phase{Name: live.Connect, Length: s.Clients.Connect.Takes(s.Clients.Count), About: true},
		live.Phase{Name: live.WarmUp, Length: s.Phases.Warmup},
		live.Phase{Name: live.Measure, Length: s.Phases.Measure},
		live.Phase{Name: live.Drain, Length: s.Phases.Drain, AtMost: true},
	)
	if opt.measuresCeiling() {
		list = append(list, live.Phase{Name: live.Ceiling, Length: ceilingTakes(s), About: true})
	}
	return list
}

// phase says that a phase begins.
func (p *progress) phase(name, what string) {
	p.metrics.SetPhase(name)
	p.view.Phase(name, what)
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
	now := r.show(snap)
	s := report.Second{
		At: time.Since(r.began).Seconds(), Phase: phase, Clients: now.Clients(), Deliveries: snap.Accepted,
		CPUSeconds: map[string]float64{}, RSSBytes: map[string]int64{},
	}
	if snap.Latency != nil && snap.Latency.TotalCount() > 0 {
		s.P50 = float64(snap.Latency.ValueAtQuantile(50)) / 1e9
		s.P99 = float64(snap.Latency.ValueAtQuantile(99)) / 1e9
		s.Heat = report.HeatOf(snap.Latency)
	}
	for _, t := range snap.Threads {
		s.SwarmBusy, s.Starved = max(s.SwarmBusy, t.Busy), max(s.Starved, t.Starved)
	}
	for _, p := range now.Processes {
		s.CPUSeconds[p.Name], s.RSSBytes[p.Name] = p.CPU().Seconds(), p.RSS
	}
	_, used := readMemory()
	s.Memory = &used
	s.Sweeps = r.sweeps()
	r.timeline = append(r.timeline, s)
}

// Each second so many comets are asked for their counters, a millisecond of work for each,
// and waited for so long.
const (
	askedComets = 8
	askFor      = 500 * time.Millisecond
)

// sweeps returns what the comets have done so far, nil where they are too many, or don't say.
func (r *run) sweeps() *report.Sweeps {
	if n := len(r.cluster.Role(cluster.RoleComet)); n == 0 || n > askedComets {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), askFor)
	defer cancel()
	m := cluster.Metrics{}
	for _, p := range r.cluster.Role(cluster.RoleComet) {
		one, err := p.Metrics(ctx)
		if err != nil {
			return nil // the borders of the phases ask again, and say so
		}
		m.Add(one)
	}
	return &report.Sweeps{
		Sweeps: int64(m.Sum("barrage_comet_sweep_seconds_count")), Frames: int64(m.Sum(metricFrames)),
		Writes: int64(m.Sum(metricWrites)),
	}
}

// show shows the run at this moment, with the swarm's figures of it.
func (r *run) show(snap swarm.Snapshot) *live.Sample {
	s := &live.Sample{
		At: time.Now(), Swarm: snap, Pushes: r.progress.pushes.Counts(), PushLag: r.progress.pushes.Lag(),
	}
	if r.start != 0 {
		s.Pushes.Intended = pusher.Due(r.layout.pushes, time.Duration(ledger.Now()-r.start))
	}
	usage := r.cluster.Usage(context.Background())
	for _, p := range r.cluster.Processes() {
		if u, ok := usage[p.Name]; ok {
			s.Processes = append(s.Processes, live.Process{Name: p.Name, Role: p.Role, Usage: u})
		}
	}
	if own, err := cluster.ReadUsage(os.Getpid()); err == nil {
		s.Processes = append(s.Processes, live.Process{Name: harnessName, Role: harnessName, Usage: own})
	}
	if r.fleet != nil {
		used := r.fleet.Usage()
		for _, name := range slices.Sorted(maps.Keys(used)) {
			s.Processes = append(s.Processes, live.Process{Name: agentName(name), Role: roleAgent, Usage: used[name]})
		}
	}
	r.progress.metrics.SetSample(s)
	r.progress.view.Sample(s)
	return s
}
