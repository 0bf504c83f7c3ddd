package job

import (
	"context"
)

// A call is what goes to a comet at once: batches of different targets. It belongs to the
// goroutine that makes the call, and is reused by its lane.
type call struct {
	life    context.Context // of the comet when the batches were taken
	batches []*batch        // those that are not settled yet
}

// records returns how many records the batches hold.
func (c *call) records() int {
	n := 0
	for _, b := range c.batches {
		n += len(b.records)
	}
	return n
}

// A batch is records of one target, in order, with their frames back to back.
type batch struct {
	target  target
	queue   *queue
	records []*record
	parts   []*partition // the partitions of the records, each once
	frames  Frames
	buf     []byte // what frames.Body is written to when there is more than one
}

// maxKeptBody is the largest body whose memory is kept for the next batch, in bytes.
const maxKeptBody = 2 << 20

func (b *batch) reset() {
	clear(b.records)
	clear(b.parts)
	b.records, b.parts = b.records[:0], b.parts[:0]
	b.frames.Body, b.frames.Accepted = nil, b.frames.Accepted[:0]
	if cap(b.buf) > maxKeptBody {
		b.buf, b.frames = nil, Frames{}
	}
	b.target, b.queue = target{}, nil
}

// set fills b with records and tells their partitions that they are in flight.
func (b *batch) set(q *queue, records []*record) {
	b.target, b.queue = q.target, q
	b.records = append(b.records, records...)
	for _, r := range records {
		if n := len(b.parts); n > 0 && b.parts[n-1] == r.part {
			continue
		}
		// A run of another partition: harmless when it comes twice, land is called as often.
		b.parts = append(b.parts, r.part)
		r.part.takeOff()
	}
}

// encode puts the frames together; it copies each byte once and allocates only while the
// largest batch grows.
func (b *batch) encode() {
	known := false
	for _, r := range b.records {
		b.frames.Accepted = append(b.frames.Accepted, r.accepted)
		known = known || r.accepted != 0
	}
	if !known {
		b.frames.Accepted = b.frames.Accepted[:0]
	}
	if len(b.records) == 1 {
		b.frames.Body = b.records[0].frame
		return
	}
	b.buf = b.buf[:0]
	for _, r := range b.records {
		b.buf = append(b.buf, r.frame...)
	}
	b.frames.Body = b.buf
}

func (b *batch) land() {
	for _, p := range b.parts {
		p.land()
	}
}

// revoked reports whether every record belongs to a partition that was given up.
func (b *batch) revoked() bool {
	for _, p := range b.parts {
		if !p.revoked.Load() {
			return false
		}
	}
	return true
}
