package comet

import (
	"context"
	"log/slog"
	"time"

	"barrage/server/gather"
)

// An aside does on a goroutine of its own, in order, what can't be done on a thread with
// another table of file descriptors than the process's: writing to a log, and closing what
// the process's table holds. A nil aside does it at once.
type aside struct{ tasks *gather.Group[func()] }

func newAside() *aside {
	return &aside{gather.New(gather.Bounds{Calls: 1, Items: 64}, nil, func(tasks []func()) {
		for _, task := range tasks {
			task()
		}
	})}
}

func (a *aside) run(task func()) {
	if a == nil {
		task()
		return
	}
	a.tasks.Add(task)
}

// stop returns when all is done, or after wait.
func (a *aside) stop(wait time.Duration) {
	if a != nil {
		a.tasks.Stop(wait)
	}
}

// handler returns one that hands its records to h aside.
func (a *aside) handler(h slog.Handler) slog.Handler {
	if a == nil {
		return h
	}
	return asideHandler{h, a}
}

type asideHandler struct {
	slog.Handler
	aside *aside
}

// Handle hands a record over. What writing it comes to is nobody's to learn.
func (h asideHandler) Handle(ctx context.Context, r slog.Record) error {
	r = r.Clone()
	h.aside.run(func() { _ = h.Handler.Handle(ctx, r) })
	return nil
}

// WithAttrs returns a handler whose records have the attributes, too.
func (h asideHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return asideHandler{h.Handler.WithAttrs(attrs), h.aside}
}

// WithGroup returns a handler whose records' attributes are in the group.
func (h asideHandler) WithGroup(name string) slog.Handler {
	return asideHandler{h.Handler.WithGroup(name), h.aside}
}
