package comet

import "sync"

// workers runs tasks that wait for logic (connect, disconnect, heartbeat, receive) off
// the poller's goroutine: at most limit at a time, the rest queued in order. With nothing
// to do it holds no goroutine.
type workers struct {
	limit int

	mu      sync.Mutex
	queue   []func()
	running int
	idle    sync.Cond // signalled when running reaches 0
}

func newWorkers(limit int) *workers {
	w := &workers{limit: limit}
	w.idle.L = &w.mu
	return w
}

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

// wait returns when all tasks are done.
func (w *workers) wait() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.running > 0 {
		w.idle.Wait()
	}
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
		if w.running--; w.running == 0 {
			w.idle.Broadcast()
		}
		return nil
	}
	task := w.queue[0]
	w.queue[0] = nil
	w.queue = w.queue[1:]
	return task
}
