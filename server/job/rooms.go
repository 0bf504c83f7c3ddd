package job

import (
	"context"
	"sync/atomic"
	"time"
)

// rooms is what a job knows of the rooms that one comet holds. An answer only tells of the
// past: a session may have joined since. So it is never by itself a reason to keep a record
// from the comet. A record for a room that the last answer did not name waits for a
// question that is asked after the record was read: if that answer does not name the room
// either, then nobody who was in it when the record came has missed it.
type rooms struct {
	interval time.Duration
	wanted   chan struct{} // told that a record waits for a question, buffer 1
	asked    atomic.Uint64 // number of the last question
	held     atomic.Pointer[map[string]bool]
}

func newRooms(interval time.Duration) *rooms {
	return &rooms{interval: interval, wanted: make(chan struct{}, 1)}
}

// question returns the number of the question that a record for room, read just now, has to
// wait for; 0 when it need not wait.
func (s *rooms) question(room string) uint64 {
	held := s.held.Load()
	if held == nil || (*held)[room] {
		return 0
	}
	return s.asked.Load() + 1
}

func (s *rooms) ask() {
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// askRooms asks the comet for its rooms, as soon as a record waits for the answer and at
// most once an interval, and once an interval even if none waits. When the comet does not
// say, every room is sent to it.
func (k *link) askRooms() {
	for {
		k.askOnce()
		if !sleep(k.ctx, k.rooms.interval) {
			return
		}
		select {
		case <-k.rooms.wanted:
		case <-time.After(k.rooms.interval):
		case <-k.ctx.Done():
			return
		}
	}
}

func (k *link) askOnce() {
	// Numbered before the call: a record that is given this number later is covered by the next one.
	number := k.rooms.asked.Add(1)
	ctx, cancel := context.WithTimeout(k.ctx, max(time.Second, 2*k.rooms.interval))
	defer cancel()
	held, err := k.comet().Rooms(ctx)
	if err != nil {
		k.log.Debug("ask comet for its rooms", "err", err)
		held = nil
		k.rooms.held.Store(nil)
	} else {
		k.rooms.held.Store(&held)
	}
	for _, l := range k.lanes {
		unheld := l.answer(number, held)
		k.metrics.unheld.Add(float64(len(unheld)))
		release(unheld...)
	}
}
