package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Style is how text is written.
type Style struct {
	Colour bool // the verdict in green or red, headings in bold
}

func (s Style) paint(code, text string) string {
	if !s.Colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Text writes r for a person: the verdict first, then the figures in the order of a
// message's way.
func Text(w io.Writer, r *Run, style Style) error {
	e := &errWriter{w: w}
	e.verdict(r, style)
	// No figure of an invalid run stands without that word.
	mark := ""
	if r.Verdict.Doubtful() {
		mark = " " + style.paint("1;35", "(of an INVALID run)")
	}
	head := func(name string) { e.printf("\n%s%s\n", style.paint("1", name), mark) }
	head("Clients")
	e.clients(&r.Clients)
	head("Pushes")
	e.pushes(&r.Pushes)
	head("Deliveries")
	e.deliveries(r)
	if b := r.Behaviour; b != nil {
		head("Clients that misbehave or move")
		for _, line := range b.lines() {
			e.printf("  %s\n", line)
		}
	}
	head("Latency from a push's intended time")
	e.latency(r)
	if len(r.Stages) > 0 {
		head("Where a push's time goes")
		e.stages(r)
	}
	if f := r.Fairness; f != nil {
		head("Fairness")
		for _, line := range f.lines() {
			e.printf("  %s\n", line)
		}
	}
	head("Processes, measured phase")
	e.processes(r)
	if len(r.Agents) > 0 {
		head("Agents")
		e.agents(r.Agents)
	}
	if r.knowsComet() {
		head("Comet")
		e.comet(r)
	}
	head("Ceiling of this machine")
	e.ceiling(r)
	if p := &r.Profiles; p.Taken > 0 || len(p.Problems) > 0 {
		e.printf("\n%d profiles were taken meanwhile, which costs a little; barrage profile top shows them\n", p.Taken)
		for _, problem := range p.Problems {
			e.printf("  %s\n", problem)
		}
	}
	for _, warning := range r.Warnings {
		e.printf("\nwarning: %s\n", warning)
	}
	e.printf("\n%s, Linux %s, %s%s\n", r.Environment.Machine(), r.Environment.Kernel, r.Environment.Go, commit(r.Environment.Commit))
	return e.err
}

func commit(c string) string {
	if c == "" {
		return ""
	}
	return ", commit " + c[:min(len(c), 12)]
}

func (e *errWriter) verdict(r *Run, style Style) {
	word, colour := "GOOD", "1;32"
	switch r.Verdict.Status {
	case Failed:
		word, colour = "FAILED", "1;31"
	case Invalid:
		word, colour = "INVALID", "1;35"
	case CutShort:
		word, colour = "CUT SHORT", "1;33"
	}
	what := r.Scenario.Description
	if len(r.Scenario.Overrides) > 0 {
		what += " With " + strings.Join(r.Scenario.Overrides, ", ") + "."
	}
	e.printf("%s  %s: %s\n", style.paint(colour, word), r.Scenario.Name, what)
	for _, reason := range slices.Concat(r.Verdict.Doubts, r.Verdict.Reasons) {
		e.printf("  - %s\n", reason)
	}
	for _, c := range r.Verdict.Checks {
		if c.Unknown {
			e.printf("  %s is not known of the target (expected %s)\n", c.Figure, c.Wanted)
		} else if c.Holds && c.Wanted != "<= 0" { // that nothing was lost is said below
			e.printf("  %s is %s, as expected (%s)\n", c.Figure, c.Text, c.Wanted)
		}
	}
	if len(r.Verdict.Reasons) == 0 && r.Verdict.Status == Good {
		e.printf("  Each of %s deliveries is accounted for: none lost, duplicate or reordered beyond what was expected.\n",
			count(r.Deliveries.Measured.Expected+r.Deliveries.WarmUp.Expected))
	}
}

func (e *errWriter) clients(c *Clients) {
	secure := ""
	if c.TCPTLS+c.WSS > 0 {
		secure = fmt.Sprintf(", %s TCP and %s WebSocket inside TLS", count(c.TCPTLS), count(c.WSS))
	}
	e.printf("  %s of %s connected (%s TCP, %s WebSocket%s, %s) in %s: %s/s, %s/s wanted\n",
		count(c.Joined), count(c.Count), count(c.TCP), count(c.WebSocket), secure, Plural(c.Rooms, "room"),
		span(c.ConnectSeconds), round(c.JoinedPerSecond), round(c.WantedPerSecond))
	e.printf("  connect to joined p50 %s, p99 %s, max %s; %s failed, %s closed early\n",
		span(c.ConnectToJoined.P50), span(c.ConnectToJoined.P99), span(c.ConnectToJoined.Max), count(c.Failed), count(c.ClosedEarly))
	for _, list := range [][]CauseCount{c.Failures, c.EarlyCloses} {
		for _, f := range list {
			e.printf("    %s %s: %s\n", count(f.Count), f.Cause, strings.Join(f.Examples, "; "))
		}
	}
}

func (e *errWriter) pushes(p *Pushes) {
	var t Table
	t.Add("", "rate", "body", "senders", "intended", "sent", "acknowledged", "failed", "no answer")
	for _, l := range p.Lines {
		t.Add(append([]string{l.Name, amount(l.Rate) + "/s", size(float64(l.BodyBytes)), count(l.Streams)}, pushCells(l.Pushes)...)...)
	}
	if len(p.Lines) > 1 {
		t.Add(append([]string{"all", "", "", ""}, pushCells(p.Measured)...)...)
	}
	if p.WarmUp.Intended > 0 {
		t.Add(append([]string{"warm-up", "", "", ""}, pushCells(p.WarmUp)...)...)
	}
	e.printf("%s", t.Lines("  "))
	e.printf("  sent late by p50 %s, p99 %s, max %s; acknowledged after p50 %s, p99 %s, max %s\n",
		span(p.Lag.P50), span(p.Lag.P99), span(p.Lag.Max), span(p.Ack.P50), span(p.Ack.P99), span(p.Ack.Max))
	for _, l := range p.Lines {
		if l.Via != "" && (l.Via != "http" || !strings.HasPrefix(l.Schedule, "at ")) {
			e.printf("    %s: %s %s, via %s\n", l.Name, l.Schedule, l.Bodies, l.Via)
		}
	}
	for _, err := range p.Errors {
		e.printf("    %s\n", err)
	}
}

func pushCells(c PushCounts) []string {
	return []string{count(c.Intended), count(c.Sent), count(c.Acknowledged), count(c.Failed), count(c.Unknown)}
}

func (e *errWriter) deliveries(r *Run) {
	d := &r.Deliveries
	var t Table
	t.Add("", "expected", "delivered", "lost", "duplicate", "reordered", "unexpected")
	if len(r.Pushes.Lines) > 1 {
		for _, l := range r.Pushes.Lines {
			t.Add(append([]string{l.Name}, deliveryCells(l.Deliveries)...)...)
		}
	}
	for _, l := range r.Pushes.Lines {
		for _, step := range l.Steps {
			t.Add(append([]string{fmt.Sprintf("%s at %s/s", l.Name, amount(step.Rate))}, deliveryCells(step.Deliveries)...)...)
		}
	}
	t.Add(append([]string{"measured"}, deliveryCells(d.Measured)...)...)
	if d.WarmUp.Expected > 0 {
		t.Add(append([]string{"warm-up"}, deliveryCells(d.WarmUp)...)...)
	}
	e.printf("%s", t.Lines("  "))
	for _, l := range d.Losses {
		e.printf("    lost: %s\n", l)
	}
	drained := "the last " + span(d.DrainTime) + " after the schedule's end"
	if !d.Drained {
		drained = "not all within " + span(d.DrainTime) + " after the schedule's end"
	}
	e.printf("  %s/s over %s, %s\n", many(d.PerSecond), span(d.Seconds), drained)
	for _, line := range r.witnesses() {
		e.printf("  %s\n", line)
	}
}

// witnesses says what others than the ledger count of the same.
func (r *Run) witnesses() (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	d := &r.Deliveries
	switch {
	case !r.knowsComet():
	case r.Target != nil && d.CometFrames != d.LedgerFrames:
		add("comet counts %s frames meanwhile, the ledger %s: the target has other clients, or not all of its comets are given", count(d.CometFrames), count(d.LedgerFrames))
	case d.CometFrames > d.LedgerFrames && r.Behaviour != nil && r.Behaviour.Unread():
		add("comet counts %s frames; %s of them went to clients that had left or did not read", count(d.CometFrames), count(d.CometFrames-d.LedgerFrames))
	case d.CometFrames != d.LedgerFrames:
		add("comet counts %s frames, the ledger %s", count(d.CometFrames), count(d.LedgerFrames))
	default:
		add("comet's own counters say the same: %s frames", count(d.CometFrames))
	}
	switch {
	case d.KernelBytes == 0: // a run from before it was counted
	case d.KernelUncounted > 0:
		add("the kernel handed the clients %s bytes, without %s whose connection was reset; they read %s", count(d.KernelBytes), Plural(int(d.KernelUncounted), "client"), count(d.Bytes))
	case d.KernelBytes != d.Bytes:
		add("the kernel handed the clients %s bytes, they read %s", count(d.KernelBytes), count(d.Bytes))
	default:
		add("the kernel handed the clients %s bytes, and they read as many", count(d.KernelBytes))
	}
	if j := r.Job; j != nil {
		if j.GivenUp > 0 {
			add("job gave a comet up %s: it had no answer for as long as comet.deadAfter", Plural(int(j.GivenUp), "time"))
		}
		if list := reasons(j.Dropped); list != "" {
			add("records that job could not hand over, for each comet: %s", list)
		}
	}
	return lines
}

func deliveryCells(c Counts) []string {
	unexpected := int64(0)
	for _, n := range c.Unexpected {
		unexpected += n
	}
	return []string{count(c.Expected), count(c.Delivered), count(c.Lost), count(c.Duplicate), count(c.Reordered), count(unexpected)}
}

func (e *errWriter) latency(r *Run) {
	var t Table
	t.Add("", "p50", "p90", "p99", "p99.9", "max")
	for _, row := range latencyRows(r) {
		t.Add(row.name, span(row.p.P50), span(row.p.P90), span(row.p.P99), span(row.p.P999), span(row.p.Max))
	}
	e.printf("%s", t.Lines("  "))
}

func (e *errWriter) processes(r *Run) {
	var t Table
	t.Add("", "CPU", "cores", "RSS", "peak RSS", "PSS", "Go heap")
	for _, p := range r.Processes {
		t.Add(p.Name, span(p.CPUSeconds), fmt.Sprintf("%.2f", p.CoresUsed), sizeOf(p.RSSBytes), sizeOf(p.RSSPeakBytes), sizeOf(p.PSSBytes), sizeOf(p.GoHeapBytes))
	}
	e.printf("%s", t.Lines("  "))
	s := &r.Server
	for _, line := range targetLines(r) {
		e.printf("  %s\n", line)
	}
	if r.knowsServer() {
		e.server(s)
	}
	e.printf("  swarm: %s, the busiest at work for %s of the time, at most %s of a second; without a processor when it had work for %s; read lag p99 %s, max %s; stood still for %s\n",
		Plural(r.Swarm.Threads, "thread"), percent(r.Swarm.BusyMean), percent(r.Swarm.BusyMost), percent(r.Swarm.Starved), span(r.Swarm.ReadLag.P99), span(r.Swarm.ReadLag.Max), percent(r.Swarm.Hiccups))
	d := &r.Disturbance
	e.printf("  beside the run: other processes %s of the machine, steal %s\n", percent(d.OtherCPU), percent(d.Steal))
	if line := r.Memory.line(); line != "" {
		e.printf("  memory of the machine: %s\n", line)
	}
	if d.PacketsDropped > 0 {
		e.printf("  the machine dropped %s of %s packets that came in (net.core.netdev_max_backlog): TCP sends them again, 200 ms later or more\n", count(d.PacketsDropped), count(d.Packets))
	}
}

func (e *errWriter) agents(list []Agent) {
	var t Table
	t.Add(agentHead...)
	for _, a := range list {
		t.Add(agentCells(a)...)
	}
	e.printf("%s", t.Lines("  "))
	e.printf("  arrivals are corrected by the offset of each agent's clock; a latency is off by the error at most\n")
	for _, a := range list {
		if a.Lost != "" {
			e.printf("  %s: %s\n", a.Name, a.Lost)
		}
	}
}

var agentHead = []string{"", "clients", "joined", "threads", "read lag p99", "stood still", "clock ahead", "error", "drift", "other CPU", "steal"}

func agentCells(a Agent) []string {
	if a.Lost != "" {
		return []string{a.Name, count(a.Clients), count(a.Joined), count(a.Threads), "lost", "", "", "", "", "", ""}
	}
	other, steal := "same machine", "" // as the harness's, whose own figures hold
	if d := a.Disturbance; d != nil {
		other, steal = percent(d.OtherCPU), percent(d.Steal)
	}
	return []string{a.Name, count(a.Clients), count(a.Joined), count(a.Threads), span(a.ReadLag.P99), percent(a.Hiccups),
		span(a.Clock.Offset), span(a.Clock.Error), digits(a.Clock.Drift*1e6) + " ppm", other, steal}
}

// targetLines says which cluster a run drove that was not its own, and what isn't known of it.
func targetLines(r *Run) []string {
	t := r.Target
	if t == nil {
		return nil
	}
	what := "what the target uses is not known"
	switch {
	case r.knowsServer():
		what = "the target"
	case len(r.Processes) > 1: // beside the harness
		what = "not all that the target uses is known"
	}
	line := fmt.Sprintf("%s (clients at %s, pushes at %s)", what, strings.Join(slices.Concat(t.TCP, t.WebSocket, t.TCPTLS, t.WSS), ", "), t.Push)
	lines := []string{line}
	if len(t.Profiled) > 0 {
		lines = append(lines, "by a CPU profile of the measured phase, without what came behind it: "+strings.Join(t.Profiled, ", "))
	}
	return append(lines, t.Problems...)
}

func (e *errWriter) server(s *Server) {
	e.printf("  comet, logic and job together: %s deliveries per CPU second, %s CPU s a million\n",
		many(s.DeliveriesPerCPUSecond), digits(s.CPUSecondsPerMillion))
	if s.CometCPUSeconds > 0 { // it may share a process with the others
		e.printf("  comet alone: %s deliveries per CPU second\n", many(s.CometDeliveriesPerCPUSec))
	}
}

func (e *errWriter) comet(r *Run) {
	c := &r.Comet
	if c.Tables > 0 {
		e.printf("  %s of file descriptors in each\n", Plural(c.Tables, "table"))
	}
	if r.Target == nil { // else it is not known
		e.printf("  memory per connection: %s of Go heap and stacks, %s of RSS\n", size(c.UserBytesPerConnection), size(c.RSSBytesPerConnection))
	}
	e.printf("  %s writes of %s and %s frames in the mean; %s cut short by a full socket\n",
		count(c.Writes), size(c.BytesPerWrite), digits(c.FramesPerWrite), count(c.EAGAIN))
	e.printf("  %s writes/s, %s/s in the %s of sweeping", many(c.WritesPerSecond), many(c.WritesPerBusySecond), span(c.SweepingSeconds))
	if c.WritesPerCPUSecond > 0 {
		e.printf(", %s per CPU second", many(c.WritesPerCPUSecond))
	}
	e.printf("\n")
	e.reasons("skipped frames", c.Skipped)
	e.reasons("closed connections", c.Closed)
}

// reasons lists the reasons that occurred, if any did.
func reasons(by map[string]int64) string {
	var list []string
	for _, reason := range slices.Sorted(maps.Keys(by)) {
		if n := by[reason]; n > 0 {
			list = append(list, count(n)+" "+reason)
		}
	}
	return strings.Join(list, ", ")
}

func (e *errWriter) reasons(what string, by map[string]int64) {
	if list := reasons(by); list != "" {
		e.printf("  %s: %s\n", what, list)
	}
}

func (e *errWriter) ceiling(r *Run) {
	c := r.Ceiling
	if c == nil {
		e.printf("  not measured\n")
		return
	}
	sweep := span(c.SweepMedian) + " in the one sweep that there was time for"
	if c.Sweeps > 1 {
		sweep = fmt.Sprintf("%s in the median of %s sweeps, %s p99", span(c.SweepMedian), count(c.Sweeps), span(c.SweepP99))
	}
	e.printf("  one frame to each of %s, first send to last receipt: %s\n", ceilingSockets(r), sweep)
	way := ""
	if c.Sendfile {
		way = ", by sendfile"
	}
	e.printf("  back to back with %s a write: %s sends/s, %s per CPU second (%s%s)\n",
		size(c.BytesPerSend), many(c.SendsPerSecond), many(c.SendsPerCPUSecond), Plural(c.Threads, "thread"), way)
	if r.knowsComet() {
		e.printf("  comet reaches %s of the sends/s while it sweeps, %s per CPU second\n", percent(c.WritesFraction), percent(c.WritesCPUFraction))
	}
	e.printf("  p99 to receipt is %s times the ceiling's sweep; 1.5 sweeps and 10 ms are %s\n",
		digits(c.LatencyFactor), span(1.5*c.SweepMedian+(10*time.Millisecond).Seconds()))
}

// ceilingSockets says what the ceiling of r was measured with.
func ceilingSockets(r *Run) string {
	c := r.Ceiling
	sockets := count(c.Clients) + " sockets"
	switch {
	case c.TLS == c.Clients:
		return sockets + " inside TLS"
	case c.TLS > 0:
		return fmt.Sprintf("%s (%s inside TLS)", sockets, count(c.TLS))
	case r.CeilingWithoutTLS():
		return sockets + " (plain, without TLS)"
	}
	return sockets
}
