package ledger

import (
	"testing"
	"time"
)

// What is known without a plan, step by step: each arrival, and what it makes of it.
func TestDisorder(t *testing.T) {
	streams := mustStreams(t, Stream{ID: 1, Pushes: 100})
	b := NewBook(streams, 2, 2)
	early := b.Add(mustSubscribe(t, streams, 1), TCP)
	late := b.Add(mustSubscribe(t, streams, 1), WebSocket)
	b.Join(early, nil)
	streams.Start(1)
	b.Join(late, nil)
	for _, step := range []struct {
		name   string
		client int
		seq    uint32
		want   Disorder
	}{
		{"in order", early, 0, Disorder{}},
		{"over three", early, 4, Disorder{Missing: 3}},
		{"one of them comes late", early, 2, Disorder{Missing: 2, Reordered: 1}},
		{"and once more", early, 2, Disorder{Missing: 2, Reordered: 1, Duplicate: 1}},
		{"the last again", early, 4, Disorder{Missing: 2, Reordered: 1, Duplicate: 2}},
		{"one that joins late owes nothing before its first", late, 50, Disorder{Missing: 2, Reordered: 1, Duplicate: 2}},
		{"which was itself ahead of two", late, 47, Disorder{Missing: 4, Reordered: 2, Duplicate: 2}},
		{"that come", late, 48, Disorder{Missing: 3, Reordered: 3, Duplicate: 2}},
		{"both", late, 49, Disorder{Missing: 2, Reordered: 4, Duplicate: 2}},
		{"the others come too", early, 1, Disorder{Missing: 1, Reordered: 5, Duplicate: 2}},
		{"all of them", early, 3, Disorder{Reordered: 6, Duplicate: 2}},
	} {
		b.Account(step.client, Stamp{Stream: 1, Seq: step.seq, Intended: 1}, 1)
		if got := b.Disorder(); got != step.want {
			t.Fatalf("%s: %+v, want %+v", step.name, got, step.want)
		}
	}
	counts, err := b.Count([]Plan{{Stream: 1, Pushed: 51}})
	if err != nil || counts.Duplicate != 2 || counts.Reordered != 6 {
		t.Errorf("%+v, %v", counts, err)
	}
}

// The latencies of all seconds add up, whenever they are looked at.
func TestUntilNow(t *testing.T) {
	streams := mustStreams(t, Stream{ID: 1, Pushes: 100})
	b := NewBook(streams, 1, 1)
	client := b.Add(mustSubscribe(t, streams, 1), TCP)
	b.Join(client, nil)
	for i := range uint32(50) {
		if i%10 == 0 {
			b.Rotate()
		}
		b.Account(client, Stamp{Stream: 1, Seq: i}, int64(i)*int64(time.Millisecond))
	}
	h := NewLiveHistogram()
	b.UntilNow(h)
	if h.TotalCount() != 40 {
		t.Errorf("%d latencies before the last second's end, want 40", h.TotalCount())
	}
	b.Rotate()
	h.Reset()
	b.UntilNow(h)
	if most := time.Duration(h.Max()); h.TotalCount() != 50 || most < 47*time.Millisecond || most > 51*time.Millisecond {
		t.Errorf("%d latencies, %s at most; want 50 and 49 ms", h.TotalCount(), most)
	}
}
