package job

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func TestOffsetMovesOnlyOverWhatAllTook(t *testing.T) {
	notified := 0
	p := newPartition(3, func() { notified++ })
	if taken, _ := p.progress(); taken != -1 {
		t.Fatalf("a new partition has taken %d", taken)
	}
	r := make([]*record, 5)
	for i := range r {
		r[i] = &record{offset: int64(10 + i)}
		p.add(r[i])
		r[i].holds.Store(2)
	}
	steps := []struct {
		release  int
		taken    int64
		underway int
	}{
		{1, -1, 5}, {1, -1, 5}, // the second is done, the first is not
		{0, -1, 5}, {0, 12, 3},
		{2, 12, 3}, {3, 12, 3}, {3, 12, 3},
		{2, 14, 1},
		{4, 14, 1}, {4, 15, 0},
	}
	for i, s := range steps {
		release(r[s.release])
		if taken, underway := p.progress(); taken != s.taken || underway != s.underway {
			t.Fatalf("step %d: taken %d, under way %d; want %d, %d", i, taken, underway, s.taken, s.underway)
		}
	}
	if notified != 3 {
		t.Errorf("notified %d times, want 3", notified)
	}
}

func TestSkippedOffsetWaitsForThoseBeforeIt(t *testing.T) {
	p := newPartition(0, func() {})
	p.skip(0)
	if taken, _ := p.progress(); taken != 1 {
		t.Errorf("taken %d, want 1", taken)
	}
	r := &record{offset: 1}
	p.add(r)
	p.skip(2)
	if taken, _ := p.progress(); taken != 1 {
		t.Errorf("taken %d while the record before is under way, want 1", taken)
	}
	release(r)
	if taken, underway := p.progress(); taken != 3 || underway != 0 {
		t.Errorf("taken %d, under way %d; want 3, 0", taken, underway)
	}
}

// The model: taken is always the offset of the first record that somebody holds.
func TestPartitionAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		p := newPartition(0, func() {})
		const comets, records = 4, 300
		var all []*record
		var work [comets][]*record
		for i := range records {
			r := &record{offset: int64(i)}
			p.add(r)
			r.holds.Store(comets)
			all = append(all, r)
			for c := range work {
				work[c] = append(work[c], r)
			}
		}
		var wg sync.WaitGroup
		for c := range work {
			rng.Shuffle(records, func(i, j int) { work[c][i], work[c][j] = work[c][j], work[c][i] })
			cut := rng.IntN(20) + 1
			wg.Go(func() {
				for rest := work[c]; len(rest) > 0; {
					n := min(cut, len(rest))
					release(rest[:n]...)
					rest = rest[n:]
				}
			})
		}
		stop := make(chan struct{})
		var watch sync.WaitGroup
		watch.Go(func() {
			for {
				taken, _ := p.progress()
				for i := range max(0, taken) {
					if all[i].holds.Load() != 0 {
						t.Errorf("seed %d: taken is %d, but %d is held", seed, taken, i)
						return
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		wg.Wait()
		close(stop)
		watch.Wait()
		if taken, underway := p.progress(); taken != records || underway != 0 {
			t.Fatalf("seed %d: taken %d, under way %d at the end; want %d, 0", seed, taken, underway, records)
		}
	}
}

func TestRevokedPartitionWaitsForFlights(t *testing.T) {
	p := newPartition(0, func() {})
	p.takeOff()
	p.takeOff()
	p.revoked.Store(true)
	if p.waitLanded(time.Now()) {
		t.Error("landed with two batches in flight")
	}
	go func() {
		p.land()
		p.land()
	}()
	if !p.waitLanded(time.Now().Add(10 * time.Second)) {
		t.Error("not landed after both batches ended")
	}
}

func TestFifo(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var f fifo[int]
	var model []int
	for i := range 10_000 {
		switch op := rng.IntN(10); {
		case op < 5 || len(model) == 0:
			f.push(i)
			model = append(model, i)
		case op < 9:
			if got := f.pop(); got != model[0] {
				t.Fatalf("pop is %d, want %d", got, model[0])
			}
			model = model[1:]
		default:
			n := rng.IntN(len(model) + 1)
			f.drop(n)
			model = model[n:]
		}
		if f.len() != len(model) {
			t.Fatalf("%d items, want %d", f.len(), len(model))
		}
	}
}
