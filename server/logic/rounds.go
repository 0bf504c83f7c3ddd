package logic

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"barrage/server/gather"
	"barrage/server/logic/presence"
)

// errPanicked is what came of sessions whose round panicked.
var errPanicked = errors.New("internal error")

// rounds make one kind of change to sessions, whose result is an R. A round is one round trip
// to Redis; the sessions of all calls that come while rounds are under way go along with the
// next one. So it is the number of sessions that bounds what Redis has to do at a time, and not
// that of comets and their calls.
type rounds[R any] struct {
	group   *gather.Group[*turn[R]]
	timeout time.Duration // of one round
	change  func(ctx context.Context, list []presence.Session) []R
	failed  func(error) R             // what a panic makes of a session
	orphan  func(presence.Session, R) // told of changes that nobody waits for any more; may be nil
	sizes   prometheus.Observer
	log     *slog.Logger
}

// A wish is one call's for a change of some sessions.
type wish[R any] struct {
	ctx     context.Context
	settled chan struct{} // closed when all sessions have their result

	mu      sync.Mutex
	turns   []*turn[R] // constant
	open    int        // mu guards; those without a result
	dropped bool       // mu guards; nobody waits any more
}

// A turn is what one session waits for.
type turn[R any] struct {
	wish    *wish[R]
	session presence.Session
	done    bool // wish.mu guards
	result  R    // set once, with done
}

// roundBounds are what rounds may be.
func roundBounds(cfg *presence.Config) gather.Bounds {
	return gather.Bounds{Calls: cfg.Batches, Items: cfg.Batch}
}

// start has the sessions wait for their turn.
func (r *rounds[R]) start(ctx context.Context, list []presence.Session) *wish[R] {
	w := &wish[R]{ctx: ctx, settled: make(chan struct{}), open: len(list), turns: make([]*turn[R], len(list))}
	for i, session := range list {
		w.turns[i] = &turn[R]{wish: w, session: session}
	}
	r.group.Add(w.turns...)
	return w
}

// all makes the change for all of the sessions and returns what came of each. When ctx ends it
// returns its error; who has had no turn until then gets none.
func (r *rounds[R]) all(ctx context.Context, list []presence.Session) ([]R, error) {
	if len(list) == 0 {
		return nil, nil
	}
	w := r.start(ctx, list)
	select {
	case <-w.settled:
	case <-ctx.Done():
		r.drop(w)
		return nil, ctx.Err()
	}
	results := make([]R, len(list))
	for i, t := range w.turns {
		results[i] = t.result
	}
	return results, nil
}

// drop says that nobody waits for w any more.
func (r *rounds[R]) drop(w *wish[R]) {
	w.mu.Lock()
	w.dropped = true
	var done []*turn[R]
	for _, t := range w.turns {
		if t.done {
			done = append(done, t)
		}
	}
	w.mu.Unlock()
	for _, t := range done {
		r.orphaned(t)
	}
}

func (r *rounds[R]) orphaned(t *turn[R]) {
	if r.orphan != nil {
		r.orphan(t.session, t.result)
	}
}

// run makes one round.
func (r *rounds[R]) run(turns []*turn[R]) {
	var due []*turn[R]
	var list []presence.Session
	for _, t := range turns {
		if t.wish.ctx.Err() == nil {
			due, list = append(due, t), append(list, t.session)
		}
	}
	if len(due) == 0 {
		return
	}
	r.sizes.Observe(float64(len(due)))
	for i, result := range r.make(list) {
		t := due[i]
		w := t.wish
		w.mu.Lock()
		t.done, t.result = true, result
		dropped := w.dropped
		if w.open--; w.open == 0 {
			close(w.settled)
		}
		w.mu.Unlock()
		if dropped {
			r.orphaned(t)
		}
	}
}

// make makes the change for the sessions of one round, and turns a panic into their error.
func (r *rounds[R]) make(list []presence.Session) (results []R) {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	defer func() {
		if reason := recover(); reason != nil {
			r.log.Error("a round of sessions panicked", "sessions", len(list), "err", reason, "stack", string(debug.Stack()))
			results = make([]R, len(list))
			for i := range results {
				results[i] = r.failed(errPanicked)
			}
		}
	}()
	return r.change(ctx, list)
}
