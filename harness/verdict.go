package harness

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"barrage/harness/report"
	"barrage/harness/scenario"
)

// verdict holds a run against what a scenario expects, and against what no run may lack:
// that every push was sent and acknowledged, that nobody lost the connection, that the
// ledger balances, and that comet counts what the ledger counts. Where the harness or the
// machine, and not the server, may have made the figures, the run is invalid.
func verdict(r *report.Run, s *scenario.Scenario) report.Verdict {
	v := report.Verdict{Status: report.Good, Doubts: []string{}, Reasons: []string{}, Checks: []report.Check{}}
	account(&v, r)
	for _, t := range s.Expect {
		c := t.Check(r)
		v.Checks = append(v.Checks, c)
		if strings.HasPrefix(t.Figure, "ceiling.") && r.CeilingProblem != "" {
			v.Invalidate(fmt.Sprintf("%s can't be judged: the ceiling could not be measured: %s", t.Figure, r.CeilingProblem))
		} else if !c.Holds {
			v.Fail(fmt.Sprintf("%s is %s, expected %s", c.Figure, c.Text, c.Wanted))
		}
	}
	for _, reason := range doubts(r, s.Bounds) {
		v.Invalidate(reason)
	}
	return v
}

// account fails the verdict for what the ledger, the pusher and the server's own counters
// say.
func account(v *report.Verdict, r *report.Run) {
	p, d := &r.Pushes, &r.Deliveries
	if n := r.Clients.ClosedEarly; n > 0 {
		v.Fail(fmt.Sprintf("%d clients lost their connection", n))
	}
	for _, part := range []struct {
		name   string
		pushes report.PushCounts
		counts report.Counts
	}{{"warm-up", p.WarmUp, d.WarmUp}, {"measured", p.Measured, d.Measured}} {
		if n := part.pushes.Intended - part.pushes.Sent; n > 0 {
			v.Fail(fmt.Sprintf("%s: %d of %d pushes were not sent", part.name, n, part.pushes.Intended))
		}
		if n := part.pushes.Sent - part.pushes.Acknowledged; n > 0 {
			v.Fail(fmt.Sprintf("%s: %d of %d pushes were not acknowledged", part.name, n, part.pushes.Sent))
		}
		if part.counts.Expected != part.counts.Delivered+part.counts.Lost {
			v.Fail(fmt.Sprintf("%s: the ledger does not balance: %d expected, %d delivered, %d lost",
				part.name, part.counts.Expected, part.counts.Delivered, part.counts.Lost))
		}
		for _, reason := range slices.Sorted(maps.Keys(part.counts.Unexpected)) {
			v.Fail(fmt.Sprintf("%s: %d frames that nothing accounts for (%s)", part.name, part.counts.Unexpected[reason], reason))
		}
	}
	// What comet hands to a client that then leaves, or doesn't read, nobody receives.
	unread := r.Behaviour != nil && r.Behaviour.Unread()
	if r.Target == nil && (d.CometFrames < d.LedgerFrames || d.CometFrames > d.LedgerFrames && !unread) {
		v.Fail(fmt.Sprintf("comet counts %d frames handed out, the ledger %d received", d.CometFrames, d.LedgerFrames))
	}
	// What left with a reset is in the swarm's count alone.
	if d.KernelBytes > d.Bytes || d.KernelBytes < d.Bytes && d.KernelUncounted == 0 {
		v.Fail(fmt.Sprintf("the kernel counts %d bytes handed to the clients, the swarm %d read", d.KernelBytes, d.Bytes))
	}
	if d.Measured.Expected == 0 {
		v.Fail("nothing was to be delivered in the measured phase")
	}
}

// clockStep is how far the clock of day may jump during a run. Slewing, as NTP does it,
// moves both clocks and is no jump.
const clockStep = time.Millisecond

// A doubtList is why the figures may not be the server's.
type doubtList []string

func (l *doubtList) when(holds bool, format string, args ...any) {
	if holds {
		*l = append(*l, fmt.Sprintf(format, args...))
	}
}

// doubts returns why the figures may not be the server's.
func doubts(r *report.Run, b scenario.Bounds) []string {
	list := doubtList(lostDoubts(r))
	c := &r.Clients
	list.when(c.Joined != int64(c.Count), "%d of %d clients connected", c.Joined, c.Count)
	list.when(r.Swarm.BusyMean > b.SwarmBusy, "the swarm was saturated: its busiest thread was busy for %s of the measured phase, at most %s is accepted (valid.swarm_busy)",
		percent(r.Swarm.BusyMean), percent(b.SwarmBusy))
	list.when(r.Swarm.Starved > b.Starved, "the swarm was starved: a thread had work and no processor for %s of the measured phase, at most %s is accepted (valid.swarm_starved)",
		percent(r.Swarm.Starved), percent(b.Starved))
	if limit := b.ReadLag * r.Latency.All.P99; r.Latency.All.Count > 0 {
		list.when(r.Swarm.ReadLag.P99 > max(limit, time.Millisecond.Seconds()),
			"the swarm read late: p99 %s behind the kernel's word, more than %s of the p99 latency (valid.read_lag)",
			seconds(r.Swarm.ReadLag.P99), percent(b.ReadLag))
	}
	list.when(r.Swarm.Hiccups > b.Hiccups, "the harness "+hiccupDoubt, percent(r.Swarm.Hiccups), percent(b.Hiccups))
	// A push that waits for the acknowledgement of the one before is the server's doing.
	list.when(r.Pushes.Own.P99 > b.PusherLag.Seconds(), "the pusher fell behind its schedule: p99 %s late by its own doing, at most %s is accepted (valid.pusher_lag)",
		seconds(r.Pushes.Own.P99), b.PusherLag)
	list = append(list, disturbanceDoubts(&r.Disturbance, b)...)
	return append(list, agentDoubts(r, b)...)
}

const hiccupDoubt = "stood still for %s of the measured phase, in gaps of 50 ms and more; at most %s is accepted (valid.hiccups)"

// disturbanceDoubts returns why a machine may have made the figures.
func disturbanceDoubts(d *report.Disturbance, b scenario.Bounds) []string {
	var list doubtList
	list.when(math.Abs(d.ClockStep) > clockStep.Seconds(), "the clock of day jumped by %s", seconds(d.ClockStep))
	list.when(d.OtherCPU > b.OtherCPU, "other processes took %s of the machine, at most %s is accepted (valid.other_cpu)", percent(d.OtherCPU), percent(b.OtherCPU))
	list.when(d.Steal > b.Steal, "the hypervisor took %s of the machine for others, at most %s is accepted (valid.steal)", percent(d.Steal), percent(b.Steal))
	// A peer that doesn't read makes drops, too, but doesn't use up what all have.
	list.when(d.TCPShort > 0 && d.TCPDropped > 0, "the kernel's memory for TCP ran short (net.ipv4.tcp_mem), and it dropped %s that had arrived: peers send them again when they have waited long enough", report.Plural(int(d.TCPDropped), "packet"))
	dropped := ratio(float64(d.PacketsDropped), float64(d.Packets))
	list.when(dropped > b.PacketsDropped, "the machine dropped %s that came in, %s of all, since a processor's queue was full (net.core.netdev_max_backlog); at most %s is accepted (valid.packets_dropped): TCP sends them again, 200 ms later or more",
		report.Plural(int(d.PacketsDropped), "packet"), percent(dropped), percent(b.PacketsDropped))
	list.when(d.MemoryWait > b.MemoryWait, "processes waited for memory for %s of the time, at most %s is accepted (valid.memory_wait)", percent(d.MemoryWait), percent(b.MemoryWait))
	return list
}

func percent(f float64) string { return fmt.Sprintf("%.3g%%", f*100) }

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond).String()
}
