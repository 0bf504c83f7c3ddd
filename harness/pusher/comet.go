package pusher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"barrage/harness/ledger"
	"barrage/harness/pusher/load"
	"barrage/server/api/comet"
	"barrage/server/api/protocol"
	"barrage/server/wire"
)

// CometConfig says where the comets are.
type CometConfig struct {
	Addrs []string // host:port of each comet's gRPC service
	// Timeout is the most that the comets may take to answer a push. 0 is 10 s.
	Timeout time.Duration
}

// Comets makes the calls that job makes for a push, at every comet, without job. Acknowledged
// means that all of them answered: the push is in their memory.
//
// A server may take up the calls of one connection in any order, so a lane has one push
// under way at a time. Job would carry what comes meanwhile in one call; here every push has
// a call of its own.
type Comets struct {
	timeout time.Duration
	comets  []cometConn
}

// A cometConn is the connection to one comet, which all lanes share.
type cometConn struct {
	addr   string
	conn   *grpc.ClientConn
	client comet.CometClient
}

// NewComets connects to the comets and returns when all connections work, or why they don't
// by the end of ctx or within the time-out.
func NewComets(ctx context.Context, cfg CometConfig) (*Comets, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("no comets to push to")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	c := &Comets{timeout: cfg.Timeout}
	for _, addr := range cfg.Addrs {
		conn, err := grpc.NewClient("passthrough:///"+addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(protocol.MaxMessage)),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: 3 * time.Second,
			}),
			// Without it an idle connection is given up, and the next push waits for a new one.
			grpc.WithIdleTimeout(0),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("connect to comet %s: %w", addr, err), c.Close())
		}
		conn.Connect()
		c.comets = append(c.comets, cometConn{addr, conn, comet.NewCometClient(conn)})
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	for _, k := range c.comets {
		for state := k.conn.GetState(); state != connectivity.Ready; state = k.conn.GetState() {
			if !k.conn.WaitForStateChange(ctx, state) {
				return nil, errors.Join(fmt.Errorf("connect to comet %s: %w", k.addr, ctx.Err()), c.Close())
			}
		}
	}
	return c, nil
}

// Close ends the connections. Every sender must be closed.
func (c *Comets) Close() error {
	var errs []error
	for _, k := range c.comets {
		errs = append(errs, k.conn.Close())
	}
	return errors.Join(errs...)
}

// Open implements Way.
func (c *Comets) Open(targets []Target) (Sender, error) {
	for i := range targets {
		if err := ViaComet.Carries(targets[i].Kind); err != nil {
			return nil, err
		}
	}
	return &cometLane{way: c, targets: targets, errs: make([]error, len(c.comets))}, nil
}

// cometLane is a lane of Comets.
type cometLane struct {
	way     *Comets
	targets []Target
	frame   []byte  // of the push under way
	errs    []error // what became of it, by comet

	accepted [1]int64 // when it was sent
}

// Connect implements Sender: NewComets has done it.
func (l *cometLane) Connect(context.Context) {}

// Send implements Sender.
func (l *cometLane) Send(ctx context.Context, target int, body []byte, done func(error)) {
	t := &l.targets[target]
	l.accepted[0] = ledger.Now() // as of logic, which job passes on
	l.frame = wire.AppendFrame(l.frame[:0], wire.Frame{Ver: wire.Version, Op: wire.Op(t.Operation), Body: body})
	ctx, cancel := context.WithTimeout(ctx, l.way.timeout)
	defer cancel()
	if len(l.way.comets) == 1 {
		l.errs[0] = l.call(ctx, 0, t)
	} else {
		var calls sync.WaitGroup
		for i := range l.way.comets {
			calls.Go(func() { l.errs[i] = l.call(ctx, i, t) })
		}
		calls.Wait()
	}
	done(l.fate())
}

// call pushes the frame to the sessions of one comet. It keeps nothing of the frame.
func (l *cometLane) call(ctx context.Context, i int, t *Target) error {
	k := &l.way.comets[i]
	p := &protocol.Proto{Ver: wire.Version, Op: int32(wire.OpRaw), Body: l.frame}
	var err error
	if t.Kind == KindRoom {
		_, err = k.client.BroadcastRoom(ctx, &comet.BroadcastRoomReq{RoomID: t.Room(), Proto: p, Accepted: l.accepted[:]})
	} else {
		_, err = k.client.Broadcast(ctx, &comet.BroadcastReq{ProtoOp: t.Operation, Speed: share(t.Speed, i, len(l.way.comets)), Proto: p, Accepted: l.accepted[:]})
	}
	return err
}

// fate is the error of the push whose calls are over.
func (l *cometLane) fate() error {
	var first error
	at, refusals := 0, 0
	for i, err := range l.errs {
		if err == nil {
			continue
		}
		if first == nil {
			first, at = err, i
		}
		switch status.Code(err) {
		case codes.InvalidArgument, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
			refusals++
		}
	}
	switch {
	case first == nil:
		return nil
	case refusals == len(l.errs):
		return fmt.Errorf("comet %s: %w: %w", l.way.comets[at].addr, ErrRefused, first)
	default: // some comets may have it
		return fmt.Errorf("comet %s: %w", l.way.comets[at].addr, first)
	}
}

// Close implements Sender: nothing is under way behind Send.
func (l *cometLane) Close(context.Context) {}

// share is comet i's part of a speed, in messages a second, that n comets have together:
// they are taken to hold as many sessions. It is 1 at least, since 0 would mean at once.
func share(speed int32, i, n int) int32 {
	if speed <= 0 {
		return 0
	}
	return int32(max(1, load.Part(int(speed), i, n)))
}
