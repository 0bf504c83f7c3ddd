package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"barrage/harness/pusher/load"
)

// Limits of a scenario beside those of the table of fields. They bound what the harness can
// hold, not what a server can.
const (
	maxText    = 1 << 20
	maxClients = 10_000_000
	maxStreams = 30_000 // of the measured phase; the warm-up has as many
	maxLines   = 64     // each has a histogram of its own in every thread of the swarm
)

var (
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	typeForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)
)

// Parse reads the scenario in text, after setting the fields that overrides name
// ("pushes.0.rate=200/s"; what stands behind the first = is YAML). file is for messages.
// The error is a Problems where the text is at fault.
func Parse(file string, text []byte, overrides []string) (*Scenario, error) {
	r := &reader{file: file}
	if len(text) > maxText {
		return nil, fmt.Errorf("%s has %d bytes; a scenario has at most %d", file, len(text), maxText)
	}
	dec := yaml.NewDecoder(bytes.NewReader(quoteComparisons(text)))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, Problems{{File: file, Line: 1, Message: "is empty; see scenarios/room-10k.yaml for an example"}}
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: holds more than one YAML document; one is wanted", file)
	}
	for _, o := range overrides {
		if err := override(doc.Content[0], o); err != nil {
			return nil, err
		}
	}
	s := r.scenario(doc.Content[0])
	s.File, s.Text = file, string(text)
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, r.problems
	}
	return s, nil
}

func (r *reader) scenario(n *yaml.Node) *Scenario {
	o := r.object(n, "")
	s := &Scenario{
		Name:        o.text("name", ""),
		Description: strings.TrimSpace(o.text("description", "")),
	}
	if !nameForm.MatchString(s.Name) && o.node != nil {
		o.problem("name", "%q is no name; small letters, digits, dots and dashes, 63 at most", s.Name)
	}
	s.Cluster = readCluster(o.object("cluster"))
	if o.fields["clients"] == nil && o.node != nil {
		o.problem("clients", "is missing")
	}
	s.Clients = readClients(o.object("clients"))
	readPhases(o, &s.Phases)
	pushes := o.list("pushes")
	if len(pushes) == 0 && o.node != nil {
		o.problem("pushes", "is missing; at least one line of pushes is wanted")
	}
	if len(pushes) > maxLines {
		o.problem("pushes", "%d lines; accepted: at most %d", len(pushes), maxLines)
		pushes = pushes[:maxLines]
	}
	for i, p := range pushes {
		s.Pushes = append(s.Pushes, readPush(r.object(p, fmt.Sprintf("pushes.%d", i)), s.Clients, s.Phases))
	}
	if c := o.object("capacity"); c.node != nil {
		s.Capacity = readCapacity(c, s.Pushes)
	}
	switch mode := word(o, "mode"); {
	case mode == modeRun:
		s.Capacity = nil
	case mode == modeCapacity && s.Capacity == nil && o.node != nil:
		o.problem("mode", "is %s, and there is no capacity: say from which rate to which, as capacity: {from: 10/s, to: 1000/s}", mode)
	}
	s.Expect = readExpect(o.object("expect"), s.Pushes)
	s.Bounds = readBounds(o.object("valid"))
	s.Metrics = readMetrics(o.object("metrics"))
	o.done()
	if len(r.problems) == 0 {
		checkStreams(o, s)
	}
	return s
}

func readCluster(o *object) Cluster {
	var c Cluster
	c.Comets, c.Tables = wholeOrAuto(o, "comets", 0), wholeOrAuto(o, "tables", AsNeeded)
	c.Redis, c.Network = word(o, "redis"), word(o, "network")
	c.Comet, c.Logic, c.Job = o.settings("comet"), o.settings("logic"), o.settings("job")
	if r := o.object("comet_runtime"); r.node != nil {
		c.CometRuntime = Runtime{Procs: scalar(r, "procs", whole), GC: scalar(r, "gc", whole), Memory: scalar(r, "memory", size), Nice: scalar(r, "nice", whole), TimerSlack: scalar(r, "timer_slack", duration)}
		r.done()
	}
	o.done()
	return c
}

// What a scenario is run for.
const (
	modeAuto     = "auto"
	modeRun      = "run"
	modeCapacity = "capacity"
)

// wholeOrAuto reads a whole number, or the word auto, which is that of the given number.
func wholeOrAuto(o *object, name string, auto int) int {
	if n := o.get(name); n != nil && n.Value == "auto" {
		return auto
	}
	return scalar(o, name, whole)
}

// word reads a field that has one of a few words.
func word(o *object, name string) string {
	f, _ := fieldAt(o.at(name))
	word := o.text(name, f.absent)
	if !slices.Contains(f.words, word) {
		o.problem(name, "%q is none; accepted: %s", word, strings.Join(f.words, ", "))
	}
	return word
}

// bound returns v, the value of the field name, or maxClients where the field was
// reported: what is bounded by it is then not reported as well.
func (o *object) bound(name string, v int) int {
	at := o.at(name)
	if slices.ContainsFunc(o.r.problems, func(p Problem) bool { return p.Field == at }) {
		return maxClients
	}
	return v
}

func readCapacity(o *object, pushes []Push) *Capacity {
	c := &Capacity{
		From: scalar(o, "from", rate), To: scalar(o, "to", rate), Precision: scalar(o, "precision", fraction),
		Confirm: scalar(o, "confirm", whole), Trials: scalar(o, "trials", whole),
	}
	if name := o.text("push", ""); name != "" {
		c.Push = slices.IndexFunc(pushes, func(p Push) bool { return p.Name == name })
		if c.Push < 0 {
			o.problem("push", "there is no line of pushes with the name %q", name)
		}
	}
	if c.Push >= 0 && c.Push < len(pushes) {
		if _, constant := pushes[c.Push].Schedule.(load.Constant); !constant {
			o.problem("push", "%s has no constant rate, of which a highest could be looked for", pushes[c.Push].Name)
		}
	}
	if c.To < c.From {
		o.problem("to", "%s is below the %s of capacity.from", rate.show(c.To), rate.show(c.From))
	}
	o.done()
	return c
}

func readPhases(parent *object, p *Phases) {
	if parent.fields["phases"] == nil && parent.node != nil {
		parent.problem("phases", "is missing")
	}
	o := parent.object("phases")
	p.Warmup = scalar(o, "warmup", duration)
	p.Measure = scalar(o, "measure", duration)
	p.Drain = scalar(o, "drain", duration)
	o.done()
}

// override sets the field that assignment ("clients.count=200") names. A field that isn't
// there is added: whether it may be is checked as for the file's own. Below cluster.comet,
// cluster.logic, cluster.job and expect the rest of the path is one key.
func override(root *yaml.Node, assignment string) error {
	path, text, ok := strings.Cut(assignment, "=")
	if !ok || path == "" {
		return fmt.Errorf("-set %q: write it as FIELD=VALUE, e.g. -set pushes.0.rate=200/s", assignment)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(quoteComparisons([]byte(": " + text))[2:], &doc); err != nil || len(doc.Content) == 0 {
		return fmt.Errorf("-set %s: %q is no YAML value", path, text)
	}
	forgetLines(doc.Content[0])
	steps := strings.Split(path, ".")
	// A setting of a role and the name of a figure are one key each.
	switch {
	case len(steps) > 3 && steps[0] == "cluster":
		steps = append(steps[:2:2], strings.Join(steps[2:], "."))
	case len(steps) > 2 && steps[0] == "expect":
		steps = append(steps[:1:1], strings.Join(steps[1:], "."))
	}
	n := root
	for i, step := range steps {
		last := i == len(steps)-1
		switch n.Kind {
		case yaml.MappingNode:
			n = entry(n, step)
		case yaml.SequenceNode:
			at, err := strconv.Atoi(step)
			if err != nil || at < 0 || at >= len(n.Content) {
				return fmt.Errorf("-set %s: %q is no element of a list of %d; accepted: 0 to %d", path, step, len(n.Content), len(n.Content)-1)
			}
			n = n.Content[at]
		default:
			return fmt.Errorf("-set %s: there is nothing below %q", path, strings.Join(steps[:i], "."))
		}
		if last {
			*n = *doc.Content[0]
		}
	}
	return nil
}

// entry returns the value of key in the mapping m, a new empty mapping if it isn't there.
func entry(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	value := &yaml.Node{Kind: yaml.MappingNode}
	m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, value)
	return value
}

// forgetLines marks n as given by -set.
func forgetLines(n *yaml.Node) {
	n.Line, n.Column = 0, 0
	for _, c := range n.Content {
		forgetLines(c)
	}
}
