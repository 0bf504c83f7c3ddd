// Package ledger keeps the books of a run: what was pushed, what each client received of
// it, and when. A push carries a Stamp at the start of its body; every thread of the swarm
// accounts the stamps that its clients read in a Book of its own; at the end the books and
// the pushers' plans give exact counts of delivered, lost, duplicate and reordered frames,
// and latency histograms that merge without loss.
package ledger

import "encoding/binary"

// BodyMin is the least size in bytes of a push's body: that of its stamp.
const BodyMin = 16

// MaxSeq is the largest sequence number that a stream can carry. The values above it mark
// cells of a Book that have no next sequence number.
const MaxSeq = leaving - 2

const stampMagic = 0xBA55

// A Stamp says which push a body belongs to. In the body, big endian:
//
//	[0:2]  magic 0xBA55
//	[2:4]  stream
//	[4:8]  sequence number, counted per stream
//	[8:16] intended time
type Stamp struct {
	Stream   uint16
	Seq      uint32
	Intended int64 // unix nanoseconds at which the schedule wanted the push to be sent
}

// AppendBody appends a body of size bytes (at least BodyMin, smaller sizes are raised to
// it) that starts with s. The rest is filler, printable so that a capture is readable.
func AppendBody(dst []byte, s Stamp, size int) []byte {
	dst = binary.BigEndian.AppendUint16(dst, stampMagic)
	dst = binary.BigEndian.AppendUint16(dst, s.Stream)
	dst = binary.BigEndian.AppendUint32(dst, s.Seq)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Intended))
	for i := BodyMin; i < size; i++ {
		dst = append(dst, 'a'+byte(i%26))
	}
	return dst
}

// ParseBody returns the stamp at the start of b, and false where b is too short, has not
// the magic or a sequence number above MaxSeq. b may be a prefix of the body.
func ParseBody(b []byte) (Stamp, bool) {
	if len(b) < BodyMin || binary.BigEndian.Uint16(b) != stampMagic {
		return Stamp{}, false
	}
	s := Stamp{
		Stream:   binary.BigEndian.Uint16(b[2:]),
		Seq:      binary.BigEndian.Uint32(b[4:]),
		Intended: int64(binary.BigEndian.Uint64(b[8:])),
	}
	return s, s.Seq <= MaxSeq
}
