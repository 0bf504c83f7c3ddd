package scenario

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"barrage/harness/pusher"
	"barrage/harness/pusher/load"
)

// A Push is one line of pushes.
type Push struct {
	Name      string
	Kind      pusher.Kind
	Operation int32
	Schedule  load.Schedule // of the measured phase, from its start
	WarmUp    load.Schedule // of the warm-up
	Rate      float64       // pushes a second in the mean of the measured phase
	Sizes     load.Sizes    // of the bodies; a frame is 16 bytes more
	Via       pusher.Via
	Rooms     []int // KindRoom: the rooms that take turns, 0 to Rooms.Count-1
	Targets   int   // KindKeys, KindMids: keys or member ids that a push names
	Groups    int   // KindKeys, KindMids: disjoint sets of targets that take turns
	Speed     int   // KindAll: messages a second over the cluster, 0 for at once
	Senders   int   // sequential streams to each room or group; 0: by the rate
}

func kindNames() []string {
	return []string{string(pusher.KindRoom), string(pusher.KindKeys), string(pusher.KindMids), string(pusher.KindAll)}
}

func viaNames() (names []string) {
	for _, v := range pusher.Vias() {
		names = append(names, string(v))
	}
	return names
}

// senderRate is the most pushes a second that one sequential sender is given where the
// scenario doesn't say: an acknowledgement takes 3 to 5 ms, so a sender is then busy for a
// fifth of the time and a slow answer delays few of its pushes. A burst gets a sender for
// each of its pushes, up to mostForBurst.
const (
	senderRate   = 50
	mostForBurst = 64
)

// TargetCount returns the rooms or groups that the line's pushes go to in turn.
func (p Push) TargetCount() int {
	switch p.Kind {
	case pusher.KindRoom:
		return len(p.Rooms)
	case pusher.KindKeys, pusher.KindMids:
		return p.Groups
	default:
		return 1
	}
}

// SendersPerTarget returns Senders, or what the schedule asks for where it is 0.
func (p Push) SendersPerTarget() int {
	switch {
	case p.Senders > 0:
		return p.Senders
	case p.Via == pusher.ViaKafka:
		return 1 // its pushes keep their order without waiting for each other
	}
	targets := p.TargetCount()
	if b, ok := p.Schedule.(load.Burst); ok {
		return min((b.Pushes(time.Nanosecond)+targets-1)/targets, mostForBurst)
	}
	return max(1, int((p.Schedule.Peak()/float64(targets)+senderRate-1)/senderRate))
}

// Streams returns the number of the line's streams: its senders over all targets.
func (p Push) Streams() int { return p.TargetCount() * p.SendersPerTarget() }

func readPush(o *object, c Clients, phases Phases) Push {
	p := Push{
		Kind:      pusher.Kind(o.text("kind", "")),
		Operation: int32(scalar(o, "operation", whole)),
		Senders:   scalar(o, "senders", whole),
		Via:       pusher.Via(o.text("via", string(pusher.ViaHTTP))),
	}
	seed := uint64(scalar(o, "seed", whole))
	readSchedule(o, &p, phases, seed)
	p.Sizes = readSizes(o, seed)
	p.Name = o.text("name", string(p.Kind))
	known := slices.Contains(kindNames(), string(p.Kind))
	if !known && o.node != nil {
		o.problem("kind", "%q is no kind of push; accepted: %s", p.Kind, strings.Join(kindNames(), ", "))
	}
	if err := p.Via.Carries(p.Kind); known && err != nil {
		o.problem("via", "%v", err)
	}
	switch p.Kind {
	case pusher.KindRoom:
		p.Rooms = readRooms(o, c)
	case pusher.KindKeys, pusher.KindMids:
		whose, most := "clients.keys", c.Keys
		if p.Kind == pusher.KindMids {
			whose, most = "clients.members", c.Members
		}
		if most == 0 {
			o.problem("kind", "mids need members; set clients.members")
			break
		}
		p.Targets = scalar(o, "targets", whole, most)
		p.Groups = scalar(o, "groups", whole)
		if p.Targets*p.Groups > most {
			o.problem("groups", "%d groups of %d targets are more than the %d of %s", p.Groups, p.Targets, most, whose)
		}
	case pusher.KindAll:
		p.Speed = scalar(o, "speed", whole)
	}
	if p.Kind == pusher.KindRoom && c.Rooms.Count == 0 {
		o.problem("kind", "the clients are in no room; set clients.rooms")
	}
	o.done()
	return p
}

// schedules are the fields of a line that say when its pushes are due; one must be there.
var schedules = []string{"rate", "ramp", "burst", "poisson", "steps"}

// readSchedule reads when the line's pushes are due.
func readSchedule(o *object, p *Push, phases Phases, seed uint64) {
	// Something to go on with where a problem was reported.
	p.Schedule, p.WarmUp = load.Constant{}, load.Constant{}
	var given []string
	for _, name := range schedules {
		if o.fields[name] != nil {
			given = append(given, name)
		}
	}
	if o.node == nil {
		return
	}
	defer func() { o.asked = append(o.asked, schedules...) }()
	switch len(given) {
	case 0:
		o.problem("rate", "is missing; one of %s is wanted", strings.Join(schedules, ", "))
		return
	case 1:
	default:
		o.problem(given[1], "is there beside %s; one of them is wanted", given[0])
		return
	}
	before := len(o.r.problems)
	measured, warmUp, err := schedule(o, given[0], phases, seed)
	var out *load.RangeError
	switch {
	case len(o.r.problems) > before: // it was made of what is wrong
	case errors.As(err, &out):
		o.problem(given[0], "%s is %s; accepted: %s", out.Field, out.Value, out.Accepted)
	case err != nil:
		o.problem(given[0], "%v", err)
	default:
		p.Schedule, p.WarmUp = measured, warmUp
		p.Rate = float64(measured.Pushes(phases.Measure)) / phases.Measure.Seconds()
	}
}

// schedule reads the field name, one of schedules.
func schedule(o *object, name string, phases Phases, seed uint64) (measured, warmUp load.Schedule, err error) {
	constant := func(rate float64) (load.Schedule, error) { return load.NewConstant(max(rate, load.MinRate)) }
	switch name {
	case "ramp":
		sub := o.object(name)
		from, to := scalar(sub, "from", rate), scalar(sub, "to", rate)
		over := phases.Measure
		if sub.get("over") != nil {
			over = scalar(sub, "over", duration)
		}
		sub.done()
		if measured, err = load.NewRamp(from, to, over); err == nil {
			warmUp, err = constant(from)
		}
	case "burst":
		sub := o.object(name)
		measured, err = load.NewBurst(scalar(sub, "pushes", whole), scalar(sub, "every", duration))
		warmUp = measured
		sub.done()
	case "poisson":
		mean := scalar(o, name, rate)
		if measured, err = load.NewPoisson(mean, phases.Measure, seed); err == nil && phases.Warmup > 0 {
			warmUp, err = load.NewPoisson(mean, phases.Warmup, seed+1)
		} else {
			warmUp = measured
		}
	case "steps":
		var steps []load.Step
		for i, n := range o.list(name) {
			sub := o.r.object(n, fmt.Sprintf("%s.%d", o.at(name), i))
			steps = append(steps, load.Step{Rate: scalar(sub, "rate", rate), For: scalar(sub, "for", duration)})
			sub.done()
		}
		if measured, err = load.NewSteps(steps); err == nil {
			warmUp, err = constant(steps[0].Rate)
		}
	default:
		measured, err = load.NewConstant(scalar(o, name, rate))
		warmUp = measured
	}
	return measured, warmUp, err
}

// readSizes reads how large the line's bodies are.
func readSizes(o *object, seed uint64) load.Sizes {
	none := load.Fixed(0)
	single, drawn := o.get("size"), o.object("sizes")
	defer drawn.done()
	switch {
	case o.node == nil:
		return none
	case single != nil && drawn.node != nil:
		o.problem("sizes", "is there beside size; one of them is wanted")
		return none
	case drawn.node == nil && single == nil && o.fields["sizes"] == nil:
		o.problem("size", "is missing; one of size and sizes is wanted")
		return none
	case drawn.node == nil:
		return load.Fixed(scalar(o, "size", size))
	}
	before := len(o.r.problems)
	least, mean, most := drawn.get("min"), drawn.get("mean"), scalar(drawn, "max", size)
	var sizes load.Sizes
	var err error
	switch {
	case (least == nil) == (mean == nil):
		drawn.problem("min", "one of min and mean is wanted beside max")
		return none
	case least != nil:
		sizes, err = load.NewUniform(scalar(drawn, "min", size), most, seed)
	default:
		sizes, err = load.NewExponential(scalar(drawn, "mean", size), most, seed)
	}
	if err != nil && len(o.r.problems) == before {
		var out *load.RangeError
		if errors.As(err, &out) {
			drawn.problem(out.Field, "%s is out of range; accepted: %s", out.Value, out.Accepted)
		} else {
			o.problem("sizes", "%v", err)
		}
	}
	if err != nil {
		return none
	}
	return sizes
}

// readRooms reads a push's rooms: "all", which is also what an absent field means, or a
// list of their numbers, 1 being the first, and of ranges of them.
func readRooms(o *object, c Clients) []int {
	n := o.get("rooms")
	if n == nil || n.Kind == yaml.ScalarNode && n.Value == "all" {
		rooms := make([]int, min(c.Rooms.Count, maxStreams+1))
		for i := range rooms {
			rooms[i] = i
		}
		return rooms
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		o.problem("rooms", "is %s; accepted: all, or a list of room numbers from 1 to %d", describe(n), c.Rooms.Count)
		return nil
	}
	var rooms []int
	listed := make(map[int]bool)
	for i, e := range n.Content {
		path := fmt.Sprintf("%s.%d", o.at("rooms"), i)
		first, last := *e, *e
		if from, to, ok := strings.Cut(e.Value, "-"); ok && from != "" && e.Kind == yaml.ScalarNode {
			first.Value, last.Value = from, to
		}
		most := max(1, c.Rooms.Count)
		from := value(o.r, &first, path, whole, 1, most)
		to := from
		if last.Value != first.Value {
			to = value(o.r, &last, path, whole, from, most)
		}
		for room := from - 1; room < to; room++ {
			if listed[room] {
				o.r.problem(e, o.at("rooms"), "room %d is there twice", room+1)
				break
			}
			listed[room] = true
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// checkStreams reports lines that add up to more streams than a push's body can number.
func checkStreams(o *object, s *Scenario) {
	streams := 0
	for _, p := range s.Pushes {
		streams += p.Streams()
	}
	if streams > maxStreams {
		o.problem("pushes", "%d streams (senders over all rooms and groups); accepted: at most %d", streams, maxStreams)
	}
	for i, p := range s.Pushes {
		if p.Schedule.Pushes(s.Phases.Measure) < 1 {
			o.problem("pushes", "line %d pushes nothing in %s at %s", i, s.Phases.Measure, p.Schedule)
		}
	}
}
