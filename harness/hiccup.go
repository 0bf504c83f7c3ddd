package harness

import (
	"sync"
	"time"

	"barrage/harness/ledger"
)

// A hiccupMeter tells for how long this process stood still: stopped, frozen, or left without a
// processor. It wakes up often, and what it does so late by is a hiccup, as Gil Tene's jHiccup has
// it. What happens to no thread of clients and to no push that is due, such as a stop while the
// only pusher waits for its answer, looks like a slow server in every other figure.
type hiccupMeter struct {
	mu    sync.Mutex
	last  int64 // when it last woke up, by ledger.Now's clock
	total time.Duration
}

const (
	hiccupTick  = 20 * time.Millisecond
	hiccupLeast = 50 * time.Millisecond // less is what any busy machine does to a thread
)

// hiccups is the process's meter, which runs from the first call on.
var hiccups = sync.OnceValue(func() *hiccupMeter {
	m := &hiccupMeter{last: ledger.Now()}
	go func() {
		for range time.Tick(hiccupTick) {
			m.wake(ledger.Now())
		}
	}()
	return m
})

// wake enters that the meter runs, now.
func (m *hiccupMeter) wake(now int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total += m.late(now)
	m.last = now
}

// until returns the time in hiccups until now, with one that is under way.
func (m *hiccupMeter) until(now int64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total + m.late(now)
}

// late is the hiccup that ends now, which may be none. The caller holds mu.
func (m *hiccupMeter) late(now int64) time.Duration {
	late := time.Duration(now-m.last) - hiccupTick
	if late < hiccupLeast {
		return 0
	}
	return late
}
