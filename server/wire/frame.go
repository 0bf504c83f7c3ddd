// Package wire is the codec of goim's frames: the bytes that a server and its clients
// exchange over TCP and WebSocket. It encodes into the caller's buffer, decodes in place
// without copying, and holds no state. The layout is goim's, section 1 of the contract. As in
// goim, a frame of any version is accepted, and its reply repeats the version.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes of a frame in bytes, and the version that every push carries.
const (
	HeaderLen     = 16                        // package length, header length, version, operation, sequence
	MaxClientBody = 4096                      // largest body that a client may send
	MaxClientSize = HeaderLen + MaxClientBody // largest frame that a client may send
	Version       = 1
)

// Op is a frame's operation. Values of 1000 and more are free for pushes.
type Op int32

// The operations of the protocol. All others that a client sends go to logic.Receive.
const (
	OpHandshake       Op = 0
	OpHandshakeReply  Op = 1
	OpHeartbeat       Op = 2
	OpHeartbeatReply  Op = 3
	OpSendMsg         Op = 4
	OpSendMsgReply    Op = 5
	OpDisconnectReply Op = 6
	OpAuth            Op = 7
	OpAuthReply       Op = 8
	OpRaw             Op = 9 // body is whole frames back to back
	OpChangeRoom      Op = 12
	OpChangeRoomReply Op = 13
	OpSub             Op = 14
	OpSubReply        Op = 15
	OpUnsub           Op = 16
	OpUnsubReply      Op = 17
)

// Errors that Decode and Batch return, wrapped with the value that was wrong.
var (
	// ErrShort says that more bytes are needed before the frame can be decoded.
	ErrShort = errors.New("frame is incomplete")
	// ErrPackageLength says that the package length is outside [16, 16 + the body's limit].
	ErrPackageLength = errors.New("package length out of range")
	// ErrHeaderLength says that the header length is not 16.
	ErrHeaderLength = errors.New("header length is not 16")
)

// A Frame is one message of the protocol. After Decode its Body aliases the input.
type Frame struct {
	Ver  int16
	Op   Op
	Seq  int32 // chosen by the client and echoed in the reply; 0 in a push
	Body []byte
}

// Size returns the bytes that f takes when encoded.
func (f Frame) Size() int { return HeaderLen + len(f.Body) }

// AppendFrame appends f, encoded, to dst and returns the extended slice.
func AppendFrame(dst []byte, f Frame) []byte {
	dst = AppendHeader(dst, f.Ver, f.Op, f.Seq, len(f.Body))
	return append(dst, f.Body...)
}

// AppendHeader appends the header of a frame whose body has n bytes.
func AppendHeader(dst []byte, ver int16, op Op, seq int32, n int) []byte {
	var h [HeaderLen]byte
	binary.BigEndian.PutUint32(h[0:], uint32(HeaderLen+n))
	binary.BigEndian.PutUint16(h[4:], HeaderLen)
	binary.BigEndian.PutUint16(h[6:], uint16(ver))
	binary.BigEndian.PutUint32(h[8:], uint32(op))
	binary.BigEndian.PutUint32(h[12:], uint32(seq))
	return append(dst, h[:]...)
}

// Decode reads the frame at the start of b, whose body may have at most maxBody bytes, and
// returns it with the number of bytes that it takes. The error is ErrShort when b holds
// only the beginning of a frame that is valid so far, ErrPackageLength or ErrHeaderLength
// when the bytes can't be a frame: both are found as soon as their field is there.
func Decode(b []byte, maxBody int) (f Frame, n int, err error) {
	if len(b) < 4 {
		return Frame{}, 0, ErrShort
	}
	// Unsigned, so that a negative length is out of range and not a small one.
	size := binary.BigEndian.Uint32(b)
	if size < HeaderLen || uint64(size) > uint64(HeaderLen)+uint64(maxBody) {
		return Frame{}, 0, fmt.Errorf("%w: %d, accepted is %d to %d", ErrPackageLength, int32(size), HeaderLen, HeaderLen+maxBody)
	}
	if len(b) < 6 {
		return Frame{}, 0, ErrShort
	}
	if h := binary.BigEndian.Uint16(b[4:]); h != HeaderLen {
		return Frame{}, 0, fmt.Errorf("%w: %d", ErrHeaderLength, int16(h))
	}
	if uint64(len(b)) < uint64(size) {
		return Frame{}, 0, ErrShort
	}
	n = int(size)
	return Frame{
		Ver:  int16(binary.BigEndian.Uint16(b[6:])),
		Op:   Op(binary.BigEndian.Uint32(b[8:])),
		Seq:  int32(binary.BigEndian.Uint32(b[12:])),
		Body: b[HeaderLen:n:n],
	}, n, nil
}
