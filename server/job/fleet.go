package job

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"barrage/server/discovery"
)

// A fleet is the comets: it follows discovery, begins and ends the links' lives, and hands
// each record to the links that it is for.
type fleet struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	dial    func(addr string) (Comet, error)
	notify  func() // tells the reader that the live comets changed
	seed    maphash.Seed
	work    sync.WaitGroup

	live atomic.Pointer[roster] // never nil

	mu    sync.Mutex
	ctx   context.Context // of the links; set by start
	known bool            // a first list has arrived
	links map[string]*member
}

// A roster is the comets that get records at one time.
type roster struct {
	links    []*link // by host
	sessions []int64 // of each, or unknown
	byHost   map[string]*link
	dead     int // comets that were given up: what they miss is counted
	leaving  int // comets that left discovery, whose clients may not have yet
}

// A member is a link and where it stands. fleet.mu guards it.
type member struct {
	link     *link
	state    state
	sessions int64 // as the last list says, or unknown
	futile   int   // lives in a row that ended without one call that succeeded
}

type state uint8

const (
	live    state = iota
	dead          // given up, until it connects again
	leaving       // left discovery; what waits is still tried for comet.leaveWait
)

func newFleet(cfg Config, log *slog.Logger, m *metrics, notify func()) *fleet {
	f := &fleet{cfg: cfg, log: log, metrics: m, notify: notify, seed: maphash.MakeSeed(), links: make(map[string]*member)}
	f.dial = func(addr string) (Comet, error) { return dial(addr, cfg.Comet.DeadAfter) }
	f.live.Store(&roster{})
	return f
}

// follow applies the lists until ctx ends or the channel is closed. The links live until
// linkCtx ends.
func (f *fleet) follow(ctx, linkCtx context.Context, lists <-chan []discovery.Instance) {
	f.mu.Lock()
	f.ctx = linkCtx
	f.mu.Unlock()
	for {
		select {
		case list, ok := <-lists:
			if !ok {
				return
			}
			f.apply(list)
		case <-ctx.Done():
			return
		}
	}
}

// close stops all links. What they hold stays held: it is delivered by the next job.
func (f *fleet) close() {
	f.mu.Lock()
	links := f.links
	f.links = make(map[string]*member)
	f.publish()
	f.mu.Unlock()
	for _, m := range links {
		m.link.remove()
	}
	f.work.Wait()
}

// apply makes the fleet what list says.
func (f *fleet) apply(list []discovery.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	listed := make(map[string]bool, len(list))
	for _, in := range list {
		addr := in.GRPCAddr()
		if addr == "" {
			f.log.Warn("comet in discovery has no grpc:// address", "comet", in.Hostname, "addrs", in.Addrs)
			continue
		}
		if listed[in.Hostname] {
			f.log.Warn("two comets of one host name in discovery: the first is used, give each its own -host", "comet", in.Hostname, "addr", addr)
			continue
		}
		listed[in.Hostname] = true
		if m := f.links[in.Hostname]; m != nil {
			f.keep(m, addr)
		} else {
			f.welcome(in.Hostname, addr)
		}
		if m := f.links[in.Hostname]; m != nil {
			m.sessions = sessionsOf(in)
		}
	}
	for host, m := range f.links {
		if !listed[host] {
			f.dismiss(m)
		}
	}
	f.known = true
	f.publish()
}

// welcome starts a link to a new comet. mu must be held.
func (f *fleet) welcome(host, addr string) {
	client, err := f.dial(addr)
	if err != nil {
		f.log.Warn("comet can't be called", "comet", host, "err", err)
		return
	}
	k := newLink(f.ctx, host, addr, client, f.cfg, f.log, f.metrics)
	k.died = f.giveUp
	k.begin()
	f.links[host] = &member{link: k, state: live}
	f.log.Info("comet appeared", "comet", host, "addr", addr)
}

// keep takes over what the list says of a known comet. mu must be held.
func (f *fleet) keep(m *member, addr string) {
	if m.state == leaving {
		m.state = live
		m.link.leaving.Store(false)
		f.log.Info("comet is back in discovery", "comet", m.link.host)
	}
	if m.link.address() == addr {
		return
	}
	client, err := f.dial(addr)
	if err != nil {
		f.log.Warn("comet can't be called at its new address", "comet", m.link.host, "err", err)
		return
	}
	m.link.move(addr, client)
	f.log.Info("comet moved", "comet", m.link.host, "addr", addr)
}

// dismiss lets a comet that is no longer listed go. mu must be held.
func (f *fleet) dismiss(m *member) {
	switch m.state {
	case leaving:
	case dead:
		f.bury(m)
	case live:
		m.state = leaving
		m.link.leaving.Store(true)
		f.work.Go(func() { f.seeOff(m) })
	}
}

// seeOff waits until a leaving comet has taken what waits for it, for at most
// comet.leaveWait, and lets it go then unless it came back.
func (f *fleet) seeOff(m *member) {
	ctx, cancel := context.WithTimeout(m.link.ctx, f.cfg.Comet.LeaveWait)
	defer cancel()
	const look = 10 * time.Millisecond
	for sleep(ctx, look) {
		if n, _ := m.link.load(); n == 0 || !m.link.leaving.Load() {
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.state == leaving && f.links[m.link.host] == m {
		f.bury(m)
		f.publish()
	}
}

// bury ends a link for good. mu must be held.
func (f *fleet) bury(m *member) {
	n := m.link.finish(errGone)
	delete(f.links, m.link.host)
	f.work.Go(m.link.remove)
	f.log.Info("comet left", "comet", m.link.host, "dropped", n)
}

// giveUp ends the life of a comet that nothing is heard of, and waits for it to come back.
func (f *fleet) giveUp(k *link, life context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.links[k.host]
	if m == nil || m.link != k || m.state != live || life.Err() != nil {
		return
	}
	m.state = dead
	if m.futile++; k.took.Load() {
		m.futile = 0
	}
	f.publish()
	n := k.finish(errDead)
	f.metrics.deaths.Inc()
	f.log.Warn("comet does not answer: given up until it connects again", "comet", k.host, "after", f.cfg.Comet.DeadAfter, "dropped", n)
	// The first time it may have been restarted, and is wanted as soon as it answers.
	pause := min(time.Duration(max(0, m.futile-1))*f.cfg.Comet.DeadAfter, maxRevivePause)
	f.work.Go(func() { f.revive(m, pause) })
}

// maxRevivePause bounds the time that a comet is left alone which answers but takes nothing.
const maxRevivePause = 2 * time.Minute

// revive waits for the pause, and then until a dead comet answers, and begins a new life. A
// connection alone is no sign: that of a comet that hangs may stand.
func (f *fleet) revive(m *member, pause time.Duration) {
	k := m.link
	if !sleep(k.ctx, pause) {
		return
	}
	for !f.answers(k) {
		if !sleep(k.ctx, f.cfg.Comet.BackoffMax) {
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.state != dead || f.links[k.host] != m {
		return
	}
	m.state = live
	k.begin()
	f.publish()
	f.log.Info("comet is back", "comet", k.host)
}

// answers waits for a connection to the comet, and asks it something.
func (f *fleet) answers(k *link) bool {
	client := k.comet()
	if client.Connected(k.ctx) != nil {
		return false // it was replaced, or a try of its own failed
	}
	ctx, cancel := context.WithTimeout(k.ctx, f.cfg.Comet.RPCTimeout)
	defer cancel()
	_, err := client.Rooms(ctx)
	return err == nil || status.Code(err) == codes.Unimplemented
}

// publish makes the live links the roster. mu must be held.
func (f *fleet) publish() {
	r := &roster{byHost: make(map[string]*link)}
	for host, m := range f.links {
		switch m.state {
		case live:
			r.links = append(r.links, m.link)
			r.byHost[host] = m.link
		case dead:
			r.dead++
		case leaving:
			r.leaving++
		}
	}
	slices.SortFunc(r.links, func(a, b *link) int { return strings.Compare(a.host, b.host) })
	for _, k := range r.links {
		r.sessions = append(r.sessions, f.links[k.host].sessions)
	}
	f.live.Store(r)
	f.notify()
}

// hand gives r to the comets that it is for and reports whether there was any comet at
// all. r is held by the caller and was added to its partition; when hand returns true, the
// hold was released and r must not be used any more.
func (f *fleet) hand(r *record) bool {
	to := f.live.Load()
	if len(to.links) == 0 {
		return false
	}
	if r.kind != kindPush && to.dead+to.leaving > 0 {
		f.metrics.drop(dropCometDead, to.dead)
		f.metrics.drop(dropCometGone, to.leaving)
	}
	switch r.kind {
	case kindRoom:
		f.handTo(r, maphash.String(f.seed, r.room), to.links...)
	case kindBroadcast:
		if r.pace != nil {
			r.pace.divide(to)
		}
		f.handTo(r, 0, to.links...)
	case kindPush:
		k := to.byHost[r.server]
		if k == nil {
			f.metrics.drop(dropCometGone, 1)
			release(r)
			break
		}
		f.handTo(r, maphash.String(f.seed, r.keys[0]), k)
	}
	return true
}

// handTo adds r to one lane of each link, and gives up the caller's hold.
func (f *fleet) handTo(r *record, hash uint64, links ...*link) {
	r.holds.Add(int32(len(links)))
	for _, k := range links {
		if !k.add(r, hash) {
			f.metrics.drop(dropCometGone, 1)
			release(r)
		}
	}
	release(r)
}

// forget takes the records of a revoked partition out of all lanes. They are not released:
// the offset must not move over what was not delivered.
func (f *fleet) forget(p *partition) {
	for _, k := range f.everyLink() {
		for _, l := range k.all() {
			records := l.discard(func(r *record) bool { return r.part == p })
			f.metrics.givenBack[backRevoked].Add(float64(len(records)))
		}
	}
}

// waiting returns the records that wait for any comet or are in flight.
func (f *fleet) waiting() int {
	n := 0
	for _, k := range f.everyLink() {
		records, _ := k.load()
		n += records
	}
	return n
}

func (f *fleet) everyLink() []*link {
	f.mu.Lock()
	defer f.mu.Unlock()
	links := make([]*link, 0, len(f.links))
	for _, m := range f.links {
		links = append(links, m.link)
	}
	return links
}

// ready returns nil when records can be handed out, else what is waited for.
func (f *fleet) ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known {
		return errors.New("waiting for discovery's first list of comets")
	}
	if f.cfg.Comet.WaitForFirst && len(f.live.Load().links) == 0 {
		return fmt.Errorf("waiting for a comet: %d are known, none is live", len(f.links))
	}
	return nil
}

// Describe and Collect make the fleet a prometheus.Collector: comets come and go, and the
// series with them.
func (f *fleet) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range fleetDescs() {
		ch <- d
	}
}

func (f *fleet) Collect(ch chan<- prometheus.Metric) {
	descs := fleetDescs()
	f.mu.Lock()
	members := make(map[string]member, len(f.links))
	for host, m := range f.links {
		members[host] = *m
	}
	f.mu.Unlock()
	for host, m := range members {
		up := 0.0
		if m.state == live {
			up = 1
		}
		records, bytes := m.link.load()
		for i, v := range []float64{up, float64(records), float64(bytes)} {
			ch <- prometheus.MustNewConstMetric(descs[i], prometheus.GaugeValue, v, host)
		}
	}
}

func fleetDescs() [3]*prometheus.Desc {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("barrage_job_"+name, help, []string{"comet"}, nil)
	}
	return [3]*prometheus.Desc{
		desc("comet_up", "Whether records are sent to the comet: 1, or 0 when it was given up or is leaving."),
		desc("lane_pending_records", "Records that wait in the comet's lanes or are in flight to it."),
		desc("lane_pending_bytes", "Bytes that wait in the comet's lanes or are in flight to it."),
	}
}
