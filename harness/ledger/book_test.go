package ledger

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

func mustStreams(t testing.TB, list ...Stream) *Streams {
	t.Helper()
	s, err := NewStreams(list)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustSubscribe(t testing.TB, s *Streams, ids ...uint16) *Subscription {
	t.Helper()
	set, err := s.Subscribe(ids...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// One client, one stream of 10 pushes: what arrives, in which order, and what the book
// says of it.
func TestCounts(t *testing.T) {
	all := []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	cases := []struct {
		name    string
		first   uint32
		late    bool
		arrives []uint32
		plan    Plan
		want    Counts
	}{
		{"everything in order", 0, false, all, Plan{Pushed: 10}, Counts{Expected: 10, Delivered: 10}},
		{"nothing arrives", 0, false, nil, Plan{Pushed: 10}, Counts{Expected: 10, Lost: 10}},
		{"numbers may start anywhere", 7, false, []uint32{7, 8, 9}, Plan{Pushed: 3}, Counts{Expected: 3, Delivered: 3}},
		{"a gap is lost", 0, false, []uint32{0, 1, 5, 6, 7, 8, 9}, Plan{Pushed: 10}, Counts{Expected: 10, Delivered: 7, Lost: 3}},
		{"the tail is lost", 0, false, []uint32{0, 1}, Plan{Pushed: 10}, Counts{Expected: 10, Delivered: 2, Lost: 8}},
		{"a swap is one reordering", 0, false, []uint32{0, 2, 1, 3}, Plan{Pushed: 4}, Counts{Expected: 4, Delivered: 4, Reordered: 1}},
		{"a gap that fills from its middle", 0, false, []uint32{0, 6, 3, 2, 5, 1, 4}, Plan{Pushed: 7}, Counts{Expected: 7, Delivered: 7, Reordered: 5}},
		{"a duplicate", 0, false, []uint32{0, 0, 1}, Plan{Pushed: 2}, Counts{Expected: 2, Delivered: 2, Duplicate: 1}},
		{"a duplicate of what came late", 0, false, []uint32{1, 0, 0}, Plan{Pushed: 2}, Counts{Expected: 2, Delivered: 2, Duplicate: 1, Reordered: 1}},
		{"behind the plan", 0, false, []uint32{0, 1, 2, 3}, Plan{Pushed: 2}, Counts{Expected: 2, Delivered: 2, Unexpected: Strays{OutsidePlan: 2}}},
		{"far behind the plan", 0, false, []uint32{0, 900, 1}, Plan{Pushed: 2}, Counts{Expected: 2, Delivered: 2, Reordered: 1, Unexpected: Strays{OutsidePlan: 1}}},
		{"before the plan", 5, false, []uint32{4, 5, 6}, Plan{Pushed: 2}, Counts{Expected: 2, Delivered: 2, Unexpected: Strays{OutsidePlan: 1}}},
		{"unknown fate, missing", 0, false, []uint32{0, 2}, Plan{Pushed: 3, Unknown: []uint32{1}}, Counts{Expected: 2, Delivered: 2}},
		{"unknown fate, arrived", 0, false, []uint32{0, 1, 2}, Plan{Pushed: 3, Unknown: []uint32{1, 1}}, Counts{Expected: 2, Delivered: 2, Unknown: 1}},
		{"unknown fate at the end, missing", 0, false, []uint32{0}, Plan{Pushed: 3, Unknown: []uint32{2, 1}}, Counts{Expected: 1, Delivered: 1}},
		{"late: owed from its first receipt on", 0, true, []uint32{6, 7, 9}, Plan{Pushed: 10}, Counts{Expected: 4, Delivered: 3, Lost: 1}},
		{"late and silent: owed nothing", 0, true, nil, Plan{Pushed: 10}, Counts{}},
		{"late, first receipt out of order", 0, true, []uint32{6, 4, 5, 7}, Plan{Pushed: 8}, Counts{Expected: 4, Delivered: 4, Reordered: 2}},
		{"late, started behind the plan", 0, true, []uint32{6, 7}, Plan{Pushed: 4}, Counts{Unexpected: Strays{OutsidePlan: 2}}},
		{"late, what was unknown before it does not count", 0, true, []uint32{6, 7}, Plan{Pushed: 9, Unknown: []uint32{1, 7, 8}}, Counts{Expected: 1, Delivered: 1, Unknown: 1}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			const id = 300
			streams := mustStreams(t, Stream{ID: 2}, Stream{ID: id, First: c.first, Pushes: 10})
			book := NewBook(streams, 1, 1)
			client := book.Add(mustSubscribe(t, streams, id), TCP)
			if c.late {
				streams.Start(id)
			}
			book.Join(client, nil)
			streams.Start(id)
			for _, seq := range c.arrives {
				book.Account(client, Stamp{Stream: id, Seq: seq, Intended: 1000}, 2000)
			}
			c.plan.Stream = id
			got, err := book.Count([]Plan{c.plan})
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if accepted := got.Delivered + got.Unknown + got.Unexpected[OutsidePlan]; c.first == 0 && book.Accepted() != accepted {
				t.Errorf("accepted %d, the counts have %d", book.Accepted(), accepted)
			}
		})
	}
}

// A client that comes and goes is owed what was pushed while it was there, up to the last
// that it received.
func TestLeaveAndMove(t *testing.T) {
	streams := mustStreams(t, Stream{ID: 1, Pushes: 20}, Stream{ID: 2, Pushes: 20}, Stream{ID: 3, Pushes: 20})
	book := NewBook(streams, 0, 0)
	here, there := mustSubscribe(t, streams, 1, 2), mustSubscribe(t, streams, 1, 3)
	client := book.Add(mustSubscribe(t, streams, 1, 2, 3), TCP)
	get := func(stream uint16, seqs ...uint32) {
		for _, seq := range seqs {
			book.Account(client, Stamp{Stream: stream, Seq: seq, Intended: 1}, 2)
		}
	}
	check := func(when string, want ...Counts) {
		t.Helper()
		figures, err := book.count([]Plan{{Stream: 1, Pushed: 20}, {Stream: 2, Pushed: 20, Unknown: []uint32{1}}, {Stream: 3, Pushed: 20}})
		if err != nil {
			t.Fatal(err)
		}
		for i, w := range want {
			if figures[i].Counts != w {
				t.Errorf("%s, stream %d:\ngot  %+v\nwant %+v", when, i+1, figures[i].Counts, w)
			}
		}
	}
	for _, s := range []uint16{1, 2, 3} {
		streams.Start(s)
	}
	book.Join(client, here)
	get(1, 5, 6, 8)
	get(2, 0, 1, 2)
	get(3, 0) // is in the other room
	check("joined", Counts{Expected: 15, Delivered: 3, Lost: 12}, Counts{Expected: 19, Delivered: 2, Lost: 17, Unknown: 1}, Counts{Unexpected: Strays{NotJoined: 1}})

	book.Move(client, here, there)
	get(2, 3) // was on its way
	get(3, 7)
	book.Moved(client)
	get(2, 4)
	get(3, 9)
	check("moved", Counts{Expected: 15, Delivered: 3, Lost: 12},
		Counts{Expected: 2, Delivered: 2, Unknown: 1, Leftover: 1, Unexpected: Strays{NotJoined: 1}},
		Counts{Expected: 13, Delivered: 2, Lost: 11, Unexpected: Strays{NotJoined: 1}})

	book.Leave(client)
	check("left", Counts{Expected: 4, Delivered: 3, Lost: 1}, Counts{Expected: 2, Delivered: 2, Unknown: 1, Leftover: 1, Unexpected: Strays{NotJoined: 1}},
		Counts{Expected: 3, Delivered: 2, Lost: 1, Unexpected: Strays{NotJoined: 1}})

	book.Join(client, here)
	get(1, 15, 14, 16, 17, 18, 19)
	check("back", Counts{Expected: 10, Delivered: 9, Lost: 1, Reordered: 1})
}

func TestStraysHaveReasons(t *testing.T) {
	streams := mustStreams(t, Stream{ID: 1, Pushes: 4}, Stream{ID: 2, Pushes: 4})
	book := NewBook(streams, 0, 0)
	set := mustSubscribe(t, streams, 1)
	client := book.Add(set, TCP)
	book.Account(client, Stamp{Stream: 1, Seq: 0, Intended: 1}, 2)
	book.Join(client, nil)
	book.Account(client, Stamp{Stream: 2, Seq: 0, Intended: 1}, 2)
	book.Account(client, Stamp{Stream: 9, Seq: 0, Intended: 1}, 2)
	book.Account(client, Stamp{Stream: 1, Seq: 0, Intended: 1}, 2)
	book.Account(client, Stamp{Stream: 1, Seq: 3, Intended: 1}, 2)
	book.BadBody()
	report, err := book.Report([]Plan{{Stream: 1, Pushed: 1}})
	if err != nil {
		t.Fatal(err)
	}
	want := Counts{Expected: 1, Delivered: 1, Unexpected: Strays{
		NoStamp: 1, UnknownStream: 1, NotSubscribed: 1, NotJoined: 1, OutsidePlan: 1,
	}}
	if got := report.Total(); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPlansAreChecked(t *testing.T) {
	streams := mustStreams(t, Stream{ID: 1, First: 5})
	book := NewBook(streams, 0, 0)
	for name, plans := range map[string][]Plan{
		"unknown stream": {{Stream: 3}},
		"twice":          {{Stream: 1}, {Stream: 1}},
		"too many":       {{Stream: 1, Pushed: 1<<32 - 5}},
		"unknown below":  {{Stream: 1, Pushed: 5, Unknown: []uint32{4}}},
		"unknown above":  {{Stream: 1, Pushed: 5, Unknown: []uint32{10}}},
	} {
		if _, err := book.Count(plans); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSubscriptionsAreInternedAndFindSlots(t *testing.T) {
	var list []Stream
	for i := range 4000 {
		list = append(list, Stream{ID: uint16(i * 3)})
	}
	streams := mustStreams(t, list...)
	for name, ids := range map[string][]uint16{
		"dense":    {30, 33, 36, 45},
		"sparse":   {0, 6000, 11997},
		"one":      {999},
		"none":     {},
		"repeated": {6, 3, 6},
	} {
		set := mustSubscribe(t, streams, ids...)
		if set != mustSubscribe(t, streams, ids...) {
			t.Errorf("%s: the same set is not the same subscription", name)
		}
		in := make(map[uint16]bool)
		for _, id := range ids {
			in[id] = true
		}
		if set.Len() != len(in) {
			t.Errorf("%s: %d streams, want %d", name, set.Len(), len(in))
		}
		seen := make(map[int]bool)
		for id := range 1 << 16 {
			slot := int(set.place(uint16(id)).slot)
			if (slot >= 0) != in[uint16(id)] {
				t.Fatalf("%s: slot of stream %d is %d", name, id, slot)
			}
			if slot >= 0 {
				if seen[slot] || slot >= set.Len() {
					t.Fatalf("%s: slot %d of stream %d is taken or too large", name, slot, id)
				}
				seen[slot] = true
			}
		}
	}
	if _, err := streams.Subscribe(1); err == nil {
		t.Error("subscribing to a stream that is not declared gave no error")
	}
}

func TestReportsMergeWithoutLoss(t *testing.T) {
	streams := mustStreams(t, Stream{ID: 1, Pushes: 2}, Stream{ID: 2, Pushes: 1, WarmUp: true})
	set := mustSubscribe(t, streams, 1, 2)
	plans := []Plan{{Stream: 1, Pushed: 2}, {Stream: 2, Pushed: 1}}
	var merged *Report
	for i := range 3 {
		book := NewBook(streams, 2, 4)
		for kind := range 2 {
			c := book.Add(set, Kind(kind))
			book.Join(c, nil)
			at := int64(i*2+kind+1) * 1_000_000
			book.Account(c, Stamp{Stream: 2, Seq: 0, Intended: 1}, 1+at)
			book.Account(c, Stamp{Stream: 1, Seq: 0, Intended: 1}, 1+at)
			if i == 1 {
				book.Account(c, Stamp{Stream: 1, Seq: 1, Intended: 1}, 1+100*at)
			}
		}
		r, err := book.Report(plans)
		if err != nil {
			t.Fatal(err)
		}
		if merged == nil {
			merged = r
		} else if err := merged.Merge(r); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := merged.Total(), (Counts{Expected: 18, Delivered: 14, Lost: 4}); got != want {
		t.Errorf("total %+v, want %+v", got, want)
	}
	if got, want := merged.Measured(), (Counts{Expected: 12, Delivered: 8, Lost: 4}); got != want {
		t.Errorf("measured %+v, want %+v", got, want)
	}
	if n := merged.AllLatency().TotalCount(); n != 8 {
		t.Errorf("%d latencies, want 8: warm-up must stay out", n)
	}
	receipts := merged.Receipts(1)
	if len(receipts) != 2 {
		t.Fatalf("receipts %+v", receipts)
	}
	if r := receipts[0]; r.First.Milliseconds() != 1 || r.Last.Milliseconds() != 6 {
		t.Errorf("first push: receipts from %v to %v, want 1ms to 6ms", r.First, r.Last)
	}
	if r := receipts[1]; r.First.Milliseconds() != 300 || r.Last.Milliseconds() != 400 {
		t.Errorf("second push: receipts from %v to %v, want 300ms to 400ms", r.First, r.Last)
	}
	if n := merged.LastReceipt().TotalCount(); n != 2 {
		t.Errorf("%d pushes have a last receipt, want 2", n)
	}
}

func TestLatencyOutOfRangeIsRecordedAtTheEnd(t *testing.T) {
	streams := mustStreams(t, Stream{ID: 1, Pushes: 2})
	book := NewBook(streams, 1, 1)
	c := book.Add(mustSubscribe(t, streams, 1), WebSocket)
	book.Join(c, nil)
	book.Account(c, Stamp{Stream: 1, Seq: 0, Intended: 5000}, 10)
	book.Account(c, Stamp{Stream: 1, Seq: 1, Intended: 1}, 1<<60)
	r, err := book.Report(nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Latency[WebSocket].TotalCount(); n != 2 {
		t.Errorf("%d latencies, want 2", n)
	}
}

// The quick counters stand for the library's buckets, value by value.
func TestFineCountsAreTheHistogramsBuckets(t *testing.T) {
	direct, counted := NewHistogram(), NewHistogram()
	var counts fineCounts
	values := []int64{0, 1, 511, 512, 1000, LatencyHighest - 1, LatencyHighest}
	for v := int64(1); v < LatencyHighest; v = v*33/32 + 1 {
		values = append(values, v)
	}
	for _, v := range values {
		Record(direct, v)
		counts[fineIndex(v)]++
	}
	counts.addTo(counted)
	if !direct.Equals(counted) {
		t.Error("recording through the counters gives another histogram")
	}
	if n := len(direct.Export().Counts); n != len(counts) {
		t.Errorf("%d buckets, the histogram has %d", len(counts), n)
	}
}

func TestLastSecondIsWithinFourPercent(t *testing.T) {
	streams := mustStreams(t, Stream{ID: 1})
	book := NewBook(streams, 1, 1)
	c := book.Add(mustSubscribe(t, streams, 1), TCP)
	book.Join(c, nil)
	seq := uint32(0)
	for want := int64(50_000); want < LatencyHighest; want = want * 3 / 2 {
		book.Account(c, Stamp{Stream: 1, Seq: seq, Intended: 10}, 10+want)
		seq++
		book.Rotate()
		h := NewLiveHistogram()
		book.LastSecond(h)
		if got := h.Mean(); h.TotalCount() != 1 || got < 0.96*float64(want) || got > 1.04*float64(want) {
			t.Errorf("%d values around %.0f, want 1 at %d", h.TotalCount(), got, want)
		}
	}
	book.Rotate()
	h := NewLiveHistogram()
	if book.LastSecond(h); h.TotalCount() != 0 {
		t.Error("a second without receipts has latencies")
	}
}

func TestBodyKeepsItsStamp(t *testing.T) {
	for _, size := range []int{0, 15, 16, 17, 64, 1000} {
		want := Stamp{Stream: 65535, Seq: 0x01020304, Intended: 1_700_000_000_123_456_789}
		body := AppendBody(nil, want, size)
		if len(body) != max(size, BodyMin) {
			t.Errorf("size %d: body has %d bytes", size, len(body))
		}
		if got, ok := ParseBody(body); !ok || got != want {
			t.Errorf("size %d: got %+v, %v", size, got, ok)
		}
		if got, ok := ParseBody(body[:BodyMin]); !ok || got != want {
			t.Errorf("size %d: prefix gives %+v, %v", size, got, ok)
		}
	}
	if _, ok := ParseBody(AppendBody(nil, Stamp{Seq: MaxSeq + 1}, 16)); ok {
		t.Error("a sequence number above MaxSeq was accepted")
	}
	if _, ok := ParseBody([]byte("hello, this is no stamp at all")); ok {
		t.Error("a body without the magic was accepted")
	}
}

func TestNowNeverGoesBack(t *testing.T) {
	last := Now()
	for range 10000 {
		now := Now()
		if now < last {
			t.Fatalf("%d after %d", now, last)
		}
		last = now
	}
}

func FuzzParseBody(f *testing.F) {
	f.Add(AppendBody(nil, Stamp{Stream: 1, Seq: 2, Intended: 3}, 20))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := ParseBody(b)
		if !ok {
			return
		}
		if again := AppendBody(nil, s, 0); string(again) != string(b[:BodyMin]) {
			t.Fatalf("%x parsed to %+v, which encodes to %x", b[:BodyMin], s, again)
		}
	})
}

// Groups of streams have a latency of their own, over all kinds of clients.
func TestLatencyByGroup(t *testing.T) {
	streams := mustStreams(t, Stream{ID: 1, Pushes: 4}, Stream{ID: 2, Pushes: 4, Group: 2}, Stream{ID: 3, Pushes: 4, Group: 2, WarmUp: true})
	set := mustSubscribe(t, streams, 1, 2, 3)
	var merged *Report
	for i := range 2 {
		book := NewBook(streams, 0, 0)
		for kind := range Kinds {
			c := book.Add(set, Kind(kind))
			book.Join(c, nil)
			for seq := range uint32(4) {
				book.Account(c, Stamp{Stream: 1, Seq: seq, Intended: 1}, 1+1_000_000)
				book.Account(c, Stamp{Stream: 2, Seq: seq, Intended: 1}, 1+50_000_000)
				book.Account(c, Stamp{Stream: 3, Seq: seq, Intended: 1}, 1+900_000_000)
			}
		}
		r, err := book.Report([]Plan{{Stream: 1, Pushed: 4}, {Stream: 2, Pushed: 4}, {Stream: 3, Pushed: 4}})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			merged = r
		} else if err := merged.Merge(r); err != nil {
			t.Fatal(err)
		}
	}
	for g, want := range []struct{ count, ms int64 }{{4 * 2 * int64(Kinds), 1}, {0, 0}, {4 * 2 * int64(Kinds), 50}} {
		if h := merged.Groups[g]; h.TotalCount() != want.count || h.Max()/1_000_000 != want.ms {
			t.Errorf("group %d has %d latencies up to %d ms, want %d and %d", g, h.TotalCount(), h.Max()/1_000_000, want.count, want.ms)
		}
	}
}

// sameWaits checks that the clients waited for as long, to half a unit a push, and makes it the
// same to the last bit.
func sameWaits(t *testing.T, got, want *Report) {
	t.Helper()
	for i, w := range want.waits {
		for half := range w.halves {
			g, w := got.waits[i].halves[half], w.halves[half]
			if off := math.Abs(g.sum() - w.sum()); g.count() != w.count() || off > float64(w.count()<<waitUnit) {
				t.Fatalf("client %d waited %v for %d, want %v for %d", i, g.sum(), g.count(), w.sum(), w.count())
			}
		}
	}
	got.waits = want.waits
}

// accountRun enters a run as a client does that follows another one: as far as the book has its
// pushes all at once.
func (b *Book) accountRun(client int, run []Stamp, arrival int64) {
	for len(run) > 0 {
		series := b.NewSeries()
		for series.Len() < len(run) && series.Append(run[series.Len()]) {
		}
		n := series.Len()
		if n == 0 {
			b.Account(client, run[0], arrival)
			n = 1
		}
		b.AccountAll(client, series.Run(0, series.Len()), arrival)
		run = run[n:]
	}
}

// Clients that receive runs one right after the other are entered together. Nothing but the
// histograms and the times of receipts may tell, and these by no more than is said.
func TestCrowds(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 4))
		const clients, pushes = 50, 200
		streams := mustStreams(t, Stream{ID: 1, Pushes: pushes}, Stream{ID: 2, Pushes: pushes, WarmUp: true})
		set := mustSubscribe(t, streams, 1, 2)
		all, each := NewBook(streams, clients, 2*clients), NewBook(streams, clients, 2*clients)
		for i := range clients {
			for _, b := range []*Book{all, each} {
				b.Join(b.Add(set, Kind(i/40)), nil)
			}
		}
		arrival, crowds := int64(1e9), int64(0)
		var latencies []int64
		for _, id := range []uint16{1, 2} {
			for at := uint32(0); at < pushes; {
				n := min(pushes-at, 1+r.Uint32N(60))
				var run []Stamp
				intended := arrival
				for k := range n {
					intended += r.Int64N(1e6)
					run = append(run, Stamp{Stream: id, Seq: at + k, Intended: intended})
				}
				arrival += 1 + r.Int64N(2e9)
				for client := range clients {
					arrival += r.Int64N(50_000)
					if r.IntN(20) == 0 {
						all.Rotate()
					}
					cut := r.IntN(len(run) + 1)
					all.accountRun(client, run[:cut], arrival)
					all.accountRun(client, run[cut:], arrival)
					for _, c := range all.crowdsOf(Kind(client/40), int32(id-1)) {
						if c.low < c.end && c.from < c.to {
							crowds++
						}
					}
					for _, s := range run {
						each.Account(client, s, arrival)
						if id == 1 {
							latencies = append(latencies, max(arrival-s.Intended, 0))
						}
					}
				}
				at += n
			}
		}
		plans := []Plan{{Stream: 1, Pushed: pushes}, {Stream: 2, Pushed: pushes}}
		got, err := all.Report(plans)
		if err != nil {
			t.Fatal(err)
		}
		want, err := each.Report(plans)
		if err != nil {
			t.Fatal(err)
		}
		sameWaits(t, got, want)
		slices.Sort(latencies)
		h := got.AllLatency()
		if n := h.TotalCount(); n != int64(len(latencies)) || crowds == 0 {
			t.Fatalf("seed %d: %d latencies, want %d; %d in crowds", seed, n, len(latencies), crowds)
		}
		for q := 0.5; q < 100; q += 0.5 {
			at := int(q / 100 * float64(len(latencies))) // or one beside it, as the histogram rounds
			least := float64(latencies[at-1])*(1-1./1024) - 1024
			most := float64(latencies[at+1])*(1+1./1024+1./crowdTime) + 1024
			if v := float64(h.ValueAtQuantile(q)); v < least || v > most {
				t.Fatalf("seed %d: percentile %v is %v, want %v to %v", seed, q, v, least, most)
			}
		}
		for i, list := range want.receipts {
			for k, w := range list {
				g := got.receipts[i][k]
				early, late := int64(w.first)-int64(g.first), int64(g.last)-int64(w.last)
				if g.intended != w.intended || early < 0 || early > 1+int64(w.first)/crowdTime || late < 0 || late > 1+int64(w.last)/crowdTime {
					t.Fatalf("seed %d: push %d of stream %d: %+v, want %+v", seed, k, i, g, w)
				}
			}
		}
		got.receipts, got.Latency, got.Groups = want.receipts, want.Latency, want.Groups
		if !reflect.DeepEqual(got, want) || all.Accepted() != each.Accepted() {
			t.Fatalf("seed %d:\n%+v\nwant\n%+v", seed, got, want)
		}
	}
}

// AccountAll leaves a book as Account of each push would, to the last histogram's bucket:
// also where the run is not what is expected next, goes over the middle of the pushes or the
// end of the plan, or came before its intended time.
func TestAccountAllIsAccountOfEach(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 3))
		list := []Stream{{ID: 1, First: 5, Pushes: 40}, {ID: 2, Pushes: 60, WarmUp: true}}
		streams := mustStreams(t, list...)
		set := mustSubscribe(t, streams, 1, 2)
		all, each := NewBook(streams, 2, 4), NewBook(streams, 2, 4)
		for _, b := range []*Book{all, each} {
			b.Join(b.Add(set, TCP), nil)
			b.Join(b.Add(set, WSS), nil)
		}
		var next [2][2]uint32
		for range 20 {
			client, i := r.IntN(2), r.IntN(2)
			at := list[i].First + next[client][i]
			if r.IntN(4) == 0 {
				at += r.Uint32N(5)
			}
			if r.IntN(4) == 0 {
				at -= min(at, r.Uint32N(5))
			}
			id := list[i].ID
			if r.IntN(30) == 0 {
				id = 77
			}
			var run []Stamp
			for k := range r.Uint32N(15) {
				run = append(run, Stamp{Stream: id, Seq: at + k, Intended: int64(at+k+1) * 1e9})
			}
			arrival := r.Int64N(120e9)
			all.accountRun(client, run, arrival)
			for _, s := range run {
				each.Account(client, s, arrival)
			}
			next[client][i] = max(next[client][i], at+uint32(len(run))-list[i].First)
		}
		plans := []Plan{{Stream: 1, Pushed: 40}, {Stream: 2, Pushed: 60}}
		got, err := all.Report(plans)
		if err != nil {
			t.Fatal(err)
		}
		want, err := each.Report(plans)
		if err != nil {
			t.Fatal(err)
		}
		sameWaits(t, got, want)
		if !reflect.DeepEqual(got, want) || all.Accepted() != each.Accepted() || *all.live != *each.live {
			t.Fatalf("seed %d:\n%+v\nwant\n%+v", seed, got, want)
		}
	}
}

// A series has what the book has entered, in order, and nothing else.
func TestSeries(t *testing.T) {
	streams := mustStreams(t, Stream{ID: 1, First: 10, Pushes: 20}, Stream{ID: 2, Pushes: 20})
	book := NewBook(streams, 1, 2)
	book.Join(book.Add(mustSubscribe(t, streams, 1, 2), TCP), nil)
	stamp := func(seq uint32) Stamp { return Stamp{Stream: 1, Seq: seq, Intended: int64(seq) * 1000} }
	for seq := range uint32(15) {
		book.Account(0, stamp(10+seq), 1e9)
		book.Account(0, Stamp{Stream: 2, Seq: seq, Intended: 100_000 - int64(seq)}, 1e9)
	}
	for _, c := range []struct {
		name string
		of   []Stamp
		want int
	}{
		{"in order", []Stamp{stamp(10), stamp(11), stamp(12)}, 3},
		{"from the middle", []Stamp{stamp(20), stamp(21)}, 2},
		{"a gap", []Stamp{stamp(10), stamp(12)}, 1},
		{"twice the same", []Stamp{stamp(10), stamp(10)}, 1},
		{"another stream", []Stamp{stamp(10), {Stream: 2, Seq: 11, Intended: 99_989}}, 1},
		{"due before the last", []Stamp{{Stream: 2, Seq: 3, Intended: 99_997}, {Stream: 2, Seq: 4, Intended: 99_996}}, 1},
		{"another intended time", []Stamp{{Stream: 1, Seq: 10, Intended: 10_001}}, 0},
		{"not entered", []Stamp{stamp(25)}, 0},
		{"not entered, with no time", []Stamp{{Stream: 1, Seq: 25}}, 0},
		{"outside of the plan", []Stamp{stamp(30)}, 0},
		{"before the plan", []Stamp{stamp(9)}, 0},
		{"an unknown stream", []Stamp{{Stream: 3, Seq: 10, Intended: 10_000}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, n := book.NewSeries(), 0
			for _, st := range c.of {
				if s.Append(st) {
					n++
				}
			}
			if n != c.want || s.Len() != c.want {
				t.Errorf("%d taken, %d kept, want %d", n, s.Len(), c.want)
			}
			for i := range s.Len() {
				if s.At(i) != c.of[i] {
					t.Errorf("stamp %d is %v, want %v", i, s.At(i), c.of[i])
				}
			}
		})
	}
	t.Run("its runs", func(t *testing.T) {
		s := book.NewSeries()
		for seq := uint32(10); s.Append(stamp(seq)); seq++ {
		}
		s.Cut(3) // 13 to 24 are left
		run := s.Run(2, 6)
		if run.Len() != 4 || run.At(0) != stamp(15) || run.At(3) != stamp(18) {
			t.Fatalf("run of %d", run.Len())
		}
		if got, want := run.waits(100_000), int64(400_000-15_000-16_000-17_000-18_000); got != want {
			t.Errorf("waits %d, want %d", got, want)
		}
		for then, want := range map[int64]int{15_000: 1, 16_999: 2, 17_000: 3, 1e9: 4} {
			if got := run.until(then); got != want {
				t.Errorf("until %d: %d, want %d", then, got, want)
			}
		}
		first, rest := run.parts(1)
		if first.Len() != 1 || first.waits(20_000) != 5000 || rest.Len() != 3 || rest.waits(20_000) != 4000+3000+2000 {
			t.Errorf("parts: %d of %d, %d of %d", first.waits(20_000), first.Len(), rest.waits(20_000), rest.Len())
		}
	})
}
