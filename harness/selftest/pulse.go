package selftest

import (
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A pulse is a thread that does nothing but sleep for a millisecond at a time, and keeps
// how late it was woken: the least that the machine adds to every time that is measured on
// it.
type pulse struct {
	quit, done chan struct{}
	mu         sync.Mutex
	beats      []beat // mu guards it
}

type beat struct {
	at   time.Time
	late time.Duration
}

func newPulse() *pulse {
	p := &pulse{quit: make(chan struct{}), done: make(chan struct{})}
	go p.run()
	return p
}

func (p *pulse) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	const period = time.Millisecond
	for {
		select {
		case <-p.quit:
			return
		default:
		}
		begin := time.Now()
		rest := unix.NsecToTimespec(int64(period))
		_ = unix.Nanosleep(&rest, nil) // a signal only shortens it
		now := time.Now()
		p.mu.Lock()
		p.beats = append(p.beats, beat{now, now.Sub(begin) - period})
		p.mu.Unlock()
	}
}

// lateness returns the 99th percentile, in seconds, of how late the thread was woken
// between two times.
func (p *pulse) lateness(from, to time.Time) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []time.Duration
	for _, b := range p.beats {
		if b.at.After(from) && b.at.Before(to) {
			list = append(list, b.late)
		}
	}
	if len(list) == 0 {
		return to.Sub(from).Seconds()
	}
	slices.Sort(list)
	return list[len(list)*99/100].Seconds()
}

func (p *pulse) stop() {
	close(p.quit)
	<-p.done
}
