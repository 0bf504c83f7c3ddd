package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bilibili/discovery/model"
)

// queueLimit is how many changes wait for a peer. What is dropped beyond, the renewals mend:
// a peer that lacks an instance, or has an older one, says so and gets it.
const queueLimit = 4096

type changeKind int

const (
	changeRegister changeKind = iota
	changeRenew
	changeCancel
	changeSet
)

func (k changeKind) path() string {
	return [...]string{"register", "renew", "cancel", "set"}[k]
}

// A change is what a node passes on to its peers.
type change struct {
	kind          changeKind
	instance      *model.Instance // nil for changeSet; nobody changes it any more
	set           *model.ArgSet   // for changeSet
	at            int64           // for changeCancel, in ns; 0 when the instance says it
	fromOtherZone bool            // it has gone round: only the own zone's nodes get it
}

// A peer is another node (or, of another zone, any of its nodes), which gets the changes
// in their order from a goroutine of its own, so that a peer that is down delays nobody.
type peer struct {
	to       atomic.Pointer[Client] // one node of the own zone, or all that are known of another
	env      Env
	sameZone bool
	log      *slog.Logger
	registry *registry
	queue    chan change
	leaving  chan struct{} // closed when what is queued is the last
	done     chan struct{} // closed when run has ended
	asked    chan struct{} // closed when the peer was asked once for what it knows
	synced   atomic.Bool   // it has told what it knows
	failing  atomic.Bool
	stop     context.CancelFunc
	ctx      context.Context // of the calls

	closing sync.Once
	syncing sync.WaitGroup
}

func newPeer(nodes []string, sameZone bool, env Env, r *registry, log *slog.Logger) *peer {
	ctx, stop := context.WithCancel(context.Background())
	p := &peer{
		env:      env,
		sameZone: sameZone,
		log:      log,
		registry: r,
		queue:    make(chan change, queueLimit),
		leaving:  make(chan struct{}),
		done:     make(chan struct{}),
		asked:    make(chan struct{}),
		stop:     stop,
		ctx:      ctx,
	}
	p.move(nodes)
	p.syncing.Go(p.sync)
	go p.run()
	return p
}

// nodes are the addresses that changes are sent to, any of them.
func (p *peer) nodes() []string { return p.to.Load().cfg.Nodes }

// move changes the addresses. What is queued is sent there, in its order.
func (p *peer) move(nodes []string) {
	p.to.Store(NewClient(Config{Nodes: nodes}, p.env, p.log))
}

func (p *peer) enqueue(c change) {
	select {
	case p.queue <- c:
	default:
		p.log.Debug("a change for a discovery peer is dropped", "peer", p.nodes())
	}
}

// lost is whether the last call failed.
func (p *peer) lost() bool { return p.failing.Load() }

// close waits until what is queued has been sent, for a short time.
func (p *peer) close() {
	p.closing.Do(func() { close(p.leaving) })
	select {
	case <-p.done:
	case <-time.After(leaveTimeout):
	}
	p.stop()
	<-p.done
	p.syncing.Wait()
}

// sync takes over what the peer knows. One that is not there, or has just started itself, is
// asked again until it tells.
func (p *peer) sync() {
	var retry backoff
	for {
		ctx, cancel := context.WithTimeout(p.ctx, callTimeout)
		var instances map[string][]*model.Instance
		asked := p.registry.now()
		err := p.to.Load().call(ctx, http.MethodGet, "fetch/all", url.Values{}, &instances)
		cancel()
		if err == nil {
			p.registry.takeOver(instances, asked)
			p.synced.Store(true)
		}
		if !retry.failing() {
			close(p.asked)
		}
		if err == nil || p.ctx.Err() != nil {
			return
		}
		if retry.shouldLog() {
			p.log.Debug("discovery peer has nothing to take over", "peer", p.nodes(), "err", err)
		}
		if !retry.sleep(p.ctx) {
			return
		}
	}
}

func (p *peer) run() {
	defer close(p.done)
	for {
		var c change
		select {
		case c = <-p.queue:
		case <-p.leaving:
			select {
			case c = <-p.queue:
			default:
				return
			}
		}
		err := p.send(c)
		var ce codeError
		failed := err != nil && !errors.As(err, &ce)
		if was := p.failing.Swap(failed); was != failed {
			if failed {
				p.log.Warn("discovery peer is lost", "peer", p.nodes(), "err", err)
			} else {
				p.log.Info("discovery peer answers", "peer", p.nodes())
			}
		}
		if p.ctx.Err() != nil {
			return
		}
	}
}

func (p *peer) send(c change) error {
	if c.kind == changeSet {
		return p.post(c.kind.path(), setParams(c.set), nil)
	}
	var theirs *model.Instance
	err := p.post(c.kind.path(), instanceParams(c), &theirs)
	switch {
	case c.kind == changeRenew && hasCode(err, codeNothingFound):
		return p.post(changeRegister.path(), instanceParams(change{kind: changeRegister, instance: c.instance}), nil)
	case c.kind == changeRenew && hasCode(err, codeConflict):
		if theirs != nil { // and newer
			p.registry.register(theirs)
		}
	}
	return err
}

func (p *peer) post(path string, params url.Values, data any) error {
	params.Set("from_zone", "true")
	params.Set("replication", strconv.FormatBool(p.sameZone))
	client := p.to.Load()
	var err error
	for range client.cfg.Nodes { // each once: any of a zone's will do
		ctx, cancel := context.WithTimeout(p.ctx, callTimeout)
		err = client.call(ctx, http.MethodPost, path, params, data)
		cancel()
		var ce codeError
		if err == nil || errors.As(err, &ce) {
			break
		}
	}
	return err
}

func instanceParams(c change) url.Values {
	in := c.instance
	params := url.Values{
		"region": {in.Region}, "zone": {in.Zone}, "env": {in.Env}, "appid": {in.AppID}, "hostname": {in.Hostname},
	}
	switch c.kind {
	case changeRegister:
		metadata, _ := json.Marshal(in.Metadata) // a map of strings always encodes
		params["addrs"] = in.Addrs
		params.Set("status", strconv.FormatUint(uint64(in.Status), 10))
		params.Set("version", in.Version)
		params.Set("metadata", string(metadata))
		params.Set("dirty_timestamp", strconv.FormatInt(in.DirtyTimestamp, 10))
		params.Set("latest_timestamp", strconv.FormatInt(in.LatestTimestamp, 10))
	case changeRenew:
		params.Set("dirty_timestamp", strconv.FormatInt(in.DirtyTimestamp, 10))
	case changeCancel:
		params.Set("latest_timestamp", strconv.FormatInt(max(c.at, in.LatestTimestamp), 10))
	}
	return params
}

func setParams(arg *model.ArgSet) url.Values {
	params := url.Values{
		"region": {arg.Region}, "zone": {arg.Zone}, "env": {arg.Env}, "appid": {arg.AppID},
		"set_timestamp": {strconv.FormatInt(arg.SetTimestamp, 10)},
		"hostname":      arg.Hostname,
		"metadata":      arg.Metadata,
	}
	for _, status := range arg.Status {
		params.Add("status", strconv.FormatInt(status, 10))
	}
	return params
}
