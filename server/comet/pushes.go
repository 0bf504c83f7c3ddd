package comet

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"barrage/server/api/pushes"
	"barrage/server/wire"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pushService is the gRPC service barrage.pushes.Pushes.
type pushService struct {
	pushes.UnimplementedPushesServer
	server *Server
}

// Push sends the items of each call that comes to the members of their rooms, and to the
// sessions of their keys, until the other end or the comet has enough.
func (r *pushService) Push(stream grpc.BidiStreamingServer[pushes.Call, pushes.Reply]) error {
	out := &outbox{metrics: r.server.metrics, wake: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() { ended <- r.receive(stream, out) }() // ends with the stream
	for {
		select {
		case <-out.wake:
			for _, reply := range out.take() {
				if err := stream.Send(reply); err != nil {
					return err
				}
			}
		case err := <-ended:
			return err
		case <-r.server.drained:
			return status.Error(codes.Unavailable, "the comet has drained")
		}
	}
}

// receive takes calls, and waits while the mailboxes are full.
func (r *pushService) receive(stream grpc.BidiStreamingServer[pushes.Call, pushes.Reply], out *outbox) error {
	for {
		call, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.push(stream.Context(), call, out); err != nil {
			return err
		}
	}
}

// push gives the shards what they have to do with a call.
func (r *pushService) push(ctx context.Context, call *pushes.Call, out *outbox) error {
	s := r.server
	p := &pushCall{out: out, number: call.Number, began: time.Now(), traces: make([]*trace, len(call.Items))}
	var takers []*shard
	for i, item := range call.Items {
		to, held, reason := r.pushOf(item)
		switch {
		case reason != "":
			p.refused = append(p.refused, &pushes.Refusal{Item: int32(i), Reason: reason})
		case !held:
			p.unheld = append(p.unheld, int32(i))
		default:
			p.traces[i] = newTrace(s.metrics, item.Accepted, len(to.shards))
			if err := s.put(ctx, to, newPushDone(len(to.shards), i, p), p.traces[i]); err != nil {
				return err
			}
			for _, sh := range to.shards {
				if !slices.Contains(takers, sh) {
					takers = append(takers, sh)
				}
			}
		}
	}
	if len(takers) == 0 {
		p.settle(tried)
		return nil
	}
	done := newPushDone(len(takers), tried, p)
	for _, sh := range takers {
		sh.mailbox.put(triedCommand{done})
	}
	return nil
}

// pushOf returns the push that an item asks for and whether anybody here is in its room, or
// the reason why it will never be taken.
func (r *pushService) pushOf(item *pushes.Item) (p push, held bool, reason string) {
	n, err := count("frames", item.Frames)
	switch {
	case err != nil:
		return push{}, false, err.Error()
	case item.Room != "":
		p, held = r.server.toRoom(item.Room, item.Frames, n)
		return p, held, ""
	case len(item.Keys) > 0:
		return r.server.toKeys(item.Keys, wire.Op(item.Op), item.Frames, n), true, ""
	default:
		return push{}, false, "room and keys are empty"
	}
}

// An outbox is what is to be said to the other end of a stream.
type outbox struct {
	metrics *cometMetrics
	wake    chan struct{} // holds a token while there may be something to say

	mu    sync.Mutex
	calls []*pushCall // with something to say, each once
}

// A pushCall is a call whose items are under way. The outbox's mutex guards what follows traces.
type pushCall struct {
	out    *outbox
	number uint64
	began  time.Time
	traces []*trace // of each item

	tried   bool // by all shards: what is settled before goes into the first reply
	queued  bool
	settled []int32 // items to name
	unheld  []int32 // items to name that are for nobody here
	refused []*pushes.Refusal
}

// tried is settled, as an item, when all shards have tried all items of a call.
const tried = -1

func (p *pushCall) settle(item int) {
	o := p.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if item == tried {
		p.tried = true
	} else {
		p.settled = append(p.settled, int32(item))
	}
	if !p.tried || p.queued {
		return
	}
	p.queued = true
	o.calls = append(o.calls, p)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take returns what there is to say.
func (o *outbox) take() []*pushes.Reply {
	o.mu.Lock()
	replies, settled := make([]*pushes.Reply, len(o.calls)), make([][]int32, len(o.calls))
	calls := slices.Clone(o.calls)
	for i, p := range calls {
		settled[i] = p.settled
		replies[i] = &pushes.Reply{Call: p.number, Taken: append(p.unheld, p.settled...), Refused: p.refused}
		p.queued, p.settled, p.unheld, p.refused = false, nil, nil, nil
	}
	clear(o.calls)
	o.calls = o.calls[:0]
	o.mu.Unlock()
	for i, p := range calls {
		for _, item := range settled[i] {
			o.metrics.pushWait.Observe(time.Since(p.began).Seconds())
			p.traces[item].observe()
		}
	}
	return replies
}
