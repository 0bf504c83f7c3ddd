package comet

import (
	"context"
	"sync"
	"time"
)

// handshakes finds the connections that haven't authenticated in time. Each has the same time
// twice: for its auth frame, and from then on for logic's answer. So they stand in the order of
// their deadlines.
type handshakes struct {
	mu    sync.Mutex
	queue []handshake
}

type handshake struct {
	session  *session
	asked    bool // the auth frame has come; else it is what the deadline is for
	deadline time.Time
}

func (h *handshakes) add(c handshake) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue = append(h.queue, c)
}

// watch closes what is overdue, until ctx ends. timeout is the time that connections have.
func (h *handshakes) watch(ctx context.Context, timeout time.Duration) {
	tick := time.NewTicker(min(max(timeout/20, time.Millisecond), 250*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			h.closeOverdue(now)
		}
	}
}

func (h *handshakes) closeOverdue(now time.Time) {
	for _, due := range h.take(now) {
		if due.asked || !due.session.authCame() {
			due.session.closeUnlessOpen(reasonAuthTimeout)
		}
	}
}

// closeAll closes the connections that are not authenticated.
func (h *handshakes) closeAll() {
	for _, due := range h.take(time.Now().Add(24 * time.Hour)) {
		due.session.closeUnlessOpen(reasonDrain)
	}
}

// take removes and returns those whose deadline has passed.
func (h *handshakes) take(now time.Time) []handshake {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for n < len(h.queue) && !h.queue[n].deadline.After(now) {
		n++
	}
	if n == 0 {
		return nil
	}
	due := h.queue[:n:n]
	h.queue = append([]handshake(nil), h.queue[n:]...)
	return due
}

// authCame reports whether the session's auth frame has come.
func (s *session) authCame() bool {
	s.inMu.Lock()
	defer s.inMu.Unlock()
	return s.in.phase == phaseConnect || s.in.phase == phaseOpen
}

// closeUnlessOpen closes a session that is not a member of a shard.
func (s *session) closeUnlessOpen(r reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.out.joined {
		s.failLocked(r)
	}
}
