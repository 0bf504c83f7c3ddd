package scenario

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// A Problem is one mistake in a scenario.
type Problem struct {
	File    string
	Line    int    // 1 is the first; 0: the value was given by -set
	Field   string // clients.count
	Message string // what is wrong, and what would be right
}

// Error returns the problem as file:line: field: message.
func (p Problem) Error() string {
	where := fmt.Sprintf("%s:%d", p.File, p.Line)
	if p.Line == 0 {
		where = p.File + " with -set"
	}
	if p.Field == "" {
		return where + ": " + p.Message
	}
	return where + ": " + p.Field + ": " + p.Message
}

// Problems are all mistakes that were found, in the order of the file's lines.
type Problems []Problem

// Error returns one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, x := range p {
		lines[i] = x.Error()
	}
	return strings.Join(lines, "\n")
}

// A reader collects the problems of one file.
type reader struct {
	file     string
	problems Problems
}

func (r *reader) problem(n *yaml.Node, field, format string, args ...any) {
	p := Problem{File: r.file, Field: field, Message: fmt.Sprintf(format, args...)}
	if n != nil {
		p.Line = n.Line
	}
	r.problems = append(r.problems, p)
}

// An object is a YAML mapping whose fields are asked for by name; done then reports the
// fields that nobody asked for.
type object struct {
	r      *reader
	node   *yaml.Node
	path   string
	fields map[string]*yaml.Node
	keys   map[string]*yaml.Node
	asked  []string
}

// object reads n as a mapping. A nil or wrong n is an object without fields, which is
// not reported a second time by its fields: they are read with node == nil.
func (r *reader) object(n *yaml.Node, path string) *object {
	o := &object{r: r, path: path, fields: map[string]*yaml.Node{}, keys: map[string]*yaml.Node{}}
	if n == nil {
		return o
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n, path, "is %s, a mapping of fields is wanted", describe(n))
		return o
	}
	o.node = n
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if _, twice := o.fields[key.Value]; twice {
			r.problem(key, o.at(key.Value), "is there twice")
			continue
		}
		o.fields[key.Value], o.keys[key.Value] = n.Content[i+1], key
	}
	return o
}

// at returns the path of the field name.
func (o *object) at(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// get returns the field's value, or nil.
func (o *object) get(name string) *yaml.Node {
	o.asked = append(o.asked, name)
	n := o.fields[name]
	if n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// object returns the mapping in the field name.
func (o *object) object(name string) *object { return o.r.object(o.get(name), o.at(name)) }

// problem reports a mistake in the value of the field name.
func (o *object) problem(name, format string, args ...any) {
	n := o.fields[name]
	if n == nil {
		n = o.node
	}
	o.r.problem(n, o.at(name), format, args...)
}

// done reports the fields that were not asked for.
func (o *object) done() {
	for _, name := range slices.Sorted(maps.Keys(o.fields)) {
		if slices.Contains(o.asked, name) {
			continue
		}
		hint := "known here: " + strings.Join(o.asked, ", ")
		if near := nearest(name, o.asked); near != "" {
			hint = fmt.Sprintf("did you mean %s? (%s)", near, hint)
		}
		o.r.problem(o.keys[name], o.at(name), "unknown field; %s", hint)
	}
}

// text returns the field's scalar, or def where it is absent.
func (o *object) text(name, def string) string {
	n := o.get(name)
	if n == nil {
		return def
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		o.problem(name, "is %s, a text is wanted", describe(n))
		return def
	}
	return n.Value
}

// list returns the elements of the field, a YAML sequence.
func (o *object) list(name string) []*yaml.Node {
	n := o.get(name)
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		o.problem(name, "is %s, a list is wanted", describe(n))
		return nil
	}
	return n.Content
}

// settings returns the field, a mapping of configuration keys to values, sorted by key.
func (o *object) settings(name string) []Setting {
	sub := o.object(name)
	var out []Setting
	for _, key := range slices.Sorted(maps.Keys(sub.fields)) {
		section, leaf, ok := strings.Cut(key, ".")
		if !ok || section == "" || leaf == "" {
			o.r.problem(sub.keys[key], sub.at(key), "is not a configuration key; write it as section.key, e.g. room.minInterval")
			continue
		}
		out = append(out, Setting{Key: key, Value: sub.text(key, "")})
	}
	return out
}

// A unit is how the values of a field are written.
type unit[T cmp.Ordered] struct {
	parse func(string) (T, error)
	show  func(T) string
}

var (
	whole = unit[int]{
		parse: func(s string) (int, error) {
			v, err := strconv.Atoi(s)
			if err != nil {
				return 0, fmt.Errorf("%q is not a whole number", s)
			}
			return v, nil
		},
		show: func(v int) string { return strconv.Itoa(v) },
	}
	fraction = unit[float64]{
		parse: func(s string) (float64, error) {
			v, err := strconv.ParseFloat(s, 64)
			if err != nil || v != v {
				return 0, fmt.Errorf("%q is not a fraction", s)
			}
			return v, nil
		},
		show: func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) },
	}
	rate     = unit[float64]{parse: parseRate, show: func(v float64) string { return fraction.show(v) + "/s" }}
	size     = unit[int]{parse: parseSize, show: func(v int) string { return strconv.Itoa(v) + "B" }}
	byteRate = unit[int]{parse: parseByteRate, show: func(v int) string { return strconv.Itoa(v) + "B/s" }}
	duration = unit[time.Duration]{parse: parseDuration, show: time.Duration.String}
)

// scalar reads the field name in the range that the table of fields gives it. most lowers
// its upper end.
func scalar[T cmp.Ordered](o *object, name string, u unit[T], most ...T) T {
	f, b := boundsOf(o.at(name), u)
	if len(most) > 0 {
		b.most = min(b.most, most[0])
	}
	n := o.get(name)
	switch {
	case n != nil:
		return value(o.r, n, o.at(name), u, b.least, b.most)
	case !f.needed:
		return b.absent
	case o.node != nil:
		o.problem(name, "is missing; accepted: %s to %s", u.show(b.least), u.show(b.most))
	}
	return b.least
}

// toggle reads the field name, true or false.
func (o *object) toggle(name string) bool {
	n := o.get(name)
	if n == nil {
		return false
	}
	on, err := strconv.ParseBool(n.Value)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || err != nil {
		o.problem(name, "is %s; accepted: true or false", describe(n))
	}
	return on
}

// value reads n as a value from lo to hi; where it is none, it reports that and returns lo.
func value[T cmp.Ordered](r *reader, n *yaml.Node, path string, u unit[T], lo, hi T) T {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		r.problem(n, path, "is %s; accepted: %s to %s", describe(n), u.show(lo), u.show(hi))
		return lo
	}
	v, err := u.parse(n.Value)
	if err != nil {
		r.problem(n, path, "%v; accepted: %s to %s", err, u.show(lo), u.show(hi))
		return lo
	}
	if v < lo || v > hi {
		r.problem(n, path, "%s is out of range; accepted: %s to %s", n.Value, u.show(lo), u.show(hi))
		return lo
	}
	return v
}

// describe says what kind of YAML n is.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "empty"
	default:
		return strconv.Quote(n.Value)
	}
}
