// Package pusher sends pushes on an open-loop schedule: each push has an intended time,
// fixed before the run and carried in its body, and a late sender never moves it. What was
// late is sent at once, and how late is measured.
//
// The pushes of one stream must enter the server in the order of their sequence numbers, or
// the ledger would blame it for an order that the pusher made. Where a way in keeps no order
// among pushes that are under way together, a stream has one, and the next waits for its
// acknowledgement. A high rate is therefore split into several streams, each with its turns
// of the line's schedule, so that an answer of a few milliseconds delays nothing.
package pusher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"barrage/harness/ledger"
	"barrage/harness/pusher/load"
)

// A Stream is an ordered series of pushes to the same receivers: every Step-th push of its
// line's schedule, from First on.
type Stream struct {
	ID     uint16
	Line   int    // whose schedule it shares, for the figures
	Lane   int    // streams of one lane and way share a connection and wait for each other
	Via    Via    // the way in
	Target Target // whom the pushes are for
	Sizes  load.Sizes

	Schedule load.Schedule // of the line
	Start    time.Duration // of the line's schedule, from the run's
	First    int
	Step     int
	Pushes   uint32
	WarmUp   bool // left out of the histograms
}

// Due returns when push seq is due, from the run's start.
func (s *Stream) Due(seq uint32) time.Duration {
	return s.Start + s.Schedule.At(s.First+int(seq)*s.Step)
}

// check returns an error where the stream can't be pushed.
func (s *Stream) check() error {
	if err := s.Via.Carries(s.Target.Kind); err != nil {
		return err
	}
	switch {
	case s.Line < 0 || s.First < 0 || s.Step < 1:
		return fmt.Errorf("line %d, first %d, step %d; accepted: 0, 0 and 1 at least", s.Line, s.First, s.Step)
	case s.Schedule == nil || s.Sizes == nil:
		return errors.New("it has no schedule or no sizes")
	case s.Pushes > 0 && s.Schedule.At(s.First+int(s.Pushes-1)*s.Step) == load.Never:
		return fmt.Errorf("the schedule (%v) has not %d pushes for it", s.Schedule, s.Pushes)
	}
	return nil
}

// Config is what Run needs.
type Config struct {
	Ways    map[Via]Way // that the streams name
	Streams []Stream

	// Overrun is how long after its intended time a push is still sent. 0 is 30 s.
	Overrun time.Duration
	// Started is called before the first push of a stream, by several goroutines.
	Started func(stream uint16)
	// Progress counts what became of the pushes while Run is under way. It may be nil.
	Progress *Progress
}

const defaultOverrun = 30 * time.Second

// Run sends all pushes of the schedule that starts at start (ledger.Now's clock) and
// returns what became of them. It returns early when ctx ends: what was not sent by then
// is intended and not sent. The error is about a stream that can't be pushed; nothing was
// sent then.
func Run(ctx context.Context, cfg Config, start int64) (*Result, error) {
	if cfg.Overrun == 0 {
		cfg.Overrun = defaultOverrun
	}
	if cfg.Started == nil {
		cfg.Started = func(uint16) {}
	}
	for i := range cfg.Streams {
		s := &cfg.Streams[i]
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("stream %d: %w", s.ID, err)
		}
	}
	r := &run{cfg: cfg, start: start, account: newAccount(cfg.Streams, cfg.Progress)}
	lanes, err := r.lanes()
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	for _, l := range lanes {
		wg.Go(func() { r.serve(ctx, l) })
	}
	wg.Wait()
	return r.account.close(), nil
}

// A run is one schedule under way.
type run struct {
	cfg     Config
	start   int64 // ledger.Now's clock
	account *account
}

// A lane is streams that share a sender. One goroutine owns it once it is open.
type lane struct {
	sender  Sender
	streams []*StreamResult
	next    []uint32        // by stream: its next push
	due     []time.Duration // by stream: when that is due, load.Never at its end
}

// lanes groups the streams and opens a sender for each group.
func (r *run) lanes() ([]*lane, error) {
	type group struct {
		lane int
		via  Via
	}
	groups := map[group]*lane{}
	var lanes []*lane
	for i := range r.account.streams {
		s := &r.account.streams[i]
		l := groups[group{s.Lane, s.Via}]
		if l == nil {
			l = &lane{}
			groups[group{s.Lane, s.Via}] = l
			lanes = append(lanes, l)
		}
		l.add(s)
	}
	for i, l := range lanes {
		if err := l.open(r.cfg.Ways); err != nil {
			for _, opened := range lanes[:i] {
				opened.sender.Close(context.Background())
			}
			return nil, fmt.Errorf("stream %d: %w", l.streams[0].ID, err)
		}
	}
	return lanes, nil
}

// open opens the sender of the lane's way.
func (l *lane) open(ways map[Via]Way) (err error) {
	via := l.streams[0].Via
	way := ways[via]
	if way == nil {
		return fmt.Errorf("there is no way %s in", via)
	}
	targets := make([]Target, len(l.streams))
	for i, s := range l.streams {
		targets[i] = s.Target
	}
	l.sender, err = way.Open(targets)
	return err
}

// add makes s the lane's last stream, before open.
func (l *lane) add(s *StreamResult) {
	l.streams = append(l.streams, s)
	l.next, l.due = append(l.next, 0), append(l.due, load.Never)
	if s.Pushes > 0 {
		l.due[len(l.due)-1] = s.Due(0)
	}
}

// earliest returns the stream whose next push is due first, or -1 when all are done. A lane
// has few streams, so it looks at each.
func (l *lane) earliest() int {
	first, at := -1, load.Never
	for i, due := range l.due {
		if due < at {
			first, at = i, due
		}
	}
	return first
}

// advance goes on to the next push of stream i.
func (l *lane) advance(i int) {
	l.next[i]++
	if l.next[i] < l.streams[i].Pushes {
		l.due[i] = l.streams[i].Due(l.next[i])
	} else {
		l.due[i] = load.Never
	}
}

// serve sends the pushes of a lane in the order of their intended times.
func (r *run) serve(ctx context.Context, l *lane) {
	defer l.sender.Close(ctx)
	l.sender.Connect(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var body []byte
	// When the push before was answered, and when it would have been but for the lane's own delay.
	var free, unhindered int64
	for {
		i := l.earliest()
		if i < 0 {
			return
		}
		s, seq := l.streams[i], l.next[i]
		due := r.start + int64(l.due[i])
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
			l.due[i] = load.Never // a plan has no holes, so the stream ends here
			continue
		}
		l.advance(i)
		if seq == 0 {
			r.cfg.Started(s.ID)
		}
		body = ledger.AppendBody(body[:0], ledger.Stamp{Stream: s.ID, Seq: seq, Intended: due}, s.Sizes.Of(s.ID, seq))
		// Since when nobody else keeps the push from being sent. One that waits behind a push that the
		// lane was late with is late by the lane's doing, too.
		from := due
		if unhindered > due {
			from = free
		}
		sent := ledger.Now()
		r.account.sent(s, seq, sent-due, sent-from)
		l.sender.Send(ctx, i, body, func(err error) { r.account.settle(s, seq, ledger.Now()-sent, err) })
		free = ledger.Now()
		unhindered = free - (sent - from)
	}
}
