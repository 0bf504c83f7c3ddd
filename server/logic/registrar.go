package logic

import (
	"context"
	"log/slog"
	"time"

	"barrage/server/gather"
	"barrage/server/logic/presence"
)

// A registry remembers sessions.
type registry interface {
	AddAll(ctx context.Context, list []presence.Session) []presence.Added
	RenewAll(ctx context.Context, list []presence.Session) []presence.Renewed
	RemoveAll(ctx context.Context, list []presence.Session) []presence.Removed
}

// A registrar keeps the registry of sessions for all calls of comets. Sessions that connect,
// those that are renewed and those that end have rounds of their own, so that a storm of one
// kind does not stand in the others' way.
type registrar struct {
	adds    rounds[presence.Added]
	renews  rounds[presence.Renewed]
	removes rounds[presence.Removed]
}

// newRegistrar returns one whose rounds take timeout at most. dismiss has comets close sessions
// that have been replaced.
func newRegistrar(r registry, cfg *presence.Config, timeout time.Duration, dismiss func([]presence.Session), m *metrics, log *slog.Logger) *registrar {
	g := &registrar{}
	b := roundBounds(cfg)
	g.adds = rounds[presence.Added]{
		timeout: timeout, log: log, sizes: m.rounds[roundAdd], change: r.AddAll,
		failed: func(err error) presence.Added { return presence.Added{Err: err} },
		// Its comet has given it up, and knows nothing of whom it replaced.
		orphan: func(session presence.Session, a presence.Added) {
			if a.Err != nil {
				return
			}
			dismiss(a.Replaced)
			// Without an id it can't be told from one that has connected since.
			if !a.Rejected && session.ID != "" {
				g.removes.start(context.Background(), []presence.Session{session})
			}
		},
	}
	g.renews = rounds[presence.Renewed]{
		timeout: timeout, log: log, sizes: m.rounds[roundRenew], change: r.RenewAll,
		failed: func(err error) presence.Renewed { return presence.Renewed{Err: err} },
	}
	g.removes = rounds[presence.Removed]{
		timeout: timeout, log: log, sizes: m.rounds[roundRemove], change: r.RemoveAll,
		failed: func(err error) presence.Removed { return presence.Removed{Err: err} },
	}
	g.adds.group = gather.New(b, nil, g.adds.run)
	g.renews.group = gather.New(b, nil, g.renews.run)
	g.removes.group = gather.New(b, nil, g.removes.run)
	return g
}

// stop waits until what was begun is done, a while. No call may be under way.
func (g *registrar) stop(wait time.Duration) {
	g.adds.group.Stop(wait)
	g.renews.group.Stop(wait)
	g.removes.group.Stop(wait)
}
