package discovery

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/bilibili/discovery/model"
)

// peers are the nodes that a node passes changes on to: those of its configuration, and all
// others that register as appSelf, with it or with any node that it hears from. So a node
// that is added needs to know one of the old ones, and these need no new configuration.
type peers struct {
	cfg      NodeConfig
	registry *registry
	log      *slog.Logger

	mu     sync.Mutex
	self   []string         // this node's addresses; mu guards
	me     *model.Instance  // this node, nil before it is introduced; mu guards
	near   map[string]*peer // nodes of the own zone, by address; mu guards
	far    map[string]*peer // other zones; mu guards
	closed bool             // mu guards

	leaving sync.WaitGroup // peers that are sent what is queued for them, and no more
}

func newPeers(cfg NodeConfig, r *registry, log *slog.Logger) *peers {
	return &peers{cfg: cfg, registry: r, log: log, near: map[string]*peer{}, far: map[string]*peer{}}
}

// connect begins with the nodes of the configuration; self is this node's own address.
func (ps *peers) connect(self string) {
	ps.mu.Lock()
	ps.self = []string{self, ps.cfg.HTTPServer.Addr}
	ps.mu.Unlock()
	ps.update()
}

// sync waits until every peer was asked for what it knows; true when one of them told.
func (ps *peers) sync(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	told := false
	for _, p := range ps.all() {
		select {
		case <-p.asked:
		case <-ctx.Done():
		}
		told = told || p.synced.Load()
	}
	return told
}

// introduce makes this node known to all peers, and from then on to each that is new.
func (ps *peers) introduce(me *model.Instance) {
	ps.mu.Lock()
	ps.me = me
	ps.mu.Unlock()
	ps.replicate(change{kind: changeRegister, instance: me})
}

// follow takes in nodes that come and lets go of those that went, until ctx ends.
func (ps *peers) follow(ctx context.Context) {
	for {
		changed := ps.registry.watch()
		ps.update()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// update makes the peers what the configuration and the registry say.
func (ps *peers) update() {
	learned := ps.registry.nodes(ps.cfg.Env.DeployEnv)
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.closed {
		return
	}
	near := ps.others(ps.cfg.Nodes, learned[ps.cfg.Env.Zone])
	for addr, p := range ps.near {
		if !slices.Contains(near, addr) {
			delete(ps.near, addr)
			ps.leave(p)
		}
	}
	for _, addr := range near {
		if ps.near[addr] == nil {
			ps.near[addr] = ps.join([]string{addr}, true)
		}
	}

	zones := map[string][]string{}
	for _, from := range []map[string][]string{ps.cfg.Zones, learned} {
		for zone := range from {
			if zone != ps.cfg.Env.Zone {
				zones[zone] = ps.others(ps.cfg.Zones[zone], learned[zone])
			}
		}
	}
	for zone, p := range ps.far {
		if len(zones[zone]) == 0 {
			delete(ps.far, zone)
			ps.leave(p)
		}
	}
	for zone, nodes := range zones {
		switch p := ps.far[zone]; {
		case len(nodes) == 0:
		case p == nil:
			ps.far[zone] = ps.join(nodes, false)
		case !slices.Equal(p.nodes(), nodes):
			p.move(nodes)
		}
	}
}

// others joins lists of addresses in their order, each once and without this node's own.
func (ps *peers) others(lists ...[]string) []string {
	var all []string
	for _, addr := range slices.Concat(lists...) {
		if !slices.Contains(ps.self, addr) && !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all
}

// join makes a peer. mu must be held.
func (ps *peers) join(nodes []string, sameZone bool) *peer {
	ps.log.Debug("discovery peer", "nodes", nodes, "same_zone", sameZone)
	p := newPeer(nodes, sameZone, ps.cfg.Env, ps.registry, ps.log)
	if ps.me != nil {
		p.enqueue(change{kind: changeRegister, instance: ps.me})
	}
	return p
}

// leave lets go of a peer that is in no list any more. mu must be held.
func (ps *peers) leave(p *peer) {
	ps.log.Debug("discovery peer is let go", "nodes", p.nodes())
	ps.leaving.Go(p.close)
}

// all returns the peers: the own zone's by address, then the other zones' by name.
func (ps *peers) all() []*peer {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var list []*peer
	for _, group := range []map[string]*peer{ps.near, ps.far} {
		for _, key := range slices.Sorted(maps.Keys(group)) {
			list = append(list, group[key])
		}
	}
	return list
}

// replicate passes a change on. One that came from another zone stays in the own one.
func (ps *peers) replicate(c change) {
	for _, p := range ps.all() {
		if c.fromOtherZone && !p.sameZone {
			continue
		}
		p.enqueue(c)
	}
}

// close ends all peers, after what is queued for them has been sent, or a short time.
func (ps *peers) close() {
	ps.mu.Lock()
	ps.closed = true
	ps.mu.Unlock()
	for _, p := range ps.all() {
		ps.leaving.Go(p.close)
	}
	ps.leaving.Wait()
}

// nodes returns the addresses of the discovery nodes that are registered, by zone.
func (r *registry) nodes(env string) map[string][]string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	zones := map[string][]string{}
	apps := r.apps[appKey{env, appSelf}]
	if apps == nil {
		return zones
	}
	for _, app := range apps.App("") {
		for _, in := range app.Instances() {
			for _, addr := range in.Addrs {
				if addr, ok := strings.CutPrefix(addr, "http://"); ok {
					zones[app.Zone] = append(zones[app.Zone], addr)
				}
			}
		}
		slices.Sort(zones[app.Zone]) // the instances come in any order
	}
	return zones
}

// watch returns a channel that is closed at the next change.
func (r *registry) watch() <-chan struct{} {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.changed
}
