package ledger

import (
	"sync"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Kind is a group of clients whose latency is kept apart: the transports.
type Kind uint8

// The kinds of clients.
const (
	TCP Kind = iota
	WebSocket
	TCPTLS            // TCP inside TLS
	WSS               // WebSocket inside TLS
	Kinds  int = iota // how many there are
)

// kindBits is what a Kind takes in an account.
const kindBits = 2

// String returns the kind's name as reports show it.
func (k Kind) String() string {
	return [Kinds]string{"tcp", "websocket", "tcp+tls", "wss"}[k]
}

// WebSocket says whether frames of the kind are in WebSocket messages.
func (k Kind) WebSocket() bool { return k == WebSocket || k == WSS }

// TLS says whether the kind's bytes are encrypted.
func (k Kind) TLS() bool { return k == TCPTLS || k == WSS }

// What a cell holds instead of the next sequence number.
const (
	notJoined = 1<<32 - 1 // the client has not joined: nothing is owed to it
	lateJoin  = 1<<32 - 2 // it joined a running stream: it starts with the first push that it receives
	leaving   = 1<<32 - 3 // it has asked to leave the stream: nothing is owed, and what still comes is in order
)

// A Book is one thread's part of the ledger. Only one goroutine may use it, but for
// LastSecond and UntilNow. It keeps 24 bytes a client and 4 a client and stream, 16 a push, and
// for each of its crowds 4 a push of the longest stream.
type Book struct {
	streams *Streams
	sets    []*Subscription // by Subscription.number
	clients []account
	cells   []uint32 // by account.cell + slot: the next expected sequence number, notJoined or lateJoin
	starts  []uint32 // made when the first client joins late; by cell: where it started, or notJoined where it did not join late

	missing  map[uint32]gaps // by cell; there is an entry only where a gap occurred
	tallies  []tally         // by position in streams.list
	strays   Strays          // what can't be put down to a declared stream
	accepted int64           // first receipts

	latency []latencies // by Stream.Group

	live      *liveCounts // since the last Rotate
	mu        sync.Mutex
	published *liveCounts // between the last two Rotates; mu guards it
	rotated   *liveTotals // until the last Rotate; mu guards it

	disorder Disorder
	crowds   [Kinds][crowdStreams]*crowds // of AccountAll; by Kind and position of the stream, nil until there is one
}

// account is where a client's cells begin, which they are, and how long the client waited
// for what is measured: in the first and in the second half of each stream's pushes.
type account struct {
	set   uint32 // Subscription.number << kindBits | Kind
	cell  uint32
	waits [2]wait
}

// tally is what a thread counts per stream beside the cells.
type tally struct {
	first      uint32
	middle     uint32 // sequence number with which the second half of the pushes begins
	warmUp     bool
	latency    *latencies // of the stream's group
	receipts   []receipt  // by sequence number - first
	settled    settled    // of clients that left
	leftovers  int64      // receipts of a stream that the client had asked to leave
	duplicates int64
	reordered  int64
	strays     Strays
}

// latencies are the histograms of one group; nil for a kind without clients.
type latencies [Kinds]*fineCounts

// NewBook returns an empty book with room for clients and cells (the sum of their
// subscriptions' Len), which both may grow.
func NewBook(streams *Streams, clients, cells int) *Book {
	b := &Book{
		streams:   streams,
		clients:   make([]account, 0, clients),
		cells:     make([]uint32, 0, cells),
		missing:   make(map[uint32]gaps),
		tallies:   make([]tally, len(streams.list)),
		latency:   make([]latencies, streams.groups()),
		live:      new(liveCounts),
		published: new(liveCounts),
		rotated:   new(liveTotals),
	}
	for i, s := range streams.list {
		b.tallies[i] = tally{first: s.First, middle: s.First + s.Pushes/2, warmUp: s.WarmUp, latency: &b.latency[s.Group], receipts: make([]receipt, s.Pushes)}
	}
	return b
}

// Add enters a client and returns its number, counted from 0. set must come from the
// book's streams. The client is owed nothing before Join.
func (b *Book) Add(set *Subscription, kind Kind) int {
	for len(b.sets) <= set.number {
		b.sets = append(b.sets, nil)
	}
	b.sets[set.number] = set
	for group := range b.latency {
		if b.latency[group][kind] == nil {
			b.latency[group][kind] = new(fineCounts)
		}
	}
	b.clients = append(b.clients, account{set: uint32(set.number)<<kindBits | uint32(kind), cell: uint32(len(b.cells))})
	for range set.Len() {
		b.cells = append(b.cells, notJoined)
	}
	return len(b.clients) - 1
}

// Join says that the client is ready to receive: from now on it is owed every push of its
// streams that are in part too, or of all its streams where part is nil. Where a stream is
// already running it is owed every push after the first that it receives.
func (b *Book) Join(client int, part *Subscription) {
	b.each(client, func(cell uint32, listed int32) {
		if part == nil || part.has(b.streams.list[listed].ID) {
			b.owe(cell, listed)
		}
	})
}

func (b *Book) owe(cell uint32, listed int32) {
	if int(cell) < len(b.starts) {
		b.starts[cell] = notJoined
	}
	b.cells[cell] = lateJoin
	if !b.streams.running[listed].Load() {
		b.cells[cell] = b.streams.list[listed].First
	}
}

// Leave says that the client is gone: of what it was owed the pushes up to the last that it
// received stay so, and nothing else is. It may join again.
func (b *Book) Leave(client int) {
	b.each(client, func(cell uint32, listed int32) {
		b.settle(cell, listed)
		b.cells[cell] = notJoined
	})
}

// Move says that the client has asked to leave the streams of from, and to get those of to.
// When the server does so is not known: what still comes of the former is neither owed nor
// unexpected until Moved, and of the latter the client is owed every push after the first
// that it receives, whether they run already or not.
func (b *Book) Move(client int, from, to *Subscription) {
	b.each(client, func(cell uint32, listed int32) {
		switch id := b.streams.list[listed].ID; {
		case to.has(id) && !from.has(id):
			b.owe(cell, listed)
			b.cells[cell] = lateJoin
		case from.has(id) && !to.has(id):
			b.settle(cell, listed)
			b.cells[cell] = leaving
		}
	})
}

// Moved says that the server has confirmed a Move: from now on nothing may come of the
// streams that were left.
func (b *Book) Moved(client int) {
	b.each(client, func(cell uint32, _ int32) {
		if b.cells[cell] == leaving {
			b.cells[cell] = notJoined
		}
	})
}

// each calls f for the client's cells, with the position of the cell's stream.
func (b *Book) each(client int, f func(cell uint32, listed int32)) {
	a := b.clients[client]
	for slot, i := range b.sets[a.set>>kindBits].listed {
		f(a.cell+uint32(slot), i)
	}
}

// Account enters that client received s at arrival (unix nanoseconds, as Now gives them).
// s must come from ParseBody.
//
// BenchmarkAccount: the budget is 30 ns a frame. The path of a frame in order touches the
// client's account and cell, the push's receipt and two histogram counters; everything
// else is out of line.
func (b *Book) Account(client int, s Stamp, arrival int64) {
	a := &b.clients[client]
	set := b.sets[a.set>>kindBits]
	p := set.place(s.Stream)
	if p.slot < 0 {
		b.notSubscribed(s.Stream)
		return
	}
	cell := a.cell + uint32(p.slot)
	t := &b.tallies[p.listed]
	if b.cells[cell] == s.Seq {
		b.cells[cell] = s.Seq + 1
	} else if !b.outOfStep(cell, t, s.Seq) {
		return
	}
	b.accepted++
	latency := max(arrival-s.Intended, 0)
	if i := s.Seq - t.first; uint64(i) < uint64(len(t.receipts)) {
		t.receipts[i].note(s.Intended, latency)
	}
	if !t.warmUp {
		latency = min(latency, LatencyHighest)
		t.latency[a.set&(1<<kindBits-1)][fineIndex(latency)]++
		b.live[liveIndex(latency)]++
		half := 0
		if s.Seq >= t.middle {
			half = 1
		}
		a.waits[half].add(latency)
	}
}

// AccountAll is Account of a run of one of the book's series. What the pushes have in common is
// looked up once, and the times of clients that receive runs one right after the other are
// entered once: their latencies are taken up to 1 in 4096 longer than they were, which is less
// than half of a histogram's bucket.
func (b *Book) AccountAll(client int, run Run, arrival int64) {
	if run.Len() == 0 {
		return
	}
	a := &b.clients[client]
	kind := Kind(a.set & (1<<kindBits - 1))
	p := b.sets[a.set>>kindBits].place(run.stamps[0].Stream)
	if p.slot < 0 || b.cells[a.cell+uint32(p.slot)] != run.stamps[0].Seq {
		for _, s := range run.stamps {
			b.Account(client, s, arrival)
		}
		return
	}
	t := &b.tallies[p.listed]
	half, most := 0, crowdMost
	if ahead := int64(t.middle) - int64(run.stamps[0].Seq); ahead > 0 {
		most = int(min(ahead, crowdMost))
	} else {
		half = 1
	}
	crowds := b.crowdsOf(kind, p.listed)
	run, rest := run.parts(min(run.Len(), most))
	b.cells[a.cell+uint32(p.slot)] += uint32(run.Len())
	b.accepted += int64(run.Len())
	for run.Len() > 0 {
		c, n := crowds.of(run, arrival)
		var part Run
		part, run = run.parts(n)
		switch {
		case !b.join(c, t, kind, part, arrival):
			b.enter(t, kind, &a.waits[half], part.stamps, arrival)
		case !t.warmUp:
			a.waits[half].addAll(int64(n), part.waits(arrival))
		}
	}
	b.AccountAll(client, rest, arrival)
}

// enter enters the times of consecutive pushes of a half of a stream.
func (b *Book) enter(t *tally, kind Kind, waits *wait, run []Stamp, arrival int64) {
	receipts := t.receipts[run[0].Seq-t.first:][:len(run)]
	for i := range receipts {
		receipts[i].note(run[i].Intended, max(arrival-run[i].Intended, 0))
	}
	if t.warmUp {
		return
	}
	fine, live, sum := t.latency[kind], b.live, *waits
	for i := range run {
		latency := min(max(arrival-run[i].Intended, 0), LatencyHighest)
		fine[fineIndex(latency)]++
		live[liveIndex(latency)]++
		sum.add(latency)
	}
	*waits = sum
}

// outOfStep accounts a sequence number that is not the expected one, and says whether
// this is the first receipt of it.
func (b *Book) outOfStep(cell uint32, t *tally, seq uint32) bool {
	switch next := b.cells[cell]; {
	case next == notJoined:
		t.strays[NotJoined]++
		return false
	case next == leaving:
		t.leftovers++
		return false
	case seq < t.first:
		t.strays[OutsidePlan]++
		return false
	case next == lateJoin:
		for len(b.starts) < len(b.cells) {
			b.starts = append(b.starts, notJoined)
		}
		b.starts[cell] = seq
		b.cells[cell] = seq + 1
		return true
	case seq > next:
		b.missing[cell] = append(b.missing[cell], span{next, seq})
		b.disorder.Missing += int64(seq - next)
		b.cells[cell] = seq + 1
		return true
	}
	if g, ok := b.missing[cell]; ok && g.take(seq) {
		b.missing[cell] = g
		if len(g) == 0 {
			delete(b.missing, cell)
		}
		t.reordered++
		b.disorder.Reordered++
		b.disorder.Missing--
		return true
	}
	if start := b.start(cell, t.first); seq < start {
		// A late client's first push was itself ahead of this one, so it started here.
		b.starts[cell] = seq
		if seq+1 < start {
			b.missing[cell] = append(gaps{{seq + 1, start}}, b.missing[cell]...)
			b.disorder.Missing += int64(start - seq - 1)
		}
		t.reordered++
		b.disorder.Reordered++
		return true
	}
	t.duplicates++
	b.disorder.Duplicate++
	return false
}

// start returns the first sequence number that the cell is owed.
func (b *Book) start(cell, first uint32) uint32 {
	if int(cell) < len(b.starts) && b.starts[cell] != notJoined {
		return b.starts[cell]
	}
	return first
}

func (b *Book) notSubscribed(stream uint16) {
	if i := b.streams.position(stream); i >= 0 {
		b.tallies[i].strays[NotSubscribed]++
		return
	}
	b.strays[UnknownStream]++
}

// BadBody enters that a push arrived whose body has no stamp.
func (b *Book) BadBody() { b.strays[NoStamp]++ }

// Accepted returns the number of first receipts so far.
func (b *Book) Accepted() int64 { return b.accepted }

// Rotate closes a second of the live figures: LastSecond returns it from now on.
func (b *Book) Rotate() {
	b.disperseAll()
	b.mu.Lock()
	b.published, b.live = b.live, b.published
	b.rotated.add(b.published)
	b.mu.Unlock()
	clear(b.live[:])
}

// LastSecond adds the latencies between the last two Rotates to h. Any goroutine may call it.
func (b *Book) LastSecond(h *hdrhistogram.Histogram) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published.addTo(h)
}

// UntilNow adds the latencies until the last Rotate to h. Any goroutine may call it.
func (b *Book) UntilNow(h *hdrhistogram.Histogram) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rotated.addTo(h)
}
