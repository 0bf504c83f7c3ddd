package comet

import (
	"context"
	"fmt"
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
	return &cometpb.PushMsgReply{}, r.server.push(ctx, r.server.toKeys(q.Keys, wire.Op(q.ProtoOp), batch, n), q.Accepted)
}

// Broadcast sends frames to every session that accepts the operation.
func (r *rpcService) Broadcast(ctx context.Context, q *cometpb.BroadcastReq) (*cometpb.BroadcastReply, error) {
	batch, n, err := frames(q.Proto)
	if err != nil {
		return nil, err
	}
	p := push{kind: "all", shards: r.server.shards,
		command: pushCommand{kind: pushAll, op: wire.Op(q.ProtoOp), speed: q.Speed, batch: batch, n: n}}
	return &cometpb.BroadcastReply{}, r.server.push(ctx, p, q.Accepted)
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
	p, held := r.server.toRoom(q.RoomID, batch, n)
	if !held {
		return &cometpb.BroadcastRoomReply{}, nil
	}
	return &cometpb.BroadcastRoomReply{}, r.server.push(ctx, p, q.Accepted)
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
	n, err := count("proto.body", p.Body)
	if err != nil {
		return nil, 0, status.Error(codes.InvalidArgument, err.Error())
	}
	return p.Body, n, nil
}

// count returns how many whole frames a field of a message is, one at least.
func count(field string, b wire.Batch) (int, error) {
	n, err := b.Count()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", field, err)
	}
	if n == 0 {
		return 0, fmt.Errorf("%s has no frame", field)
	}
	return n, nil
}

// A push is frames for the sessions of some shards.
type push struct {
	kind    string // label of barrage_comet_pushes_total
	shards  []*shard
	command pushCommand         // each of the shards gets a copy
	keys    map[*shard][]string // of each shard, for a push to keys
}

func (s *Server) toKeys(keys []string, op wire.Op, batch wire.Batch, n int) push {
	p := push{kind: "keys", keys: make(map[*shard][]string),
		command: pushCommand{kind: pushKeys, op: op, batch: batch, n: n, ws: append(wire.AppendWSBatchHeader(nil, len(batch)), batch...)}}
	for _, key := range keys {
		sh := s.shardOf(key)
		p.keys[sh] = append(p.keys[sh], key)
	}
	for sh := range p.keys {
		p.shards = append(p.shards, sh)
	}
	return p
}

// toRoom returns a push to a room, unless nobody here is in it.
func (s *Server) toRoom(room string, batch wire.Batch, n int) (p push, held bool) {
	ref, shards := s.rooms.holders(room)
	return push{kind: "room", shards: shards, command: pushCommand{kind: pushRoom, ref: ref, batch: batch, n: n}}, ref != nil
}

// push gives each shard its part and waits until all have taken it. Two pushes whose calls
// follow each other are in every shard in that order. accepted is when logic accepted them,
// as far as it says.
func (s *Server) push(ctx context.Context, p push, accepted []int64) error {
	began := time.Now()
	settled, trace := make(single), newTrace(s.metrics, accepted, len(p.shards))
	if err := s.put(ctx, p, newPushDone(len(p.shards), 0, settled), trace); err != nil {
		return err
	}
	select {
	case <-settled:
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

// put gives each shard its part.
func (s *Server) put(ctx context.Context, p push, done *pushDone, trace *trace) error {
	s.metrics.pushes[p.kind].Inc()
	for _, sh := range p.shards {
		if err := sh.mailbox.reserve(ctx, len(p.command.batch)); err != nil {
			// The shards before have it; the caller repeats the whole, so some
			// sessions get it twice, and none misses it.
			return status.FromContextError(err).Err()
		}
		c := p.command
		c.keys = p.keys[sh]
		c.ctx, c.done, c.trace = ctx, done, trace
		sh.mailbox.put(&c)
	}
	return nil
}
