package profile

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// A stack is where a cost arose: its frames, the outermost caller first.
type stack struct {
	frames []frame
	cost   float64 // per delivery or client, in the kind's unit
	events float64 // recorded by the profiler, an estimate where it does not say
	role   string  // of the process
}

// A frame is one function of a stack. Functions that the compiler put into their callers
// are frames of their own.
type frame struct {
	function string // Go's whole name; that of the file in brackets where there is none
	inlined  bool
}

// Costs are the costs of one kind of some processes of one run.
type Costs struct {
	Run       *Run
	Kind      Kind
	Processes []string
	Divisor   float64 // the deliveries, or clients, that costs are divided by; 1 for goroutines
	Seconds   float64 // that the profiles are of, in the mean; 0 for a state
	Total     float64 // per delivery, client or alone
	Events    float64 // recorded by the profiler
	Profiling float64 // per delivery or client: what taking profiles cost, which is in no other figure

	stacks []stack
}

// Costs adds up the profiles of kind k of the processes that choice stands for: a process's
// name, a role, ServerProcesses or AllProcesses.
func (r *Run) Costs(choice string, k Kind) (*Costs, error) {
	names, err := r.choose(choice, k)
	if err != nil {
		return nil, err
	}
	c := &Costs{Run: r, Kind: k, Processes: names}
	share := 1 / float64(len(names)) // of each process in a mean
	for _, name := range names {
		p, err := r.read(name, k)
		if err != nil {
			return nil, err
		}
		// Processes are profiled over the same time, but not to the millisecond.
		divisor, err := r.divisor(p, k)
		if err != nil {
			return nil, err
		}
		if err := c.add(p, divisor, r.role(name)); err != nil {
			return nil, fmt.Errorf("%s, %s: %w", r.Dir, name, err)
		}
		c.Divisor += divisor * share
		if k.flow() {
			c.Seconds += float64(p.DurationNanos) / 1e9 * share
		}
	}
	return c, nil
}

func (r *Run) divisor(p *profile.Profile, k Kind) (float64, error) {
	switch {
	case k.flow():
		return r.deliveries(p)
	case k == Goroutine:
		return 1, nil
	}
	return r.clients()
}

// add adds the samples of a profile of a process of that role, divided.
func (c *Costs) add(p *profile.Profile, divisor float64, role string) error {
	value, events, err := c.Kind.columns(p)
	if err != nil {
		return err
	}
	for _, s := range p.Sample {
		if s.Value[value] <= 0 {
			continue
		}
		st := stack{frames: frames(s), cost: float64(s.Value[value]) / divisor, events: 1, role: role}
		if events >= 0 {
			st.events = recorded(c.Kind, float64(s.Value[value]), float64(s.Value[events]), float64(p.Period))
		}
		if slices.ContainsFunc(st.frames, frame.profiling) {
			c.Profiling += st.cost
			continue
		}
		c.Total += st.cost
		c.Events += st.events
		c.stacks = append(c.stacks, st)
	}
	return nil
}

// recorded returns how many events the profiler recorded for a sample: the runtime
// multiplies what it records by how rarely it does so, and says in period how rarely that
// is.
func recorded(k Kind, value, events, period float64) float64 {
	if events <= 0 || period <= 0 {
		return max(1, events)
	}
	switch k {
	case Heap, Alloc: // an allocation with a probability of 1-exp(-size/period)
		events *= -math.Expm1(-value / events / period)
	case Mutex: // one in period
		events /= period
	case Block: // one for each period waited, at most each
		events *= min(1, value/events/period)
	}
	return max(1, events)
}

// frames returns the sample's stack, the outermost first.
func frames(s *profile.Sample) []frame {
	var out []frame
	for _, l := range slices.Backward(s.Location) {
		if len(l.Line) == 0 {
			out = append(out, frame{function: unnamed(l)})
			continue
		}
		for i, line := range slices.Backward(l.Line) {
			f := frame{function: unnamed(l), inlined: i < len(l.Line)-1}
			if line.Function != nil && line.Function.Name != "" {
				f.function = line.Function.Name
			}
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return []frame{{function: "[unknown]"}}
	}
	return out
}

// profiling says whether a frame is of taking a profile: the observer's own cost is none of
// the server's.
func (f frame) profiling() bool {
	return strings.HasPrefix(f.function, "runtime/pprof.") || strings.HasPrefix(f.function, "net/http/pprof.")
}

// unnamed names code without symbols by its file, which is all that is known of it.
func unnamed(l *profile.Location) string {
	if l.Mapping == nil || l.Mapping.File == "" {
		return "[unknown]"
	}
	return "[" + strings.Trim(path.Base(l.Mapping.File), "[]") + "]"
}

// A function is what one function costs in one run.
type function struct {
	flat, cum             float64 // per delivery or client
	flatNoise, cumNoise   float64 // the sampling's variance of these
	flatEvents, cumEvents float64
	inlined, whole        bool // seen as a part of its caller, and as itself
}

// functions adds the stacks up by function. A function that calls itself counts once.
func (c *Costs) functions() map[string]*function {
	all := map[string]*function{}
	get := func(name string) *function {
		f := all[name]
		if f == nil {
			f = &function{}
			all[name] = f
		}
		return f
	}
	seen := map[string]bool{}
	for _, s := range c.stacks {
		clear(seen)
		noise := s.noise()
		for _, fr := range s.frames {
			f := get(fr.function)
			f.inlined, f.whole = f.inlined || fr.inlined, f.whole || !fr.inlined
			if seen[fr.function] {
				continue
			}
			seen[fr.function] = true
			f.cum += s.cost
			f.cumNoise += noise
			f.cumEvents += s.events
		}
		leaf := get(s.frames[len(s.frames)-1].function)
		leaf.flat += s.cost
		leaf.flatNoise += noise
		leaf.flatEvents += s.events
	}
	return all
}

// noise is the variance of the stack's cost that comes from sampling: the number of events
// varies as in Poisson's distribution.
func (s stack) noise() float64 { return s.cost * s.cost / s.events }

// oneEvent is what a single event costs, in the mean. It is what a function that no event
// hit may well have cost.
func (c *Costs) oneEvent() float64 {
	if c.Events == 0 {
		return 0
	}
	return c.Total / c.Events
}
