package comet

import (
	"context"
	"time"

	cometpb "barrage/server/api/comet"
	"barrage/server/api/protocol"
	"barrage/server/wire"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// rpcService is the gRPC service goim.comet.Comet. A push is answered when its frames are in
// the logs of all shards; while they have no space, it waits.
type rpcService struct {
	cometpb.UnimplementedCometServer
	server *Server
}

// PushMsg sends frames to the sessions of keys.
func (r *rpcService) PushMsg(ctx context.Context, q *cometpb.PushMsgReq) (*cometpb.PushMsgReply, error) {
	if len(q.Keys) == 0 {
		return nil, status.Error(codes.InvalidArgument, "keys is empty")
	}
	batch, n, err := frames(q.Proto)
	if err != nil {
		return nil, err
	}
	byShard := make(map[*shard][]string)
	for _, key := range q.Keys {
		sh := r.server.shardOf(key)
		byShard[sh] = append(byShard[sh], key)
	}
	p := pushCommand{kind: pushKeys, op: wire.Op(q.ProtoOp), batch: batch, n: n,
		ws: append(wire.AppendWSBatchHeader(nil, len(batch)), batch...)}
	shards := make([]*shard, 0, len(byShard))
	for sh := range byShard {
		shards = append(shards, sh)
	}
	err = r.server.push(ctx, "keys", shards, q.Accepted, func(sh *shard) *pushCommand {
		c := p
		c.keys = byShard[sh]
		return &c
	})
	return &cometpb.PushMsgReply{}, err
}

// Broadcast sends frames to every session that accepts the operation.
func (r *rpcService) Broadcast(ctx context.Context, q *cometpb.BroadcastReq) (*cometpb.BroadcastReply, error) {
	batch, n, err := frames(q.Proto)
	if err != nil {
		return nil, err
	}
	p := pushCommand{kind: pushAll, op: wire.Op(q.ProtoOp), speed: q.Speed, batch: batch, n: n}
	err = r.server.push(ctx, "all", r.server.shards, q.Accepted, func(*shard) *pushCommand { c := p; return &c })
	return &cometpb.BroadcastReply{}, err
}

// BroadcastRoom sends frames to every session in the room.
func (r *rpcService) BroadcastRoom(ctx context.Context, q *cometpb.BroadcastRoomReq) (*cometpb.BroadcastRoomReply, error) {
	if q.RoomID == "" {
		return nil, status.Error(codes.InvalidArgument, "roomID is empty")
	}
	batch, n, err := frames(q.Proto)
	if err != nil {
		return nil, err
	}
	ref := r.server.rooms.get(q.RoomID)
	if ref == nil {
		return &cometpb.BroadcastRoomReply{}, nil
	}
	p := pushCommand{kind: pushRoom, ref: ref, batch: batch, n: n}
	err = r.server.push(ctx, "room", r.server.shards, q.Accepted, func(*shard) *pushCommand { c := p; return &c })
	return &cometpb.BroadcastRoomReply{}, err
}

// Rooms lists the rooms with members on this comet.
func (r *rpcService) Rooms(context.Context, *cometpb.RoomsReq) (*cometpb.RoomsReply, error) {
	reply := &cometpb.RoomsReply{Rooms: make(map[string]bool)}
	for key := range r.server.rooms.counts() {
		reply.Rooms[key] = true
	}
	return reply, nil
}

// frames returns what p carries as a batch of whole frames, and their number.
func frames(p *protocol.Proto) (wire.Batch, int, error) {
	if p == nil {
		return nil, 0, status.Error(codes.InvalidArgument, "proto is missing")
	}
	if wire.Op(p.Op) != wire.OpRaw {
		f := wire.Frame{Ver: int16(p.Ver), Op: wire.Op(p.Op), Seq: p.Seq, Body: p.Body}
		return wire.AppendFrame(nil, f), 1, nil
	}
	batch := wire.Batch(p.Body)
	n, err := batch.Count()
	if err != nil {
		return nil, 0, status.Errorf(codes.InvalidArgument, "proto.body: %v", err)
	}
	if n == 0 {
		return nil, 0, status.Error(codes.InvalidArgument, "proto.body has no frame")
	}
	return batch, n, nil
}

// push gives each shard its part and waits until all have taken it. Two pushes whose calls
// follow each other are in every shard in that order. accepted is when logic accepted them,
// as far as it says.
func (s *Server) push(ctx context.Context, kind string, shards []*shard, accepted []int64, part func(*shard) *pushCommand) error {
	began := time.Now()
	s.metrics.pushes[kind].Inc()
	done, trace := newPushDone(len(shards)), newTrace(s.metrics, accepted, len(shards))
	for i, sh := range shards {
		c := part(sh)
		c.ctx, c.done, c.trace = ctx, done, trace
		if err := sh.mailbox.reserve(ctx, len(c.batch)); err != nil {
			// The shards before have it; the caller repeats the whole, so some
			// sessions get it twice, and none misses it.
			done.pending.Add(-int32(len(shards) - i))
			return status.FromContextError(err).Err()
		}
		sh.mailbox.put(c)
	}
	select {
	case <-done.ch:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	s.metrics.pushWait.Observe(time.Since(began).Seconds())
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	trace.observe()
	return nil
}
