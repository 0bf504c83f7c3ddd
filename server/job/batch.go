package job

import (
	"context"
)

// A batch is what one call carries: records of one target, in order, with their frames
// back to back. It belongs to one lane's goroutine and is reused call after call.
type batch struct {
	target  target
	life    context.Context // of the comet when the batch was taken
	records []*record
	parts   []*partition // the partitions of the records, each once
	frames  Frames
}

// maxKeptBody is the largest body whose memory is kept for the next batch, in bytes.
const maxKeptBody = 2 << 20

func (b *batch) reset() {
	clear(b.records)
	clear(b.parts)
	b.records, b.parts = b.records[:0], b.parts[:0]
	b.frames.Body, b.frames.Accepted = b.frames.Body[:0], b.frames.Accepted[:0]
	if cap(b.frames.Body) > maxKeptBody {
		b.frames = Frames{}
	}
	b.target, b.life = target{}, nil
}

// set fills b with records and tells their partitions that they are in flight.
func (b *batch) set(t target, records []*record) {
	b.target = t
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
		b.frames.Body = append(b.frames.Body, r.frame...)
		b.frames.Accepted = append(b.frames.Accepted, r.accepted)
		known = known || r.accepted != 0
	}
	if !known {
		b.frames.Accepted = b.frames.Accepted[:0]
	}
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
