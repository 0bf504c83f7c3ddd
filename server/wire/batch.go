package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// A Batch is whole frames back to back: the body of an op-9 frame, or what a TCP client
// reads. It is consumed from the front.
type Batch []byte

// Next takes the first frame off b. It returns io.EOF at the end, and an error that wraps
// ErrShort, ErrPackageLength or ErrHeaderLength where the bytes are no whole frame; b then
// keeps them.
func (b *Batch) Next() (Frame, error) {
	if len(*b) == 0 {
		return Frame{}, io.EOF
	}
	f, n, err := Decode(*b, math.MaxInt32-HeaderLen)
	if err != nil {
		return Frame{}, err
	}
	*b = (*b)[n:]
	return f, nil
}

// Count returns the number of frames in b, or an error that names the offset at which b
// stops being whole frames. It allocates nothing for a good batch.
func (b Batch) Count() (frames int, err error) {
	for off := 0; off < len(b); frames++ {
		_, n, err := Decode(b[off:], math.MaxInt32-HeaderLen)
		if err != nil {
			return frames, fmt.Errorf("batch at byte %d of %d: %w", off, len(b), err)
		}
		off += n
	}
	return frames, nil
}

// MaxWSBatchHeader is the most that AppendWSBatchHeader appends, in bytes.
const MaxWSBatchHeader = 10 + HeaderLen

// AppendWSBatchHeader appends what stands before a batch of n bytes in a WebSocket push:
// the header of one unmasked binary message (RFC 6455 section 5.2) and that of the op-9
// frame that the message carries.
func AppendWSBatchHeader(dst []byte, n int) []byte {
	dst = AppendWSHeader(dst, HeaderLen+n)
	return AppendHeader(dst, Version, OpRaw, 0, n)
}

// AppendWSHeader appends the header of one final, unmasked binary WebSocket frame with n
// bytes of payload (RFC 6455 section 5.2).
func AppendWSHeader(dst []byte, n int) []byte {
	const finBinary = 0x82
	switch {
	case n < 126:
		return append(dst, finBinary, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, finBinary, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, finBinary, 127), uint64(n))
	}
}
