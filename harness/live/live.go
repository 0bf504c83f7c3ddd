// Package live is what a run shows while it runs. It takes one Sample a second, and hands it
// to a View, which is a terminal or a log, and to Metrics, which Prometheus scrapes from a
// Server, or which a Pusher sends to a Pushgateway and over remote write.
//
// Everything is made of the sample: nothing here touches a thread of the swarm.
package live

import (
	"slices"
	"time"

	"barrage/harness/cluster"
	"barrage/harness/pusher"
	"barrage/harness/swarm"
)

// The phases of a run, in order. A run against a target has Target in place of Start, and
// Stop is the moment in which the figures are read and the processes end.
const (
	Start   = "start"
	Target  = "target"
	Connect = "connect"
	WarmUp  = "warm-up"
	Measure = "measure"
	Drain   = "drain"
	Stop    = "stop"
	Ceiling = "ceiling"
)

// A Sample is a run at one moment.
type Sample struct {
	At        time.Time
	Swarm     swarm.Snapshot
	Pushes    pusher.Counts // so far
	PushLag   time.Duration // by how much the latest push since the sample before was late
	Processes []Process
}

// A Process is what a process has used by then.
type Process struct {
	Name, Role string
	cluster.Usage
}

// Clients returns how many clients are connected and logged in.
func (s *Sample) Clients() int64 { return s.Swarm.Present() }

// busiest returns the busy fraction of the busiest thread of the swarm.
func (s *Sample) busiest() (busy float64) {
	for _, t := range s.Swarm.Threads {
		busy = max(busy, t.Busy)
	}
	return busy
}

// latency returns the q-th percentile of the last second in milliseconds, and false where
// nothing measured arrived in it.
func (s *Sample) latency(q float64) (ms float64, ok bool) {
	h := s.Swarm.Latency
	if h == nil || h.TotalCount() == 0 {
		return 0, false
	}
	return float64(h.ValueAtQuantile(q)) / 1e6, true
}

// perSecond returns by how much a counter grew a second from before to s. Without a sample
// before there is no telling.
func (s *Sample) perSecond(before *Sample, counter func(*Sample) float64) float64 {
	if before == nil || !s.At.After(before.At) {
		return 0
	}
	return (counter(s) - counter(before)) / s.At.Sub(before.At).Seconds()
}

func deliveries(s *Sample) float64 { return float64(s.Swarm.Accepted) }

// cpuOf returns a counter of the processor seconds of the processes that of picks.
func cpuOf(of func(Process) bool) func(*Sample) float64 {
	return func(s *Sample) (sum float64) {
		for _, p := range s.Processes {
			if of(p) {
				sum += p.CPU().Seconds()
			}
		}
		return sum
	}
}

// A Phase is a part of a run, and how long it takes.
type Phase struct {
	Name   string
	Length time.Duration // 0: there is no telling
	About  bool          // Length is an estimate
	AtMost bool          // it ends sooner as a rule
}

// find returns the phase called name, without a length where it is not among list.
func find(list []Phase, name string) Phase {
	if i := slices.IndexFunc(list, func(p Phase) bool { return p.Name == name }); i >= 0 {
		return list[i]
	}
	return Phase{Name: name}
}

// A View shows a run to a person. Its methods may be called by several goroutines.
type View interface {
	// Phase says that a phase begins, and what it is about.
	Phase(name, what string)
	// Sample shows the run at one moment.
	Sample(s *Sample)
	// Warn shows what goes wrong beside the run.
	Warn(text string)
	// Close leaves the terminal at the start of a line. Nothing is shown from then on.
	Close()
}
