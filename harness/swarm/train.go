package swarm

import (
	"bytes"
	"slices"

	"barrage/harness/ledger"
)

// A train is frames of pushes as a client of the thread has read them one behind the other.
// The members of a room are sent the same frames in the same order, however the reads cut them.
// So what comes behind a frame that a train has is held against what came behind it there, and
// as far as it is the same, byte for byte, it isn't taken apart once more: under load that is
// nearly everything, at a fraction of the price (BenchmarkInput).
type train struct {
	book    *ledger.Book
	frames  []byte
	ends    []uint32 // of each frame, in frames
	of      []uint8  // of each frame: its track
	gone    uint32   // frames that were before the first of these, modulo 2^32
	streams []uint16 // of each track
	tracks  []track

	// The part of each track that was accounted last: clients that are read one behind the other
	// have mostly been sent the same. It is that of the frames from position splitFrom until
	// before splitTo, as long as gone is splitGone.
	split              [][2]int32
	splitFrom, splitTo int
	splitGone          uint32
}

// A track is what a train has of one stream: those of several senders alternate in it, each
// with its own sequence numbers.
type track struct {
	stamps ledger.Series
	at     []uint32 // of each stamp: its frame, counted as train.gone is
}

const (
	trainCount  = 4       // of a thread
	trainTracks = 64      // the most of a train
	trainLeast  = 4       // frames of a read that are worth it
	trainMost   = 1 << 19 // bytes of frames that one keeps: what the clients that are furthest apart have between them
)

// trains are those of a thread, of which a room mostly has one, as far as they go.
type trains struct {
	list [trainCount]train
	of   [1 << 8]uint8 // by the low bits of a stream: the train that it is in, if it is in any
}

func newTrains(book *ledger.Book) trains {
	var ts trains
	for i := range ts.list {
		ts.list[i].book = book
	}
	for i := range ts.of {
		ts.of[i] = uint8(i % trainCount)
	}
	return ts
}

func (ts *trains) trainOf(stream uint16) *train { return &ts.list[ts.of[uint8(stream)]] }

// take puts the frame of s, which its train hasn't, on a train, unless it was there. behind is the
// push before it in the same read; first says that there is none.
//
// The first frame of a read goes on the train of its stream: what the next read brings is right
// behind what the last one has, and a gap would begin the train anew, also for the clients that
// are still where it was.
func (ts *trains) take(s, behind ledger.Stamp, first bool, frame []byte) {
	n, coupled := ts.of[uint8(s.Stream)], false
	if !first {
		before := ts.of[uint8(behind.Stream)]
		at := ts.list[before].find(behind)
		if at >= 0 && at < len(ts.list[before].ends)-1 {
			return // others have got something between these two
		}
		if at >= 0 {
			n, coupled = before, true
		}
	}
	if ts.list[n].extend(s, coupled, frame) {
		ts.of[uint8(s.Stream)] = n
	}
}

// follow returns which frames, by their positions, b begins with that the train has right
// behind the one at a position, and how many bytes they are.
func (tr *train) follow(at int, b []byte) (from, to, n int) {
	rest, ends := tr.frames[tr.ends[at]:], tr.ends[at+1:]
	if len(ends) == 0 {
		return 0, 0, 0
	}
	// size is that of so many frames behind it.
	size := func(count int) int {
		if count == 0 {
			return 0
		}
		return int(ends[count-1] - tr.ends[at])
	}
	count := len(ends)
	if size(count) > len(b) {
		var found bool
		if count, found = slices.BinarySearch(ends, tr.ends[at]+uint32(len(b))); found {
			count++
		}
	}
	if n = size(count); !bytes.Equal(b[:n], rest[:n]) {
		// The first frame that isn't the same is among those from same on.
		same := 0
		for count-same > 1 {
			middle := (same + count) / 2
			if a, z := size(same), size(middle); bytes.Equal(b[a:z], rest[a:z]) {
				same = middle
			} else {
				count = middle
			}
		}
		count, n = same, size(same)
	}
	return at + 1, at + 1 + count, n
}

// find returns the position of the frame of s, or -1.
func (tr *train) find(s ledger.Stamp) int {
	n := slices.Index(tr.streams, s.Stream)
	if n < 0 {
		return -1
	}
	k := &tr.tracks[n]
	if k.stamps.Len() == 0 || s.Seq < k.stamps.At(0).Seq {
		return -1
	}
	if i := int(s.Seq - k.stamps.At(0).Seq); i < k.stamps.Len() && k.stamps.At(i) == s {
		return int(k.at[i] - tr.gone)
	}
	return -1
}

// account enters in the book that a client has received the frames from position from until
// before to, and returns the stamp of the last of them. There must be one.
func (tr *train) account(client, from, to int, arrival int64) ledger.Stamp {
	if tr.splitFrom != from || tr.splitTo != to || tr.splitGone != tr.gone {
		tr.divide(from, to)
	}
	for n, part := range tr.split {
		if part[0] < part[1] {
			tr.book.AccountAll(client, tr.tracks[n].stamps.Run(int(part[0]), int(part[1])), arrival)
		}
	}
	last := tr.of[to-1]
	return tr.tracks[last].stamps.At(int(tr.split[last][1]) - 1)
}

// divide finds the stamps of the frames from position from until before to on each track.
func (tr *train) divide(from, to int) {
	tr.splitFrom, tr.splitTo, tr.splitGone = from, to, tr.gone
	tr.split = tr.split[:0]
	for n := range tr.tracks {
		k := &tr.tracks[n]
		tr.split = append(tr.split, [2]int32{int32(k.before(tr.gone, from)), int32(k.before(tr.gone, to))})
	}
}

// before returns how many of the track's frames stand before a position of the train.
func (k *track) before(gone uint32, position int) int {
	n, _ := slices.BinarySearchFunc(k.at, position, func(at uint32, position int) int { return int(at-gone) - position })
	return n
}

// extend puts the frame of s at the end of the train, and says so. It doesn't where the stream
// is further there: the client is behind the others. Unless it is coupled, which says that it
// comes right behind the last frame, it must be the next push of its stream, or the train begins
// anew with it.
func (tr *train) extend(s ledger.Stamp, coupled bool, frame []byte) bool {
	n := slices.Index(tr.streams, s.Stream)
	if n >= 0 {
		if stamps := &tr.tracks[n].stamps; stamps.Len() > 0 && s.Seq <= stamps.At(stamps.Len()-1).Seq {
			return false
		}
	}
	if len(tr.frames)+len(frame) > trainMost {
		tr.cut((len(tr.ends) + 1) / 2)
	}
	if n < 0 && !coupled || !tr.append(s, frame) {
		tr.cut(len(tr.ends))
		return tr.append(s, frame)
	}
	return true
}

// append is extend where the frame fits. It does nothing where the book hasn't the push, such
// as where it is outside of the plan, or not the one before it.
func (tr *train) append(s ledger.Stamp, frame []byte) bool {
	n := slices.Index(tr.streams, s.Stream)
	if n < 0 {
		n = slices.IndexFunc(tr.tracks, func(k track) bool { return len(k.at) == 0 })
	}
	switch {
	case n < 0 && len(tr.tracks) == trainTracks:
		return false
	case n < 0:
		n = len(tr.tracks)
		tr.streams = append(tr.streams, s.Stream)
		tr.tracks = append(tr.tracks, track{stamps: tr.book.NewSeries()})
	}
	k := &tr.tracks[n]
	if !k.stamps.Append(s) {
		return false
	}
	tr.streams[n] = s.Stream
	k.at = append(k.at, tr.gone+uint32(len(tr.ends)))
	tr.frames = append(tr.frames, frame...)
	tr.ends = append(tr.ends, uint32(len(tr.frames)))
	tr.of = append(tr.of, uint8(n))
	return true
}

// cut takes the first n frames away.
func (tr *train) cut(n int) {
	if n == 0 {
		return
	}
	for i := range tr.tracks {
		k := &tr.tracks[i]
		gone := k.before(tr.gone, n)
		k.stamps.Cut(gone)
		k.at = append(k.at[:0], k.at[gone:]...)
	}
	size := tr.ends[n-1]
	tr.frames = append(tr.frames[:0], tr.frames[size:]...)
	tr.ends = append(tr.ends[:0], tr.ends[n:]...)
	for i := range tr.ends {
		tr.ends[i] -= size
	}
	tr.of = append(tr.of[:0], tr.of[n:]...)
	tr.gone += uint32(n)
}

// again takes in what of in comes behind the decoder's current frame and is as it was for
// another client. Those that lag have a book of their own, and are on no train. read is what
// the decoder took that frame off, and behind is the stamp of the push before it in the same
// read, unless it is the first of it.
func (t *thread) again(i int, read []byte, in *[]byte, behind ledger.Stamp, first bool, arrival int64) {
	d := &t.dec
	tr := t.trains.trainOf(d.stamp.Stream)
	at := tr.find(d.stamp)
	if at < 0 {
		if taken := len(read) - len(*in); uint64(d.size) <= uint64(taken) {
			t.trains.take(d.stamp, behind, first, read[taken-int(d.size):taken])
		}
		return // nothing is behind it yet
	}
	room := min(uint64(d.room()), uint64(len(*in)))
	from, to, n := tr.follow(at, (*in)[:room])
	if from == to {
		return
	}
	d.stamp = tr.account(int(t.clients[i].account), from, to, arrival)
	t.tally.frames += int64(to - from)
	t.tally.pushes += int64(to - from)
	d.take(in, uint32(n))
}
