// Package scenario is the YAML file that says everything about a run: text in, a checked
// Scenario out, or every mistake in the file with its line, field and accepted range.
package scenario

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"barrage/harness/report"
)

// A Scenario is one run: what is started, who connects, what is pushed and for how long.
type Scenario struct {
	Name        string // also the folder of its results
	Description string // the question that the run answers
	Cluster     Cluster
	Clients     Clients
	Pushes      []Push
	Capacity    *Capacity // nil: one run at the rates that the lines have
	Phases      Phases
	Expect      []report.Threshold // lost, duplicate and reordered at most 0 unless the file says otherwise
	Bounds      Bounds

	File string // where it was read from
	Text string // the file, byte for byte
}

// Cluster is the processes under test.
type Cluster struct {
	Comets int       // 0: as many as the descriptor limit needs
	Comet  []Setting // configuration of every comet, over its defaults
	Logic  []Setting
	Job    []Setting
}

// A Setting is one configuration value of a role, by its key (room.minInterval).
type Setting struct {
	Key   string
	Value string
}

// A Kind is the way a push names its receivers.
type Kind string

// The kinds of the push API.
const (
	KindRoom Kind = "room"
	KindKeys Kind = "keys"
	KindMids Kind = "mids"
	KindAll  Kind = "all"
)

func kindNames() []string {
	return []string{string(KindRoom), string(KindKeys), string(KindMids), string(KindAll)}
}

// A Push is one line of pushes at one rate.
type Push struct {
	Name      string
	Kind      Kind
	Operation int32
	Rate      float64 // pushes a second, of the whole line
	Size      int     // bytes of a body; a frame is 16 more
	Rooms     []int   // KindRoom: the rooms that take turns, 0 to Rooms.Count-1
	Targets   int     // KindKeys, KindMids: keys or member ids that a push names
	Groups    int     // KindKeys, KindMids: disjoint sets of targets that take turns
	Speed     int     // KindAll: messages a second over the cluster, 0 for at once
	Senders   int     // sequential streams to each room or group; 0: by the rate
}

// Capacity is a search for the highest rate that holds.
type Capacity struct {
	Push      int // the line of pushes whose rate is looked for
	From, To  float64
	Precision float64 // how far apart the ends of the bracket may lie, as a part of the lower one
	Confirm   int     // runs that each end must have had, all with the same outcome
	Trials    int     // runs in all, at most
}

// Phases are the lengths of the run's parts.
type Phases struct {
	Warmup  time.Duration // pushes that count for loss and not for latency
	Measure time.Duration
	Drain   time.Duration // at most this long for what is under way at the end
}

// senderRate is the most pushes a second that one sequential sender is given where the
// scenario doesn't say: an acknowledgement takes 3 to 5 ms, so a sender is then busy for a
// fifth of the time and a slow answer delays few of its pushes.
const senderRate = 50

// TargetCount returns the rooms or groups that the line's pushes go to in turn.
func (p Push) TargetCount() int {
	switch p.Kind {
	case KindRoom:
		return len(p.Rooms)
	case KindKeys, KindMids:
		return p.Groups
	default:
		return 1
	}
}

// SendersPerTarget returns Senders, or what the rate asks for where it is 0.
func (p Push) SendersPerTarget() int {
	if p.Senders > 0 {
		return p.Senders
	}
	perTarget := p.Rate / float64(p.TargetCount())
	return max(1, int((perTarget+senderRate-1)/senderRate))
}

// Streams returns the number of the line's streams: its senders over all targets.
func (p Push) Streams() int { return p.TargetCount() * p.SendersPerTarget() }

// ErrNotFound says that a scenario's name stands for no file.
var ErrNotFound = errors.New("no such scenario")

// Find reads the scenario that arg names: a file, or the name of one of the scenarios in
// builtin (its *.yaml files) when arg has neither a folder nor an extension. A file
// scenarios/NAME.yaml of the working directory comes before the built-in one.
func Find(arg string, builtin fs.FS, overrides []string) (*Scenario, error) {
	if strings.ContainsRune(arg, filepath.Separator) || filepath.Ext(arg) != "" {
		text, err := os.ReadFile(arg)
		if err != nil {
			return nil, fmt.Errorf("read scenario: %w", err)
		}
		return Parse(arg, text, overrides)
	}
	name := arg + ".yaml"
	file := filepath.Join("scenarios", name)
	if text, err := os.ReadFile(file); err == nil {
		return Parse(file, text, overrides)
	}
	text, err := fs.ReadFile(builtin, name)
	if err == nil {
		return Parse(file, text, overrides)
	}
	names, _ := fs.Glob(builtin, "*.yaml")
	for i, n := range names {
		names[i] = strings.TrimSuffix(n, ".yaml")
	}
	slices.Sort(names)
	hint := ""
	if near := nearest(arg, names); near != "" {
		hint = fmt.Sprintf(", did you mean %s?", near)
	}
	return nil, fmt.Errorf("%w: %q%s (built in: %s)", ErrNotFound, arg, hint, strings.Join(names, ", "))
}
