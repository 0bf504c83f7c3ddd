package logic

import (
	"context"
	"encoding/json"
	"log/slog"
	"path"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // comets compress their room counts
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "barrage/server/api/logic"
	"barrage/server/api/protocol"
	"barrage/server/logic/presence"
)

// A registry remembers sessions and room counts.
type registry interface {
	Add(ctx context.Context, session presence.Session) (presence.Admission, error)
	Renew(ctx context.Context, session presence.Session) (replaced bool, err error)
	Remove(ctx context.Context, session presence.Session) (had bool, err error)
	Forget(ctx context.Context, list []presence.Session) error
	Report(ctx context.Context, server string, rooms map[string]int32, now time.Time) error
}

// A Receiver takes a client's frame whose operation comets don't know. The frame is valid
// until it returns.
type Receiver func(ctx context.Context, mid int64, frame *protocol.Proto) error

// service answers comets.
type service struct {
	pb.UnimplementedLogicServer

	registry registry
	peers    *peers
	online   *online
	live     *atomic.Pointer[live]
	receive  Receiver // nil: frames are only counted
	metrics  *metrics
	log      *slog.Logger
}

// Connect reads the token of a new session and enters the session.
func (s *service) Connect(ctx context.Context, req *pb.ConnectReq) (*pb.ConnectReply, error) {
	var token struct {
		Mid      int64   `json:"mid"`
		Key      string  `json:"key"`
		RoomID   string  `json:"room_id"`
		Platform string  `json:"platform"`
		Accepts  []int32 `json:"accepts"`
	}
	if err := json.Unmarshal(req.GetToken(), &token); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "read auth token: %v", err)
	}
	if token.Key == "" {
		token.Key = uuid.NewString()
	}
	session := presence.Session{Mid: token.Mid, Key: token.Key, Server: req.GetServer(), ID: req.GetSession()}
	admission, err := s.admit(ctx, session)
	if err != nil {
		return nil, err
	}
	s.log.Debug("session connected", "session", token.Key, "mid", token.Mid, "comet", req.GetServer(),
		"room", token.RoomID, "platform", token.Platform)
	node := &s.live.Load().advice.Node
	reply := &pb.ConnectReply{
		Mid:       token.Mid,
		Key:       token.Key,
		RoomID:    token.RoomID,
		Accepts:   token.Accepts,
		Heartbeat: int64(node.Heartbeat) * int64(node.HeartbeatMax),
		Managed:   session.ID != "", // else the comet tells sessions of a key apart by itself
	}
	var elsewhere []presence.Session
	for _, old := range admission.Replaced {
		if old.Server != session.Server {
			elsewhere = append(elsewhere, old)
		} else {
			reply.Replaced = append(reply.Replaced, &pb.SessionRef{Key: old.Key, Session: old.ID})
		}
	}
	s.peers.dismiss(elsewhere)
	return reply, nil
}

// admit enters a session. Before it is rejected, those that hold its place are looked for:
// what a crash left behind locks nobody out.
func (s *service) admit(ctx context.Context, session presence.Session) (presence.Admission, error) {
	admission, err := s.registry.Add(ctx, session)
	if err != nil || !admission.Rejected {
		return admission, unavailable(ctx, err)
	}
	if gone := s.peers.stale(ctx, admission.Holders); len(gone) > 0 {
		if err := s.registry.Forget(ctx, gone); err != nil {
			return admission, unavailable(ctx, err)
		}
		admission, err = s.registry.Add(ctx, session)
		if err != nil || !admission.Rejected {
			return admission, unavailable(ctx, err)
		}
	}
	s.metrics.rejected.Inc()
	s.peers.dismiss(admission.Replaced)
	return admission, status.Errorf(codes.AlreadyExists, "session %q of member %d: %d sessions have its place (session.maxPerKey, session.maxPerMid)",
		session.Key, session.Mid, len(admission.Holders))
}

// Disconnect forgets a session. Others with its key stay.
func (s *service) Disconnect(ctx context.Context, req *pb.DisconnectReq) (*pb.DisconnectReply, error) {
	session := presence.Session{Mid: req.GetMid(), Key: req.GetKey(), Server: req.GetServer(), ID: req.GetSession()}
	had, err := s.registry.Remove(ctx, session)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	s.log.Debug("session disconnected", "session", req.GetKey(), "mid", req.GetMid(), "comet", req.GetServer())
	return &pb.DisconnectReply{Has: had}, nil
}

// Heartbeat keeps a session from being forgotten, and enters it again if it was. It says so
// where others have taken its place.
func (s *service) Heartbeat(ctx context.Context, req *pb.HeartbeatReq) (*pb.HeartbeatReply, error) {
	session := presence.Session{Mid: req.GetMid(), Key: req.GetKey(), Server: req.GetServer(), ID: req.GetSession()}
	replaced, err := s.registry.Renew(ctx, session)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	return &pb.HeartbeatReply{Replaced: replaced}, nil
}

// RenewOnline takes a comet's room counts and returns those of all comets, as last summed.
func (s *service) RenewOnline(ctx context.Context, req *pb.OnlineReq) (*pb.OnlineReply, error) {
	if req.GetServer() == "" {
		return nil, status.Error(codes.InvalidArgument, "room counts without a server's name")
	}
	if err := s.registry.Report(ctx, req.GetServer(), req.GetRoomCount(), time.Now()); err != nil {
		return nil, unavailable(ctx, err)
	}
	return &pb.OnlineReply{AllRoomCount: s.online.all()}, nil
}

// Receive takes a client's frame.
func (s *service) Receive(ctx context.Context, req *pb.ReceiveReq) (*pb.ReceiveReply, error) {
	frame := req.GetProto()
	s.log.Debug("frame received", "mid", req.GetMid(), "op", frame.GetOp(), "seq", frame.GetSeq(), "bytes", len(frame.GetBody()))
	if s.receive == nil {
		return &pb.ReceiveReply{}, nil
	}
	if err := s.receive(ctx, req.GetMid(), frame); err != nil {
		return nil, status.Errorf(codes.Unknown, "receive frame of member %d: %v", req.GetMid(), err)
	}
	return &pb.ReceiveReply{}, nil
}

// Nodes returns the comets that a new client should try.
func (s *service) Nodes(_ context.Context, req *pb.NodesReq) (*pb.NodesReply, error) {
	return s.live.Load().advice.For(req.GetPlatform(), req.GetClientIP()), nil
}

// unavailable is the answer when Redis failed: the comet may try again. No error stays none.
func unavailable(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}

// newGRPC returns a gRPC server for svc.
func newGRPC(cfg *RPCServerConfig, svc *service, m *metrics, log *slog.Logger) *grpc.Server {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(protocol.MaxMessage),
		grpc.MaxSendMsgSize(protocol.MaxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle:     cfg.IdleTimeout,
			MaxConnectionAge:      cfg.MaxLifeTime,
			MaxConnectionAgeGrace: cfg.ForceCloseWait,
			Time:                  cfg.KeepAliveInterval,
			Timeout:               cfg.KeepAliveTimeout,
		}),
		// goim's comets ping every 10 s, with or without calls.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(watchCall(cfg.Timeout, m, log)),
	)
	pb.RegisterLogicServer(server, svc)
	return server
}

// watchCall bounds, times and counts every call, and turns a panic into an error of its own call.
func watchCall(timeout time.Duration, m *metrics, log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		start := time.Now()
		method := path.Base(info.FullMethod)
		defer func() {
			if reason := recover(); reason != nil {
				log.Error("call panicked", "method", method, "err", reason, "stack", string(debug.Stack()))
				reply, err = nil, status.Error(codes.Internal, "internal error")
			}
			m.called(method, status.Code(err), time.Since(start))
			if err != nil {
				log.Debug("call failed", "method", method, "err", err)
			}
		}()
		return next(ctx, req)
	}
}
