package pusher

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"
)

// A Via names a way in by the stage of the server that pushes enter.
type Via string

// The ways in. Each leaves out the stages before it, so that the others can be measured
// without them.
const (
	ViaHTTP  Via = "http"  // logic's push API, as an application does it
	ViaKafka Via = "kafka" // the records that logic would write, into the topic
	ViaComet Via = "comet" // the calls that job would make, at every comet
)

// Vias returns the names of all ways in.
func Vias() []Via { return []Via{ViaHTTP, ViaKafka, ViaComet} }

// A Kind is how a push names its receivers.
type Kind string

// The kinds of the push API.
const (
	KindRoom Kind = "room"
	KindKeys Kind = "keys"
	KindMids Kind = "mids"
	KindAll  Kind = "all"
)

// Carries returns an error where pushes of a kind can't go that way: which comet holds a key
// or a member is known to logic alone.
func (v Via) Carries(k Kind) error {
	switch v {
	case ViaHTTP:
		return nil
	case ViaKafka, ViaComet:
		if k == KindRoom || k == KindAll {
			return nil
		}
		return fmt.Errorf("pushes of the kind %s can't go via %s, since only logic knows where keys and mids are; accepted there: %s and %s", k, v, KindRoom, KindAll)
	default:
		return fmt.Errorf("%q is no way in; accepted: %s, %s, %s", v, ViaHTTP, ViaKafka, ViaComet)
	}
}

// A Target is whom a push is for.
type Target struct {
	Kind      Kind
	Operation int32
	RoomType  string // KindRoom
	RoomID    string
	Keys      []string // KindKeys
	Mids      []int64  // KindMids
	Speed     int32    // KindAll: messages a second over the cluster, 0 for at once
}

// Room returns the room's key, type://id.
func (t *Target) Room() string { return t.RoomType + "://" + t.RoomID }

// Path returns the path and query of the push API that push to t.
func (t *Target) Path() string {
	q := url.Values{"operation": {strconv.FormatInt(int64(t.Operation), 10)}}
	switch t.Kind {
	case KindRoom:
		q.Set("type", t.RoomType)
		q.Set("room", t.RoomID)
	case KindKeys:
		q["keys"] = t.Keys
	case KindMids:
		for _, mid := range t.Mids {
			q.Add("mids", strconv.FormatInt(mid, 10))
		}
	case KindAll:
		q.Set("speed", strconv.FormatInt(int64(t.Speed), 10))
	}
	return "/goim/push/" + string(t.Kind) + "?" + q.Encode()
}

// A Way is where pushes enter the server. It may be used by several goroutines.
type Way interface {
	// Open returns the sender of a lane that pushes to the targets. It does not wait for
	// anybody. The error is about a target that can't be reached this way.
	Open(targets []Target) (Sender, error)
}

// A Sender sends the pushes of one lane. One goroutine uses it, and the pushes to one target
// enter the server in the order of its calls of Send.
type Sender interface {
	// Connect makes ready what Send needs, so that the first push does not wait for it. What
	// fails is tried again by Send, which then tells.
	Connect(ctx context.Context)
	// Send pushes body to the target of that number and has done called once: with nil when
	// the server acknowledged the push, with an error that wraps ErrNotSent or ErrRefused when
	// it has failed, with any other error when its fate is unknown. done is called before Send
	// returns, or later by another goroutine where the way keeps the order of pushes that are
	// under way together. body is not kept.
	Send(ctx context.Context, target int, body []byte, done func(error))
	// Close waits for what is under way, which ctx cuts short: done was then called for all.
	Close(ctx context.Context)
}

// The errors of a push that has failed. It may still arrive: a server that refuses to
// acknowledge what it took has been seen.
var (
	ErrNotSent = errors.New("not sent")
	ErrRefused = errors.New("refused")
)

// defaultTimeout is the most that an acknowledgement may take, on every way.
const defaultTimeout = 10 * time.Second
