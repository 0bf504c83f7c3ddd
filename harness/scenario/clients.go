package scenario

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Clients are the simulated clients.
type Clients struct {
	Count         int // sockets
	Transport     Transport
	Connect       Connect
	Heartbeat     time.Duration // between two heartbeats of a client
	Rooms         Rooms
	Members       int     // distinct member ids that the clients are spread over, 0 for none
	Keys          int     // distinct keys that they are spread over
	Accepts       []int32 // operations that each client accepts, ascending
	ReceiveBuffer int     // SO_RCVBUF in bytes, 0 for the kernel's choice

	// Clients that misbehave, each a part of its own; the rest behave well.
	Slow     Slow
	Stalled  float64 // fraction that never reads
	Churn    Churn
	HalfOpen HalfOpen
	Storm    Storm
}

// Transport is the fraction of the clients on each transport; they add up to 1.
type Transport struct{ TCP, WebSocket, TCPTLS, WSS float64 }

// Secure returns the fraction that is inside TLS.
func (t Transport) Secure() float64 { return t.TCPTLS + t.WSS }

// Connect is how the clients arrive.
type Connect struct {
	Rate    float64       // new connections a second, at most
	From    float64       // where Over > 0, the rate at the start
	Over    time.Duration // how long the rate takes to grow evenly from From to Rate
	Pending int           // connects and logins under way at a time, at most
}

// Takes returns how long it takes to start n connections, if nothing holds them back.
func (c Connect) Takes(n int) time.Duration {
	ramp := c.Over.Seconds()
	inRamp := (c.From + c.Rate) / 2 * ramp
	if ramp > 0 && float64(n) < inRamp {
		// From the area under the ramp: n = From*t + (Rate-From)/(2*ramp) * t^2.
		a, b := (c.Rate-c.From)/(2*ramp), c.From
		if a == 0 {
			return time.Duration(float64(n) / b * 1e9)
		}
		return time.Duration((math.Sqrt(b*b+4*a*float64(n)) - b) / (2 * a) * 1e9)
	}
	return time.Duration((ramp + (float64(n)-inRamp)/c.Rate) * 1e9)
}

// Slow are clients that read a few bytes a second.
type Slow struct {
	Fraction float64
	Rate     int // bytes a second
}

// Churn are clients that leave and come back.
type Churn struct {
	Fraction float64
	Lives    time.Duration // mean of what they stay, exponentially distributed
	Away     time.Duration // mean of what they are away
}

// HalfOpen are clients that vanish without a word.
type HalfOpen struct {
	Fraction float64
	Lives    time.Duration // mean of what they stay
}

// Storm is when many clients lose their connection and come back at once.
type Storm struct {
	Fraction float64       // of those that behave well; 0: there is none
	At       time.Duration // from the start of the measured phase
	Reset    bool          // they leave with a RST
}

// Rooms are the rooms that the clients are spread over.
type Rooms struct {
	Count  int           // 0: the clients are in no room
	Type   string        // the part before "://"
	Zipf   float64       // exponent of the sizes, 0 for all the same
	Change time.Duration // how often a client changes to the next room or back, 0 for never
}

// Key returns the key of room i, 0 to Count-1.
func (r Rooms) Key(i int) string { return fmt.Sprintf("%s://%d", r.Type, i+1) }

// ID returns the part of room i's key behind "://".
func (r Rooms) ID(i int) string { return fmt.Sprint(i + 1) }

// Sizes returns how many of clients are in each room: the same everywhere but for one, or,
// with Zipf, room n's part falling as 1/n^Zipf. No room is empty.
func (r Rooms) Sizes(clients int) []int {
	sizes := make([]int, r.Count)
	sum := 0.0
	for n := range sizes {
		sum += math.Pow(float64(n+1), -r.Zipf)
	}
	// Each has one, and the rest goes by weight; what is left over by rounding down goes to
	// the largest, one each.
	rest, given := clients-r.Count, 0
	for n := range sizes {
		part := int(float64(rest) * math.Pow(float64(n+1), -r.Zipf) / sum)
		sizes[n] = 1 + part
		given += part
	}
	for n := range rest - given {
		sizes[n%r.Count]++
	}
	return sizes
}

// Misbehaving returns the fraction of the clients that have one of the behaviours but storm.
func (c *Clients) Misbehaving() float64 {
	return c.Slow.Fraction + c.Stalled + c.Churn.Fraction + c.HalfOpen.Fraction
}

func readClients(o *object) Clients {
	c := Clients{
		Count:         o.bound("count", scalar(o, "count", whole)),
		Connect:       Connect{Rate: scalar(o, "connect_rate", rate), Pending: scalar(o, "connect_pending", whole)},
		Heartbeat:     scalar(o, "heartbeat", duration),
		ReceiveBuffer: scalar(o, "receive_buffer", size),
	}
	if ramp := o.object("connect_ramp"); ramp.node != nil {
		c.Connect.From, c.Connect.Over = scalar(ramp, "from", rate), scalar(ramp, "over", duration)
		if c.Connect.From > c.Connect.Rate {
			ramp.problem("from", "%s is more than the %s of clients.connect_rate, up to which it grows", rate.show(c.Connect.From), rate.show(c.Connect.Rate))
		}
		ramp.done()
	}
	c.Transport = readTransport(o)

	rooms := o.object("rooms")
	if rooms.node != nil {
		c.Rooms = Rooms{
			Count: rooms.bound("count", scalar(rooms, "count", whole, c.Count)), Type: rooms.text("type", "live"),
			Zipf: scalar(rooms, "zipf", fraction), Change: scalar(rooms, "change", duration),
		}
		if !typeForm.MatchString(c.Rooms.Type) {
			rooms.problem("type", "%q is no room type; letters, digits, _ and -, 32 at most", c.Rooms.Type)
		}
		if c.Rooms.Change > 0 && c.Rooms.Count < 2 {
			rooms.problem("change", "there is one room alone, and nothing to change to")
		}
	}
	rooms.done()
	c.Members = o.bound("members", scalar(o, "members", whole, c.Count))
	if c.Keys = o.bound("keys", scalar(o, "keys", whole, c.Count)); c.Keys == 0 {
		c.Keys = c.Count
	}
	for i, n := range o.list("accepts") {
		_, b := boundsOf(o.at("accepts"), whole)
		c.Accepts = append(c.Accepts, int32(value(o.r, n, fmt.Sprintf("%s.%d", o.at("accepts"), i), whole, b.least, b.most)))
	}
	slices.Sort(c.Accepts)
	c.Accepts = slices.Compact(c.Accepts)
	readBehaviours(o, &c)
	o.done()
	return c
}

func readTransport(parent *object) Transport {
	o := parent.object("transport")
	defer o.done()
	t := Transport{TCP: scalar(o, "tcp", fraction), WebSocket: scalar(o, "ws", fraction), TCPTLS: scalar(o, "tcp+tls", fraction), WSS: scalar(o, "wss", fraction)}
	sum := t.TCP + t.WebSocket + t.TCPTLS + t.WSS
	switch {
	case o.node == nil:
		return Transport{TCP: 1}
	case math.Abs(sum-1) > 1e-9:
		parent.problem("transport", "tcp, ws, tcp+tls and wss add up to %g; they are fractions of the clients and must add up to 1", sum)
	}
	return t
}

// readBehaviours reads which clients misbehave, and how.
func readBehaviours(o *object, c *Clients) {
	in := func(name string, read func(*object)) {
		if sub := o.object(name); sub.node != nil {
			read(sub)
			sub.done()
		}
	}
	in("slow", func(o *object) { c.Slow = Slow{scalar(o, "fraction", fraction), scalar(o, "rate", byteRate)} })
	in("stalled", func(o *object) { c.Stalled = scalar(o, "fraction", fraction) })
	in("churn", func(o *object) {
		c.Churn = Churn{scalar(o, "fraction", fraction), scalar(o, "lives", duration), scalar(o, "away", duration)}
	})
	in("half_open", func(o *object) { c.HalfOpen = HalfOpen{scalar(o, "fraction", fraction), scalar(o, "lives", duration)} })
	in("storm", func(o *object) {
		c.Storm = Storm{scalar(o, "fraction", fraction), scalar(o, "at", duration), o.toggle("reset")}
	})
	if sum := c.Misbehaving(); sum > 1+1e-9 {
		o.r.problem(o.node, o.path, "slow, stalled, churn and half_open add up to %g; they are parts of the clients, 1 at most", sum)
	}
}
