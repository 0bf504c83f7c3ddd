package comet

import (
	"time"

	"barrage/server/api/pushes"
	"barrage/server/wire"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// pushService is the gRPC service barrage.pushes.Pushes.
type pushService struct {
	pushes.UnimplementedPushesServer
	server *Server
}

// tried is settled when all shards have tried all items of a call.
const tried = -1

// Push sends each item's frames to the members of its room, or to the sessions of its keys.
func (r *pushService) Push(q *pushes.PushReq, stream grpc.ServerStreamingServer[pushes.PushReply]) error {
	s, ctx, began := r.server, stream.Context(), time.Now()
	settled := make(chan int, len(q.Items)+1)
	traces := make([]*trace, len(q.Items))
	reply, open := new(pushes.PushReply), 0
	for i, item := range q.Items {
		p, ok, reason := r.pushOf(item)
		switch {
		case reason != "":
			reply.Refused = append(reply.Refused, &pushes.Refusal{Item: int32(i), Reason: reason})
		case !ok:
			reply.Taken = append(reply.Taken, int32(i))
		default:
			traces[i] = newTrace(s.metrics, item.Accepted, len(p.shards))
			if err := s.put(ctx, p, newPushDone(len(p.shards), i, settled), traces[i]); err != nil {
				return err
			}
			open++
		}
	}
	done := newPushDone(len(s.shards), tried, settled)
	for _, sh := range s.shards {
		sh.mailbox.put(triedCommand{done})
	}
	for waiting := true; waiting || open > 0; {
		select {
		case i := <-settled:
			if i == tried {
				waiting = false
			} else {
				open--
				s.metrics.pushWait.Observe(time.Since(began).Seconds())
				traces[i].observe()
				reply.Taken = append(reply.Taken, int32(i))
			}
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		if waiting || len(settled) > 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err() // what was waiting for space is dropped then
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
		reply = new(pushes.PushReply)
	}
	return nil
}

// pushOf returns the push that an item asks for, unless nobody here is in its room, or the
// reason why it will never be taken.
func (r *pushService) pushOf(item *pushes.Item) (p push, ok bool, reason string) {
	n, err := count(item.Frames)
	switch {
	case err != nil:
		return push{}, false, "frames" + err.Error()
	case item.Room != "":
		p, ok = r.server.toRoom(item.Room, item.Frames, n)
		return p, ok, ""
	case len(item.Keys) > 0:
		return r.server.toKeys(item.Keys, wire.Op(item.Op), item.Frames, n), true, ""
	default:
		return push{}, false, "room and keys are empty"
	}
}
