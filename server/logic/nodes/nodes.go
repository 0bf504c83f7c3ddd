package nodes

import (
	"fmt"
	"time"

	pb "barrage/server/api/logic"
)

// Config is the section node of logic's file: what clients are told.
type Config struct {
	DefaultDomain string        `toml:"defaultDomain" doc:"Host that clients are told of when no comet is known, and as the domain in any case."`
	HostDomain    string        `toml:"hostDomain" doc:"What is put behind a comet's host name for clients of the platform web."`
	TCPPort       int           `toml:"tcpPort" range:"0..65535" doc:"Port for TCP that clients are told."`
	WSPort        int           `toml:"wsPort" range:"0..65535" doc:"Port for WebSocket that clients are told."`
	WSSPort       int           `toml:"wssPort" range:"0..65535" doc:"Port for WebSocket over TLS that clients are told."`
	Heartbeat     time.Duration `toml:"heartbeat" range:"1s..24h" doc:"Time between two heartbeats of a client."`
	HeartbeatMax  int           `toml:"heartbeatMax" range:"1..1000" doc:"Heartbeats that a client may miss before its session is closed."`
	RegionWeight  float64       `toml:"regionWeight" range:"0.1..1000" doc:"What a comet's weight is multiplied by for clients of its own region."`
}

// DefaultConfig has the values of goim's example.
func DefaultConfig() Config {
	return Config{
		DefaultDomain: "conn.goim.io", HostDomain: ".goim.io", TCPPort: 3101, WSPort: 3102, WSSPort: 3103,
		Heartbeat: 4 * time.Minute, HeartbeatMax: 2, RegionWeight: 1.6,
	}
}

// Backoff is the section backoff of logic's file: how clients wait before they connect again.
type Backoff struct {
	MaxDelay  int32   `toml:"maxDelay" range:"0..86400" doc:"Longest wait of a client before it connects again, in seconds."`
	BaseDelay int32   `toml:"baseDelay" range:"0..86400" doc:"Wait before the first try, in seconds."`
	Factor    float32 `toml:"factor" range:"1..100" doc:"What the wait is multiplied by after each try."`
	Jitter    float32 `toml:"jitter" range:"0..2" doc:"Random part of the wait, as a fraction of it; goim's code has 1.3, its example 0.3."`
}

// DefaultBackoff has the values of goim's example.
func DefaultBackoff() Backoff { return Backoff{MaxDelay: 300, BaseDelay: 3, Factor: 1.8, Jitter: 0.3} }

// Validate returns an error where the two delays contradict each other.
func (b *Backoff) Validate() error {
	if b.BaseDelay > b.MaxDelay {
		return fmt.Errorf("backoff.baseDelay: %d is more than backoff.maxDelay, %d", b.BaseDelay, b.MaxDelay)
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
