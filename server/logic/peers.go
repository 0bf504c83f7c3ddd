package logic

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "barrage/server/api/logic"
	"barrage/server/api/sessions"
	"barrage/server/discovery"
	"barrage/server/logic/presence"
)

// maxClosing bounds the calls to comets that run at a time. What is above that is left out:
// the session hears of it with its next report.
const maxClosing = 256

// peers are the comets, as logic calls them: to close sessions whose place others have
// taken, and to ask whether sessions are really there.
type peers struct {
	timeout time.Duration // of one call
	log     *slog.Logger
	metrics *metrics
	running sync.WaitGroup
	slots   chan struct{}

	mu    sync.Mutex
	addrs map[string]string           // by the comet's name; mu guards
	conns map[string]*grpc.ClientConn // by the comet's name, once it was called; mu guards
}

func newPeers(timeout time.Duration, log *slog.Logger, m *metrics) *peers {
	return &peers{
		timeout: timeout, log: log, metrics: m, slots: make(chan struct{}, maxClosing),
		addrs: map[string]string{}, conns: map[string]*grpc.ClientConn{},
	}
}

// update takes discovery's newest list of comets, and lets go of those that have left.
func (p *peers) update(list []discovery.Instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	addrs := make(map[string]string, len(list))
	for _, in := range list {
		if addr := in.GRPCAddr(); addr != "" {
			addrs[in.Hostname] = addr
		}
	}
	for name, conn := range p.conns {
		if addrs[name] != p.addrs[name] {
			conn.Close()
			delete(p.conns, name)
		}
	}
	p.addrs = addrs
}

// close lets go of all comets, when the calls under way have ended.
func (p *peers) close() {
	p.running.Wait()
	p.update(nil)
}

// known says whether discovery lists the comet; sure is false where it lists none at all,
// and so may be the one at fault.
func (p *peers) known(name string) (known, sure bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, known = p.addrs[name]
	return known, len(p.addrs) > 0
}

// client returns a comet's service.
func (p *peers) client(name string) (sessions.SessionsClient, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn := p.conns[name]
	if conn == nil {
		addr, known := p.addrs[name]
		if !known {
			return nil, fmt.Errorf("discovery lists no comet %q", name)
		}
		var err error
		conn, err = grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, fmt.Errorf("connect to comet %q at %s: %w", name, addr, err)
		}
		p.conns[name] = conn
	}
	return sessions.NewSessionsClient(conn), nil
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
	for server, refs := range byServer(list) {
		select {
		case p.slots <- struct{}{}:
		default:
			p.metrics.closes[closeLeft].Add(float64(len(refs)))
			continue
		}
		p.running.Go(func() {
			defer func() { <-p.slots }()
			ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
			defer cancel()
			p.metrics.closes[p.dismissAt(ctx, server, refs)].Add(float64(len(refs)))
		})
	}
}

func (p *peers) dismissAt(ctx context.Context, server string, refs []*pb.SessionRef) closeResult {
	client, err := p.client(server)
	if err == nil {
		_, err = client.Close(ctx, &sessions.CloseReq{Sessions: refs, Code: "replaced"})
	}
	switch {
	case err == nil:
		return closeOK
	case status.Code(err) == codes.Unimplemented:
		return closeUnsupported
	}
	p.log.Debug("close replaced sessions", "comet", server, "sessions", len(refs), "err", err)
	return closeFailed
}

// stale returns those of the sessions that are certainly not there: their comet has left
// discovery, or says so.
func (p *peers) stale(ctx context.Context, list []presence.Session) (gone []presence.Session) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	held := make(map[string]map[string]bool) // ids by server; nil where it can't be told
	for server, refs := range byServer(list) {
		known, sure := p.known(server)
		if !known {
			if sure {
				held[server] = map[string]bool{}
			}
			continue
		}
		client, err := p.client(server)
		if err != nil {
			continue
		}
		reply, err := client.Holds(ctx, &sessions.HoldsReq{Sessions: refs})
		if err != nil {
			continue // it may hold them
		}
		held[server] = map[string]bool{}
		for _, ref := range reply.GetSessions() {
			held[server][ref.GetSession()] = true
		}
	}
	for _, s := range list {
		if ids := held[s.Server]; ids != nil && !ids[s.ID] {
			gone = append(gone, s)
		}
	}
	return gone
}
