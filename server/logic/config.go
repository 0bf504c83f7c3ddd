package logic

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"barrage/server/admin"
	"barrage/server/discovery"
	"barrage/server/logic/presence"
	"barrage/server/logic/producer"
)

// Config is logic's configuration. Sections and keys are goim's where goim has them.
type Config struct {
	Env        discovery.Env    `toml:"env"`
	Discovery  discovery.Config `toml:"discovery"`
	RPCServer  RPCServerConfig  `toml:"rpcServer"`
	HTTPServer HTTPServerConfig `toml:"httpServer"`
	Kafka      producer.Config  `toml:"kafka"`
	Redis      presence.Config  `toml:"redis"`
	Node       NodeConfig       `toml:"node"`
	Online     OnlineConfig     `toml:"online"`
	Admin      admin.Config     `toml:"admin"`
}

// RPCServerConfig is the gRPC service that comets call.
type RPCServerConfig struct {
	Network           string        `toml:"network" doc:"tcp, tcp4 or tcp6"`
	Addr              string        `toml:"addr" doc:"address of the gRPC service for comets"`
	Timeout           time.Duration `toml:"timeout" doc:"time that one call may take"`
	IdleTimeout       time.Duration `toml:"idleTimeout" doc:"how long a connection without calls is kept"`
	MaxLifeTime       time.Duration `toml:"maxLifeTime" doc:"age at which a connection is asked to end, so that comets spread over new processes"`
	ForceCloseWait    time.Duration `toml:"forceCloseWait" doc:"time for a connection's last calls, then and at shutdown"`
	KeepAliveInterval time.Duration `toml:"keepAliveInterval" doc:"time without traffic after which a connection is pinged"`
	KeepAliveTimeout  time.Duration `toml:"keepAliveTimeout" doc:"how long an answer to the ping may take"`
}

// HTTPServerConfig is the push API.
type HTTPServerConfig struct {
	Network      string        `toml:"network" doc:"tcp, tcp4 or tcp6"`
	Addr         string        `toml:"addr" doc:"address of the push API"`
	ReadTimeout  time.Duration `toml:"readTimeout" doc:"time from a request's first byte to its last"`
	WriteTimeout time.Duration `toml:"writeTimeout" doc:"time to write an answer"`
	IdleTimeout  time.Duration `toml:"idleTimeout" doc:"how long a connection waits for its next request"`
	MaxBody      int           `toml:"maxBody" doc:"largest message in bytes; the topic's max.message.bytes must be a little more (4 KiB and the keys' length)"`
}

// NodeConfig is what clients are told.
type NodeConfig struct {
	Heartbeat    time.Duration `toml:"heartbeat" doc:"time between two heartbeats of a client"`
	HeartbeatMax int           `toml:"heartbeatMax" doc:"heartbeats that a client may miss before its session is closed"`
}

// OnlineConfig is how sessions are counted.
type OnlineConfig struct {
	Period time.Duration `toml:"period" doc:"time between two sums of all comets' room counts"`
}

// maxHeader bounds a request's line and header, thus the keys of one push.
const maxHeader = 1 << 20

// maxRecord returns the size that a Kafka record must be able to have: the largest message
// with the most keys that a request can carry, and the record's own fields.
func (c *Config) maxRecord() int { return c.HTTPServer.MaxBody + maxHeader + 4096 }

// DefaultConfig returns goim's ports and times, with Kafka, Redis and discovery on this machine.
func DefaultConfig() Config {
	return Config{
		Env:       discovery.DefaultEnv(),
		Discovery: discovery.DefaultConfig(),
		RPCServer: RPCServerConfig{
			Network:           "tcp",
			Addr:              ":3119",
			Timeout:           time.Second,
			IdleTimeout:       time.Minute,
			MaxLifeTime:       2 * time.Hour,
			ForceCloseWait:    20 * time.Second,
			KeepAliveInterval: time.Minute,
			KeepAliveTimeout:  20 * time.Second,
		},
		HTTPServer: HTTPServerConfig{
			Network:      "tcp",
			Addr:         ":3111",
			ReadTimeout:  time.Second,
			WriteTimeout: time.Second,
			IdleTimeout:  time.Minute,
			MaxBody:      1 << 20,
		},
		Kafka:  producer.DefaultConfig(),
		Redis:  presence.DefaultConfig(),
		Node:   NodeConfig{Heartbeat: 4 * time.Minute, HeartbeatMax: 2},
		Online: OnlineConfig{Period: 10 * time.Second},
		Admin:  admin.DefaultConfig("logic"),
	}
}

// IgnoredKeys returns goim's keys for logic that mean nothing to us.
func IgnoredKeys() []string {
	return []string{
		"perf", "useNats", "nats", "rpcClient", "rpcServer.dial", "env.env", "env.ipAddrs",
		"regions", "backoff", "node.defaultDomain", "node.hostDomain", "node.tcpPort",
		"node.wsPort", "node.wssPort", "node.regionWeight",
	}
}

// Validate returns an error that names the first field out of range, and the range.
func (c *Config) Validate() error {
	for _, listen := range []struct{ section, network, addr string }{
		{"rpcServer", c.RPCServer.Network, c.RPCServer.Addr},
		{"httpServer", c.HTTPServer.Network, c.HTTPServer.Addr},
	} {
		if listen.network != "tcp" && listen.network != "tcp4" && listen.network != "tcp6" {
			return fmt.Errorf("%s.network: %q is none of tcp, tcp4, tcp6", listen.section, listen.network)
		}
		_, port, err := net.SplitHostPort(listen.addr)
		if err != nil {
			return fmt.Errorf("%s.addr: %q is no address host:port or :port", listen.section, listen.addr)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			return fmt.Errorf("%s.addr: port %q is outside 0 to 65535", listen.section, port)
		}
	}
	for _, t := range []struct {
		name             string
		value, low, high time.Duration
	}{
		{"rpcServer.timeout", c.RPCServer.Timeout, 10 * time.Millisecond, time.Minute},
		{"rpcServer.idleTimeout", c.RPCServer.IdleTimeout, time.Second, 24 * time.Hour},
		{"rpcServer.maxLifeTime", c.RPCServer.MaxLifeTime, time.Second, 1000 * time.Hour},
		{"rpcServer.forceCloseWait", c.RPCServer.ForceCloseWait, 0, 10 * time.Minute},
		{"rpcServer.keepAliveInterval", c.RPCServer.KeepAliveInterval, time.Second, 24 * time.Hour},
		{"rpcServer.keepAliveTimeout", c.RPCServer.KeepAliveTimeout, 100 * time.Millisecond, 10 * time.Minute},
		{"httpServer.readTimeout", c.HTTPServer.ReadTimeout, 10 * time.Millisecond, 10 * time.Minute},
		{"httpServer.writeTimeout", c.HTTPServer.WriteTimeout, 10 * time.Millisecond, 10 * time.Minute},
		{"httpServer.idleTimeout", c.HTTPServer.IdleTimeout, 10 * time.Millisecond, 24 * time.Hour},
		{"node.heartbeat", c.Node.Heartbeat, time.Second, 24 * time.Hour},
		{"online.period", c.Online.Period, 100 * time.Millisecond, presence.MaxReportAge},
	} {
		if t.value < t.low || t.value > t.high {
			return fmt.Errorf("%s: %v is outside %v to %v", t.name, t.value, t.low, t.high)
		}
	}
	if c.HTTPServer.MaxBody < 1 || c.HTTPServer.MaxBody > 15<<20 {
		return fmt.Errorf("httpServer.maxBody: %d is outside 1 to %d", c.HTTPServer.MaxBody, 15<<20)
	}
	if c.Node.HeartbeatMax < 1 || c.Node.HeartbeatMax > 1000 {
		return fmt.Errorf("node.heartbeatMax: %d is outside 1 to 1000", c.Node.HeartbeatMax)
	}
	if err := c.Kafka.Validate(); err != nil {
		return err
	}
	if c.Kafka.QueueBytes < c.maxRecord() {
		return fmt.Errorf("kafka.queueBytes: %d holds no record of httpServer.maxBody: needs %d at least", c.Kafka.QueueBytes, c.maxRecord())
	}
	return c.Redis.Validate()
}
