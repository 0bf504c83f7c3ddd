package selftest

import "time"

// A Plan is what a Server does wrong. The zero value is a good server.
type Plan struct {
	// Delay is from a push's intended time, which its body carries, to its delivery. What
	// reaches the server later than that is delivered at once.
	Delay time.Duration
	Stall Stall
	// Fault is what becomes of the push seq of a stream on its way to a client; nil delivers
	// all.
	Fault func(client int, seq uint32) Fault
	// Refuse names pushes that are delivered, though the answer is an error; nil for none.
	Refuse func(seq uint32) bool
	// Storm is how many pings each of the first Stormed WebSocket clients has to answer at
	// any time. Each costs it a system call, and the server next to nothing.
	Storm   int
	Stormed int
}

// A Stall is a time in which nothing is delivered, from the intended time of the first
// push on. What would have been is delivered at its end, in its order.
type Stall struct {
	From, To time.Duration
	Answers  bool // pushes are not even taken before its end, and so not answered
}

// A Fault is what becomes of a push on its way to one client.
type Fault uint8

// The faults.
const (
	Deliver Fault = iota
	Drop
	Double    // it comes twice
	Swap      // it comes behind the next push of its stream
	WithBare  // beside it comes a frame whose body carries no stamp
	WithAlien // beside it comes a push of a stream that nobody pushes to
	Astray    // it comes, and comes to a client of another room as well
	faults
)

// Did is what a Server really did, by its own account.
type Did struct {
	Clients int // that joined
	Pushes  int // taken
	Refused int // of them, those that were answered with an error
	Faults  [faults]int64
	Frames  int64 // pushes written to clients, with what the faults added
	Held    int64 // writes that a full socket held back, so that the frames' stamps are too early

	// Latencies are, of each push and client that it was for and came to, the time from
	// its intended time to just before it was first written, in nanoseconds, ascending.
	Latencies []int64
}

// Delivered returns how many of the pushes came to the clients that they were for.
func (d *Did) Delivered() int64 { return int64(len(d.Latencies)) }

// Mean returns the mean latency in seconds, 0 where nothing was delivered.
func (d *Did) Mean() float64 {
	sum := 0.0
	for _, l := range d.Latencies {
		sum += float64(l)
	}
	return sum / 1e9 / float64(max(1, len(d.Latencies)))
}

// Percentile returns the latency, in seconds, that p percent don't exceed.
func (d *Did) Percentile(p float64) float64 {
	n := len(d.Latencies)
	if n == 0 {
		return 0
	}
	rank := min(max(int(p/100*float64(n)+0.5), 1), n)
	return float64(d.Latencies[rank-1]) / 1e9
}
