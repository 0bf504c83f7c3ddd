package logic

import (
	"context"
	"log/slog"
	"path"
	"runtime/debug"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // comets compress their room counts
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "barrage/server/api/logic"
	"barrage/server/api/protocol"
)

// reports keeps the comets' room counts.
type reports interface {
	Report(ctx context.Context, server string, rooms map[string]int32, now time.Time) error
}

// A Receiver takes a client's frame whose operation comets don't know. The frame is valid
// until it returns.
type Receiver func(ctx context.Context, mid int64, frame *protocol.Proto) error

// service answers comets.
type service struct {
	pb.UnimplementedLogicServer

	registrar *registrar
	reports   reports
	peers     *peers
	online    *online
	live      *atomic.Pointer[live]
	receive   Receiver // nil: frames are only counted
	metrics   *metrics
	log       *slog.Logger
}

// RenewOnline takes a comet's room counts and returns those of all comets, as last summed.
func (s *service) RenewOnline(ctx context.Context, req *pb.OnlineReq) (*pb.OnlineReply, error) {
	if req.GetServer() == "" {
		return nil, status.Error(codes.InvalidArgument, "room counts without a server's name")
	}
	if err := s.reports.Report(ctx, req.GetServer(), req.GetRoomCount(), time.Now()); err != nil {
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

// ofSessions are the calls whose sessions wait for their turn, for as long as the comet does:
// it is their round that timeout is for.
var ofSessions = map[string]bool{
	"Connect": true, "Disconnect": true, "Heartbeat": true,
	"ConnectAll": true, "DisconnectAll": true, "HeartbeatAll": true,
}

// watchCall bounds, times and counts every call, and turns a panic into an error of its own call.
func watchCall(timeout time.Duration, m *metrics, log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
		method := path.Base(info.FullMethod)
		if !ofSessions[method] {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		start := time.Now()
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
