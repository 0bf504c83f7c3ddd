// Package nodes says which comets a new client should try: those that discovery lists and
// that take clients, weighted as goim does it, by what they are set to, by how many
// connections they have, and by whether they are in the client's region.
package nodes

import (
	"cmp"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"barrage/server/discovery"
)

// Bounds of a node's weight, and how many nodes a client is told of. They are goim's.
const (
	minWeight = 1
	maxWeight = 1 << 20
	maxNodes  = 5
)

// lossPatience is how long a list that lacks more than half of the known nodes is not
// believed: discovery may have lost them, and not the cluster. What is still so then is true.
const lossPatience = 90 * time.Second

// A node is a comet as the balancer knows it.
type node struct {
	region  string
	host    string
	addrs   []string // public
	fixed   int64    // the weight that it is set to
	weight  int64    // of the last choice
	conns   int64    // as reported, and those that were sent there since
	updated int64    // the instance's timestamp
}

// A flaw is the metadata for which a comet is left out: it is missing or no number that
// makes sense there.
type flaw string

const (
	flawOffline flaw = "offline"
	flawConns   flaw = "conn_count"
	flawIPs     flaw = "ip_count"
	flawWeight  flaw = "weight"
)

// A Balancer chooses comets. Its methods may be called from any goroutine.
type Balancer struct {
	log     *slog.Logger
	known   prometheus.Gauge
	skipped map[flaw]prometheus.Counter // never changed
	refused prometheus.Counter
	now     func() time.Time

	mu     sync.Mutex // guards what follows
	nodes  map[string]*node
	conns  int64 // of all nodes
	fixed  int64
	doubt  map[string]*node     // the list that is not believed, nil: there is none
	since  time.Time            // when the first such list came
	flawed map[string]flaw      // the comets that the newest list left out
	listed []discovery.Instance // the comets that take clients, by discovery's newest list
}

// NewBalancer returns a balancer that knows no comet yet.
func NewBalancer(log *slog.Logger, reg prometheus.Registerer) *Balancer {
	skipped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_logic_comets_skipped_total", Help: "Comets left out of a list of discovery, by the metadata that was missing or wrong."}, []string{"reason"})
	b := &Balancer{
		log: log, now: time.Now, nodes: map[string]*node{}, skipped: map[flaw]prometheus.Counter{},
		known: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "barrage_logic_balanced_comets", Help: "Comets that new clients are sent to."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "barrage_logic_comet_lists_refused_total", Help: "Lists of comets not believed since they lack more than half of the known ones."}),
	}
	for _, f := range []flaw{flawOffline, flawConns, flawIPs, flawWeight} {
		b.skipped[f] = skipped.WithLabelValues(string(f))
	}
	reg.MustRegister(b.known, skipped, b.refused)
	return b
}

// Update takes discovery's newest list of comets. A comet that says itself that it is offline
// is not offered from now on. A list that then lacks more than half of the known comets is
// not believed before this has lasted for lossPatience, whatever else changes in it.
func (b *Balancer) Update(list []discovery.Instance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	live, offline := b.read(list)
	b.drop(offline)
	if 2*len(live) >= len(b.nodes) {
		b.doubt = nil
		b.take(live)
		return
	}
	b.refused.Inc()
	if b.doubt == nil {
		b.since = b.now()
		b.log.Warn("discovery lists less than half of the comets that were there; new clients are sent to the known ones for now",
			"known", len(b.nodes), "listed", len(live), "patience", lossPatience)
	}
	b.doubt = live
	b.believe()
}

// read returns the comets of a list that clients can be sent to, by name, and the names of
// those that are offline. It notes which are left out and which are listed. mu must be held.
func (b *Balancer) read(list []discovery.Instance) (live map[string]*node, offline []string) {
	live = make(map[string]*node, len(list))
	flawed := map[string]flaw{}
	b.listed = nil
	for _, in := range list {
		n, flaw := parse(in)
		if flaw != "" {
			b.skipped[flaw].Inc()
			if b.flawed[in.Hostname] != flaw {
				b.log.Warn("comet left out", "comet", in.Hostname, "reason", string(flaw), "value", in.Metadata[string(flaw)])
			}
			flawed[in.Hostname] = flaw
		}
		switch {
		case n != nil:
			b.listed = append(b.listed, in)
			if live[n.host] == nil { // not listed twice
				live[n.host] = n
			}
		case flaw == flawWeight: // goim lists it, but sends nobody there
			b.listed = append(b.listed, in)
		case flaw == "":
			offline = append(offline, in.Hostname)
		}
	}
	b.flawed = flawed
	// A name may be listed twice, by a comet that has moved.
	offline = slices.DeleteFunc(offline, func(host string) bool { return live[host] != nil })
	return live, offline
}

// parse returns the comet that an instance is, nil when it takes no clients: it is offline,
// or its metadata has a flaw.
func parse(in discovery.Instance) (*node, flaw) {
	offline, err := strconv.ParseBool(in.Metadata["offline"])
	if err != nil {
		return nil, flawOffline
	}
	if offline {
		return nil, ""
	}
	n := &node{region: in.Region, host: in.Hostname, updated: in.LatestTimestamp}
	var ips int64 // is of no use here, but goim asks for it
	for _, figure := range []struct {
		of flaw
		at *int64
	}{{flawConns, &n.conns}, {flawIPs, &ips}, {flawWeight, &n.fixed}} {
		*figure.at, err = strconv.ParseInt(in.Metadata[string(figure.of)], 10, 32)
		if err != nil || *figure.at < 0 {
			return nil, figure.of
		}
	}
	for addr := range strings.SplitSeq(in.Metadata["addrs"], ",") {
		if addr = strings.TrimSpace(addr); addr != "" {
			n.addrs = append(n.addrs, addr)
		}
	}
	return n, ""
}

// drop forgets known comets. mu must be held.
func (b *Balancer) drop(hosts []string) {
	for _, host := range hosts {
		delete(b.nodes, host)
	}
	b.take(b.nodes)
}

// believe takes the list that was in doubt for long enough. mu must be held.
func (b *Balancer) believe() {
	if b.doubt == nil || b.now().Sub(b.since) < lossPatience {
		return
	}
	b.log.Warn("the comets that were missing have not come back", "known", len(b.nodes), "listed", len(b.doubt))
	live := b.doubt
	b.doubt = nil
	b.take(live)
}

// take makes live the known nodes. One whose instance is unchanged keeps its count. mu must
// be held.
func (b *Balancer) take(live map[string]*node) {
	b.conns, b.fixed = 0, 0
	for host, n := range live {
		if old := b.nodes[host]; old != nil && old.updated == n.updated {
			n = old
			live[host] = old
		}
		b.conns += n.conns
		b.fixed += n.fixed
	}
	b.nodes = live
	b.known.Set(float64(len(live)))
}

// choose returns the hosts and public addresses of up to maxNodes nodes, the best first,
// which gets the client that is about to come.
func (b *Balancer) choose(region string, regionWeight float64) (hosts, addrs []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.believe()
	list := slices.AppendSeq(make([]*node, 0, len(b.nodes)), maps.Values(b.nodes))
	for _, n := range list {
		gain := 1.0
		if region != "" && n.region == region {
			gain = regionWeight
		}
		n.weigh(b.fixed, b.conns, gain)
	}
	slices.SortFunc(list, func(x, y *node) int {
		return cmp.Or(cmp.Compare(y.weight, x.weight), cmp.Compare(x.conns, y.conns), cmp.Compare(x.host, y.host))
	})
	for i, n := range list {
		if i == 0 {
			n.conns++
			b.conns++
		}
		if i == maxNodes {
			break
		}
		hosts = append(hosts, n.host)
		addrs = append(addrs, n.addrs...)
	}
	return hosts, addrs
}

// weigh computes the node's weight, as goim does: the weight that it is set to (times gain
// in the client's region), and more by the connections that it has less than its share,
// where its connections count half. Where no node has a weight nobody has a share.
func (n *node) weigh(totalFixed, totalConns int64, gain float64) {
	if totalConns == 0 {
		n.weight = 0
		return
	}
	fixed := float64(n.fixed) * gain
	totalFixed += int64(fixed) - n.fixed
	share := 0.0
	if totalFixed > 0 {
		share = fixed / float64(totalFixed)
	}
	held := float64(n.conns) / float64(totalConns) * 0.5
	more := (share - held) * float64(totalConns)
	floor := math.Floor(more)
	if floor-more >= -0.5 {
		n.weight = int64(fixed + floor)
	} else {
		n.weight = int64(fixed + math.Ceil(more))
	}
	if share < held {
		n.weight = max(n.weight, minWeight)
	} else {
		n.weight = min(n.weight, maxWeight)
	}
}

// An Instance is a comet as /goim/nodes/instances prints it.
type Instance struct {
	Region          string            `json:"region"`
	Zone            string            `json:"zone"`
	Env             string            `json:"env"`
	AppID           string            `json:"appid"`
	Hostname        string            `json:"hostname"`
	Addrs           []string          `json:"addrs"`
	Version         string            `json:"version"`
	LatestTimestamp int64             `json:"latest_timestamp"`
	Metadata        map[string]string `json:"metadata"`
}

// Instances returns the comets that take clients, as discovery lists them.
func (b *Balancer) Instances() []Instance {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]Instance, len(b.listed))
	for i, in := range b.listed {
		list[i] = Instance{
			Region: in.Region, Zone: in.Zone, Env: in.Env, AppID: in.AppID, Hostname: in.Hostname, Addrs: in.Addrs,
			Version: in.Version, LatestTimestamp: in.LatestTimestamp, Metadata: in.Metadata,
		}
	}
	return list
}
