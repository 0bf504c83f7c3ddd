package gather

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// held is a Group whose calls wait until they are let go.
type held struct {
	*Group[int]
	begun chan []int
	free  chan struct{}
}

func hold(b Bounds) held {
	h := held{begun: make(chan []int, 100), free: make(chan struct{}, 100)}
	h.Group = New(b, func(n int) int { return n }, func(items []int) {
		h.begun <- items
		<-h.free
	})
	return h
}

func (h held) want(t *testing.T, want ...int) {
	t.Helper()
	select {
	case got := <-h.begun:
		if !slices.Equal(got, want) {
			t.Fatalf("the call carries %v, not %v", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no call; %v should be in one", want)
	}
}

func TestWhatComesDuringACallGoesAlongWithTheNext(t *testing.T) {
	h := hold(Bounds{Calls: 1, Items: 3})
	h.Add(1)
	h.want(t, 1)
	h.Add(2)
	h.Add(3, 4, 5)
	if n := h.Waiting(); n != 4 {
		t.Errorf("%d wait, not 4", n)
	}
	h.free <- struct{}{}
	h.want(t, 2, 3, 4)
	h.free <- struct{}{}
	h.want(t, 5)
	h.free <- struct{}{}
	if n := h.Stop(10 * time.Second); n != 0 {
		t.Errorf("%d are not done", n)
	}
}

func TestSeveralCalls(t *testing.T) {
	h := hold(Bounds{Calls: 2, Items: 2})
	h.Add(1, 2, 3, 4, 5)
	first := <-h.begun
	second := <-h.begun
	if got := slices.Sorted(slices.Values(append(first, second...))); !slices.Equal(got, []int{1, 2, 3, 4}) {
		t.Fatalf("two calls carry %v", got)
	}
	if len(h.begun) > 0 {
		t.Fatal("a third call is under way")
	}
	h.free <- struct{}{}
	h.want(t, 5)
}

func TestBytesBoundACall(t *testing.T) {
	h := hold(Bounds{Calls: 1, Items: 10, Bytes: 10})
	h.Add(1)
	h.want(t, 1)
	h.Add(4, 6, 1, 100, 2) // an item's bytes are its number here
	for _, want := range [][]int{{4, 6}, {1}, {100}, {2}} {
		h.free <- struct{}{}
		h.want(t, want...)
	}
}

func TestStopGivesUpAfterAWhile(t *testing.T) {
	h := hold(Bounds{Calls: 1, Items: 2})
	if n := h.Stop(time.Hour); n != 0 {
		t.Fatalf("%d are not done of none", n)
	}
	h.Add(1, 2, 3, 4, 5)
	h.want(t, 1, 2)
	if n := h.Stop(time.Millisecond); n != 5 {
		t.Errorf("%d are not done, not 5", n)
	}
	h.free <- struct{}{}
	if n := h.Stop(10 * time.Second); n != 0 || len(h.begun) != 0 {
		t.Errorf("%d are not done, and %d calls more were made", n, len(h.begun))
	}
}

func TestEveryItemIsInOneCall(t *testing.T) {
	const adders, each = 8, 2000
	var mu sync.Mutex
	last, calls := make(map[int]int), 0
	g := New(Bounds{Calls: 1, Items: 64}, nil, func(items []int) {
		mu.Lock()
		defer mu.Unlock()
		calls++
		for _, n := range items {
			if by := n / each; n%each != last[by] {
				t.Errorf("adder %d: %d comes where %d should", by, n%each, last[by])
			}
			last[n/each]++
		}
	})
	var all sync.WaitGroup
	for by := range adders {
		all.Go(func() {
			for n := range each {
				g.Add(by*each + n)
			}
		})
	}
	all.Wait()
	if n := g.Stop(10 * time.Second); n != 0 {
		t.Fatalf("%d are not done", n)
	}
	for by := range adders {
		if last[by] != each {
			t.Errorf("adder %d: %d of %d came", by, last[by], each)
		}
	}
	if calls < adders*each/64 {
		t.Errorf("%d calls are too few for 64 each", calls)
	}
}

func TestWhatIsNotUrgentWaitsForCompany(t *testing.T) {
	h := hold(Bounds{Calls: 1, Items: 3, Linger: time.Hour})
	h.Add(1, 2)
	if n := h.Waiting(); n != 2 {
		t.Fatalf("%d wait, not 2", n)
	}
	h.Add(3, 4) // a call is full
	h.want(t, 1, 2, 3)
	h.free <- struct{}{}
	done := make(chan int)
	go func() { done <- h.Stop(10 * time.Second) }()
	h.want(t, 4) // it doesn't linger when all ends
	h.free <- struct{}{}
	if n := <-done; n != 0 {
		t.Errorf("%d are not done", n)
	}

	h = hold(Bounds{Calls: 1, Items: 3, Linger: time.Millisecond})
	for n := range 3 {
		h.Add(n)
		h.want(t, n)
		h.free <- struct{}{}
	}
}
