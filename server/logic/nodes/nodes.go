package nodes

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	pb "barrage/server/api/logic"
)

// Config is the section node of logic's file: what clients are told.
type Config struct {
	DefaultDomain string        `toml:"defaultDomain" doc:"Host that clients are told of when no comet is known, and as the domain in any case."`
	HostDomain    string        `toml:"hostDomain" doc:"What is put behind a comet's host name for clients of the platform web."`
	TCPPort       int           `toml:"tcpPort" doc:"Port for TCP that clients are told, 0 to 65535."`
	WSPort        int           `toml:"wsPort" doc:"Port for WebSocket that clients are told, 0 to 65535."`
	WSSPort       int           `toml:"wssPort" doc:"Port for WebSocket over TLS that clients are told, 0 to 65535."`
	Heartbeat     time.Duration `toml:"heartbeat" doc:"Time between two heartbeats of a client, 1s to 24h."`
	HeartbeatMax  int           `toml:"heartbeatMax" doc:"Heartbeats that a client may miss before its session is closed, 1 to 1000."`
	RegionWeight  float64       `toml:"regionWeight" doc:"What a comet's weight is multiplied by for clients of its own region, 0.1 to 1000."`
}

// DefaultConfig has the values of goim's example.
func DefaultConfig() Config {
	return Config{
		DefaultDomain: "conn.goim.io", HostDomain: ".goim.io", TCPPort: 3101, WSPort: 3102, WSSPort: 3103,
		Heartbeat: 4 * time.Minute, HeartbeatMax: 2, RegionWeight: 1.6,
	}
}

// Validate returns an error that names the first field out of range, and the range.
func (c *Config) Validate() error {
	for _, p := range []struct {
		name string
		port int
	}{{"tcpPort", c.TCPPort}, {"wsPort", c.WSPort}, {"wssPort", c.WSSPort}} {
		if p.port < 0 || p.port > 65535 {
			return fmt.Errorf("node.%s: %d is outside 0 to 65535", p.name, p.port)
		}
	}
	if c.Heartbeat < time.Second || c.Heartbeat > 24*time.Hour {
		return fmt.Errorf("node.heartbeat: %v is outside 1s to 24h0m0s", c.Heartbeat)
	}
	if c.HeartbeatMax < 1 || c.HeartbeatMax > 1000 {
		return fmt.Errorf("node.heartbeatMax: %d is outside 1 to 1000", c.HeartbeatMax)
	}
	if c.RegionWeight < 0.1 || c.RegionWeight > 1000 {
		return fmt.Errorf("node.regionWeight: %v is outside 0.1 to 1000", c.RegionWeight)
	}
	return nil
}

// Backoff is the section backoff of logic's file: how clients wait before they connect again.
type Backoff struct {
	MaxDelay  int32   `toml:"maxDelay" doc:"Longest wait of a client before it connects again, in seconds."`
	BaseDelay int32   `toml:"baseDelay" doc:"Wait before the first try, in seconds."`
	Factor    float32 `toml:"factor" doc:"What the wait is multiplied by after each try."`
	Jitter    float32 `toml:"jitter" doc:"Random part of the wait, 0 to 1."`
}

// DefaultBackoff has the values of goim's example.
func DefaultBackoff() Backoff { return Backoff{MaxDelay: 300, BaseDelay: 3, Factor: 1.8, Jitter: 0.3} }

// Validate returns an error that names the first field out of range, and the range.
func (b *Backoff) Validate() error {
	switch {
	case b.MaxDelay < 0 || b.BaseDelay < 0 || b.BaseDelay > b.MaxDelay:
		return fmt.Errorf("backoff.baseDelay: %d is outside 0 to backoff.maxDelay, %d", b.BaseDelay, b.MaxDelay)
	case b.Factor < 1 || b.Factor > 100:
		return fmt.Errorf("backoff.factor: %v is outside 1 to 100", b.Factor)
	case b.Jitter < 0 || b.Jitter > 1:
		return fmt.Errorf("backoff.jitter: %v is outside 0 to 1", b.Jitter)
	}
	return nil
}

// platformWeb is the platform whose clients are told host names: a certificate has those.
const platformWeb = "web"

// Advice is what clients are told, by a configuration and a balancer.
type Advice struct {
	Node     Config
	Backoff  Backoff
	Regions  *Regions
	Balancer *Balancer
}

// For returns what a client is told, of a platform and at an address, which may be empty.
func (a *Advice) For(platform, clientIP string) *pb.NodesReply {
	reply := &pb.NodesReply{
		Domain:  a.Node.DefaultDomain,
		TcpPort: int32(a.Node.TCPPort), WsPort: int32(a.Node.WSPort), WssPort: int32(a.Node.WSSPort),
		Heartbeat: int32(a.Node.Heartbeat / time.Second), HeartbeatMax: int32(a.Node.HeartbeatMax),
		Backoff: &pb.Backoff{MaxDelay: a.Backoff.MaxDelay, BaseDelay: a.Backoff.BaseDelay, Factor: a.Backoff.Factor, Jitter: a.Backoff.Jitter},
	}
	hosts, addrs := a.Balancer.choose(a.Regions.Of(clientIP), a.Node.RegionWeight)
	if platform == platformWeb {
		for _, host := range hosts {
			reply.Nodes = append(reply.Nodes, host+a.Node.HostDomain)
		}
	} else {
		reply.Nodes = addrs
	}
	if len(reply.Nodes) == 0 {
		reply.Nodes = []string{a.Node.DefaultDomain}
	}
	return reply
}

// Regions knows which region an address is in.
type Regions struct {
	networks []network // longest prefix first
}

type network struct {
	prefix netip.Prefix
	region string
}

// NewRegions reads the section regions of logic's file: for each region a list of networks
// (10.1.0.0/16, 2001:db8::/32) whose clients are in it. goim's file has provinces there, but
// nothing in goim finds the province of an address: such names are accepted and mean nothing.
func NewRegions(section map[string][]string, log *slog.Logger) *Regions {
	r := &Regions{}
	names := 0
	for _, region := range slices.Sorted(maps.Keys(section)) {
		for _, entry := range section[region] {
			prefix, err := netip.ParsePrefix(entry)
			if err != nil {
				names++
				continue
			}
			r.networks = append(r.networks, network{prefix.Masked(), region})
		}
	}
	if names > 0 {
		log.Warn("names in section regions mean nothing without a lookup; networks like 10.1.0.0/16 tell a client's region", "names", names)
	}
	slices.SortStableFunc(r.networks, func(a, b network) int { return b.prefix.Bits() - a.prefix.Bits() })
	return r
}

// Of returns the region of an address, "" where it is unknown.
func (r *Regions) Of(address string) string {
	if len(r.networks) == 0 {
		return ""
	}
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	addr = addr.Unmap()
	for _, n := range r.networks {
		if n.prefix.Contains(addr) {
			return n.region
		}
	}
	return ""
}
