package swarm

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"barrage/harness/ledger"
)

// A Cause is why a client failed to join, or was closed after it had joined.
type Cause uint8

// The causes.
const (
	ConnectRefused  Cause = iota
	ConnectFailed         // any other error of connect(2) or before it
	NoLocalPort           // the source addresses have no port left
	NoDescriptor          // the thread's table of file descriptors is full
	JoinTimeout           // no connection, upgrade or auth reply in time
	UpgradeRefused        // the HTTP answer is not 101, or not a WebSocket one
	HandshakeFailed       // of TLS
	ServerClosed          // end of file
	ServerReset           // ECONNRESET
	WebSocketClose        // a close frame
	ProtocolError         // bytes that are no frame of the protocol
	ReadFailed            // any other error of read(2)
	WriteFailed           // send(2) failed, or took only a part
	causes
)

// String returns the cause's name as reports show it.
func (c Cause) String() string {
	return [causes]string{
		"connect_refused", "connect_failed", "no_local_port", "no_descriptor", "join_timeout", "upgrade_refused", "tls_handshake_failed",
		"server_closed", "server_reset", "websocket_close", "protocol_error", "read_failed", "write_failed",
	}[c]
}

// A CauseCount is how often a cause occurred, with the first examples.
type CauseCount struct {
	Cause    Cause
	Count    int64
	Examples []string
}

// keptExamples is how many examples of a cause are kept, the first ones.
const keptExamples = 3

// causeCounters counts causes. The counts may be read at any time; mu guards the examples.
type causeCounters struct {
	counts   [causes]atomic.Int64
	mu       sync.Mutex
	examples [causes][]string
}

func (c *causeCounters) add(cause Cause, client int, err error) {
	if c.counts[cause].Add(1) > keptExamples {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.examples[cause] = append(c.examples[cause], fmt.Sprintf("client %d: %v", client, err))
}

// list returns the causes that occurred.
func (c *causeCounters) list() []CauseCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []CauseCount
	for i := range c.counts {
		if n := c.counts[i].Load(); n > 0 {
			out = append(out, CauseCount{Cause: Cause(i), Count: n, Examples: slices.Clone(c.examples[i])})
		}
	}
	return out
}

func (c *causeCounters) total() (n int64) {
	for i := range c.counts {
		n += c.counts[i].Load()
	}
	return n
}

// AddCauses returns sum with list added, such as that of another thread. Both are in the order
// of the causes; of the examples of a cause the first three stay.
func AddCauses(sum, list []CauseCount) []CauseCount {
	for _, c := range list {
		i, found := slices.BinarySearchFunc(sum, c.Cause, func(e CauseCount, cause Cause) int { return cmp.Compare(e.Cause, cause) })
		if !found {
			sum = slices.Insert(sum, i, CauseCount{Cause: c.Cause})
		}
		into := &sum[i]
		into.Count += c.Count
		into.Examples = append(into.Examples, c.Examples[:min(len(c.Examples), keptExamples-len(into.Examples))]...)
	}
	return sum
}

// Progress is how many clients are where. Waiting + Connecting + Connected + Joined +
// Failed is the number of clients; those that ClosedEarly are among Joined.
type Progress struct {
	Clients     int64
	Waiting     int64 // not tried yet
	Connecting  int64 // connect(2) is under way
	Connected   int64 // upgrade or auth is under way
	Joined      int64 // had their auth reply
	Failed      int64 // never joined
	ClosedEarly int64 // joined, and then lost their connection

	// Of Joined too, and none of ClosedEarly.
	LaggingClosed int64 // slow and stalled clients that lost their connection
	Away          int64 // left, or were taken by a storm, and are not back yet
	Vanished      int64 // half-open
	Rejoined      int64 // how often clients came back so far
}

// Present is how many clients have joined and are still there.
func (p Progress) Present() int64 {
	return p.Joined - p.ClosedEarly - p.LaggingClosed - p.Away - p.Vanished
}

// A ClientCount is how many clients of a kind are in a state: waiting, connecting,
// securing (the TLS handshake), upgrading, authenticating, joined, failed, or, after they had
// joined, closed, away or vanished.
type ClientCount struct {
	Kind  ledger.Kind
	State string
	Count int64
}

// Causes returns all causes, in the order of their declaration.
func Causes() []Cause {
	list := make([]Cause, causes)
	for i := range list {
		list[i] = Cause(i)
	}
	return list
}

// A Snapshot is the swarm's figures at one moment. The counters only grow.
type Snapshot struct {
	Progress
	Where    []ClientCount // every kind in every state
	Failures []CauseCount  // of Failed
	Closes   []CauseCount  // of ClosedEarly

	LaggingCloses []CauseCount // of LaggingClosed
	Retries       []CauseCount // failed attempts to come back, after which clients try again
	RoomChanges   int64        // asked for

	Disorder   ledger.Disorder // of the well-behaved
	Accepted   int64           // pushes received for the first time, by the ledger
	Frames     int64           // all frames, of which there are
	Pushes     int64
	Control    int64 // replies to heartbeats and auth, and the like
	Bytes      int64
	Reads      int64
	Heartbeats int64 // sent
	HeldBack   int64 // heartbeats not sent since the socket was full

	Latency    *hdrhistogram.Histogram // of the last whole second, in nanoseconds, 2 digits
	AllLatency *hdrhistogram.Histogram // of all whole seconds so far
	Threads    []ThreadLoad
}

// ThreadLoad is how busy a thread of the swarm is.
type ThreadLoad struct {
	Clients int
	Busy    float64       // fraction of the last second that it was not waiting in epoll_wait: near 1 it is saturated
	Starved float64       // fraction of the last second in which it was ready to run and had no processor, 0 where the kernel doesn't tell
	CPU     time.Duration // user and system time since it started
	ReadLag time.Duration // the longest in the last second, see Report.ReadLag
}

// A Report is the swarm's part of a run's result.
type Report struct {
	Snapshot
	Ledger  *ledger.Report
	Counted ByteCount // bytes read, beside the kernel's own count

	// Losses are the first things that well-behaved clients lost, a few of each thread.
	Losses []ClientLoss

	// Lagging is on the slow and stalled clients, which are in no other part of the ledger;
	// nil where there are none.
	Lagging *ledger.Report

	// ReadLag is, for each round of events, the time from the kernel's answer to the read
	// of the round's last one, in nanoseconds. It and Config.Gather are what the swarm may
	// have added to a latency.
	ReadLag *hdrhistogram.Histogram

	// ConnectTime is from connect(2) to joined, in nanoseconds, one value a client.
	ConnectTime *hdrhistogram.Histogram

	// RejoinTime is the same of clients that came back by themselves, and StormTime of those
	// that a storm had taken.
	RejoinTime, StormTime *hdrhistogram.Histogram
}

// A ClientLoss is a ledger.Loss whose Client is the swarm's number.
type ClientLoss ledger.Loss

// keptLosses is how many losses of a thread are kept.
const keptLosses = 5

func newReport() *Report {
	return &Report{
		ReadLag: ledger.NewLiveHistogram(), ConnectTime: ledger.NewLiveHistogram(),
		RejoinTime: ledger.NewLiveHistogram(), StormTime: ledger.NewLiveHistogram(),
	}
}

// Merge adds what o has, a report over the same streams, but for its Snapshot.
func (r *Report) Merge(o *Report) error {
	r.ReadLag.Merge(o.ReadLag)
	r.ConnectTime.Merge(o.ConnectTime)
	r.RejoinTime.Merge(o.RejoinTime)
	r.StormTime.Merge(o.StormTime)
	r.Counted.add(o.Counted)
	r.Losses = append(r.Losses, o.Losses...)
	for _, part := range []struct{ into, from **ledger.Report }{{&r.Ledger, &o.Ledger}, {&r.Lagging, &o.Lagging}} {
		switch {
		case *part.from == nil:
		case *part.into == nil:
			*part.into = *part.from
		default:
			if err := (*part.into).Merge(*part.from); err != nil {
				return err
			}
		}
	}
	return nil
}
