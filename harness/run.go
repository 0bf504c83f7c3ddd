// Package harness is a run: it starts the cluster that a scenario asks for, connects the
// swarm, lets the pusher go by its schedule, holds what arrived against what was pushed,
// measures what the kernel would have allowed, and makes one report of it all.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"barrage/harness/agent"
	"barrage/harness/ceiling"
	"barrage/harness/cluster"
	"barrage/harness/ledger"
	"barrage/harness/live"
	"barrage/harness/profile"
	"barrage/harness/pusher"
	"barrage/harness/report"
	"barrage/harness/scenario"
	"barrage/harness/swarm"
)

// Options say how a scenario is run.
type Options struct {
	Scenario  *scenario.Scenario
	Overrides []string // that the scenario was read with
	Exe       string   // the binary whose subcommands are the processes under test
	Self      string   // this binary, for the ceiling's sending side; "": Exe
	Results   string   // folder that gets <scenario>/<UTC time>/
	Dir       string   // folder for this run, instead of one of Results
	Commit    string   // of the binary under test, for the report
	// First is the series' first run, whose environment and agents' must not change; nil for
	// a run that is alone.
	First     *report.Run
	Command   []string // that the run was asked for with
	NoCeiling bool     // leave the ceiling out
	// Target is a cluster that runs already; nil for one of our own processes, which the
	// scenario's settings are for.
	Target *cluster.Target
	// Agents have the clients, and are the receiving side of the ceiling; nil for a swarm in this process.
	Agents *agent.FleetConfig
	// Sources are the addresses that the clients connect from, in turn; by default those of
	// 127.0.0.0/8 where the comets are there too, and else the kernel's choice.
	Sources []netip.Addr
	// Advertise is the IP address of this machine on which the run's comets listen for
	// clients; "": 127.0.0.1.
	Advertise string
	Profile   bool // take profiles of all processes in the measured phase
	Progress  io.Writer
	Terminal  bool // Progress is one: draw over what was drawn, instead of writing new lines
	// Metrics serves the run's metrics while it goes on; nil for none.
	Metrics *live.Server
}

// A Result is where a run's report lies.
type Result struct {
	Run *report.Run
	Dir string // with run.json and logs/
}

// ErrInterrupted says that ctx ended before there was anything to report.
var ErrInterrupted = errors.New("interrupted")

// Run runs a scenario. The error is an EnvironmentError where this machine can't, a
// StartError where the processes under test don't come up, a cluster.ExitError where one of
// them ended by itself later, and ErrInterrupted where ctx ended before the first client; a
// run that took place and went badly is no error, but a verdict. An interrupted run is
// reported as cut short. Where its files can't be written there is a result beside the error.
// Whatever happens, no process is left behind.
func Run(ctx context.Context, opt Options) (*Result, error) {
	plan, err := opt.fits(opt.machine())
	if err != nil {
		return nil, err
	}
	l, err := newLayout(opt.Scenario)
	if err != nil {
		return nil, err
	}
	dir := opt.Dir
	if dir == "" {
		dir, err = makeResultDir(opt.Results, opt.Scenario.Name, time.Now())
	} else if err = os.MkdirAll(filepath.Join(dir, logsFolder), 0o755); err != nil {
		err = fmt.Errorf("make a folder for the results: %w", err)
	}
	if err != nil {
		return nil, err
	}
	r := &run{
		opt: opt, layout: l, plan: plan, dir: dir, began: time.Now(),
		unread: map[string]string{}, profiled: map[string]time.Duration{},
	}
	r.total, r.before = readMemory()
	r.progress = newProgress(&opt, dir, r.began)
	defer r.progress.end()
	if err := r.take(ctx); err != nil {
		return nil, err
	}
	warnings := r.progress.end()
	result := r.report()
	result.Warnings = warnings
	if r.ceilingProblem != "" {
		result.Warnings = append(result.Warnings, r.ceilingWarning())
	}
	return &Result{Run: result, Dir: dir}, r.write(result)
}

// write writes the result in all its forms into the run's folder, run.json last: where it
// is, the others are too.
func (r *run) write(result *report.Run) error {
	book := r.received.Ledger
	histograms := []report.NamedHistogram{{Tag: "all", Histogram: book.AllLatency()}}
	for kind, h := range book.Latency {
		if h != nil {
			histograms = append(histograms, report.NamedHistogram{Tag: ledger.Kind(kind).String(), Histogram: h})
		}
	}
	histograms = append(histograms, report.NamedHistogram{Tag: "first", Histogram: book.FirstReceipt()},
		report.NamedHistogram{Tag: "last", Histogram: book.LastReceipt()})
	for _, file := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{"report.html", func(w io.Writer) error { return report.HTML(w, result) }},
		{"summary.md", func(w io.Writer) error { return report.Markdown(w, result) }},
		{"bench.txt", func(w io.Writer) error { return report.GoBench(w, result) }},
		{"latency.hlog", func(w io.Writer) error { return report.HDRLog(w, result, histograms) }},
		{"latency.hgrm", func(w io.Writer) error { return report.PercentileTable(w, result, book.AllLatency()) }},
	} {
		var b bytes.Buffer
		if err := file.write(&b); err != nil {
			return fmt.Errorf("write %s: %w", file.name, err)
		}
		if err := report.WriteFile(filepath.Join(r.dir, file.name), b.Bytes()); err != nil {
			return err
		}
	}
	return report.WriteJSON(filepath.Join(r.dir, "run.json"), result)
}

// A StartError says that the processes under test did not come up, so that nothing could
// be measured.
type StartError struct{ Err error }

// Error says which process did not, and why.
func (e *StartError) Error() string { return "start the cluster: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

// logsFolder is where the processes' logs lie in a run's folder.
const logsFolder = "logs"

// makeResultDir makes the folder of a run that is alone, with one for logs.
func makeResultDir(results, name string, at time.Time) (string, error) {
	dir, err := makeDir(results, name, at)
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(filepath.Join(dir, logsFolder), 0o755); err != nil {
		return "", fmt.Errorf("make a folder for the results: %w", err)
	}
	return dir, nil
}

// makeDir makes results/<scenario>/<UTC time>/. A second one of the same second gets a name
// of its own.
func makeDir(results, name string, at time.Time) (string, error) {
	parent := filepath.Join(results, name)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("make a folder for the results: %w", err)
	}
	stamp := at.UTC().Format("20060102T150405Z")
	for i := 1; ; i++ {
		dir := filepath.Join(parent, stamp)
		if i > 1 {
			dir += fmt.Sprintf("-%d", i)
		}
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("make a folder for the results: %w", err)
		}
		return dir, nil
	}
}

// A run is one scenario under way, and what was found out so far.
type run struct {
	opt      Options
	layout   *layout
	plan     cometPlan
	dir      string
	began    time.Time
	progress *progress

	cluster *cluster.Cluster
	swarm   population
	fleet   *agent.Fleet // swarm, where its clients are on agents; else nil
	// swarmClosed keeps a swarm from being closed twice.
	swarmClosed bool

	total  int64                // bytes of the machine's memory
	before report.MachineMemory // in use before the run's first process

	idle, connected cometMemory // before the first client, and with all of them
	connectTook     time.Duration
	start           int64 // of the schedule, ledger.Now's clock
	begin, end      border
	sent            *pusher.Result
	storm           *swarm.StormReport // nil where there was none
	drained         bool
	drainTook       time.Duration // from the schedule's end
	received        *swarm.Report
	cometFrames     int64
	redisVersion    string                     // of redis-server, "" where it is the embedded one
	final           map[string]cluster.Metrics // by process, at the end
	pss             map[string]int64
	usage           map[string]cluster.Usage
	ceiling         *ceiling.Result
	ceilingProblem  string                   // why there is none, where there was to be one
	profiles        profile.Captured         // of Options.Profile
	settled         func()                   // ends their taking, see capture
	stopErr         error                    // the cluster's way out
	profiled        map[string]time.Duration // processor time of a target's processes of which only profiles are known
	// unread are a target's processes that could not be read at some time, with the last cause.
	unread   map[string]string
	cut      bool // ctx ended on the way
	timeline timeline
}

// A border is where a phase begins or ends: what everything had used by then.
type border struct {
	at      int64 // ledger.Now's clock
	usage   map[string]cluster.Usage
	harness cluster.Usage
	metrics map[string]cluster.Metrics // by role, over all its processes
	load    agent.MachineLoad
	hiccups time.Duration         // in which this process stood still
	agents  map[string]agent.Load // by name
}

// comet returns the metrics of all comets.
func (b *border) comet() cluster.Metrics { return b.metrics[cluster.RoleComet] }

// take goes through the phases.
func (r *run) take(ctx context.Context) error {
	// A process that ends by itself ends the run, with that as the cause.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	if err := r.startCluster(ctx, func(e *cluster.ExitError) { cancel(e) }); err != nil {
		return err
	}
	defer r.cluster.Stop()

	if err := r.connect(ctx); err != nil {
		return interrupted(ctx, err)
	}
	defer r.closeSwarm()
	r.settled = func() {}
	defer func() { r.settled() }()
	if r.cut {
		r.sent = pusher.Nothing(r.layout.pushes)
	} else if err := r.push(ctx); err != nil {
		return interrupted(ctx, err)
	}
	if err := r.settle(ctx); err != nil {
		stop := interrupted(ctx, err)
		if errors.Is(stop, ErrInterrupted) {
			// It goes on after an interrupt: that is not why.
			return fmt.Errorf("%w, and what was measured could not be read: %w", stop, err)
		}
		return stop
	}
	if r.cut || !r.opt.measuresCeiling() {
		return nil
	}
	err := r.measureCeiling(ctx)
	switch {
	case ctx.Err() != nil:
		r.cut = true
	case err != nil:
		// What the run measured is none the worse for it.
		r.ceilingProblem = strings.ReplaceAll(strings.TrimPrefix(err.Error(), "ceiling: "), "\n", "; ")
		r.progress.view.Warn(r.ceilingWarning())
	}
	return nil
}

// startCluster starts the processes under test, or takes those that run already.
func (r *run) startCluster(ctx context.Context, died func(*cluster.ExitError)) (err error) {
	if t := r.opt.Target; t != nil {
		r.progress.phase(live.Target, fmt.Sprintf("clients go to %s, pushes to %s", strings.Join(slices.Concat(t.TCP, t.WS), ", "), t.Push))
		r.cluster, err = cluster.Connect(ctx, t)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ErrInterrupted
		default:
			return &EnvironmentError{Problems: []string{err.Error()}}
		}
	}
	r.progress.phase(live.Start, fmt.Sprintf("services, logic, job and %d comet(s)", r.plan.comets))
	cl := &r.opt.Scenario.Cluster
	var redis cluster.Redis
	if redis, r.redisVersion, err = cluster.Redis(cl.Redis).Resolve(); err != nil {
		return &StartError{Err: err}
	}
	r.cluster, err = cluster.Start(ctx, cluster.Config{
		Exe: r.opt.Exe, Logs: filepath.Join(r.dir, logsFolder), Comets: r.plan.comets, Advertise: r.opt.Advertise,
		Redis: redis, Grace: r.forAll(cluster.DefaultGrace),
		CometEnv: cl.CometRuntime.Environment(), CometTimerSlack: cl.CometRuntime.TimerSlack,
		Comet: append(flags(cl.Comet), r.plan.flags()...), Logic: flags(cl.Logic), Job: flags(cl.Job),
		TLS: r.layout.crowd.secure() > 0,
	}, died)
	if err != nil {
		if ctx.Err() != nil && !errors.As(err, new(*cluster.ExitError)) {
			return ErrInterrupted
		}
		return &StartError{Err: err}
	}
	return nil
}

// interrupted returns err, or what ended ctx: the death of a process, or an interrupt.
func interrupted(ctx context.Context, err error) error {
	var exit *cluster.ExitError
	switch {
	case ctx.Err() == nil || errors.As(err, &exit):
		return err
	case errors.As(context.Cause(ctx), &exit):
		return exit
	default:
		return ErrInterrupted
	}
}

// closeSwarm ends the clients; only the first call does anything.
func (r *run) closeSwarm() error {
	if r.swarmClosed {
		return nil
	}
	r.swarmClosed = true
	return r.swarm.Close()
}

// flags writes settings as a role's flags.
func flags(settings []scenario.Setting) []string {
	list := make([]string, len(settings))
	for i, s := range settings {
		list[i] = "-" + s.Key + "=" + s.Value
	}
	return list
}

// connect makes the swarm and connects it, and finds out what that costs comet.
func (r *run) connect(ctx context.Context) error {
	var err error
	if r.idle, err = r.readCometMemory(ctx); err != nil {
		return err
	}
	if r.opt.Agents != nil {
		err = r.dialAgents(ctx)
	} else if r.swarm, err = swarm.New(swarmConfig(r.layout, targetsOf(r.cluster), r.cluster.Trusts, r.opt.Sources, 0, 1)); err != nil {
		err = &EnvironmentError{Problems: []string{err.Error()}}
	}
	if err != nil {
		return err
	}
	stop := r.watch(live.Connect)
	begin := time.Now()
	whole, cancel := r.whileWhole(ctx)
	err = r.swarm.Connect(whole)
	r.connectTook = time.Since(begin)
	stop()
	var exit *cluster.ExitError
	switch cause := context.Cause(whole); {
	case errors.Is(cause, agent.ErrLost):
		err = nil // what there is is reported, as an invalid run
	case ctx.Err() != nil && !errors.As(cause, &exit):
		r.cut, err = true, nil // the same, as one that is cut short
	}
	cancel()
	if err != nil {
		return errors.Join(fmt.Errorf("connect the clients: %w", err), r.closeSwarm())
	}
	ctx, cancel = r.despite(ctx)
	defer cancel()
	if r.cut {
		if r.begin, err = r.readBorder(ctx); err != nil {
			return errors.Join(err, r.closeSwarm())
		}
	}
	if r.connected, err = r.readCometMemory(ctx); err == nil {
		err = r.standBack()
	}
	if err != nil {
		return errors.Join(err, r.closeSwarm())
	}
	return nil
}

// standBack gives the comets the niceness that the scenario wants of them.
func (r *run) standBack() error {
	nice := r.opt.Scenario.Cluster.CometRuntime.Nice
	if nice == 0 || r.opt.Target != nil {
		return nil
	}
	for _, p := range r.cluster.Role(cluster.RoleComet) {
		if err := p.StandBack(nice); err != nil {
			return err
		}
	}
	return nil
}

// lead is how long before its first push the schedule is set: time for the pusher to
// connect.
const lead = 250 * time.Millisecond

// push lets the pusher go by its schedule, warm-up and measured phase in one, and then
// waits for what is under way. An interrupt on the way leaves the run cut.
func (r *run) push(ctx context.Context) error {
	phases := r.opt.Scenario.Phases
	ways, closeWays, err := openWays(ctx, r.cluster, r.layout.pushes)
	if err != nil {
		return err
	}
	defer closeWays()
	if phases.Warmup == 0 { // the measured phase begins with the first push
		if r.begin, err = r.readBorder(ctx); err != nil {
			return err
		}
	}
	whole, cancel := r.whileWhole(ctx)
	defer cancel()
	if r.fleet != nil {
		if err := r.fleet.Synchronize(ctx); err != nil {
			return fmt.Errorf("look at the agents' clocks: %w", err)
		}
	}
	r.start = ledger.Now() + int64(lead)
	if r.fleet != nil {
		if err := r.fleet.Schedule(ctx, r.start); err != nil {
			return fmt.Errorf("tell the agents when it begins: %w", err)
		}
	}
	type outcome struct {
		result *pusher.Result
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		result, err := pusher.Run(whole, pusher.Config{
			Ways: ways, Streams: r.layout.pushes, Started: r.layout.streams.Start, Progress: &r.progress.pushes,
		}, r.start)
		done <- outcome{result, err}
	}()
	stop := r.watch(live.WarmUp)
	r.settled = r.capture(ctx)
	if r.opt.Scenario.Clients.Rooms.Change > 0 {
		if err := r.swarm.ChangeRooms(whole, true); err != nil && whole.Err() == nil {
			return err
		}
	}
	storm := r.weather(whole)
	sleep(whole, time.Duration(r.start+int64(phases.Warmup)-ledger.Now()))
	stop()
	if phases.Warmup > 0 {
		reading, cancel := r.despite(ctx)
		r.begin, err = r.readBorder(reading)
		cancel()
		if err != nil {
			<-done
			return err
		}
	}
	profiled := func() {}
	if ctx.Err() == nil {
		stop = r.watch(live.Measure)
		profiled = r.profileTarget(ctx)
	}
	o := <-done
	stop()
	profiled()
	if o.err != nil {
		return o.err
	}
	r.sent = o.result
	if err := <-storm; err != nil {
		return err
	}
	scheduled := r.start + int64(phases.Warmup+phases.Measure)

	stop = r.watch(live.Drain)
	defer stop()
	if whole.Err() == nil {
		limit := max(phases.Drain, time.Duration(scheduled-ledger.Now())+phases.Drain)
		drain, cancel := context.WithTimeout(whole, limit)
		r.drained, err = r.swarm.Drain(drain, r.sent.Plans())
		cancel()
		if err != nil && whole.Err() == nil {
			return fmt.Errorf("wait for what is under way: %w", err)
		}
	}
	r.drainTook = time.Duration(max(0, ledger.Now()-scheduled))
	r.cut = ctx.Err() != nil
	return nil
}

// weather lets the scenario's storm come over the clients at its time. The channel has its
// error when it is over, nil for one that ctx or the drain's end has cut short.
func (r *run) weather(ctx context.Context) <-chan error {
	over := make(chan error, 1)
	s := r.opt.Scenario.Clients.Storm
	if s.Fraction == 0 {
		over <- nil
		return over
	}
	go func() {
		phases := r.opt.Scenario.Phases
		at := r.start + int64(phases.Warmup+s.At)
		sleep(ctx, time.Duration(at-ledger.Now()))
		ctx, cancel := context.WithTimeout(ctx, time.Duration(r.start+int64(phases.Warmup+phases.Measure+phases.Drain)-ledger.Now()))
		defer cancel()
		report, err := r.swarm.Storm(ctx, s.Fraction, s.Reset)
		r.storm = &report
		if ctx.Err() != nil {
			err = nil
		}
		over <- err
	}()
	return over
}

// capture takes profiles of the measured phase, where they are asked for. The function that
// it returns says that nothing is under way any more, and waits for the last of them.
func (r *run) capture(ctx context.Context) (settled func()) {
	if !r.opt.Profile {
		return func() {}
	}
	cfg := profile.Config{
		Targets: []profile.Target{{Name: harnessName}}, Dir: filepath.Join(r.dir, profile.Folder), Duration: r.opt.Scenario.Phases.Measure,
		Rates: profile.DefaultRates(), Labels: profile.Labels{Scenario: r.opt.Scenario.Name, Commit: r.opt.Commit},
		Start: time.Now().Add(time.Duration(r.start + int64(r.opt.Scenario.Phases.Warmup) - ledger.Now())),
	}
	for _, p := range r.cluster.Processes() {
		if !p.Remote() && p.Admin != "" {
			cfg.Targets = append(cfg.Targets, profile.Target{Name: p.Name, Addr: p.Admin})
		}
	}
	over, done := make(chan struct{}), make(chan struct{})
	cfg.Settled = over
	go func() {
		defer close(done)
		r.profiles = profile.Capture(ctx, cfg)
	}()
	return sync.OnceFunc(func() {
		close(over)
		<-done
	})
}

// profileTarget has the processes of a target that have no metrics tell by CPU profiles of the
// measured phase how much they use. The function that it returns waits for the last of them.
func (r *run) profileTarget(ctx context.Context) (wait func()) {
	type outcome struct {
		process *cluster.Process
		cpu     time.Duration
		err     error
	}
	var results []chan outcome
	for _, p := range r.cluster.Processes() {
		if !p.Profiled() {
			continue
		}
		done := make(chan outcome, 1)
		results = append(results, done)
		go func() {
			cpu, err := p.ProfileCPU(ctx, r.opt.Scenario.Phases.Measure)
			done <- outcome{p, cpu, err}
		}()
	}
	return func() {
		for _, done := range results {
			o := <-done
			if r.excuse(o.process, o.err) == nil && o.err == nil {
				r.profiled[o.process.Name] = o.cpu
			}
		}
	}
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// settle reads all figures while the processes still live, and then stops them. A process
// that died is the run's error; after an interrupt it reads what it can.
func (r *run) settle(ctx context.Context) error {
	var exit *cluster.ExitError
	if errors.As(context.Cause(ctx), &exit) {
		return exit
	}
	ctx, cancel := r.despite(ctx)
	defer cancel()
	var err error
	if r.end, err = r.readBorder(ctx); err != nil {
		return err
	}
	// Profiles of the end collect garbage: that is no part of what was measured.
	r.settled()
	if r.received, err = r.swarm.Finish(ctx, r.sent.Plans()); err != nil {
		return fmt.Errorf("close the ledger: %w", err)
	}
	r.show(r.received.Snapshot)
	r.cometFrames = int64(r.end.comet().Sum(metricFrames) - r.idle.frames)
	r.final, r.pss = map[string]cluster.Metrics{}, map[string]int64{}
	for _, p := range r.cluster.Processes() {
		m, err := p.Metrics(ctx)
		if err := r.excuse(p, err); err != nil {
			return err
		}
		r.final[p.Name] = m
		if p.Remote() {
			continue
		}
		if r.pss[p.Name], err = cluster.ReadPSS(p.PID()); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	r.usage = r.cluster.Usage(ctx)
	r.progress.phase("stop", "")
	closeErr := r.closeSwarm()
	r.stopErr = r.cluster.Stop()
	return closeErr
}

// despite returns a context for reading the figures that there are, from which an interrupt must not
// keep the run.
func (r *run) despite(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), r.forAll(30*time.Second))
}

// forAll is the time for what takes least with few clients, and 50 s more with a million: as
// many sockets are closed or accounts read, on a machine that may be busy with what is unread.
func (r *run) forAll(least time.Duration) time.Duration {
	return least + time.Duration(r.opt.Scenario.Clients.Count)*50*time.Microsecond
}

// readBorder reads what everything has used by now.
func (r *run) readBorder(ctx context.Context) (border, error) {
	now := ledger.Now()
	b := border{at: now, hiccups: hiccups().until(now), usage: r.cluster.Usage(ctx), load: readMachineLoad()}
	var err error
	if b.harness, err = cluster.ReadUsage(os.Getpid()); err != nil {
		return b, err
	}
	if r.fleet != nil {
		if b.agents, err = r.fleet.Measure(ctx); err != nil {
			return b, fmt.Errorf("ask the agents what they use: %w", err)
		}
	}
	b.metrics = map[string]cluster.Metrics{}
	for _, role := range []string{cluster.RoleComet, cluster.RoleLogic, cluster.RoleJob} {
		if b.metrics[role], err = r.roleMetrics(ctx, role); err != nil {
			return b, err
		}
	}
	return b, nil
}

// roleMetrics returns the metrics of all processes of a role, added up, and nil where they are
// not known of all.
func (r *run) roleMetrics(ctx context.Context, role string) (cluster.Metrics, error) {
	var sum cluster.Metrics
	for i, p := range r.cluster.Role(role) {
		m, err := p.Metrics(ctx)
		if err != nil {
			return nil, r.excuse(p, err)
		}
		if i == 0 {
			sum = cluster.Metrics{}
		}
		sum.Add(m)
	}
	return sum, nil
}

// excuse returns err, the failure to read p, unless p is a target's process: what it would
// have told is left out then, and the report says so.
func (r *run) excuse(p *cluster.Process, err error) error {
	if err == nil || !p.Remote() {
		return err
	}
	r.unread[p.Name] = err.Error()
	return nil
}

// cometMemory is what all comets hold, in bytes.
type cometMemory struct {
	heap, stacks, rss float64
	frames            float64 // pushed frames that they had handed out by then
}

// readCometMemory has the comets collect their garbage twice, since what a finalizer or a
// pool still holds goes with the second collection, and reads what they then hold. A target's
// are let alone.
func (r *run) readCometMemory(ctx context.Context) (cometMemory, error) {
	var m cometMemory
	for _, p := range r.cluster.Role(cluster.RoleComet) {
		if p.Remote() {
			continue
		}
		for range 2 {
			if err := p.Collect(ctx); err != nil {
				return m, err
			}
		}
		u, err := cluster.ReadUsage(p.PID())
		if err != nil {
			return m, fmt.Errorf("%s: %w", p.Name, err)
		}
		m.rss += float64(u.RSS)
	}
	sum, err := r.roleMetrics(ctx, cluster.RoleComet)
	if err != nil {
		return m, err
	}
	m.heap, m.stacks, m.frames = sum["go_memstats_heap_inuse_bytes"], sum["go_memstats_stack_inuse_bytes"], sum.Sum(metricFrames)
	return m, nil
}

func (r *run) ceilingWarning() string {
	return "the ceiling could not be measured: " + r.ceilingProblem
}

// measureCeiling finds out what the kernel allows, with as many clients as had joined, bodies as
// large as a delivery's in the mean and writes as large as comet's; of one frame, where these are not known.
func (r *run) measureCeiling(ctx context.Context) error {
	clients := int(r.received.Joined)
	if clients < 1 || r.fleet != nil && slices.ContainsFunc(r.fleet.Members(), func(m agent.Member) bool { return m.Lost != nil }) {
		return nil
	}
	delta := r.grew(cluster.RoleComet)
	body := r.layout.meanBody()
	write := ratio(delta.Sum(metricWrittenBytes), delta.Sum(metricWrites))
	of := ""
	if write > 0 {
		of = fmt.Sprintf(" of %.0f B", write)
	}
	r.progress.phase(live.Ceiling, fmt.Sprintf("plain sends%s to %d sockets", of, clients))
	self := r.opt.Self
	if self == "" {
		self = r.opt.Exe
	}
	cfg := ceiling.Config{Exe: self, Clients: clients, Kind: r.layout.crowd.kind, BodySize: body, WriteSize: int(write + 0.5)}
	if r.opt.Agents != nil {
		whole, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		ctx, cfg.Address, cfg.Receive = whole, r.opt.Advertise, r.receiveElsewhere(cancel)
		if t := r.opt.Target; t != nil {
			cfg.Address = t.Here()
		}
	}
	result, err := ceiling.Run(ctx, cfg)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause // the agent that was lost, and not what others then say
		}
		return err
	}
	r.ceiling = &result
	return nil
}

// A comet's counters.
const (
	metricFrames       = "barrage_comet_frames_sent_total"   // pushed frames that it handed to its sessions
	metricWrites       = "barrage_comet_writes_total"        // writes that took any bytes
	metricWrittenBytes = "barrage_comet_written_bytes_total" // that they took
)

// ratio returns a/b, and 0 where b is 0.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
