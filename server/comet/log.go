package comet

import (
	"slices"
	"sort"

	"barrage/server/wire"
)

// Bounds of one segment's buffer and of one chunk, in bytes. A single frame may exceed both.
const (
	minSegment = 4 << 10
	maxSegment = 64 << 10
	maxChunk   = 64 << 10
)

// A frameLog is the recent frames of a room in one shard: immutable append-only segments,
// oldest first. Offsets count frames since the log was made and never repeat, so the
// difference of two offsets is a number of frames. It is owned by the shard.
type frameLog struct {
	segments []*segment
	tail     uint64  // first frame still held
	head     uint64  // one past the last frame
	size     int     // bytes held
	limit    int     // bytes kept for members that lag
	appended uint64  // bytes ever appended
	tagged   bool    // frames carry an operation to filter by
	ghosts   []ghost // of a tagged log: the operations of segments that were evicted

	chunks map[chunkKey]*chunk // of the running sweep
	last   [2]struct {         // the latest for TCP and for WebSocket
		key   chunkKey
		chunk *chunk
	}
	pages *pageFiles // of the shard
}

// A segment holds consecutive frames. Bytes below len(buf) never change, so slices of
// them may be read, and sent, while the segment grows.
type segment struct {
	first uint64
	buf   []byte
	ends  []uint32  // end of each frame in buf
	ops   []wire.Op // operation of each frame, in tagged logs
}

// A ghost remembers what an evicted segment held, for the count of what a session missed.
type ghost struct {
	first uint64
	ops   []wire.Op
}

// maxGhosts bounds the evicted segments that a tagged log remembers.
const maxGhosts = 256

func (s *segment) end() uint64 { return s.first + uint64(len(s.ends)) }

// start returns where frame i of the segment begins in buf.
func (s *segment) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return s.ends[i-1]
}

// A chunk is what one send carries: the frames from one offset to another, made once and
// shared by all members that stand at the same offset. data is empty when the filter
// leaves nothing.
type chunk struct {
	data   []byte
	next   uint64    // offset behind the chunk
	frames int       // frames in data
	uses   int       // sends that it was for
	pages  *pageFile // data once more, if that is worth while
}

type chunkKey struct {
	from      uint64
	set       *acceptSet
	websocket bool
}

// append adds the frames of batch, which must be whole (wire.Batch.Count), with the
// operation op for tagged logs.
func (l *frameLog) append(op wire.Op, batch wire.Batch) {
	for len(batch) > 0 {
		from := batch
		if _, err := batch.Next(); err != nil {
			break // Count was called at the door.
		}
		l.appendFrame(op, from[:len(from)-len(batch)])
	}
	l.forget()
}

func (l *frameLog) appendFrame(op wire.Op, frame []byte) {
	size := len(frame)
	s := l.writable(size)
	s.buf = append(s.buf, frame...)
	s.ends = append(s.ends, uint32(len(s.buf)))
	if l.tagged {
		s.ops = append(s.ops, op)
	}
	l.head++
	l.size += size
	l.appended += uint64(size)
}

// writable returns the last segment if n more bytes fit, else a new one, larger than the
// last while the log is busy. An idle room holds no segment at all.
func (l *frameLog) writable(n int) *segment {
	want := minSegment
	if k := len(l.segments); k > 0 {
		last := l.segments[k-1]
		if cap(last.buf)-len(last.buf) >= n {
			return last
		}
		want = min(2*cap(last.buf), maxSegment)
	}
	s := &segment{first: l.head, buf: make([]byte, 0, max(want, n))}
	l.segments = append(l.segments, s)
	return s
}

// evict drops the oldest segments while more than the limit is held, but none with a
// frame at or behind low.
func (l *frameLog) evict(low uint64) {
	for len(l.segments) > 1 && l.size > l.limit && l.segments[0].end() <= low {
		if l.tagged {
			l.ghosts = append(l.ghosts, ghost{l.segments[0].first, l.segments[0].ops})
			if len(l.ghosts) > maxGhosts {
				l.ghosts = slices.Clone(l.ghosts[maxGhosts/2:])
			}
		}
		l.dropFirst()
	}
}

// lost returns how many frames between offset and the tail set accepts. Of a tagged log that
// was overrun by more than it remembers, all of the oldest are counted.
func (l *frameLog) lost(offset uint64, set *acceptSet) uint64 {
	if !l.tagged {
		return l.tail - offset
	}
	n := uint64(0)
	if len(l.ghosts) == 0 {
		return l.tail - offset
	}
	if first := l.ghosts[0].first; offset < first {
		n += first - offset
		offset = first
	}
	for _, g := range l.ghosts {
		n += countAccepted(g.first, g.ops, offset, set)
	}
	return n
}

// accepted returns how many of the frames from offset on, which the log still holds, set accepts.
func (l *frameLog) accepted(offset uint64, set *acceptSet) uint64 {
	if !l.tagged {
		return l.head - offset
	}
	n := uint64(0)
	for _, s := range l.segments {
		n += countAccepted(s.first, s.ops, offset, set)
	}
	return n
}

// countAccepted returns how many of the frames with operations ops, the first of which is at first, lie
// from offset on and are accepted by set.
func countAccepted(first uint64, ops []wire.Op, offset uint64, set *acceptSet) (n uint64) {
	for i, op := range ops {
		if first+uint64(i) >= offset && set.has(op) {
			n++
		}
	}
	return n
}

// trim drops all segments whose frames lie before low: nobody needs them.
func (l *frameLog) trim(low uint64) {
	for len(l.segments) > 0 && l.segments[0].end() <= low {
		l.dropFirst()
	}
	if len(l.segments) == 0 {
		l.segments = nil
	}
	l.ghosts = nil
}

func (l *frameLog) dropFirst() {
	s := l.segments[0]
	l.segments[0] = nil
	l.segments = l.segments[1:]
	l.size -= len(s.buf)
	l.tail = s.end()
}

// chunk returns the frames from offset on that set accepts (all, if the log is not
// tagged), as one send for a TCP or a WebSocket client. The offset must be in
// [tail, head); at least one frame is passed.
func (l *frameLog) chunk(offset uint64, set *acceptSet, websocket bool) *chunk {
	key := chunkKey{offset, set, websocket}
	// Neighbours mostly stand at one offset, so the chunk made last is mostly the one.
	last := &l.last[0]
	if websocket {
		last = &l.last[1]
	}
	if last.chunk == nil || last.key != key {
		c, ok := l.chunks[key]
		if !ok {
			if len(l.chunks) >= 64 {
				l.forget()
			}
			c = l.build(offset, set, websocket)
			if l.chunks == nil {
				l.chunks = make(map[chunkKey]*chunk)
			}
			l.chunks[key] = c
		}
		last.key, last.chunk = key, c
	}
	c := last.chunk
	if c.uses++; c.uses == sharedUses {
		c.pages = l.pages.hold(c.data)
	}
	return c
}

// forget lets go of the chunks: they end before the head, or their sweep is over.
func (l *frameLog) forget() {
	for _, c := range l.chunks {
		l.pages.release(c.pages)
	}
	clear(l.chunks)
	l.last[0].chunk, l.last[1].chunk = nil, nil
}

func (l *frameLog) build(offset uint64, set *acceptSet, websocket bool) *chunk {
	var pieces [][]byte
	c := &chunk{next: offset}
	total := 0
	at := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].end() > offset })
	for ; at < len(l.segments) && total < maxChunk; at++ {
		s := l.segments[at]
		for i := int(c.next - s.first); i < len(s.ends); {
			if l.tagged && !set.has(s.ops[i]) {
				i++
				c.next++
				continue
			}
			from, j := i, s.run(i, set, l.tagged, maxChunk-total)
			if j == from {
				if total > 0 {
					return c.finish(pieces, total, websocket)
				}
				j++ // a frame larger than a chunk is a chunk
			}
			piece := s.buf[s.start(from):s.ends[j-1]]
			pieces = append(pieces, piece)
			total += len(piece)
			c.frames += j - from
			c.next += uint64(j - from)
			i = j
		}
	}
	return c.finish(pieces, total, websocket)
}

// run returns the end of the longest run of frames from i on that set accepts and that
// fits in room bytes.
func (s *segment) run(i int, set *acceptSet, tagged bool, room int) int {
	limit := s.start(i) + uint32(room)
	if !tagged {
		return i + sort.Search(len(s.ends)-i, func(k int) bool { return s.ends[i+k] > limit })
	}
	for i < len(s.ends) && s.ends[i] <= limit && set.has(s.ops[i]) {
		i++
	}
	return i
}

// finish joins the pieces. One piece for TCP is sent as it lies in the segment.
func (c *chunk) finish(pieces [][]byte, total int, websocket bool) *chunk {
	switch {
	case total == 0:
		return c
	case len(pieces) == 1 && !websocket:
		c.data = pieces[0][:total:total]
		return c
	}
	var out []byte
	if websocket {
		out = wire.AppendWSBatchHeader(make([]byte, 0, wire.MaxWSBatchHeader+total), total)
	} else {
		out = make([]byte, 0, total)
	}
	for _, p := range pieces {
		out = append(out, p...)
	}
	c.data = out
	return c
}
