package logic

import (
	"context"

	pb "barrage/server/api/logic"
	"barrage/server/logic/presence"
)

// A named request names a session.
type named interface {
	GetMid() int64
	GetKey() string
	GetServer() string
	GetSession() string
}

func sessionsOf[T named](reqs []T) []presence.Session {
	list := make([]presence.Session, len(reqs))
	for i, r := range reqs {
		list[i] = presence.Session{Mid: r.GetMid(), Key: r.GetKey(), Server: r.GetServer(), ID: r.GetSession()}
	}
	return list
}

// Disconnect forgets a session. Others with its key stay.
func (s *service) Disconnect(ctx context.Context, req *pb.DisconnectReq) (*pb.DisconnectReply, error) {
	results, err := s.disconnect(ctx, []*pb.DisconnectReq{req})
	if err != nil {
		return nil, err
	}
	if err := results[0].Err; err != nil {
		return nil, err
	}
	return &pb.DisconnectReply{Has: results[0].Had}, nil
}

// DisconnectAll forgets sessions.
func (s *service) DisconnectAll(ctx context.Context, req *pb.DisconnectAllReq) (*pb.DisconnectAllReply, error) {
	results, err := s.disconnect(ctx, req.GetSessions())
	if err != nil {
		return nil, err
	}
	reply := &pb.DisconnectAllReply{Results: make([]*pb.DisconnectResult, len(results))}
	for i, r := range results {
		reply.Results[i] = &pb.DisconnectResult{Error: failure(r.Err)}
		if r.Err == nil {
			reply.Results[i].Reply = &pb.DisconnectReply{Has: r.Had}
		}
	}
	return reply, nil
}

// disconnect forgets sessions. Errors are gRPC statuses; one of its own is that of all of them.
func (s *service) disconnect(ctx context.Context, reqs []*pb.DisconnectReq) ([]presence.Removed, error) {
	list := sessionsOf(reqs)
	results, err := s.registrar.removes.all(ctx, list)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	for i := range results {
		r := &results[i]
		r.Err = unavailable(ctx, r.Err)
		s.metrics.session("Disconnect", r.Err)
		s.log.Debug("session disconnected", "session", list[i].Key, "mid", list[i].Mid, "comet", list[i].Server, "err", r.Err)
	}
	return results, nil
}

// Heartbeat keeps a session from being forgotten, and enters it again if it was. It says so
// where others have taken its place.
func (s *service) Heartbeat(ctx context.Context, req *pb.HeartbeatReq) (*pb.HeartbeatReply, error) {
	results, err := s.heartbeat(ctx, []*pb.HeartbeatReq{req})
	if err != nil {
		return nil, err
	}
	if err := results[0].Err; err != nil {
		return nil, err
	}
	return &pb.HeartbeatReply{Replaced: results[0].Replaced}, nil
}

// HeartbeatAll is Heartbeat for many sessions.
func (s *service) HeartbeatAll(ctx context.Context, req *pb.HeartbeatAllReq) (*pb.HeartbeatAllReply, error) {
	results, err := s.heartbeat(ctx, req.GetSessions())
	if err != nil {
		return nil, err
	}
	reply := &pb.HeartbeatAllReply{Results: make([]*pb.HeartbeatResult, len(results))}
	for i, r := range results {
		reply.Results[i] = &pb.HeartbeatResult{Error: failure(r.Err)}
		if r.Err == nil {
			reply.Results[i].Reply = &pb.HeartbeatReply{Replaced: r.Replaced}
		}
	}
	return reply, nil
}

// heartbeat renews sessions. Errors are gRPC statuses; one of its own is that of all of them.
func (s *service) heartbeat(ctx context.Context, reqs []*pb.HeartbeatReq) ([]presence.Renewed, error) {
	results, err := s.registrar.renews.all(ctx, sessionsOf(reqs))
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	for i := range results {
		results[i].Err = unavailable(ctx, results[i].Err)
		s.metrics.session("Heartbeat", results[i].Err)
	}
	return results, nil
}
