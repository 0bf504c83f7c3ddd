package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"barrage/server/api/comet"
	"barrage/server/api/protocol"
	"barrage/server/api/pushes"
	"barrage/server/wire"
)

// Frames are what a call carries for one target.
type Frames struct {
	Body     []byte  // whole encoded frames, back to back
	Accepted []int64 // when logic accepted each of them, in Unix nanoseconds, 0 for unknown; empty when none is known
}

// Comet is what a job asks of one comet. A call keeps nothing of its arguments once it has
// returned. Errors carry a gRPC status.
type Comet interface {
	PushMsg(ctx context.Context, keys []string, op int32, frames Frames) error
	BroadcastRoom(ctx context.Context, room string, frames Frames) error
	// Push hands over items for several rooms and keys, and calls answer with each reply, one
	// after the other, and not once it has returned. The replies name each item once, unless
	// there is an error. The end of ctx may fail other calls of Push that are under way.
	Push(ctx context.Context, items []*pushes.Item, answer func(*pushes.Reply)) error
	// Broadcast's speed is this comet's, in messages a second, 0 for at once.
	Broadcast(ctx context.Context, op, speed int32, frames Frames) error
	// Rooms returns the rooms that have members. An answer covers every session that was
	// in its room before the call.
	Rooms(ctx context.Context) (map[string]bool, error)
	// Connected waits until there is a working connection, or ctx ends.
	Connected(ctx context.Context) error
	Close() error
}

// errClosed is the end of a comet's connection from our side.
var errClosed = errors.New("connection is closed")

// rpcComet is a Comet over gRPC.
type rpcComet struct {
	conn   *grpc.ClientConn
	client comet.CometClient
	pushes pushes.PushesClient

	mu     sync.Mutex
	stream *pushStream // of calls of Push, nil before the first
}

// dial returns the comet at addr, host:port, whose connection is broken off where nothing is
// heard of it for silence. It does not wait for the connection.
func dial(addr string, silence time.Duration) (Comet, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallSendMsgSize(protocol.MaxMessage),
			grpc.MaxCallRecvMsgSize(protocol.MaxMessage),
			grpc.WaitForReady(false),
		),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		// Pings only while a call is in flight: a comet with gRPC's default policy cuts
		// connections that ping without one.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: silence}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial comet %s: %w", addr, err)
	}
	conn.Connect()
	return &rpcComet{conn: conn, client: comet.NewCometClient(conn), pushes: pushes.NewPushesClient(conn)}, nil
}

// raw is the envelope of a push: op 9 with the frames as its body.
func raw(body []byte) *protocol.Proto {
	return &protocol.Proto{Ver: wire.Version, Op: int32(wire.OpRaw), Body: body}
}

func (c *rpcComet) PushMsg(ctx context.Context, keys []string, op int32, frames Frames) error {
	_, err := c.client.PushMsg(ctx, &comet.PushMsgReq{Keys: keys, ProtoOp: op, Proto: raw(frames.Body), Accepted: frames.Accepted})
	return err
}

func (c *rpcComet) BroadcastRoom(ctx context.Context, room string, frames Frames) error {
	_, err := c.client.BroadcastRoom(ctx, &comet.BroadcastRoomReq{RoomID: room, Proto: raw(frames.Body), Accepted: frames.Accepted})
	return err
}

func (c *rpcComet) Broadcast(ctx context.Context, op, speed int32, frames Frames) error {
	_, err := c.client.Broadcast(ctx, &comet.BroadcastReq{ProtoOp: op, Proto: raw(frames.Body), Speed: speed, Accepted: frames.Accepted})
	return err
}

func (c *rpcComet) Rooms(ctx context.Context) (map[string]bool, error) {
	reply, err := c.client.Rooms(ctx, &comet.RoomsReq{})
	if err != nil {
		return nil, err
	}
	if reply.Rooms == nil {
		return map[string]bool{}, nil
	}
	return reply.Rooms, nil
}

func (c *rpcComet) Connected(ctx context.Context) error {
	for {
		state := c.conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			return errClosed
		case connectivity.Idle:
			c.conn.Connect()
		}
		if !c.conn.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
}

func (c *rpcComet) Close() error { return c.conn.Close() }
