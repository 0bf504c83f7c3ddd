package harness

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"barrage/harness/cluster"
	"barrage/harness/ledger"
	"barrage/harness/pusher"
	"barrage/harness/report"
	"barrage/harness/swarm"
)

// harnessName stands for this process among those under test.
const harnessName = "harness"

// report makes one value of all that the run found out.
func (r *run) report() *report.Run {
	s := r.opt.Scenario
	out := &report.Run{
		Schema: report.Schema,
		Scenario: report.Scenario{
			Name: s.Name, Description: s.Description, File: s.File, Text: report.Shown(s.Text), Overrides: report.ShownAll(r.opt.Overrides),
		},
		Started: r.began.UTC(), Ended: time.Now().UTC(), Command: nonNil(r.opt.Command),
		Environment: readEnvironment(r.opt.Commit),
		Clients:     r.clients(),
		Behaviour:   r.behaviour(),
		Pushes:      r.pushes(),
		Deliveries:  r.deliveries(),
		Latency:     r.latency(),
		Fairness:    r.fairness(),
		Processes:   r.processes(),
		Swarm:       r.swarmLoad(),
		Timeline:    nonNil(r.timeline),
		Profiles:    report.Profiles{Taken: len(r.profiles.Files), Problems: nonNil(r.profiles.Problems)},
	}
	out.Agents = r.agents()
	out.Stages = r.stages(out)
	out.Environment.Redis = "miniredis in the services process"
	if r.redisVersion != "" {
		out.Environment.Redis = "redis-server " + r.redisVersion + ", memory only"
	}
	if t := r.opt.Target; t != nil {
		out.Target = r.target()
		out.Environment.Broker, out.Environment.Redis = "", "" // the target's are not known
	}
	out.Server = r.server(out)
	out.Comet = r.comet(out)
	out.Job = r.job()
	out.Ceiling = r.ceilingFigures(out)
	out.CeilingProblem = r.ceilingProblem
	out.Disturbance = r.disturbance(out)
	out.Memory = r.memory()
	out.Verdict = verdict(out, s)
	for _, change := range changesSince(r.opt.First, out) {
		out.Verdict.Invalidate(change)
	}
	if r.stopErr != nil {
		out.Verdict.Fail("the cluster did not stop in order: " + r.stopErr.Error())
	}
	if r.cut {
		out.Verdict.Status = report.CutShort
	}
	return out
}

func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (r *run) clients() report.Clients {
	c, p, crowd := &r.opt.Scenario.Clients, r.received.Progress, &r.layout.crowd
	return report.Clients{
		Count: c.Count, TCP: crowd.of(ledger.TCP), WebSocket: crowd.of(ledger.WebSocket),
		TCPTLS: crowd.of(ledger.TCPTLS), WSS: crowd.of(ledger.WSS), Rooms: c.Rooms.Count,
		Joined: p.Joined, Failed: p.Failed, ClosedEarly: p.ClosedEarly,
		ConnectSeconds: r.connectTook.Seconds(), JoinedPerSecond: ratio(float64(p.Joined), r.connectTook.Seconds()),
		WantedPerSecond: c.Connect.Rate, ConnectToJoined: report.PercentilesOf(r.received.ConnectTime),
		Failures: causes(r.received.Failures), EarlyCloses: causes(r.received.Closes),
		HeartbeatsSent: r.received.Heartbeats, ControlFramesRead: r.received.Control,
	}
}

// behaviour is what came of the clients that misbehave, nil where there are none.
func (r *run) behaviour() *report.Behaviour {
	c, crowd, got := &r.opt.Scenario.Clients, &r.layout.crowd, r.received
	if c.Misbehaving() == 0 && c.Storm.Fraction == 0 && c.Rooms.Change == 0 {
		return nil
	}
	b := &report.Behaviour{
		Slow: crowd.behaving(swarm.SlowReader), Stalled: crowd.behaving(swarm.Stalled),
		Churn: crowd.behaving(swarm.Churning), HalfOpen: crowd.behaving(swarm.HalfOpen),
		LaggingCloses: causes(got.LaggingCloses), Vanished: got.Vanished, RoomChanges: got.RoomChanges,
		Leftover: got.Ledger.Total().Leftover, Rejoined: got.Rejoined, Rejoin: report.PercentilesOf(got.RejoinTime), Retries: causes(got.Retries),
	}
	if got.Lagging != nil {
		b.Lagging = counts(got.Lagging.Total())
	}
	if r.storm != nil {
		b.Storm = &report.Storm{
			Clients: r.storm.Clients, Back: r.storm.Back, Seconds: r.storm.Took.Seconds(), Rejoin: report.PercentilesOf(got.StormTime),
		}
	}
	return b
}

func causes(list []swarm.CauseCount) []report.CauseCount {
	out := []report.CauseCount{}
	for _, c := range list {
		out = append(out, report.CauseCount{Cause: c.Cause.String(), Count: c.Count, Examples: nonNil(c.Examples)})
	}
	return out
}

func pushCounts(c pusher.Counts) report.PushCounts {
	return report.PushCounts{Intended: c.Intended, Sent: c.Sent, Acknowledged: c.Acknowledged, Failed: c.Failed, Unknown: c.Unknown}
}

func counts(c ledger.Counts) report.Counts {
	out := report.Counts{
		Expected: c.Expected, Delivered: c.Delivered, Lost: c.Lost, Duplicate: c.Duplicate,
		Reordered: c.Reordered, Unknown: c.Unknown, Unexpected: map[string]int64{},
	}
	for reason, n := range c.Unexpected {
		if n > 0 {
			out.Unexpected[ledger.Stray(reason).String()] = n
		}
	}
	return out
}

func (r *run) pushes() report.Pushes {
	out := report.Pushes{
		Measured: pushCounts(r.sent.Total(false)), WarmUp: pushCounts(r.sent.Total(true)),
		Lag: report.PercentilesOf(r.sent.Lag), Own: report.PercentilesOf(r.sent.Own), Ack: report.PercentilesOf(r.sent.Ack), Errors: nonNil(r.sent.Errors),
	}
	groups := make([]struct { // by ledger.Stream.Group
		sent    pusher.Counts
		arrived ledger.Counts
	}, len(r.layout.groups))
	for _, s := range r.sent.Streams {
		if !s.WarmUp {
			groups[r.layout.group[s.ID]].sent.Add(s.Counts)
		}
	}
	for _, s := range r.received.Ledger.Streams {
		if !s.WarmUp {
			groups[r.layout.group[s.ID]].arrived.Add(s.Counts)
		}
	}
	for i, p := range r.opt.Scenario.Pushes {
		line := report.PushLine{
			Name: p.Name, Kind: string(p.Kind), Rate: p.Rate, Schedule: p.Schedule.String(),
			BodyBytes: int(p.Sizes.Mean() + 0.5), Bodies: p.Sizes.String(), Via: string(p.Via), Streams: p.Streams(),
			Lag: report.PercentilesOf(r.sent.Lines[i].Lag), Ack: report.PercentilesOf(r.sent.Lines[i].Ack),
		}
		var sent pusher.Counts
		var arrived ledger.Counts
		latency := ledger.NewHistogram()
		steps := segments(p.Schedule, r.opt.Scenario.Phases, 0)
		for g, of := range r.layout.groups {
			if of.line != i {
				continue
			}
			sent.Add(groups[g].sent)
			arrived.Add(groups[g].arrived)
			latency.Merge(r.received.Ledger.Groups[g])
			if seg := steps[of.step]; len(steps) > 1 {
				line.Steps = append(line.Steps, report.PushStep{
					Rate: seg.Peak(), Start: (seg.start - r.opt.Scenario.Phases.Warmup).Seconds(), Seconds: seg.length.Seconds(),
					Pushes: pushCounts(groups[g].sent), Deliveries: counts(groups[g].arrived), Latency: report.PercentilesOf(r.received.Ledger.Groups[g]),
				})
			}
		}
		line.Pushes, line.Deliveries, line.Latency = pushCounts(sent), counts(arrived), report.PercentilesOf(latency)
		out.Lines = append(out.Lines, line)
	}
	return out
}

// measuredFrom is when the first measured push was due.
func (r *run) measuredFrom() int64 { return r.start + int64(r.opt.Scenario.Phases.Warmup) }

// lastReceipt is when the last measured push arrived at its last client, or measuredFrom.
func (r *run) lastReceipt() int64 {
	last := r.measuredFrom()
	for _, s := range r.received.Ledger.Streams {
		if s.WarmUp {
			continue
		}
		for _, p := range r.received.Ledger.Receipts(s.ID) {
			last = max(last, p.Intended+int64(p.Last))
		}
	}
	return last
}

func (r *run) deliveries() report.Deliveries {
	book := r.received.Ledger
	var warmUp ledger.Counts
	for _, s := range book.Streams {
		if s.WarmUp {
			warmUp.Add(s.Counts)
		}
	}
	measured, total := book.Measured(), book.Total()
	// What belongs to no stream is measured too, so that nothing is in no figure.
	for i, n := range book.Strays {
		measured.Unexpected[i] += n
	}
	if r.received.Lagging != nil {
		total.Add(r.received.Lagging.Total())
	}
	last := r.lastReceipt()
	took := time.Duration(last - r.measuredFrom()).Seconds()
	scheduled := r.measuredFrom() + int64(r.opt.Scenario.Phases.Measure)
	drain := time.Duration(max(0, last-scheduled)).Seconds()
	if !r.drained {
		drain = r.drainTook.Seconds()
	}
	return report.Deliveries{
		Losses:   r.losses(),
		Measured: counts(measured), WarmUp: counts(warmUp),
		Seconds: took, PerSecond: ratio(float64(measured.Delivered), took), Drained: r.drained, DrainTime: drain,
		Bytes: r.received.Counted.Read, KernelBytes: r.received.Counted.Kernel, KernelUncounted: r.received.Counted.Uncounted,
		CometBytes: int64(r.end.comet().Sum(metricWrittenBytes)), CometFrames: r.cometFrames,
		LedgerFrames: total.Delivered + total.Duplicate + total.Unknown + total.Leftover + total.Unexpected.Total(),
	}
}

// losses says who lost what, first of all.
func (r *run) losses() []string {
	list := []string{}
	for _, l := range r.received.Losses {
		c, line := r.layout.client(l.Client), r.layout.scenario.Pushes[r.layout.pushes[l.Stream].Line]
		list = append(list, fmt.Sprintf("client %d (%s, %s, room %q): pushes %d to %d of stream %d (%s)", l.Client, c.Kind, c.Behaviour, c.Room, l.From, l.To-1, l.Stream, line.Name))
	}
	return list
}

func (r *run) latency() report.Latency {
	book := r.received.Ledger
	return report.Latency{
		All: report.PercentilesOf(book.AllLatency()),
		TCP: report.PercentilesOf(book.Latency[ledger.TCP]), WebSocket: report.PercentilesOf(book.Latency[ledger.WebSocket]),
		TCPTLS: report.PercentilesOf(book.Latency[ledger.TCPTLS]), WSS: report.PercentilesOf(book.Latency[ledger.WSS]),
		First: report.PercentilesOf(book.FirstReceipt()), Last: report.PercentilesOf(book.LastReceipt()), Spread: report.PercentilesOf(book.Spread()),
		Curve: report.CurveOf(book.AllLatency()),
	}
}

// slowestClients is how many of the slowest clients the result names.
const slowestClients = 10

// fairness is how unequally the clients waited, nil where nobody received anything.
func (r *run) fairness() *report.Fairness {
	f := r.received.Ledger.Fairness(slowestClients)
	if f.Clients == 0 {
		return nil
	}
	out := &report.Fairness{Clients: f.Clients, Means: report.PercentilesOf(f.Means), Slow: f.Slow, SlowMean: f.SlowMean.Seconds()}
	for _, slow := range f.Slowest {
		c := r.layout.client(slow.Client)
		out.Slowest = append(out.Slowest, report.SlowClient{
			Client: slow.Client, Transport: c.Kind.String(), Room: c.Room, Receipts: slow.Receipts, Mean: slow.Mean.Seconds(),
		})
	}
	if h := f.Halves; h != nil {
		out.Halves = &report.FairHalves{
			Clients: h.Clients, Slow: h.Slow, Same: h.Same, Chance: h.Chance, P: h.P, Again: h.Again, Correlation: h.Correlation,
		}
	}
	return out
}

// seconds is the time that the figures of processes and comet are over: from the border
// behind the warm-up to the one behind the drain.
func (r *run) seconds() float64 { return time.Duration(r.end.at - r.begin.at).Seconds() }

func (r *run) processes() []report.Process {
	var out []report.Process
	for _, p := range r.cluster.Processes() {
		if p.Remote() && !r.knows(p) {
			continue
		}
		used, m := r.usage[p.Name], r.final[p.Name]
		from, to := r.begin.usage[p.Name], r.end.usage[p.Name]
		if p.Profiled() {
			from, to = cluster.Usage{}, cluster.Usage{System: r.profiled[p.Name]}
		}
		out = append(out, r.process(p.Name, p.Role, from, to, report.Process{
			Server:   p.Role != cluster.RoleServices && p.Role != cluster.RoleRedis,
			CPUTotal: used.CPU().Seconds(), RSSBytes: used.RSS, RSSPeakBytes: max(used.Peak, r.seen(p)), PSSBytes: r.pss[p.Name],
			GoHeapBytes: int64(m["go_memstats_heap_inuse_bytes"]), Goroutines: int64(m["go_goroutines"]),
			Descriptors: int64(m["process_open_fds"]),
		}))
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	// What can't be read of this process is shown as 0.
	pss, _ := cluster.ReadPSS(os.Getpid())
	out = append(out, r.process(harnessName, harnessName, r.begin.harness, r.end.harness, report.Process{
		CPUTotal: r.end.harness.CPU().Seconds(), RSSBytes: r.end.harness.RSS, RSSPeakBytes: r.end.harness.Peak, PSSBytes: pss,
		GoHeapBytes: int64(mem.HeapInuse), Goroutines: int64(runtime.NumGoroutine()),
	}))
	return append(out, r.agentProcesses()...)
}

// seen is the most resident memory that was seen of a target's process, which doesn't say
// itself what that ever was.
func (r *run) seen(p *cluster.Process) (most int64) {
	if p.Remote() {
		most = r.usage[p.Name].RSS
		for _, s := range r.timeline {
			most = max(most, s.RSSBytes[p.Name])
		}
	}
	return most
}

// process fills in what was used between the borders.
func (r *run) process(name, role string, from, to cluster.Usage, p report.Process) report.Process {
	p.Name, p.Role = name, role
	p.CPUSeconds = (to.CPU() - from.CPU()).Seconds()
	p.UserSeconds = (to.User - from.User).Seconds()
	p.CoresUsed = ratio(p.CPUSeconds, r.seconds())
	return p
}

func (r *run) server(out *report.Run) report.Server {
	s := report.Server{Seconds: r.seconds()}
	for _, p := range out.Processes {
		switch p.Role {
		case cluster.RoleComet:
			s.CometCPUSeconds += p.CPUSeconds
		case cluster.RoleServices, cluster.RoleRedis:
			s.ServicesCPUSeconds += p.CPUSeconds
		case harnessName, roleAgent:
			s.HarnessCPUSeconds += p.CPUSeconds
		}
		if p.Server {
			s.CPUSeconds += p.CPUSeconds
		}
	}
	if out.Target != nil && !out.Target.Server {
		s.CPUSeconds = 0 // a part of it would pass for the whole
	}
	s.Deliveries = out.Deliveries.Measured.Delivered + r.leftover(out.Deliveries.WarmUp.Delivered)
	delivered := float64(s.Deliveries)
	s.DeliveriesPerCPUSecond = ratio(delivered, s.CPUSeconds)
	s.CPUSecondsPerMillion = ratio(s.CPUSeconds*1e6, delivered)
	s.CometDeliveriesPerCPUSec = ratio(delivered, s.CometCPUSeconds)
	return s
}

// leftover is how many of the warm-up's deliveries fell into the measured phase, by what comet had
// handed out before; 0 where that isn't known.
func (r *run) leftover(warmUp int64) int64 {
	begun := r.begin.comet()
	if begun == nil {
		return 0
	}
	return max(0, warmUp-int64(begun.Sum(metricFrames)-r.idle.frames))
}

// job is nil where its counters aren't known.
func (r *run) job() *report.Job {
	d := r.grew(cluster.RoleJob)
	if len(d) == 0 {
		return nil
	}
	return &report.Job{GivenUp: int64(d.Sum("barrage_job_comets_given_up_total")), Dropped: byReason(d, "barrage_job_records_dropped_total")}
}

// byReason returns a counter whose one label is a reason.
func byReason(m cluster.Metrics, name string) map[string]int64 {
	counts := map[string]int64{}
	for reason, n := range m.By(name) {
		counts[reason] = int64(n)
	}
	return counts
}

func (r *run) comet(out *report.Run) report.Comet {
	c := report.Comet{Skipped: map[string]int64{}, Closed: map[string]int64{}}
	if out.Target != nil && !out.Target.Comet {
		return c
	}
	d := r.grew(cluster.RoleComet)
	clients := float64(out.Clients.Joined)
	if out.Target == nil { // a target's garbage is not collected, so that what it holds says little
		heap, stacks := r.connected.heap-r.idle.heap, r.connected.stacks-r.idle.stacks
		c.UserBytesPerConnection, c.HeapBytesPerConnection = ratio(heap+stacks, clients), ratio(heap, clients)
		c.RSSBytesPerConnection = ratio(r.connected.rss-r.idle.rss, clients)
	}
	c.Frames = int64(d.Sum(metricFrames))
	c.Tables = r.plan.tables
	c.Writes = int64(d.Sum(metricWrites))
	c.WrittenBytes = int64(d.Sum(metricWrittenBytes))
	c.EAGAIN = int64(d.Sum("barrage_comet_send_eagain_total"))
	c.Skipped = byReason(d, "barrage_comet_frames_skipped_total")
	c.Closed = byReason(r.end.comet(), "barrage_comet_closed_total")
	writes := float64(c.Writes)
	c.FramesPerWrite, c.BytesPerWrite = ratio(float64(c.Frames), writes), ratio(float64(c.WrittenBytes), writes)
	shards := r.end.comet().Sum("barrage_comet_shards")
	if shards == 0 { // an older version
		shards = float64(r.plan.comets * r.shards())
	}
	c.SweepingSeconds = min(r.seconds(), ratio(d.Sum("barrage_comet_sweep_seconds_sum"), shards))
	c.WritesPerSecond = ratio(writes, r.seconds())
	c.WritesPerBusySecond = ratio(writes, c.SweepingSeconds)
	c.WritesPerCPUSecond = ratio(writes, out.Server.CometCPUSeconds)
	return c
}

// shards returns how many shards each comet has: one a table, or what the scenario says, or one a
// processor.
func (r *run) shards() int {
	if r.plan.tables > 0 {
		return r.plan.tables
	}
	for _, s := range r.opt.Scenario.Cluster.Comet {
		n := 0
		if _, err := fmt.Sscan(s.Value, &n); s.Key == "room.shards" && err == nil && n > 0 {
			return n
		}
	}
	return runtime.NumCPU()
}

func (r *run) ceilingFigures(out *report.Run) *report.Ceiling {
	if r.ceiling == nil {
		return nil
	}
	s, t := r.ceiling.Sweep, r.ceiling.Throughput
	c := &report.Ceiling{
		Clients: r.ceiling.Clients, TLS: r.ceiling.Secure, SweepThreads: s.Threads, Sweeps: s.Sweeps,
		SweepMedian: s.Median.Seconds(), SweepP99: s.P99.Seconds(), SweepMax: s.Max.Seconds(),
		Threads: t.Threads, Sendfile: t.Sendfile, BytesPerSend: t.BytesPerSend, FramesPerSend: t.FramesPerSend, SendsPerSecond: t.SendsPerSecond,
		SendsPerCPUSecond: ratio(1, t.CPUSecondsPerSend), Skipped: t.Skipped,
	}
	c.WritesFraction = ratio(out.Comet.WritesPerBusySecond, c.SendsPerSecond)
	c.WritesCPUFraction = ratio(out.Comet.WritesPerCPUSecond, c.SendsPerCPUSecond)
	c.LatencyFactor = ratio(out.Latency.All.P99, c.SweepMedian)
	return c
}

func (r *run) swarmLoad() report.Swarm {
	s := report.Swarm{
		Threads: len(r.received.Threads), ReadLag: report.PercentilesOf(r.received.ReadLag),
		Hiccups: ratio((r.end.hiccups - r.begin.hiccups).Seconds(), r.seconds()),
	}
	if r.fleet != nil { // the worst agent's: the others' must not hide it
		for _, m := range r.fleet.Members() {
			if lag := report.PercentilesOf(m.ReadLag); lag.P99 > s.ReadLag.P99 {
				s.ReadLag = lag
			}
		}
	}
	sum, starved, n := 0.0, 0.0, 0.0
	for _, sec := range r.timeline {
		if sec.Phase == "measure" {
			s.BusyMost = max(s.BusyMost, sec.SwarmBusy)
			sum, n = sum+sec.SwarmBusy, n+1
			starved += sec.Starved
		}
	}
	s.BusyMean, s.Starved = ratio(sum, n), ratio(starved, n)
	return s
}

// disturbance is what other processes did while the run was measured.
func (r *run) disturbance(out *report.Run) report.Disturbance {
	ours, elsewhere := r.agentsHere().Seconds(), map[string]bool{}
	for _, p := range r.cluster.Processes() {
		elsewhere[p.Name] = !p.Here()
	}
	for _, p := range out.Processes {
		if !elsewhere[p.Name] && p.Role != roleAgent {
			ours += p.CPUSeconds
		}
	}
	return disturbance(r.begin.load, r.end.load, time.Duration(ours*float64(time.Second)), time.Duration(r.end.at-r.begin.at), runtime.NumCPU())
}
