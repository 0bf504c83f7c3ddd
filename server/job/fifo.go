package job

// A fifo is a queue over one slice that is reused: pushing and popping allocate only while
// the most that ever waited grows.
type fifo[T any] struct {
	items []T
	head  int // items before it were popped
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

// all returns what waits, oldest first. It aliases the queue.
func (f *fifo[T]) all() []T { return f.items[f.head:] }

func (f *fifo[T]) front() T { return f.items[f.head] }

func (f *fifo[T]) push(v T) {
	// Move down rather than grow when half of the slice is popped: constant time a push, amortised.
	if len(f.items) == cap(f.items) && f.head > len(f.items)/2 {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, v)
}

// drop takes the n oldest away.
func (f *fifo[T]) drop(n int) {
	clear(f.items[f.head : f.head+n])
	f.head += n
	if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	}
}

func (f *fifo[T]) pop() T {
	v := f.front()
	f.drop(1)
	return v
}

// keep retains only what ok accepts, in order.
func (f *fifo[T]) keep(ok func(T) bool) {
	kept := f.items[:0]
	for _, v := range f.all() {
		if ok(v) {
			kept = append(kept, v)
		}
	}
	clear(f.items[len(kept):])
	f.items, f.head = kept, 0
}
