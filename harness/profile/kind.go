package profile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// A Kind is what a profile counts. Its text is what users write and files are named by.
type Kind string

// The kinds.
const (
	CPU       Kind = "cpu"       // processor time
	Heap      Kind = "heap"      // memory in use at the end
	Alloc     Kind = "alloc"     // memory allocated meanwhile
	Mutex     Kind = "mutex"     // time that others waited for a lock, charged to who held it
	Block     Kind = "block"     // time that goroutines waited
	Goroutine Kind = "goroutine" // goroutines at the end
)

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{CPU, Heap, Alloc, Mutex, Block, Goroutine} }

// ParseKind reads a kind's text.
func ParseKind(text string) (Kind, error) {
	if k := Kind(text); slices.Contains(Kinds(), k) {
		return k, nil
	}
	return "", fmt.Errorf("there is no kind of profile %q; there are %s", text, list(Kinds()))
}

// A Unit is what a kind is measured in.
type Unit int

// The units.
const (
	Nanoseconds Unit = iota
	Bytes
	Goroutines
)

// unit returns what k is measured in.
func (k Kind) unit() Unit {
	switch k {
	case Heap, Alloc:
		return Bytes
	case Goroutine:
		return Goroutines
	default:
		return Nanoseconds
	}
}

// flow says whether k grows with the work done, so that its cost is one per delivery. What
// is a state of the process is not: memory in use is held against the clients, and
// goroutines are counted as they are.
func (k Kind) flow() bool { return k != Heap && k != Goroutine }

// symbol is how k's unit is written behind a figure.
func (k Kind) symbol() string {
	switch k.unit() {
	case Bytes:
		return "B"
	case Goroutines:
		return ""
	}
	return "ns"
}

// measuredIn says what costs of k are: "ns a delivery".
func (k Kind) measuredIn() string {
	switch {
	case k == Goroutine:
		return "goroutines"
	case k.flow():
		return k.symbol() + " a delivery"
	}
	return k.symbol() + " a client"
}

// sampled names what the profiler records of k.
func (k Kind) sampled() string {
	switch k {
	case CPU:
		return "samples"
	case Heap, Alloc:
		return "sampled allocations"
	case Goroutine:
		return "goroutines"
	}
	return "recorded waits"
}

// columns returns which of p's values is k's cost, and which counts events; -1 for none.
func (k Kind) columns(p *profile.Profile) (value, events int, err error) {
	names := map[Kind][2]string{
		CPU:       {"cpu", "samples"},
		Heap:      {"inuse_space", "inuse_objects"},
		Alloc:     {"alloc_space", "alloc_objects"},
		Mutex:     {"delay", "contentions"},
		Block:     {"delay", "contentions"},
		Goroutine: {"goroutine", "goroutine"},
	}[k]
	find := func(name string) int {
		return slices.IndexFunc(p.SampleType, func(t *profile.ValueType) bool { return t.Type == name })
	}
	value, events = find(names[0]), find(names[1])
	if value < 0 {
		var has []string
		for _, t := range p.SampleType {
			has = append(has, t.Type)
		}
		return 0, 0, fmt.Errorf("a %s profile has values of %s, this one has %s", k, names[0], list(has))
	}
	return value, events, nil
}

// list writes names for a sentence.
func list[T ~string](names []T) string {
	if len(names) == 0 {
		return "none"
	}
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = string(n)
	}
	return strings.Join(texts, ", ")
}
