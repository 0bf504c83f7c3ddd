package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Unit is what a figure counts, and so how it is written and read.
type Unit int

// The units of figures.
const (
	Count    Unit = iota // a number of things
	Rate                 // things a second
	Seconds              // a time
	Bytes                // memory
	Fraction             // of something, 1 being the whole
	Factor               // times something
)

// String returns the unit as the reference names it.
func (u Unit) String() string {
	return [...]string{"count", "a second", "seconds", "bytes", "fraction", "factor"}[u]
}

// Format writes v in the unit, with three digits: 12.3 ms, 4.56M/s, 2.40 KiB.
func (u Unit) Format(v float64) string {
	switch u {
	case Rate:
		return many(v) + "/s"
	case Seconds:
		return span(v)
	case Bytes:
		return size(v)
	case Fraction:
		return digits(v*100) + "%"
	case Factor:
		return digits(v) + "x"
	default:
		if v >= 1e6 {
			return round(v)
		}
		return amount(v)
	}
}

// A Direction says which way of a figure is the better one.
type Direction int

// The directions.
const (
	Neither Direction = iota // it describes the run, and judges nothing
	Less
	More
)

// A Figure is one number of a run: what a scenario's expectations name, and what runs are
// compared by.
type Figure struct {
	Name    string // latency.p99
	Help    string // what it is
	Unit    Unit
	Better  Direction
	Primary bool // shown when not every figure is asked for
	of      func(*Run) float64
	has     func(*Run) bool // nil: every run has it
}

// Of returns the figure of r; ok is false where r doesn't have it, as the ceiling's
// fraction of a run without a ceiling.
func (f Figure) Of(r *Run) (v float64, ok bool) {
	if f.has != nil && !f.has(r) {
		return 0, false
	}
	return f.of(r), true
}

// FindFigure returns the figure called name, which may be one of a line of pushes.
func FindFigure(name string) (Figure, bool) {
	var lines []string
	if line, ok := LineOf(name); ok {
		lines = append(lines, line)
	}
	for _, f := range Figures(lines...) {
		if f.Name == name {
			return f, true
		}
	}
	return Figure{}, false
}

// FigureNames returns the names of Figures, in their order.
func FigureNames(lines ...string) []string {
	var names []string
	for _, f := range Figures(lines...) {
		names = append(names, f.Name)
	}
	return names
}

// Figures returns every figure, in the order of a message's way, with those of the lines of
// pushes that are named.
func Figures(lines ...string) []Figure {
	return slices.Concat(connectFigures(), deliveryFigures(), latencyFigures(lines), fairnessFigures(), stageFigures(), behaviourFigures(), serverFigures(), truthFigures())
}

// FiguresOf returns every figure, with those of the lines of pushes of runs that have several,
// or that expect something of a line: else the one line's latency is the run's.
func FiguresOf(runs ...*Run) []Figure {
	var lines []string
	for _, r := range runs {
		for _, l := range r.Pushes.Lines {
			if (len(r.Pushes.Lines) > 1 || r.expectsOf(l.Name)) && !slices.Contains(lines, l.Name) {
				lines = append(lines, l.Name)
			}
		}
	}
	return Figures(lines...)
}

// expectsOf says whether something was expected of the line of pushes called name.
func (r *Run) expectsOf(name string) bool {
	return slices.ContainsFunc(r.Verdict.Checks, func(c Check) bool {
		line, ok := LineOf(c.Figure)
		return ok && line == name
	})
}

func connectFigures() []Figure {
	return []Figure{
		{Name: "clients.joined", Help: "clients that connected and authenticated", Unit: Count,
			of: func(r *Run) float64 { return float64(r.Clients.Joined) }},
		{Name: "clients.failed", Help: "attempts to connect that failed", Unit: Count, Better: Less,
			of: func(r *Run) float64 { return float64(r.Clients.Failed) }},
		{Name: "clients.closed_early", Help: "clients that lost their connection", Unit: Count, Better: Less,
			of: func(r *Run) float64 { return float64(r.Clients.ClosedEarly) }},
		{Name: "clients.joined_per_second", Help: "clients that joined a second, while connecting", Unit: Rate, Better: More,
			of: func(r *Run) float64 { return r.Clients.JoinedPerSecond }},
		{Name: "clients.connect.p99", Help: "from the beginning of a connect to the auth reply, 99th percentile", Unit: Seconds, Better: Less,
			of: func(r *Run) float64 { return r.Clients.ConnectToJoined.P99 }},
	}
}

func deliveryFigures() []Figure {
	both := func(of func(Counts) int64) func(*Run) float64 {
		return func(r *Run) float64 { return float64(of(r.Deliveries.WarmUp) + of(r.Deliveries.Measured)) }
	}
	return []Figure{
		{Name: "lost", Help: "deliveries that never came, warm-up included", Unit: Count, Better: Less, Primary: true,
			of: both(func(c Counts) int64 { return c.Lost })},
		{Name: "duplicate", Help: "deliveries that came twice, warm-up included", Unit: Count, Better: Less, Primary: true,
			of: both(func(c Counts) int64 { return c.Duplicate })},
		{Name: "reordered", Help: "deliveries that came behind a later one of their stream, warm-up included", Unit: Count, Better: Less, Primary: true,
			of: both(func(c Counts) int64 { return c.Reordered })},
		{Name: "pushes.unacknowledged", Help: "measured pushes that were not sent, or not acknowledged", Unit: Count, Better: Less,
			of: func(r *Run) float64 { return float64(r.Pushes.Measured.Intended - r.Pushes.Measured.Acknowledged) }},
		{Name: "pushes.ack.p50", Help: "from the beginning of a push's request to its acknowledgement, median", Unit: Seconds, Better: Less,
			of: func(r *Run) float64 { return r.Pushes.Ack.P50 }},
		{Name: "pushes.ack.p99", Help: "the same, 99th percentile", Unit: Seconds, Better: Less,
			of: func(r *Run) float64 { return r.Pushes.Ack.P99 }},
		{Name: "deliveries", Help: "measured deliveries", Unit: Count,
			of: func(r *Run) float64 { return float64(r.Deliveries.Measured.Delivered) }},
		{Name: "deliveries.per_second", Help: "measured deliveries a second, until the last of them", Unit: Rate, Better: More, Primary: true,
			of: func(r *Run) float64 { return r.Deliveries.PerSecond }},
		{Name: "deliveries.drain", Help: "from the schedule's end until everything had arrived", Unit: Seconds, Better: Less,
			of: func(r *Run) float64 { return r.Deliveries.DrainTime }},
	}
}

// A latencyGroup is a group of latencies that have figures.
type latencyGroup struct {
	name, help string
	of         func(*Run) *Percentiles
	primary    []string // which of its quantiles' figures are
}

// quantiles are the figures of a latencyGroup.
var quantiles = []struct {
	name, help string
	of         func(*Percentiles) float64
}{
	{"mean", "mean", func(p *Percentiles) float64 { return p.Mean }},
	{"p50", "median", func(p *Percentiles) float64 { return p.P50 }},
	{"p90", "90th percentile", func(p *Percentiles) float64 { return p.P90 }},
	{"p99", "99th percentile", func(p *Percentiles) float64 { return p.P99 }},
	{"p999", "99.9th percentile", func(p *Percentiles) float64 { return p.P999 }},
	{"max", "longest", func(p *Percentiles) float64 { return p.Max }},
}

func latencyFigures(lines []string) []Figure {
	groups := []latencyGroup{
		{"latency", "push's intended time to a client's receipt", func(r *Run) *Percentiles { return &r.Latency.All }, []string{"p50", "p99"}},
		{"latency.tcp", "the same, of TCP clients", func(r *Run) *Percentiles { return &r.Latency.TCP }, nil},
		{"latency.ws", "the same, of WebSocket clients", func(r *Run) *Percentiles { return &r.Latency.WebSocket }, nil},
		{"latency.tcp+tls", "the same, of TCP clients inside TLS", func(r *Run) *Percentiles { return &r.Latency.TCPTLS }, nil},
		{"latency.wss", "the same, of WebSocket clients inside TLS", func(r *Run) *Percentiles { return &r.Latency.WSS }, nil},
	}
	for _, line := range lines {
		help := "push's intended time to a client's receipt, of the line of pushes called " + line
		groups = append(groups, latencyGroup{linePrefix + line, help, func(r *Run) *Percentiles { return r.lineLatency(line) }, []string{"p99"}})
	}
	groups = append(groups,
		latencyGroup{"latency.first", "push's intended time to its first receipt", func(r *Run) *Percentiles { return &r.Latency.First }, nil},
		latencyGroup{"latency.last", "push's intended time to its last receipt", func(r *Run) *Percentiles { return &r.Latency.Last }, []string{"p50"}},
		latencyGroup{"latency.spread", "push's first receipt to its last", func(r *Run) *Percentiles { return &r.Latency.Spread }, nil},
	)
	var list []Figure
	for _, group := range groups {
		has := func(r *Run) bool { return group.of(r).Count > 0 }
		for _, q := range quantiles {
			list = append(list, Figure{
				Name: group.name + "." + q.name, Help: group.help + ", " + q.help, Unit: Seconds, Better: Less,
				Primary: slices.Contains(group.primary, q.name), has: has,
				of: func(r *Run) float64 { return q.of(group.of(r)) },
			})
		}
	}
	return list
}

// linePrefix begins the name of a line's figure: latency.line.NAME.p99.
const linePrefix = "latency.line."

// LineOf returns the line of pushes that name, a figure's, is of; ok is false where it is of
// none.
func LineOf(name string) (line string, ok bool) {
	rest, ok := strings.CutPrefix(name, linePrefix)
	if !ok {
		return "", false
	}
	for _, q := range quantiles {
		if line, ok := strings.CutSuffix(rest, "."+q.name); ok && line != "" {
			return line, true
		}
	}
	return "", false
}

// lineLatency returns the latency of the line of pushes called name. There is none where no
// line or several are called so.
func (r *Run) lineLatency(name string) *Percentiles {
	var found []*Percentiles
	for i := range r.Pushes.Lines {
		if l := &r.Pushes.Lines[i]; l.Name == name {
			found = append(found, &l.Latency)
		}
	}
	if len(found) != 1 {
		return &Percentiles{}
	}
	return found[0]
}

func serverFigures() []Figure {
	list := []Figure{
		{Name: "server.cpu_per_delivery", Help: "CPU time of comet, logic and job together, a delivery", Unit: Seconds, Better: Less, Primary: true,
			of: func(r *Run) float64 { return r.Server.CPUSecondsPerMillion / 1e6 }},
		{Name: "server.deliveries_per_cpu_second", Help: "deliveries a CPU second of comet, logic and job together", Unit: Count, Better: More, Primary: true,
			of: func(r *Run) float64 { return r.Server.DeliveriesPerCPUSecond }},
		{Name: "server.cpu_seconds", Help: "CPU time of comet, logic and job, measured phase", Unit: Seconds, Better: Less,
			of: func(r *Run) float64 { return r.Server.CPUSeconds }},
		{Name: "comet.cpu_per_delivery", Help: "CPU time of comet alone, a delivery", Unit: Seconds, Better: Less,
			of: func(r *Run) float64 { return inverse(r.Server.CometDeliveriesPerCPUSec) }},
		{Name: "comet.memory_per_connection", Help: "Go heap and stacks of comet that a connection takes", Unit: Bytes, Better: Less, Primary: true,
			of: func(r *Run) float64 { return r.Comet.UserBytesPerConnection }},
		{Name: "comet.rss_per_connection", Help: "resident memory of comet that a connection takes", Unit: Bytes, Better: Less,
			of: func(r *Run) float64 { return r.Comet.RSSBytesPerConnection }},
		{Name: "comet.frames_per_write", Help: "frames that one send call carried, mean", Unit: Count,
			of: func(r *Run) float64 { return r.Comet.FramesPerWrite }},
		{Name: "comet.writes_per_second", Help: "send calls a second, measured phase", Unit: Rate,
			of: func(r *Run) float64 { return r.Comet.WritesPerSecond }},
		{Name: "comet.skipped", Help: "frames that slow clients missed, by all reasons", Unit: Count, Better: Less,
			of: func(r *Run) float64 {
				n := int64(0)
				for v := range maps.Values(r.Comet.Skipped) {
					n += v
				}
				return float64(n)
			}},
		{Name: "services.cpu_seconds", Help: "CPU time of the embedded broker, registry and discovery, measured phase", Unit: Seconds,
			of: func(r *Run) float64 { return r.Server.ServicesCPUSeconds }},
	}
	for i, f := range list {
		list[i].has = (*Run).knowsComet
		switch {
		case strings.HasSuffix(f.Name, "_per_connection"), f.Name == "services.cpu_seconds":
			list[i].has = func(r *Run) bool { return r.Target == nil } // a target's is never known
		case f.Name == "comet.cpu_per_delivery":
			list[i].has = func(r *Run) bool { return r.Target == nil || r.Server.CometCPUSeconds > 0 }
		case strings.HasPrefix(f.Name, "server."):
			list[i].has = (*Run).knowsServer
		}
	}
	return list
}

func truthFigures() []Figure {
	measured := func(r *Run) bool { return r.Ceiling != nil }
	reached := func(r *Run) bool { return r.Ceiling != nil && r.knowsComet() }
	reachedCPU := func(r *Run) bool { return reached(r) && (r.Target == nil || r.Server.CometCPUSeconds > 0) }
	return []Figure{
		{Name: "ceiling.fraction", Help: "comet's writes a second while it sweeps, of what a plain send loop reaches", Unit: Fraction, Better: More, Primary: true, has: reached,
			of: func(r *Run) float64 { return r.Ceiling.WritesFraction }},
		{Name: "ceiling.cpu_fraction", Help: "the same, of writes a CPU second", Unit: Fraction, Better: More, Primary: true, has: reachedCPU,
			of: func(r *Run) float64 { return r.Ceiling.WritesCPUFraction }},
		{Name: "ceiling.latency_factor", Help: "latency.p99 in sweeps of the plain send loop", Unit: Factor, Better: Less, has: measured,
			of: func(r *Run) float64 { return r.Ceiling.LatencyFactor }},
		{Name: "ceiling.sweep", Help: "one frame to each socket by the plain send loop, median", Unit: Seconds, has: measured,
			of: func(r *Run) float64 { return r.Ceiling.SweepMedian }},
		{Name: "swarm.busy", Help: "the busiest swarm thread's busiest second", Unit: Fraction,
			of: func(r *Run) float64 { return r.Swarm.BusyMost }},
		{Name: "swarm.starved", Help: "part of the measured phase in which the swarm thread that fared worst was ready to run and had no processor", Unit: Fraction, Better: Less,
			of: func(r *Run) float64 { return r.Swarm.Starved }},
		{Name: "swarm.read_lag.p99", Help: "from the kernel's word that there is something to read to the last read of it, 99th percentile", Unit: Seconds,
			of: func(r *Run) float64 { return r.Swarm.ReadLag.P99 }},
		{Name: "swarm.hiccups", Help: "part of the measured phase in which the harness, or the agent that fared worst, stood still, in gaps of 50 ms and more", Unit: Fraction, Better: Less,
			of: func(r *Run) float64 {
				most := r.Swarm.Hiccups
				for _, a := range r.Agents {
					most = max(most, a.Hiccups)
				}
				return most
			}},
		{Name: "clock.error", Help: "by how much a latency may be off, since the agents' clocks are others", Unit: Seconds, Better: Less, Primary: true,
			has: func(r *Run) bool { return len(r.Agents) > 0 },
			of: func(r *Run) float64 {
				most := 0.0
				for _, a := range r.Agents {
					most = max(most, a.Clock.Error)
				}
				return most
			}},
		{Name: "swarm.cpu_seconds", Help: "CPU time of the harness, agents included, measured phase", Unit: Seconds,
			of: func(r *Run) float64 { return r.Server.HarnessCPUSeconds }},
		{Name: "machine.memory", Help: "memory that the run took of the machine at most, the kernel's share included", Unit: Bytes, Better: Less,
			has: func(r *Run) bool { return r.Memory != nil },
			of:  func(r *Run) float64 { return float64(r.Memory.Taken()) }},
		{Name: "machine.swap", Help: "swap that the machine had in use at most", Unit: Bytes, Better: Less,
			has: func(r *Run) bool { return r.Memory != nil },
			of:  func(r *Run) float64 { return float64(r.Memory.Most.SwapBytes) }},
		{Name: "pusher.lag.p99", Help: "from a push's intended time to the beginning of its request, 99th percentile", Unit: Seconds,
			of: func(r *Run) float64 { return r.Pushes.Lag.P99 }},
	}
}

func inverse(v float64) float64 {
	if v == 0 {
		return 0
	}
	return 1 / v
}

// A Check is one expectation of a scenario, and what came of it.
type Check struct {
	Figure string  `json:"figure"`
	Wanted string  `json:"wanted"` // "<= 50 ms"
	Want   float64 `json:"want"`
	Got    float64 `json:"got"`
	Text   string  `json:"text"` // Got in its unit; "not measured" where the run doesn't have the figure
	Holds  bool    `json:"holds"`
	// Unknown says that the target doesn't tell the figure: then the check says nothing.
	Unknown bool `json:"unknown,omitempty"`
}

// A Relation compares a figure with a threshold.
type Relation string

// The relations.
const (
	AtMost  Relation = "<="
	Below   Relation = "<"
	AtLeast Relation = ">="
	Above   Relation = ">"
	Equal   Relation = "="
)

// A Threshold is what a scenario expects of a figure.
type Threshold struct {
	Figure   string
	Relation Relation
	Value    float64 // in the figure's unit: seconds, bytes, a fraction of 1
}

// Check holds r against t. A figure that the run doesn't have does not hold, unless it is of a
// target, which doesn't tell it.
func (t Threshold) Check(r *Run) Check {
	f, known := FindFigure(t.Figure)
	c := Check{Figure: t.Figure, Want: t.Value, Wanted: fmt.Sprintf("%s %s", t.Relation, f.Unit.Format(t.Value)), Text: "not measured"}
	v, ok := 0.0, false
	if known {
		v, ok = f.Of(r)
	}
	if !ok {
		if known && r.Target != nil {
			c.Text, c.Holds, c.Unknown = "not known", true, true
		}
		return c
	}
	c.Got, c.Text = v, f.Unit.Format(v)
	switch t.Relation {
	case AtMost:
		c.Holds = v <= t.Value
	case Below:
		c.Holds = v < t.Value
	case AtLeast:
		c.Holds = v >= t.Value
	case Above:
		c.Holds = v > t.Value
	default:
		c.Holds = v == t.Value
	}
	return c
}
