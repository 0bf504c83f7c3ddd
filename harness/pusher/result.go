package pusher

import (
	"errors"
	"fmt"
	"sync"

	"github.com/HdrHistogram/hdrhistogram-go"

	"barrage/harness/ledger"
)

// Counts are what became of pushes. Intended is what the schedule wanted; Sent is what a
// request was made for, and each of those is in one of the other three.
type Counts struct {
	Intended     int64
	Sent         int64
	Acknowledged int64 // by the server, see the ways
	Failed       int64 // refused, or not sent for want of a connection
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
	Plan ledger.Plan // the same for the ledger: failed pushes are of unknown fate too, since the server may have them
}

// Times are how a line's measured pushes went, in nanoseconds.
type Times struct {
	Lag *hdrhistogram.Histogram // from intended time to the beginning of the request
	// Own is that part of Lag that nobody else is to blame for: it leaves out the time in which
	// the lane still waited for the acknowledgement of a push before, unless that would have come
	// in time but for the lane's own delay. Where Lag is long and Own is not, the server is slow,
	// or the senders are too few for its answers.
	Own *hdrhistogram.Histogram
	Ack *hdrhistogram.Histogram // from the beginning of the request to its acknowledgement
}

func newTimes() Times {
	return Times{ledger.NewHistogram(), ledger.NewHistogram(), ledger.NewHistogram()}
}

// A Result is what became of a schedule.
type Result struct {
	Streams []StreamResult
	Lines   []Times  // by Stream.Line
	Times            // of all lines
	Errors  []string // the first few failures
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

// An account is the result in the making.
type account struct {
	mu      sync.Mutex // guards all that follows, but for each stream's Stream
	streams []StreamResult
	lines   []Times
	errors  []string

	progress *Progress // its own lock-free counts
}

func newAccount(streams []Stream, progress *Progress) *account {
	a := &account{streams: make([]StreamResult, len(streams)), progress: progress}
	for i, s := range streams {
		a.streams[i] = StreamResult{Stream: s, Counts: Counts{Intended: int64(s.Pushes)}, Plan: ledger.Plan{Stream: s.ID}}
		for len(a.lines) <= s.Line {
			a.lines = append(a.lines, newTimes())
		}
	}
	return a
}

// sent enters a push that is about to be sent, late by lag, of which own is the pusher's.
func (a *account) sent(s *StreamResult, seq uint32, lag, own int64) {
	a.progress.add(Counts{Sent: 1}, lag)
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Sent++
	s.Plan.Pushed = seq + 1
	if !s.WarmUp {
		record(a.lines[s.Line].Lag, lag)
		record(a.lines[s.Line].Own, own)
	}
}

// settle enters what became of a push.
func (a *account) settle(s *StreamResult, seq uint32, took int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.progress.add(Counts{Acknowledged: 1}, 0)
		s.Acknowledged++
		if !s.WarmUp {
			record(a.lines[s.Line].Ack, took)
		}
		return
	}
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrNotSent) {
		a.progress.add(Counts{Failed: 1}, 0)
		s.Failed++
	} else {
		a.progress.add(Counts{Unknown: 1}, 0)
		s.Unknown++
	}
	s.Plan.Unknown = append(s.Plan.Unknown, seq)
	if len(a.errors) < keptErrors {
		a.errors = append(a.errors, fmt.Sprintf("stream %d, push %d: %v", s.ID, seq, err))
	}
}

// close returns the result; nothing is under way any more.
func (a *account) close() *Result {
	r := &Result{Streams: a.streams, Lines: a.lines, Times: newTimes(), Errors: a.errors}
	for _, line := range a.lines {
		r.Lag.Merge(line.Lag)
		r.Own.Merge(line.Own)
		r.Ack.Merge(line.Ack)
	}
	return r
}

// Nothing is the result of streams of which no push was sent.
func Nothing(streams []Stream) *Result { return newAccount(streams, nil).close() }

// record enters v, held to what the histogram can hold.
func record(h *hdrhistogram.Histogram, v int64) {
	_ = h.RecordValue(min(max(v, h.LowestTrackableValue()), h.HighestTrackableValue()))
}
