package swarm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync/atomic"
	"testing"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// readers is a thread with n clients that have joined, half over TCP and half over WebSocket.
func readers(t testing.TB, streams *ledger.Streams, n int, ids ...uint16) *thread {
	set := subscribe(t, streams, ids...)
	book := ledger.NewBook(streams, n, n*len(ids))
	th := &thread{
		cfg:  Config{Threads: 1, run: 1, ClockOffset: new(atomic.Int64)},
		book: book, trains: newTrains(book),
		buf: make([]byte, 64<<10), overflow: make(map[int32][]byte), lag: ledger.NewLiveHistogram(),
	}
	for i := range n {
		kind := ledger.Kind(i % 2) // TCP, WebSocket
		c := client{fd: 1000, slot: -1, kind: kind, state: joined}
		c.account = int32(book.Add(set, kind))
		book.Join(int(c.account), nil)
		th.clients = append(th.clients, c)
	}
	return th
}

// readBytes takes b in as one read of client i, and says whether the client is still there.
func (t *thread) readBytes(i int, b []byte) bool {
	kept := t.resume(&t.clients[i])
	return t.input(i, kept, copy(t.buf[kept:], b))
}

// What a thread with trains makes of any bytes, wherever the reads cut them, is what a book
// makes of one frame after the other: with frames lost, doubled and swapped, bodies without
// a stamp, streams that take turns, clients that are far apart, and trains that overflow.
func TestTrainsChangeNothing(t *testing.T) {
	const clients = 6
	fast := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 11))
		// Streams of one train to begin with, or more than fit in one.
		list := []ledger.Stream{{ID: 1, Pushes: 100}, {ID: 5, Pushes: 100}, {ID: 9, WarmUp: true}}
		ids := []uint16{1, 5, 9}[:1+r.IntN(3)]
		for id := uint16(10); seed%10 == 0 && len(ids) <= trainTracks; id += 3 {
			list = append(list, ledger.Stream{ID: id, Pushes: 100})
			ids = append(ids, id)
		}
		alternate := 1 + r.IntN(20)
		streams := newStreams(t, list...)
		th := readers(t, streams, clients, ids...)
		reference := readers(t, streams, clients, ids...)
		bodySize := ledger.BodyMin + r.IntN(3)*r.IntN(2000)
		var log [][]byte
		var stamps []ledger.Stamp
		next := map[uint16]uint32{}
		for len(log) < 400 {
			id := ids[0]
			if r.IntN(alternate) == 0 {
				id = ids[r.IntN(len(ids))]
			}
			s := ledger.Stamp{Stream: id, Seq: next[id], Intended: int64(len(log) + 1)}
			next[id]++
			log = append(log, wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 1000, Body: ledger.AppendBody(nil, s, bodySize)}))
			stamps = append(stamps, s)
		}
		strange := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 1000, Body: []byte("no stamp at all, and longer than one")})
		faults := r.IntN(2) * 25
		var at [clients]int
		for range 200 {
			i := r.IntN(clients)
			if r.IntN(2) == 0 {
				i = r.IntN(2) // two are ahead
			}
			n := min(r.IntN(40), len(log)-at[i])
			var b []byte
			for k := at[i]; k < at[i]+n; k++ {
				copies, from := 1, k
				if faults > 0 {
					switch r.IntN(faults) {
					case 0:
						copies = 0
					case 1:
						copies = 2
					case 2:
						from = min(k+1, len(log)-1)
					case 3:
						b = append(b, strange...)
						reference.book.BadBody()
					}
				}
				for range copies {
					b = append(b, log[from]...)
					reference.book.Account(int(reference.clients[i].account), stamps[from], ledger.Now())
				}
			}
			at[i] += n
			if th.clients[i].kind.WebSocket() && len(b) > 0 {
				b = append(wire.AppendWSBatchHeader(nil, len(b)), b...)
			}
			for len(b) > 0 {
				cut := len(b)
				if r.IntN(3) == 0 {
					cut = 1 + r.IntN(len(b))
				}
				cut = min(cut, len(th.buf)-maxTail)
				if !th.readBytes(i, b[:cut]) {
					t.Fatalf("seed %d: client %d was dropped: %v", seed, i, th.dec.fail)
				}
				b = b[cut:]
			}
		}
		for _, tr := range th.trains.list {
			fast += len(tr.ends)
			if len(tr.frames) > trainMost+bodySize+wire.HeaderLen {
				t.Fatalf("seed %d: a train has %d bytes", seed, len(tr.frames))
			}
		}
		var plans []ledger.Plan
		for _, s := range list {
			plans = append(plans, ledger.Plan{Stream: s.ID, Pushed: next[s.ID]})
		}
		got, err := th.book.Report(plans)
		if err != nil {
			t.Fatal(err)
		}
		want, err := reference.book.Report(plans)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Streams, want.Streams) || got.Strays != want.Strays || got.AllLatency().TotalCount() != want.AllLatency().TotalCount() {
			t.Fatalf("seed %d: with trains\n%+v\none by one\n%+v", seed, got.Streams, want.Streams)
		}
		if th.book.Accepted() != reference.book.Accepted() {
			t.Fatalf("seed %d: accepted %d, want %d", seed, th.book.Accepted(), reference.book.Accepted())
		}
	}
	if fast == 0 {
		t.Error("no frame was ever in a train")
	}
}

// followStamp is follow behind the frame of s, if the train has it.
func (tr *train) followStamp(s ledger.Stamp, b []byte) (from, to, n int) {
	at := tr.find(s)
	if at < 0 {
		return 0, 0, 0
	}
	return tr.follow(at, b)
}

func TestTrainFollow(t *testing.T) {
	frame := func(seq uint32) (ledger.Stamp, []byte) {
		s := ledger.Stamp{Stream: 3, Seq: seq, Intended: int64(seq+1) * 10}
		return s, wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 1000, Body: ledger.AppendBody(nil, s, 20)})
	}
	th := readers(t, newStreams(t, ledger.Stream{ID: 3, Pushes: 10}), 1, 3)
	tr := th.trains.trainOf(3)
	var all []byte
	var stamps []ledger.Stamp
	for seq := range uint32(10) {
		s, b := frame(seq)
		th.book.Account(0, s, ledger.Now())
		tr.extend(s, seq > 0, b)
		all, stamps = append(all, b...), append(stamps, s)
	}
	size := len(all) / 10
	other := bytes.Clone(all)
	other[5*size+30] ^= 1 // in the body of 5, behind its stamp
	for _, c := range []struct {
		name string
		s    ledger.Stamp
		b    []byte
		want int
	}{
		{"all that is there", stamps[0], all[size:], 9},
		{"from the middle", stamps[4], all[5*size:], 5},
		{"whole frames alone", stamps[4], all[5*size : 8*size-1], 2},
		{"more than there is", stamps[4], append(bytes.Clone(all[5*size:]), all...), 5},
		{"less than a frame", stamps[4], all[5*size : 6*size-1], 0},
		{"nothing behind the last", stamps[9], all, 0},
		{"another byte", stamps[0], other[size:], 4},
		{"another byte in the next", stamps[4], other[5*size:], 0},
		{"another byte, but not within", stamps[0], other[size : 5*size], 4},
		{"a stamp that it has not", ledger.Stamp{Stream: 3, Seq: 4, Intended: 41}, all[5*size:], 0},
		{"another stream", ledger.Stamp{Stream: 7, Seq: 4, Intended: 40}, all[5*size:], 0},
		{"one ahead of it", ledger.Stamp{Stream: 3, Seq: 40}, all, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, to, n := tr.followStamp(c.s, c.b)
			if to-from != c.want || n != c.want*size {
				t.Fatalf("%d frames, %d bytes; want %d frames", to-from, n, c.want)
			}
			if c.want > 0 && from != int(c.s.Seq)+1 {
				t.Errorf("begins with %d", from)
			}
		})
	}
	t.Run("behind the first", func(t *testing.T) {
		tr.cut(3)
		if from, to, _ := tr.followStamp(stamps[1], all[2*size:]); from != to {
			t.Errorf("%d frames before the cut", to-from)
		}
		if from, to, _ := tr.followStamp(stamps[3], all[4*size:]); from != 1 || to != 7 {
			t.Errorf("frames from %d to %d after a cut, want 1 to 7", from, to)
		}
	})
}

// A train goes on from one read of a client to the next, wherever the reads cut a frame, so that
// clients that are behind find all in it: also where the pushes are those of several senders.
func TestTrainGoesOn(t *testing.T) {
	for senders := range 5 {
		var list []ledger.Stream
		var ids []uint16
		for id := range uint16(senders + 1) {
			list = append(list, ledger.Stream{ID: id, Pushes: 1 << 20})
			ids = append(ids, id)
		}
		th := readers(t, newStreams(t, list...), 3, ids...)
		var all []byte
		for n := range 300 {
			s := ledger.Stamp{Stream: uint16(n % len(ids)), Seq: uint32(n / len(ids)), Intended: ledger.Now()}
			all = wire.AppendFrame(all, wire.Frame{Ver: 1, Op: 1000, Body: ledger.AppendBody(nil, s, ledger.BodyMin)})
		}
		for client, size := range map[int]int{0: 1001, 2: 777} { // both over TCP
			for rest := all; len(rest) > 0; {
				n := min(len(rest), size)
				if !th.readBytes(client, rest[:n]) {
					t.Fatal("the client is gone")
				}
				rest = rest[n:]
			}
			if tr := th.trains.trainOf(0); len(tr.ends) != 300 {
				t.Errorf("%d senders: the train has %d of 300 frames", len(ids), len(tr.ends))
			}
		}
	}
}

// BenchmarkInput is what a push costs from the read buffer to the book, where a read has so
// many of them, of 16 bytes, from one sender or from several in turn, and the thread's clients
// get the same.
func BenchmarkInput(b *testing.B) {
	for _, c := range []struct{ perRead, senders int }{{1, 1}, {2, 1}, {10, 1}, {100, 1}, {400, 1}, {2, 2}, {10, 4}, {30, 4}, {300, 20}} {
		for kind, name := range []string{"tcp", "ws"} {
			b.Run(fmt.Sprintf("frames=%d/senders=%d/%s", c.perRead, c.senders, name), func(b *testing.B) {
				const clients = 2000
				var list []ledger.Stream
				var ids []uint16
				for id := range uint16(c.senders) {
					list = append(list, ledger.Stream{ID: id, Pushes: 1 << 20})
					ids = append(ids, id)
				}
				th := readers(b, newStreams(b, list...), 2*clients, ids...)
				b.ReportAllocs()
				seq := 0
				for n := 0; n < b.N; {
					var in []byte
					for range c.perRead {
						s := ledger.Stamp{Stream: uint16(seq % c.senders), Seq: uint32(seq / c.senders), Intended: ledger.Now() - 1e9}
						in = wire.AppendFrame(in, wire.Frame{Ver: 1, Op: 1000, Body: ledger.AppendBody(nil, s, ledger.BodyMin)})
						seq++
					}
					if kind == 1 {
						in = append(wire.AppendWSBatchHeader(nil, len(in)), in...)
					}
					copy(th.buf, in)
					for i := range clients {
						kept := th.resume(&th.clients[2*i+kind])
						th.input(2*i+kind, kept, len(in))
					}
					n += c.perRead * clients
				}
			})
		}
	}
}
