package swarm

import (
	"bytes"
	"slices"

	"barrage/harness/ledger"
)

// A train is the frames of consecutive pushes of one stream, as a client of the thread has
// read them one behind the other. The members of a room are sent the same frames in the same
// order, however the reads cut them. So what comes behind a frame that a train has is held
// against what came behind it there, and where it is the same, byte for byte, it isn't
// taken apart once more: under load that is nearly everything, at a quarter of the price.
// It is nothing where the pushes of several senders alternate: each has a stream of its own.
type train struct {
	frames []byte
	ends   []uint32      // of each frame, in frames
	stamps ledger.Series // of each frame
}

const (
	trainCount = 4       // of a thread; streams share them by their ids
	trainMost  = 1 << 19 // bytes of frames that one keeps: what the clients that are furthest apart have between them
)

// follow returns the stamps of the whole frames that b begins with, and their length, if the
// train has them right behind the frame of s.
func (tr *train) follow(s ledger.Stamp, b []byte) (ledger.Run, int) {
	at := tr.find(s)
	if at < 0 || at == tr.stamps.Len()-1 {
		return ledger.Run{}, 0
	}
	from := tr.ends[at]
	ends := tr.ends[at+1:]
	if last := from + uint32(min(len(b), trainMost)); ends[len(ends)-1] > last {
		n, found := slices.BinarySearch(ends, last)
		if found {
			n++
		}
		ends = ends[:n]
	}
	if len(ends) == 0 {
		return ledger.Run{}, 0
	}
	n := int(ends[len(ends)-1] - from)
	if !bytes.Equal(b[:n], tr.frames[from:][:n]) {
		return ledger.Run{}, 0
	}
	return tr.stamps.Run(at+1, at+1+len(ends)), n
}

// find returns the position of the frame of s, or -1.
func (tr *train) find(s ledger.Stamp) int {
	if tr.stamps.Len() == 0 || s.Seq < tr.stamps.At(0).Seq {
		return -1
	}
	if at := int(s.Seq - tr.stamps.At(0).Seq); at < tr.stamps.Len() && tr.stamps.At(at) == s {
		return at
	}
	return -1
}

// extend puts the frame of s at the end of the train, if it comes right behind the last one.
// One that is further ahead, or of another stream, begins the train anew.
func (tr *train) extend(s ledger.Stamp, frame []byte) {
	n := tr.stamps.Len()
	if n > 0 && tr.stamps.At(n-1).Stream == s.Stream && s.Seq <= tr.stamps.At(n-1).Seq {
		return // a client that is behind the others
	}
	if len(tr.frames)+len(frame) > trainMost {
		tr.cut((n + 1) / 2)
	}
	if !tr.stamps.Append(s) {
		tr.cut(tr.stamps.Len())
		if !tr.stamps.Append(s) {
			return // the book hasn't it, such as where it is outside of the plan
		}
	}
	tr.frames = append(tr.frames, frame...)
	tr.ends = append(tr.ends, uint32(len(tr.frames)))
}

// cut takes the first n frames away.
func (tr *train) cut(n int) {
	if n == 0 {
		return
	}
	gone := tr.ends[n-1]
	tr.frames = append(tr.frames[:0], tr.frames[gone:]...)
	tr.ends = append(tr.ends[:0], tr.ends[n:]...)
	for i := range tr.ends {
		tr.ends[i] -= gone
	}
	tr.stamps.Cut(n)
}

// again takes in what of in comes behind the decoder's current frame and is as it was for
// another client. Those that lag have a book of their own, and are on no train. read is what
// the decoder took that frame off, and behind is the stamp of the push before it in the same
// read, unless it is the first of it.
//
// The first frame of a read goes on a train, too: what the next read brings is right behind
// what the last one has, and a gap would begin the train anew, also for the clients that are
// still where it was.
func (t *thread) again(i int, read []byte, in *[]byte, behind ledger.Stamp, first bool, arrival int64) {
	c := &t.clients[i]
	if c.behaviour.Lags() {
		return
	}
	d := &t.dec
	tr := &t.trains[d.stamp.Stream%trainCount]
	if taken := len(read) - len(*in); uint64(d.size) <= uint64(taken) &&
		(first || behind.Stream == d.stamp.Stream && behind.Seq+1 == d.stamp.Seq) {
		tr.extend(d.stamp, read[taken-int(d.size):taken])
	}
	room := min(uint64(d.room()), uint64(len(*in)))
	run, n := tr.follow(d.stamp, (*in)[:room])
	if n == 0 {
		return
	}
	t.book.AccountAll(int(c.account), run, arrival)
	t.tally.frames += int64(run.Len())
	t.tally.pushes += int64(run.Len())
	d.stamp = run.At(run.Len() - 1)
	d.take(in, uint32(n))
}
