// Package nodes says which comets a new client should try: those that discovery lists and
// that take clients, weighted as goim does it, by what they are set to, by how many
// connections they have, and by whether they are in the client's region.
package nodes

import (
	"cmp"
	"log/slog"
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

// A Balancer chooses comets. Its methods may be called from any goroutine.
type Balancer struct {
	log     *slog.Logger
	known   prometheus.Gauge
	skipped prometheus.Counter
	refused prometheus.Counter
	now     func() time.Time

	mu     sync.Mutex // guards what follows
	nodes  map[string]*node
	conns  int64 // of all nodes
	fixed  int64
	doubt  []discovery.Instance // the list that is not believed, nil: there is none
	since  time.Time            // when the first such list came
	listed []discovery.Instance // the comets that take clients, by discovery's newest list
}

// NewBalancer returns a balancer that knows no comet yet.
func NewBalancer(log *slog.Logger, reg prometheus.Registerer) *Balancer {
	b := &Balancer{
		log: log, now: time.Now, nodes: map[string]*node{},
		known: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "barrage_logic_balanced_comets", Help: "Comets that new clients are sent to."}),
		skipped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "barrage_logic_comets_skipped_total", Help: "Comets left out of a list since their metadata has no weight or no connections."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "barrage_logic_comet_lists_refused_total", Help: "Lists of comets not believed since they lack more than half of the known ones."}),
	}
	reg.MustRegister(b.known, b.skipped, b.refused)
	return b
}

// Update takes discovery's newest list of comets.
func (b *Balancer) Update(list []discovery.Instance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var live []discovery.Instance
	for _, in := range list {
		if takesClients(in) {
			live = append(live, in)
		}
	}
	b.listed = live
	if len(b.nodes) > 0 && 2*len(live) < len(b.nodes) {
		b.refused.Inc()
		if b.doubt == nil {
			b.since = b.now()
			b.log.Warn("discovery lists less than half of the comets that were there; new clients are sent to the known ones for now",
				"known", len(b.nodes), "listed", len(live), "patience", lossPatience)
		}
		b.doubt = slices.Clone(live)
		if b.doubt == nil {
			b.doubt = []discovery.Instance{}
		}
		b.believe()
		return
	}
	b.doubt = nil
	b.take(live)
}

// takesClients says whether a comet is online, by the metadata that goim goes by.
func takesClients(in discovery.Instance) bool {
	offline, err := strconv.ParseBool(in.Metadata["offline"])
	if err != nil || offline {
		return false
	}
	for _, name := range []string{"conn_count", "ip_count"} {
		if _, err := strconv.ParseInt(in.Metadata[name], 10, 32); err != nil {
			return false
		}
	}
	return true
}

// believe takes the list that was in doubt for long enough. mu must be held.
func (b *Balancer) believe() {
	if b.doubt == nil || b.now().Sub(b.since) < lossPatience {
		return
	}
	b.log.Warn("the comets that were missing have not come back", "known", len(b.nodes), "listed", len(b.doubt))
	list := b.doubt
	b.doubt = nil
	b.take(list)
}

// take makes the list the known nodes. One whose instance is unchanged keeps its count. mu
// must be held.
func (b *Balancer) take(list []discovery.Instance) {
	nodes := make(map[string]*node, len(list))
	b.conns, b.fixed = 0, 0
	for _, in := range list {
		n := b.nodes[in.Hostname]
		if n == nil || n.updated != in.LatestTimestamp {
			weight, err1 := strconv.ParseInt(in.Metadata["weight"], 10, 32)
			conns, err2 := strconv.ParseInt(in.Metadata["conn_count"], 10, 32)
			if err1 != nil || err2 != nil {
				b.skipped.Inc()
				b.log.Debug("comet left out", "comet", in.Hostname, "weight", in.Metadata["weight"], "conn_count", in.Metadata["conn_count"])
				continue
			}
			n = &node{region: in.Region, host: in.Hostname, fixed: weight, conns: conns, updated: in.LatestTimestamp}
			for addr := range strings.SplitSeq(in.Metadata["addrs"], ",") {
				if addr = strings.TrimSpace(addr); addr != "" {
					n.addrs = append(n.addrs, addr)
				}
			}
		}
		if nodes[in.Hostname] != nil {
			continue // listed twice
		}
		nodes[in.Hostname] = n
		b.conns += n.conns
		b.fixed += n.fixed
	}
	b.nodes = nodes
	b.known.Set(float64(len(nodes)))
}

// choose returns the hosts and public addresses of up to maxNodes nodes, the best first,
// which gets the client that is about to come.
func (b *Balancer) choose(region string, regionWeight float64) (hosts, addrs []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.believe()
	list := make([]*node, 0, len(b.nodes))
	for _, n := range b.nodes {
		gain := 1.0
		if region != "" && n.region == region {
			gain = regionWeight
		}
		n.weigh(b.fixed, b.conns, gain)
		list = append(list, n)
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
// where its connections count half.
func (n *node) weigh(totalFixed, totalConns int64, gain float64) {
	if totalConns == 0 {
		n.weight = 0
		return
	}
	fixed := float64(n.fixed) * gain
	totalFixed += int64(fixed) - n.fixed
	share := fixed / float64(totalFixed)
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
