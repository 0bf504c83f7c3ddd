package profile

import (
	"fmt"
	"maps"
	"slices"
)

// A Side is the costs of several runs of one version, configuration or machine.
type Side struct {
	Name string
	Runs []*Costs // one at least

	functions []map[string]*function // one a run
}

// NewSide adds up each run's profiles of kind k of the processes that choice stands for.
func NewSide(name string, runs []*Run, choice string, k Kind) (*Side, error) {
	if len(runs) == 0 {
		return nil, fmt.Errorf("%s: no run is given", name)
	}
	s := &Side{Name: name}
	for _, r := range runs {
		c, err := r.Costs(choice, k)
		if err != nil {
			return nil, err
		}
		s.Runs = append(s.Runs, c)
		s.functions = append(s.functions, c.functions())
	}
	return s, nil
}

// Kind is what the costs are of.
func (s *Side) Kind() Kind { return s.Runs[0].Kind }

// total returns the cost of everything.
func (s *Side) total() measure {
	return s.measure(func(i int) (float64, float64) {
		noise := 0.0
		for _, st := range s.Runs[i].stacks {
			noise += st.noise()
		}
		return s.Runs[i].Total, noise
	})
}

// measure gathers one cost of all runs; of returns run i's value and its noise.
func (s *Side) measure(of func(i int) (value, noise float64)) measure {
	var m measure
	for i, run := range s.Runs {
		value, noise := of(i)
		m.values = append(m.values, value)
		m.noise = append(m.noise, noise)
		m.event += run.oneEvent() / float64(len(s.Runs))
	}
	return m
}

// function returns what a function costs by itself, and with what it calls.
func (s *Side) function(name string) (flat, cum measure) {
	flat = s.measure(func(i int) (float64, float64) {
		if f := s.functions[i][name]; f != nil {
			return f.flat, f.flatNoise
		}
		return 0, 0
	})
	cum = s.measure(func(i int) (float64, float64) {
		if f := s.functions[i][name]; f != nil {
			return f.cum, f.cumNoise
		}
		return 0, 0
	})
	return flat, cum
}

// names returns the functions of all sides, sorted.
func names(sides ...*Side) []string {
	set := map[string]bool{}
	for _, s := range sides {
		for _, functions := range s.functions {
			for name := range functions {
				set[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// events returns how many were recorded in all runs.
func (s *Side) events() (n float64) {
	for _, c := range s.Runs {
		n += c.Events
	}
	return n
}

// inlining says how a function was seen: "" as itself, "inline" as a part of its callers,
// "partial" both ways.
func inlining(name string, sides ...*Side) string {
	inlined, whole := false, false
	for _, s := range sides {
		for _, functions := range s.functions {
			if f := functions[name]; f != nil {
				inlined, whole = inlined || f.inlined, whole || f.whole
			}
		}
	}
	switch {
	case inlined && whole:
		return "partial"
	case inlined:
		return "inline"
	}
	return ""
}
