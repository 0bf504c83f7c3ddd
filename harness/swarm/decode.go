package swarm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// maxFrame is the largest frame or WebSocket message from a server that is taken for one.
const maxFrame = 64 << 20

// An event is what decoder.next found.
type event uint8

const (
	needMore event = iota // the rest of the input, at most maxTail bytes, must come again with what follows
	gotFrame              // a whole frame: op, and stamp or !stamped
	gotPing               // payload
	gotPong
	gotClose // payload
	gotError // the connection is unusable: decoder.fail has why
)

// Opcodes of WebSocket frames (RFC 6455 section 5.2).
const (
	wsText   = 0x1
	wsBinary = 0x2
	wsClose  = 0x8
	wsPing   = 0x9
	wsPong   = 0xA
)

// A unit of the input that can't be taken in parts, and may have to be kept until its rest
// is there, is at most a frame's header and stamp, or a WebSocket control frame.
const (
	headMax    = wire.HeaderLen + ledger.BodyMin
	controlMax = 2 + 125
	maxTail    = controlMax
)

// progress is where the bytes of a connection stop in the middle of something. The zero
// value is at a boundary.
type progress struct {
	message uint32 // bytes of the WebSocket message to come; for TCP always 0
	batch   uint32 // of those, bytes of the op-9 body
	skip    uint32 // of those, bytes of the current frame
	op      wire.Op
	stamp   ledger.Stamp // of the current frame
	stamped bool         // the current frame has one
}

// A decoder takes the bytes that a server sends apart into frames, in place, wherever
// reads cut them. Of a frame it needs only the header and the stamp; the rest is skipped,
// so that no frame is ever buffered.
type decoder struct {
	progress
	size uint32 // of the current frame, as far as it is known: see next
	ws   bool
	fail error
	ctl  []byte // payload of the ping or close frame, aliases the input
}

var (
	errMaskedByServer = errors.New("masked WebSocket frame from the server")
	errReservedBits   = errors.New("reserved bits of a WebSocket frame are set")
	errFragmented     = errors.New("fragmented WebSocket message: the swarm doesn't take them")
	errNestedBatch    = errors.New("batch within a batch")
	errCutFrame       = errors.New("frame runs over the end of its batch or message")
	errFrameSize      = errors.New("package length out of range")
	errHeaderSize     = errors.New("header length is not 16")
	errControlFrame   = errors.New("WebSocket control frame of more than 125 bytes, or a fragment of one")
	errOpcode         = errors.New("unexpected WebSocket opcode")
	errMessageSize    = errors.New("WebSocket message is too long")
)

// next takes one event off the front of in. A frame whose size is no more than what was
// taken for it stood at the end of that as a whole. After needMore, in holds what must be given
// again. After gotError the decoder is done.
func (d *decoder) next(in *[]byte) event {
	for {
		b := *in
		if d.skip > 0 {
			d.size = math.MaxUint32
			n := min(uint32(len(b)), d.skip)
			d.take(in, n)
			d.skip -= n
			if d.skip > 0 {
				return needMore
			}
			return gotFrame
		}
		if d.ws && d.message == 0 {
			ev, found := d.wsHeader(in)
			if found {
				return ev
			}
			continue
		}
		room := d.room()
		if room < wire.HeaderLen {
			return d.failed(fmt.Errorf("%w: %d bytes are left", errCutFrame, room))
		}
		if len(b) < wire.HeaderLen {
			return needMore
		}
		size := binary.BigEndian.Uint32(b)
		d.op = wire.Op(binary.BigEndian.Uint32(b[8:]))
		switch {
		case size < wire.HeaderLen || size > maxFrame:
			return d.failed(fmt.Errorf("%w: %d", errFrameSize, size))
		case binary.BigEndian.Uint16(b[4:]) != wire.HeaderLen:
			return d.failed(fmt.Errorf("%w but %d", errHeaderSize, binary.BigEndian.Uint16(b[4:])))
		case size > room:
			return d.failed(fmt.Errorf("%w: %d bytes, %d are left", errCutFrame, size, room))
		case d.op == wire.OpRaw && d.batch > 0:
			return d.failed(errNestedBatch)
		case d.op == wire.OpRaw:
			d.take(in, wire.HeaderLen)
			d.batch = size - wire.HeaderLen
			continue
		}
		head := min(size, headMax)
		if uint32(len(b)) < head {
			return needMore
		}
		d.size = size
		d.stamp, d.stamped = ledger.ParseBody(b[wire.HeaderLen:head])
		n := min(uint32(len(b)), size)
		d.take(in, n)
		if d.skip = size - n; d.skip > 0 {
			return needMore
		}
		return gotFrame
	}
}

// room returns how many bytes a frame may take that starts here.
func (d *decoder) room() uint32 {
	switch {
	case d.batch > 0:
		return d.batch
	case d.ws:
		return d.message
	}
	return maxFrame
}

// take consumes n bytes of the current batch and message.
func (d *decoder) take(in *[]byte, n uint32) {
	*in = (*in)[n:]
	if d.batch > 0 {
		d.batch -= n
	}
	if d.ws {
		d.message -= n
	}
}

func (d *decoder) failed(err error) event {
	d.fail = err
	return gotError
}

// wsHeader takes a WebSocket header off in. found is false where a data message begins.
func (d *decoder) wsHeader(in *[]byte) (ev event, found bool) {
	b := *in
	if len(b) < 2 {
		return needMore, true
	}
	fin, opcode := b[0]&0x80 != 0, b[0]&0x0F
	switch {
	case b[0]&0x70 != 0:
		return d.failed(errReservedBits), true
	case b[1]&0x80 != 0:
		return d.failed(errMaskedByServer), true
	case opcode >= wsClose:
		return d.wsControl(in, fin, opcode), true
	case !fin || opcode == 0:
		return d.failed(errFragmented), true
	case opcode != wsBinary && opcode != wsText:
		return d.failed(fmt.Errorf("%w %d", errOpcode, opcode)), true
	}
	header, length := 2, uint64(b[1])
	switch length {
	case 126:
		if header = 4; len(b) < header {
			return needMore, true
		}
		length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if header = 10; len(b) < header {
			return needMore, true
		}
		length = binary.BigEndian.Uint64(b[2:])
	}
	if length > maxFrame {
		return d.failed(fmt.Errorf("%w: %d bytes", errMessageSize, length)), true
	}
	*in = b[header:]
	d.message = uint32(length)
	return 0, false
}

func (d *decoder) wsControl(in *[]byte, fin bool, opcode byte) event {
	b := *in
	n := int(b[1])
	if !fin || n > controlMax-2 {
		return d.failed(errControlFrame)
	}
	if len(b) < 2+n {
		return needMore
	}
	d.ctl = b[2 : 2+n]
	*in = b[2+n:]
	switch opcode {
	case wsPing:
		return gotPing
	case wsPong:
		return gotPong
	case wsClose:
		return gotClose
	}
	return d.failed(fmt.Errorf("%w %d", errOpcode, opcode))
}

// isPush says whether a server's frame with op is a push: any operation but those of the
// protocol itself.
func isPush(op wire.Op) bool {
	return op < wire.OpHandshake || op > wire.OpUnsubReply || op > wire.OpRaw && op < wire.OpChangeRoom
}
