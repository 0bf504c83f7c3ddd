package logic

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "barrage/server/api/logic"
	"barrage/server/api/sessions"
	"barrage/server/discovery"
	"barrage/server/logic/presence"
)

const (
	// maxWaiting bounds the sessions of one comet that wait to be closed. What is above that
	// is left out: those sessions hear of it with their next report.
	maxWaiting = 1 << 16

	// maxClosing is how many sessions are closed by one call.
	maxClosing = 1 << 10

	// maxAsking bounds the sessions that connect and wait for what comets really hold.
	maxAsking = 64
)

// peers are the comets, as logic calls them: to close sessions whose place others have
// taken, and to ask whether sessions are really there.
type peers struct {
	timeout time.Duration // of one call
	log     *slog.Logger
	metrics *metrics
	ctx     context.Context // of calls that close
	cancel  context.CancelFunc
	running sync.WaitGroup
	asking  chan struct{} // has an element for each who asks

	mu     sync.Mutex
	byName map[string]*peer // mu guards, and what is in them
}

// A peer is one comet. One call at a time closes sessions there: what comes meanwhile goes
// along with the next, and a comet that hangs holds up no other.
type peer struct {
	addr    string           // "" where discovery lists none
	conn    *grpc.ClientConn // nil until it is called
	waiting []*pb.SessionRef // to be closed
	calling bool             // somebody takes from waiting
}

func newPeers(timeout time.Duration, log *slog.Logger, m *metrics) *peers {
	p := &peers{
		timeout: timeout, log: log, metrics: m,
		asking: make(chan struct{}, maxAsking), byName: map[string]*peer{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// update takes discovery's newest list of comets, and lets go of those that have left.
func (p *peers) update(list []discovery.Instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	byName := make(map[string]*peer, len(list))
	for _, in := range list {
		addr := in.GRPCAddr()
		if old := p.byName[in.Hostname]; old != nil && old.addr == addr {
			byName[in.Hostname] = old
		} else if byName[in.Hostname] == nil {
			byName[in.Hostname] = &peer{addr: addr}
		}
	}
	for name, old := range p.byName {
		if byName[name] == old {
			continue
		}
		if old.conn != nil {
			old.conn.Close()
		}
		p.metrics.closes[closeFailed].Add(float64(len(old.waiting)))
		old.waiting = nil
	}
	p.byName = byName
}

// close lets go of all comets, when the calls under way have ended.
func (p *peers) close() {
	timer := time.AfterFunc(p.timeout, p.cancel)
	defer timer.Stop()
	p.running.Wait()
	p.cancel()
	p.update(nil)
}

// known says whether discovery lists the comet; sure is false where it lists none at all,
// and so may be the one at fault.
func (p *peers) known(name string) (known, sure bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byName[name] != nil, len(p.byName) > 0
}

// client returns the service of a comet.
func (p *peers) client(name string) (sessions.SessionsClient, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.byName[name]
	switch {
	case at == nil:
		return nil, fmt.Errorf("discovery lists no comet %q", name)
	case at.addr == "":
		return nil, fmt.Errorf("discovery has no grpc:// address of comet %q", name)
	case at.conn == nil:
		retry := backoff.DefaultConfig
		retry.MaxDelay = time.Second
		conn, err := grpc.NewClient(at.addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithNoProxy(),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: p.timeout}))
		if err != nil {
			return nil, fmt.Errorf("connect to comet %q at %s: %w", name, at.addr, err)
		}
		at.conn = conn
	}
	return sessions.NewSessionsClient(at.conn), nil
}

// byServer divides sessions by the comets that hold them.
func byServer(list []presence.Session) map[string][]*pb.SessionRef {
	refs := make(map[string][]*pb.SessionRef)
	for _, s := range list {
		refs[s.Server] = append(refs[s.Server], &pb.SessionRef{Key: s.Key, Session: s.ID})
	}
	return refs
}

// dismiss has the comets close sessions whose place others have taken. It doesn't wait for
// that.
func (p *peers) dismiss(list []presence.Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, refs := range byServer(list) {
		at := p.byName[name]
		if at == nil {
			p.metrics.closes[closeFailed].Add(float64(len(refs)))
			continue
		}
		if space := maxWaiting - len(at.waiting); len(refs) > space {
			p.metrics.closes[closeLeft].Add(float64(len(refs) - space))
			refs = refs[:space]
		}
		at.waiting = append(at.waiting, refs...)
		if !at.calling {
			at.calling = true
			p.running.Go(func() { p.serve(name, at) })
		}
	}
}

// serve closes the sessions that wait for it at one comet, until none does.
func (p *peers) serve(name string, at *peer) {
	for {
		p.mu.Lock()
		refs := at.waiting
		if len(refs) == 0 {
			at.calling, at.waiting = false, nil
			p.mu.Unlock()
			return
		}
		refs = refs[:min(len(refs), maxClosing)]
		at.waiting = at.waiting[len(refs):]
		p.mu.Unlock()
		p.metrics.closes[p.dismissAt(name, refs)].Add(float64(len(refs)))
	}
}

func (p *peers) dismissAt(name string, refs []*pb.SessionRef) closeResult {
	ctx, cancel := context.WithTimeout(p.ctx, p.timeout)
	defer cancel()
	client, err := p.client(name)
	if err == nil {
		_, err = client.Close(ctx, &sessions.CloseReq{Sessions: refs, Code: "replaced"})
	}
	switch {
	case err == nil:
		return closeOK
	case status.Code(err) == codes.Unimplemented:
		return closeUnsupported
	}
	p.log.Debug("close replaced sessions", "comet", name, "sessions", len(refs), "err", err)
	return closeFailed
}

// stale returns those of the sessions that are certainly not there: their comet has left
// discovery, or says so. It takes at most half of what ctx has left, and asks nobody while
// many others are asking.
func (p *peers) stale(ctx context.Context, list []presence.Session) (gone []presence.Session) {
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	default:
		return nil
	}
	wait := p.timeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	type answer struct {
		server string
		held   map[string]bool // ids; nil where it can't be told
	}
	servers := byServer(list)
	answers := make(chan answer, len(servers))
	for server, refs := range servers {
		go func() { answers <- answer{server, p.held(ctx, server, refs)} }()
	}
	held := make(map[string]map[string]bool, len(servers))
	for range servers {
		a := <-answers
		held[a.server] = a.held
	}
	for _, s := range list {
		if ids := held[s.Server]; ids != nil && !ids[s.ID] {
			gone = append(gone, s)
		}
	}
	return gone
}

// held returns the ids of those of the sessions that a comet has; nil where it can't be told.
func (p *peers) held(ctx context.Context, server string, refs []*pb.SessionRef) map[string]bool {
	if known, sure := p.known(server); !known {
		if sure {
			return map[string]bool{}
		}
		return nil
	}
	client, err := p.client(server)
	if err != nil {
		return nil
	}
	reply, err := client.Holds(ctx, &sessions.HoldsReq{Sessions: refs})
	if err != nil {
		return nil // it may have them
	}
	ids := make(map[string]bool, len(refs))
	for _, ref := range reply.GetSessions() {
		ids[ref.GetSession()] = true
	}
	return ids
}
