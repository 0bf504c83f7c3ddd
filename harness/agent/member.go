package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/HdrHistogram/hdrhistogram-go"

	agentpb "barrage/harness/api/agent"
	"barrage/harness/cluster"
	"barrage/harness/ledger"
	"barrage/harness/report"
	"barrage/harness/swarm"
)

// A Member is what is known of one agent.
type Member struct {
	Name        string // host:port
	Environment report.Environment
	Boot        string // id of the running kernel: the same for all processes of one machine
	Clock       Clock
	Clients     int64
	Joined      int64
	Threads     []swarm.ThreadLoad      // as last told
	ReadLag     *hdrhistogram.Histogram // nil before Finish, and of one that was lost
	Lost        error                   // nil for one that did its part
}

// member is the coordinator's side of one agent.
type member struct {
	name        string
	conn        *grpc.ClientConn
	rpc         agentpb.AgentClient
	session     string
	environment report.Environment
	boot        string
	stop        context.CancelFunc // ends the stream that the session lives by
	clock       clock

	mu       sync.Mutex // guards what follows
	snapshot swarm.Snapshot
	usage    cluster.Usage
	readLag  *hdrhistogram.Histogram
	lost     error
}

const (
	readyWithin = 2 * time.Minute  // to lay out a scenario and make its clients ready
	silence     = 15 * time.Second // without a beat: the agent is gone
	endWithin   = 30 * time.Second // to drop its clients
)

// dial connects to the agent and has it make its part of the job ready. Its beats are read
// from then on, until the fleet is closed.
func (m *member) dial(ctx context.Context, f *Fleet, job Job) error {
	opts, err := f.cfg.Security.dialOptions(m.name)
	if err != nil {
		return err
	}
	m.conn, err = grpc.NewClient("passthrough:///"+m.name, append(opts, grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer), grpc.MaxCallSendMsgSize(maxRequest)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: aliveEvery, Timeout: aliveWait}),
	)...)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	m.rpc = agentpb.NewAgentClient(m.conn)
	streamCtx, stop := context.WithCancelCause(f.life)
	m.stop = func() { stop(nil) }
	// Until it is ready the caller's patience counts too.
	unhook := context.AfterFunc(ctx, func() { stop(context.Cause(ctx)) })
	watchdog := time.AfterFunc(readyWithin, func() { stop(fmt.Errorf("it is not ready after %s", readyWithin)) })
	failed := func(err error) error {
		watchdog.Stop()
		unhook()
		if cause := context.Cause(streamCtx); cause != nil {
			err = cause
		}
		stop(nil)
		hint := ""
		if status.Code(err) == codes.Unavailable && f.cfg.Security.overTLS() &&
			!strings.Contains(err.Error(), "handshake failed") && !strings.Contains(err.Error(), "connection refused") {
			// In TLS 1.3 a side learns that its certificate was refused when it is already
			// sending, by an alert or by a closed connection, whichever it sees first.
			hint = "; over TLS this is also how an agent refuses this side's certificate, or the lack of one (-cert, -key)"
		}
		return errors.New(reason(err) + hint)
	}
	stream, err := m.rpc.Prepare(streamCtx, encodeJob(job, f.cfg.Build))
	if err != nil {
		return failed(err)
	}
	beat, err := stream.Recv()
	if err != nil {
		return failed(err)
	}
	m.session, m.boot = beat.GetReady().GetSession(), beat.GetReady().GetBoot()
	if err := json.Unmarshal(beat.GetReady().GetEnvironment(), &m.environment); err != nil {
		return failed(fmt.Errorf("what it says of its machine: %w", err))
	}
	if err := m.take(beat); err != nil {
		return failed(err)
	}
	unhook()
	watchdog.Stop()
	watchdog = time.AfterFunc(silence, func() { stop(fmt.Errorf("nothing was heard of it for %s", silence)) })
	f.wg.Go(func() {
		defer watchdog.Stop()
		for {
			beat, err := stream.Recv()
			if err == nil {
				watchdog.Reset(silence)
				err = m.take(beat)
			}
			if err != nil {
				if cause := context.Cause(streamCtx); cause != nil {
					err = cause
				}
				f.lose(m, fmt.Errorf("%w: %s", ErrLost, reason(err)))
				stop(nil)
				return
			}
		}
	})
	return nil
}

// take takes in a beat.
func (m *member) take(beat *agentpb.Beat) error {
	s, err := decodeSnapshot(beat.GetSnapshot())
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.snapshot, m.usage = s, decodeUsage(beat.GetUsage())
	return nil
}

// How many times the agent is asked for its time in a row: the answer that took the least
// is the one that counts.
const (
	thorough    = 64
	followUp    = 8
	followEvery = time.Second / 2
)

// synchronize estimates the agent's clock by n exchanges and has it corrected.
func (m *member) synchronize(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	var best estimate
	for i := range n {
		e, err := m.exchange(ctx)
		if err != nil {
			return err
		}
		if i == 0 || e.err < best.err {
			best = e
		}
	}
	m.clock.take(best)
	_, err := m.exchange(ctx) // which carries the correction
	return err
}

func (m *member) exchange(ctx context.Context) (estimate, error) {
	x := exchange{sent: ledger.Now()}
	reply, err := m.rpc.Clock(ctx, &agentpb.ClockRequest{Session: m.session, Correction: int64(m.clock.correction())})
	x.returned = ledger.Now()
	if err != nil {
		return estimate{}, err
	}
	x.received, x.answered = reply.GetReceived(), reply.GetAnswered()
	return x.estimate(), nil
}

// follow goes after the agent's clock until ctx ends. What keeps it from that is found out
// by the stream of beats.
func (m *member) follow(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = m.synchronize(ctx, followUp)
		}
	}
}

func (m *member) connect(ctx context.Context) error {
	beat, err := m.rpc.Connect(ctx, &agentpb.Session{Session: m.session})
	if err != nil {
		return err
	}
	return m.take(beat)
}

func (m *member) schedule(ctx context.Context, start int64) error {
	_, err := m.rpc.Schedule(ctx, &agentpb.ScheduleRequest{Session: m.session, Start: start})
	return err
}

func (m *member) changeRooms(ctx context.Context, on bool) error {
	_, err := m.rpc.ChangeRooms(ctx, &agentpb.ChangeRoomsRequest{Session: m.session, On: on})
	return err
}

func (m *member) storm(ctx context.Context, fraction float64, reset bool, within time.Duration) (swarm.StormReport, error) {
	p, err := m.rpc.Storm(ctx, &agentpb.StormRequest{Session: m.session, Fraction: fraction, Rst: reset, Within: int64(within)})
	if err != nil {
		return swarm.StormReport{}, err
	}
	return swarm.StormReport{Clients: p.GetClients(), Back: p.GetBack(), Took: time.Duration(p.GetTook())}, nil
}

func (m *member) measure(ctx context.Context) (Load, error) {
	p, err := m.rpc.Measure(ctx, &agentpb.Session{Session: m.session})
	if err != nil {
		return Load{}, err
	}
	return decodeLoad(p), nil
}

func (m *member) drain(ctx context.Context, plans []ledger.Plan) error {
	_, err := m.rpc.Drain(ctx, encodePlans(m.session, plans))
	return err
}

func (m *member) accepted(ctx context.Context) (int64, error) {
	p, err := m.rpc.Accepted(ctx, &agentpb.Session{Session: m.session})
	return p.GetCount(), err
}

func (m *member) finish(ctx context.Context, plans []ledger.Plan) (*swarm.Report, error) {
	p, err := m.rpc.Finish(ctx, encodePlans(m.session, plans))
	if err != nil {
		return nil, err
	}
	return decodeReport(p)
}

// end has the agent drop its clients. One that is gone has dropped them.
func (m *member) end() error {
	if m.session == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), endWithin)
	defer cancel()
	if _, err := m.rpc.End(ctx, &agentpb.Session{Session: m.session}); err != nil && !isLoss(err) {
		return fmt.Errorf("end its clients: %s", reason(err))
	}
	return nil
}

// hangUp closes the connection.
func (m *member) hangUp() {
	m.stop()
	if m.conn != nil {
		_ = m.conn.Close() // an error says that it is closed
	}
}

func (m *member) lastSnapshot() swarm.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.snapshot
}

// setFinal keeps what the agent's own report says of it.
func (m *member) setFinal(r *swarm.Report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.snapshot, m.readLag = r.Snapshot, r.ReadLag
}

// setLost says that the agent is gone, and returns whether that is news.
func (m *member) setLost(err error) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lost != nil {
		return false
	}
	m.lost = err
	return true
}

func (m *member) lostError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost
}

func (m *member) state() Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Member{
		Name: m.name, Environment: m.environment, Boot: m.boot, Clock: m.clock.state(),
		Clients: m.snapshot.Clients, Joined: m.snapshot.Joined, Threads: m.snapshot.Threads, ReadLag: m.readLag, Lost: m.lost,
	}
}

// isLoss says whether a call failed for want of the agent, and not by its answer.
func isLoss(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.NotFound:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// reason is what an error of a call says to a person.
func reason(err error) string {
	if errors.Is(err, io.EOF) {
		return "it ended the run"
	}
	return status.Convert(err).Message()
}
