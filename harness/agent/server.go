package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	agentpb "barrage/harness/api/agent"
	"barrage/harness/ledger"
	"barrage/harness/report"
	"barrage/harness/swarm"
)

// ServerConfig is what a Server needs of the program that it is in.
type ServerConfig struct {
	Security Security
	Build    string // version and commit of this binary
	Boot     string // id of the running kernel

	Prepare     func(Job) (Work, error)   // makes a job ready; the error says what is wrong with it, or with this machine
	Environment func() report.Environment // of this machine
	Load        func() Load
	Log         *slog.Logger
}

// A Server is the agent's side: it has a swarm for one coordinator at a time, and drops it
// when the coordinator is done, or gone.
type Server struct {
	agentpb.UnimplementedAgentServer
	cfg  ServerConfig
	grpc *grpc.Server
	now  func() int64 // ledger.Now, but for tests

	mu      sync.Mutex
	current *session // mu guards; nil without a coordinator
}

// How often the two sides look for each other where nothing is under way, and how long
// either waits for an answer: after their sum the other one counts as gone.
const (
	aliveEvery = 10 * time.Second
	aliveWait  = 5 * time.Second
)

// Messages are as large as a schedule has pushes, whose fate and receipts they carry; the
// number of clients makes no difference.
const (
	maxRequest = 64 << 20
	maxAnswer  = 1 << 30
)

// NewServer returns a server for l, or an error where cfg.Security is too little for its
// address.
func NewServer(cfg ServerConfig, l net.Listener) (*Server, error) {
	opts, err := cfg.Security.serverOptions(l.Addr())
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, now: ledger.Now}
	s.grpc = grpc.NewServer(append(opts, grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxSendMsgSize(maxAnswer),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: aliveEvery, Timeout: aliveWait}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: aliveEvery / 2, PermitWithoutStream: true}),
	)...)
	agentpb.RegisterAgentServer(s.grpc, s)
	return s, nil
}

// Serve serves until ctx ends, and then drops the clients.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, s.grpc.Stop)()
	if err := s.grpc.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve coordinators: %w", err)
	}
	s.grpc.Stop() // waits for what is under way
	return nil
}

// A session is the time of one coordinator.
type session struct {
	id     string
	ctx    context.Context
	cancel context.CancelFunc
	closed chan struct{} // when its clients are gone

	swarm      *swarm.Swarm // set before the coordinator knows the id
	work       Work
	job        Job
	correction atomic.Int64 // of this process's clock, in nanoseconds
	scheduled  atomic.Bool
}

// begin makes the session that ctx's call is for, if there is no other. One that is ending
// is waited for.
func (s *Server) begin(ctx context.Context) (*session, error) {
	for {
		s.mu.Lock()
		other := s.current
		if other == nil {
			n := &session{id: rand.Text(), closed: make(chan struct{})}
			n.ctx, n.cancel = context.WithCancel(ctx)
			s.current = n
			s.mu.Unlock()
			return n, nil
		}
		s.mu.Unlock()
		if other.ctx.Err() == nil {
			return nil, status.Error(codes.ResourceExhausted, "it is at work for another coordinator")
		}
		select {
		case <-other.closed:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// end drops the session's clients.
func (s *Server) end(n *session) {
	n.cancel()
	if n.swarm != nil {
		if err := n.swarm.Close(); err != nil {
			s.cfg.Log.Error("close the swarm", "err", err)
		}
	}
	s.mu.Lock()
	s.current = nil
	s.mu.Unlock()
	close(n.closed)
}

// session returns the one that a call is for.
func (s *Server) session(id string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || s.current.swarm == nil || s.current.id != id {
		return nil, status.Error(codes.NotFound, "the run has ended here")
	}
	return s.current, nil
}

// beatEvery is how often an agent says how its clients do.
const beatEvery = time.Second

// Prepare makes the clients of a job ready, and keeps them for as long as the call lives.
func (s *Server) Prepare(p *agentpb.Job, stream grpc.ServerStreamingServer[agentpb.Beat]) error {
	log := s.cfg.Log.With("coordinator", coordinator(stream.Context()))
	if p.GetProtocol() != Protocol || p.GetBuild() != s.cfg.Build {
		err := status.Errorf(codes.FailedPrecondition, "it is another version: the agent is %s (protocol %d), the coordinator %s (protocol %d); install the same binary on both",
			s.cfg.Build, Protocol, p.GetBuild(), p.GetProtocol())
		log.Warn("a coordinator was refused", "err", err)
		return err
	}
	if p.GetParts() == 0 || p.GetPart() >= p.GetParts() {
		return status.Errorf(codes.InvalidArgument, "part %d of %d", p.GetPart(), p.GetParts())
	}
	n, err := s.begin(stream.Context())
	if err != nil {
		return err
	}
	defer s.end(n)
	ready, err := s.prepare(n, decodeJob(p))
	if err != nil {
		log.Warn("the job can't be done here", "err", err)
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	log.Info("a run begins", "scenario", p.GetFile(), "part", p.GetPart()+1, "parts", p.GetParts(), "clients", n.work.Swarm.Clients)
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		beat, err := s.beat(n)
		if err != nil {
			return err
		}
		beat.Ready, ready = ready, nil // in the first one alone
		if err := stream.Send(beat); err != nil {
			log.Warn("the coordinator is gone; its clients are dropped", "err", err)
			return err
		}
		select {
		case <-tick.C:
			continue
		case <-n.ctx.Done():
		}
		if err := stream.Context().Err(); err != nil {
			log.Warn("the coordinator is gone; its clients are dropped", "err", err)
			return status.FromContextError(err).Err()
		}
		log.Info("the run has ended")
		return nil
	}
}

// prepare makes the session's swarm.
func (s *Server) prepare(n *session, job Job) (*agentpb.Ready, error) {
	var err error
	n.job = job
	if n.work, err = s.cfg.Prepare(job); err != nil {
		return nil, err
	}
	cfg := n.work.Swarm
	cfg.ClockOffset = &n.correction
	clients, err := swarm.New(cfg)
	if err != nil {
		return nil, err
	}
	environment, err := json.Marshal(s.cfg.Environment())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("describe this machine: %w", err), clients.Close())
	}
	s.mu.Lock()
	n.swarm = clients
	s.mu.Unlock()
	return &agentpb.Ready{Session: n.id, Environment: environment, Boot: s.cfg.Boot}, nil
}

func coordinator(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return "unknown"
}

// Clock tells the time, and takes the correction that the coordinator found by the answers.
func (s *Server) Clock(_ context.Context, p *agentpb.ClockRequest) (*agentpb.ClockReply, error) {
	received := s.now()
	n, err := s.session(p.GetSession())
	if err != nil {
		return nil, err
	}
	n.correction.Store(p.GetCorrection())
	return &agentpb.ClockReply{Received: received, Answered: s.now()}, nil
}

// Connect connects the clients.
func (s *Server) Connect(ctx context.Context, p *agentpb.Session) (*agentpb.Beat, error) {
	n, err := s.session(p.GetSession())
	if err != nil {
		return nil, err
	}
	if err := n.swarm.Connect(ctx); err != nil {
		return nil, callError(ctx, err)
	}
	return s.beat(n)
}

// beat is how the session's clients do.
func (s *Server) beat(n *session) (*agentpb.Beat, error) {
	snapshot := n.swarm.Snapshot()
	p, err := encodeSnapshot(&snapshot)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &agentpb.Beat{Snapshot: p, Usage: encodeUsage(s.cfg.Load().Usage)}, nil
}

// callError is err as the status of ctx's call.
func callError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Error(codes.Internal, err.Error())
}

// Schedule marks each stream as running when it carries its first push.
func (s *Server) Schedule(_ context.Context, p *agentpb.ScheduleRequest) (*agentpb.Done, error) {
	n, err := s.session(p.GetSession())
	if err != nil {
		return nil, err
	}
	if n.scheduled.Swap(true) {
		return nil, status.Error(codes.FailedPrecondition, "the run is scheduled already")
	}
	go n.start(p.GetStart(), s.now)
	return &agentpb.Done{}, nil
}

// early is how long before its first push a stream counts as running: a client that joins
// in between may miss that push without a loss, while one that joins behind an unmarked
// start would be taken for one that lost it.
const early = 20 * time.Millisecond

// start marks the streams, in the order of their starts, until the session ends.
func (n *session) start(at int64, now func() int64) {
	starts := slices.SortedFunc(slices.Values(n.work.Starts), func(a, b Start) int { return cmp.Compare(a.After, b.After) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, s := range starts {
		timer.Reset(time.Duration(at + int64(s.After-early) - now() - n.correction.Load()))
		select {
		case <-timer.C:
			n.work.Swarm.Streams.Start(s.Stream)
		case <-n.ctx.Done():
			return
		}
	}
}

// ChangeRooms lets the clients change rooms.
func (s *Server) ChangeRooms(ctx context.Context, p *agentpb.ChangeRoomsRequest) (*agentpb.Done, error) {
	n, err := s.session(p.GetSession())
	if err != nil {
		return nil, err
	}
	if err := n.swarm.ChangeRooms(ctx, p.GetOn()); err != nil {
		return nil, callError(ctx, err)
	}
	return &agentpb.Done{}, nil
}

// Storm takes connections and waits until the clients are back.
func (s *Server) Storm(ctx context.Context, p *agentpb.StormRequest) (*agentpb.StormReport, error) {
	n, err := s.session(p.GetSession())
	if err != nil {
		return nil, err
	}
	wait := ctx
	if p.GetWithin() > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, time.Duration(p.GetWithin()))
		defer cancel()
	}
	r, err := n.swarm.Storm(wait, p.GetFraction(), p.GetRst())
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, callError(ctx, err)
	}
	return &agentpb.StormReport{Clients: r.Clients, Back: r.Back, Took: int64(r.Took)}, nil
}

// Measure reads what was used by now.
func (s *Server) Measure(_ context.Context, p *agentpb.Session) (*agentpb.Load, error) {
	if _, err := s.session(p.GetSession()); err != nil {
		return nil, err
	}
	return encodeLoad(s.cfg.Load()), nil
}

// Drain waits until all that the plans owe has arrived.
func (s *Server) Drain(ctx context.Context, p *agentpb.Plans) (*agentpb.Done, error) {
	n, plans, err := s.plans(p)
	if err != nil {
		return nil, err
	}
	drained, err := n.swarm.Drain(ctx, plans)
	if err == nil && !drained {
		err = ctx.Err()
	}
	if err != nil {
		return nil, callError(ctx, err)
	}
	return &agentpb.Done{}, nil
}

func (s *Server) plans(p *agentpb.Plans) (*session, []ledger.Plan, error) {
	n, err := s.session(p.GetSession())
	if err != nil {
		return nil, nil, err
	}
	plans, err := decodePlans(p)
	if err != nil {
		return nil, nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return n, plans, nil
}

// Accepted counts the pushes that clients have received for the first time.
func (s *Server) Accepted(_ context.Context, p *agentpb.Session) (*agentpb.Count, error) {
	n, err := s.session(p.GetSession())
	if err != nil {
		return nil, err
	}
	return &agentpb.Count{Count: n.swarm.Accepted()}, nil
}

// Finish reports on the plans.
func (s *Server) Finish(ctx context.Context, p *agentpb.Plans) (*agentpb.Report, error) {
	n, plans, err := s.plans(p)
	if err != nil {
		return nil, err
	}
	r, err := n.swarm.Finish(ctx, plans)
	if err != nil {
		return nil, callError(ctx, err)
	}
	out, err := encodeReport(r, func(i int) int { return i*n.job.Parts + n.job.Part })
	if err != nil {
		return nil, callError(ctx, err)
	}
	return out, nil
}

// End drops the clients, and answers when they are gone.
func (s *Server) End(ctx context.Context, p *agentpb.Session) (*agentpb.Done, error) {
	n, err := s.session(p.GetSession())
	if err != nil {
		return nil, err
	}
	n.cancel()
	select {
	case <-n.closed:
		return &agentpb.Done{}, nil
	case <-ctx.Done():
		return nil, callError(ctx, ctx.Err())
	}
}
