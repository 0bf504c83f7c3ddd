package comet

import (
	"sync"
	"time"
)

// workers runs tasks that wait for logic (connect, disconnect, heartbeat, receive) off
// the poller's goroutine: at most limit at a time, the rest queued in order. With nothing
// to do it holds no goroutine.
type workers struct {
	limit int

	mu      sync.Mutex
	queue   []func()
	running int
	idle    chan struct{} // closed when running reaches 0; nil until stop
}

func newWorkers(limit int) *workers { return &workers{limit: limit} }

// run starts or queues task. It never blocks.
func (w *workers) run(task func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running == w.limit {
		w.queue = append(w.queue, task)
		return
	}
	w.running++
	go w.work(task)
}

// stop returns when all tasks are done, or after wait: then it gives up those that have not
// begun, and returns how many are not done. No task may be given behind it.
func (w *workers) stop(wait time.Duration) (undone int) {
	w.mu.Lock()
	if w.running == 0 {
		w.mu.Unlock()
		return 0
	}
	idle := make(chan struct{})
	w.idle = idle
	w.mu.Unlock()
	select {
	case <-idle:
		return 0
	case <-time.After(wait):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	undone = w.running + len(w.queue)
	w.queue = nil
	return undone
}

func (w *workers) work(task func()) {
	for task != nil {
		task()
		task = w.next()
	}
}

func (w *workers) next() func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.queue = nil
		if w.running--; w.running == 0 && w.idle != nil {
			close(w.idle)
			w.idle = nil
		}
		return nil
	}
	task := w.queue[0]
	w.queue[0] = nil
	w.queue = w.queue[1:]
	return task
}
