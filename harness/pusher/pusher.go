// Package pusher sends pushes to logic's HTTP API on an open-loop schedule: each push has
// an intended time, fixed before the run and carried in its body, and a late sender never
// moves it. What was late is sent at once, and how late is measured.
//
// The pushes of one stream must enter Kafka in the order of their sequence numbers, or the
// ledger would blame the server for an order that the pusher made. Two requests under way
// at a time may overtake each other, so a stream has one, and the next waits for its
// answer. A high rate is therefore split into several streams, each with its part of the
// schedule, so that an answer of a few milliseconds delays nothing.
package pusher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"barrage/harness/ledger"
)

// A Stream is an ordered series of pushes to the same receivers.
type Stream struct {
	ID     uint16
	Lane   int    // streams of one lane share a connection and wait for each other
	Target string // path and query of the request
	Size   int    // bytes of a body, at least ledger.BodyMin

	Start  time.Duration // of the first push, from the schedule's start
	Period time.Duration // between two pushes
	Pushes uint32
	WarmUp bool // left out of the histograms
}

// intended returns when push seq is due, from the schedule's start.
func (s *Stream) intended(seq uint32) time.Duration {
	return s.Start + time.Duration(seq)*s.Period
}

// Config is what Run needs.
type Config struct {
	Addr    string // host:port of logic's HTTP API
	Streams []Stream

	// Timeout is the most that an answer may take. A push without one is of unknown fate.
	// 0 is 10 s.
	Timeout time.Duration
	// Overrun is how long after its intended time a push is still sent. 0 is 30 s.
	Overrun time.Duration
	// Started is called before the first push of a stream, by several goroutines.
	Started func(stream uint16)
}

// Defaults of Config.
const (
	defaultTimeout = 10 * time.Second
	defaultOverrun = 30 * time.Second
)

// Counts are what became of pushes. Intended is what the schedule wanted; Sent is what a
// request was made for, and each of those is in one of the other three.
type Counts struct {
	Intended     int64
	Sent         int64
	Acknowledged int64 // code 0: in Kafka
	Failed       int64 // another code, or no connection
	Unknown      int64 // no answer
}

// Add adds o to c.
func (c *Counts) Add(o Counts) {
	c.Intended += o.Intended
	c.Sent += o.Sent
	c.Acknowledged += o.Acknowledged
	c.Failed += o.Failed
	c.Unknown += o.Unknown
}

// A StreamResult is what became of one stream.
type StreamResult struct {
	Stream
	Counts
	Plan ledger.Plan // the same for the ledger: failed pushes are of unknown fate too, since Kafka may have them
}

// A Result is what became of a schedule.
type Result struct {
	Streams []StreamResult
	Lag     *hdrhistogram.Histogram // from intended time to the beginning of the request, ns, without warm-up
	Ack     *hdrhistogram.Histogram // from the beginning of the request to code 0, ns, without warm-up
	Errors  []string                // the first few failures
}

// Total returns the counts of all streams, with or without warm-up alone.
func (r *Result) Total(warmUp bool) (c Counts) {
	for _, s := range r.Streams {
		if s.WarmUp == warmUp {
			c.Add(s.Counts)
		}
	}
	return c
}

// Plans returns the streams' plans for the ledger.
func (r *Result) Plans() []ledger.Plan {
	plans := make([]ledger.Plan, len(r.Streams))
	for i, s := range r.Streams {
		plans[i] = s.Plan
	}
	return plans
}

const keptErrors = 5

// A run is one schedule under way.
type run struct {
	cfg   Config
	start int64 // ledger.Now's clock

	mu     sync.Mutex
	result Result
}

// Run sends all pushes of the schedule that starts at start (ledger.Now's clock) and
// returns what became of them. It returns early when ctx ends: what was not sent by then
// is intended and not sent.
func Run(ctx context.Context, cfg Config, start int64) (*Result, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Overrun == 0 {
		cfg.Overrun = defaultOverrun
	}
	if cfg.Started == nil {
		cfg.Started = func(uint16) {}
	}
	r := &run{cfg: cfg, start: start}
	r.result.Lag, r.result.Ack = ledger.NewHistogram(), ledger.NewHistogram()
	lanes := map[int][]*StreamResult{}
	r.result.Streams = make([]StreamResult, len(cfg.Streams))
	for i, s := range cfg.Streams {
		if s.Size < ledger.BodyMin || s.Pushes > 1 && s.Period <= 0 {
			return nil, fmt.Errorf("stream %d: size %d and period %s; at least %d and more than 0 are wanted", s.ID, s.Size, s.Period, ledger.BodyMin)
		}
		r.result.Streams[i] = StreamResult{Stream: s, Counts: Counts{Intended: int64(s.Pushes)}, Plan: ledger.Plan{Stream: s.ID}}
		lanes[s.Lane] = append(lanes[s.Lane], &r.result.Streams[i])
	}
	var wg sync.WaitGroup
	for _, streams := range lanes {
		wg.Go(func() { r.lane(ctx, streams) })
	}
	wg.Wait()
	return &r.result, nil
}

// lane sends the pushes of its streams, one at a time, in the order of their intended
// times. Only it touches them.
func (r *run) lane(ctx context.Context, streams []*StreamResult) {
	c := &conn{addr: r.cfg.Addr}
	defer c.close()
	// A failed dial is tried again for the first push, which then reports it.
	_ = c.dial(ctx, r.cfg.Timeout)

	timer := time.NewTimer(0)
	defer timer.Stop()
	next := make([]uint32, len(streams))
	var body []byte
	for {
		s, seq := earliest(streams, next)
		if s < 0 {
			return
		}
		stream := streams[s]
		due := r.start + int64(stream.intended(seq))
		timer.Reset(time.Duration(due - ledger.Now()))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if ctx.Err() != nil { // both had come
			return
		}
		if ledger.Now()-due > int64(r.cfg.Overrun) {
			next[s] = stream.Pushes // a plan has no holes, so the stream ends here
			continue
		}
		next[s]++
		if seq == 0 {
			r.cfg.Started(stream.ID)
		}
		body = ledger.AppendBody(body[:0], ledger.Stamp{Stream: stream.ID, Seq: seq, Intended: due}, stream.Size)
		sent := ledger.Now()
		err := c.post(ctx, stream.Target, body, r.cfg.Timeout)
		r.account(stream, seq, sent-due, ledger.Now()-sent, err)
	}
}

// earliest returns the stream whose next push is due first, and that push; -1 when all
// are done. A lane has few streams, so it looks at each.
func earliest(streams []*StreamResult, next []uint32) (stream int, seq uint32) {
	stream = -1
	var at time.Duration
	for i, s := range streams {
		if next[i] >= s.Pushes {
			continue
		}
		if due := s.intended(next[i]); stream < 0 || due < at {
			stream, seq, at = i, next[i], due
		}
	}
	return stream, seq
}

// account enters what became of a push.
func (r *run) account(s *StreamResult, seq uint32, lag, took int64, err error) {
	s.Sent++
	s.Plan.Pushed = seq + 1
	var refused *RefusedError
	switch {
	case err == nil:
		s.Acknowledged++
	case errors.As(err, &refused), errors.Is(err, errNotConnected):
		s.Failed++
		s.Plan.Unknown = append(s.Plan.Unknown, seq)
	default:
		s.Unknown++
		s.Plan.Unknown = append(s.Plan.Unknown, seq)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && len(r.result.Errors) < keptErrors {
		r.result.Errors = append(r.result.Errors, fmt.Sprintf("stream %d, push %d: %v", s.ID, seq, err))
	}
	if s.WarmUp {
		return
	}
	record(r.result.Lag, lag)
	if err == nil {
		record(r.result.Ack, took)
	}
}

// record enters v, held to what the histogram can hold.
func record(h *hdrhistogram.Histogram, v int64) {
	_ = h.RecordValue(min(max(v, h.LowestTrackableValue()), h.HighestTrackableValue()))
}
