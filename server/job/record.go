package job

import (
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"barrage/server/api/logic"
	"barrage/server/api/protocol"
	"barrage/server/wire"
)

// kind is whom a record is for.
type kind uint8

const (
	kindPush      kind = iota // the sessions of some keys, on one comet
	kindRoom                  // one room, on every comet
	kindBroadcast             // every session of every comet
	numKinds
)

var kindNames = [numKinds]string{"push", "room", "broadcast"}

func (k kind) String() string { return kindNames[k] }

// maxFrame is the largest frame, encoded, that is passed on: a call to a comet may have
// 16 MiB, and some of that is for the envelope, the room or the keys.
const maxFrame = protocol.MaxMessage - 1<<20

// A record is one push on its way from Kafka to the comets. All lanes share it: it is not
// changed between the reader that makes it and the last lane that took it.
type record struct {
	kind   kind
	op     int32
	pace   *pace    // broadcasts, nil for at once
	room   string   // rooms
	server string   // pushes: the comet's host
	keys   []string // pushes
	frame  []byte   // encoded: ver 1, seq 0; nil once the record is done

	accepted int64     // by logic, in Unix nanoseconds; 0 where it doesn't say: goim's doesn't
	read     time.Time // from Kafka

	part   *partition
	offset int64
	size   int          // bytes it is charged with in a lane and a window
	holds  atomic.Int32 // lanes that have not taken it, and the reader while it hands it out
}

// target is the ordered queue that a record belongs to within its lane: a room, the pushes
// with one first key, or all broadcasts.
type target struct {
	kind kind
	name string
}

func (r *record) target() target {
	switch r.kind {
	case kindRoom:
		return target{kindRoom, r.room}
	case kindPush:
		return target{kindPush, r.keys[0]}
	default:
		return target{kind: kindBroadcast}
	}
}

// names returns how many bytes the names of r's target take in a call.
func (r *record) names() int {
	n := len(r.room)
	for _, key := range r.keys {
		n += len(key) + 4
	}
	return n
}

// overhead is what a record costs in memory besides its frame and names, in bytes.
const overhead = 256

// badReason is why a Kafka record can't be delivered to anybody.
type badReason uint8

const (
	badUndecodable badReason = iota // not a goim.logic.PushMsg
	badType                         // a type that is not known
	badTarget                       // no room, or no keys or server
	badSize                         // larger than a comet accepts
	numBad
)

var badNames = [numBad]string{"undecodable", "unknown_type", "no_target", "too_big"}

// A badRecord is the error of decode.
type badRecord struct {
	reason badReason
	detail error
}

func (e *badRecord) Error() string {
	return fmt.Sprintf("decode record (%s): %v", badNames[e.reason], e.detail)
}

func (e *badRecord) Unwrap() error { return e.detail }

// decode makes a record of a Kafka record's value. scratch is overwritten; nothing of it or
// of value is kept. The error is a *badRecord.
func decode(value []byte, scratch *logic.PushMsg) (*record, error) {
	bad := func(reason badReason, format string, args ...any) (*record, error) {
		return nil, &badRecord{reason, fmt.Errorf(format, args...)}
	}
	if err := proto.Unmarshal(value, scratch); err != nil {
		return bad(badUndecodable, "%w", err)
	}
	r := &record{op: scratch.Operation, accepted: scratch.Accepted}
	switch scratch.Type {
	case logic.PushMsg_PUSH:
		if len(scratch.Keys) == 0 || scratch.Server == "" {
			return bad(badTarget, "push of operation %d has %d keys and server %q", r.op, len(scratch.Keys), scratch.Server)
		}
		r.kind, r.server, r.keys = kindPush, scratch.Server, scratch.Keys
	case logic.PushMsg_ROOM:
		if scratch.Room == "" {
			return bad(badTarget, "push of operation %d has no room", r.op)
		}
		r.kind, r.room = kindRoom, scratch.Room
	case logic.PushMsg_BROADCAST:
		r.kind, r.pace = kindBroadcast, newPace(scratch.Speed)
	default:
		return bad(badType, "type %d", scratch.Type)
	}
	r.size = wire.HeaderLen + len(scratch.Msg)
	names := r.names()
	if r.size+names > maxFrame {
		return bad(badSize, "%d bytes, a comet accepts %d", r.size+names, maxFrame)
	}
	r.frame = wire.AppendFrame(make([]byte, 0, r.size), wire.Frame{Ver: wire.Version, Op: wire.Op(r.op), Body: scratch.Msg})
	r.size += names + overhead
	return r, nil
}
