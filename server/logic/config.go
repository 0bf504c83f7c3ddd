package logic

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"barrage/server/admin"
	"barrage/server/config"
	"barrage/server/discovery"
	"barrage/server/logic/auth"
	"barrage/server/logic/nodes"
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
	Node       nodes.Config     `toml:"node"`
	Backoff    nodes.Backoff    `toml:"backoff"`
	// Regions are the clients of each region, see nodes.NewRegions.
	Regions map[string][]string `toml:"regions" doc:"For each region the networks (10.1.0.0/16) of its clients."`
	Session SessionConfig       `toml:"session"`
	Online  OnlineConfig        `toml:"online"`
	Admin   admin.Config        `toml:"admin"`
}

// RPCServerConfig is the gRPC service that comets call.
type RPCServerConfig struct {
	Network           string        `toml:"network" oneof:"tcp tcp4 tcp6" doc:"tcp, tcp4 or tcp6"`
	Addr              string        `toml:"addr" doc:"address of the gRPC service for comets"`
	Timeout           time.Duration `toml:"timeout" range:"10ms..1m" doc:"time that one call may take; sessions that connect, end or are renewed wait for their turn for as long as their comet does, and then it is the time for their round trip to Redis"`
	IdleTimeout       time.Duration `toml:"idleTimeout" range:"1s..24h" doc:"how long a connection without calls is kept"`
	MaxLifeTime       time.Duration `toml:"maxLifeTime" range:"1s..1000h" doc:"age at which a connection is asked to end, so that comets spread over new processes"`
	ForceCloseWait    time.Duration `toml:"forceCloseWait" range:"0s..10m" doc:"time for a connection's last calls, then and at shutdown"`
	KeepAliveInterval time.Duration `toml:"keepAliveInterval" range:"1s..24h" doc:"time without traffic after which a connection is pinged"`
	KeepAliveTimeout  time.Duration `toml:"keepAliveTimeout" range:"100ms..10m" doc:"how long an answer to the ping may take"`
}

// HTTPServerConfig is the push API.
type HTTPServerConfig struct {
	Network      string        `toml:"network" oneof:"tcp tcp4 tcp6" doc:"tcp, tcp4 or tcp6"`
	Addr         string        `toml:"addr" doc:"address of the push API"`
	ReadTimeout  time.Duration `toml:"readTimeout" range:"10ms..10m" doc:"time from a request's first byte to its last"`
	WriteTimeout time.Duration `toml:"writeTimeout" range:"10ms..10m" doc:"time to write an answer"`
	IdleTimeout  time.Duration `toml:"idleTimeout" range:"10ms..24h" doc:"how long a connection waits for its next request"`
	Auth         auth.Config   `toml:"auth"`
	MaxBody      int           `toml:"maxBody" range:"1..15728640" doc:"largest message in bytes; the topic's max.message.bytes must be a little more (4 KiB and the keys' length)"`
}

// SessionConfig bounds how many sessions there may be at a time, over all comets.
type SessionConfig struct {
	MaxPerKey int    `toml:"maxPerKey" range:"0..1000" doc:"sessions with one key, 0 for any number; a bound is kept by reading all of them when one connects, hence the range"`
	MaxPerMid int    `toml:"maxPerMid" range:"0..1000" doc:"sessions of one member, 0 for any number; a bound is kept as for maxPerKey"`
	Policy    string `toml:"policy" oneof:"replace reject" doc:"what happens to the one too many: replace (the oldest is closed) or reject (it is not let in)"`
}

// bounds are the settings as presence knows them.
func (c *SessionConfig) bounds() presence.Bounds {
	return presence.Bounds{PerKey: c.MaxPerKey, PerMid: c.MaxPerMid, Reject: c.Policy == policyReject}
}

// Policies for the session that is one too many.
const (
	policyReplace = "replace"
	policyReject  = "reject"
)

// OnlineConfig is how sessions are counted.
type OnlineConfig struct {
	Period time.Duration `toml:"period" range:"10ms..24h" doc:"time between two sums of all comets' room counts"`
	MaxAge time.Duration `toml:"maxAge" range:"1s..24h" doc:"age from which on a comet's room counts are not counted"`
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
		Kafka:   producer.DefaultConfig(),
		Redis:   presence.DefaultConfig(),
		Node:    nodes.DefaultConfig(),
		Backoff: nodes.DefaultBackoff(),
		Session: SessionConfig{MaxPerKey: 1, Policy: policyReplace},
		Online:  OnlineConfig{Period: 10 * time.Second, MaxAge: presence.MaxReportAge},
		Admin:   admin.DefaultConfig("logic"),
	}
}

// IgnoredKeys returns goim's keys for logic that mean nothing to us.
func IgnoredKeys() []string {
	return []string{
		"perf", "useNats", "nats", "rpcClient", "rpcServer.dial", "env.env", "env.ipAddrs",
	}
}

// Validate returns an error that names the fields out of range, and the ranges.
func (c *Config) Validate() error {
	if err := config.Check(c); err != nil {
		return err
	}
	for _, listen := range []struct{ field, addr string }{{"rpcServer.addr", c.RPCServer.Addr}, {"httpServer.addr", c.HTTPServer.Addr}} {
		_, port, err := net.SplitHostPort(listen.addr)
		if err != nil {
			return fmt.Errorf("%s: %q is no address host:port or :port", listen.field, listen.addr)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			return fmt.Errorf("%s: port %q is outside 0 to 65535", listen.field, port)
		}
	}
	if c.Online.Period > c.Online.MaxAge {
		return fmt.Errorf("online.period: %v is more than online.maxAge, %v", c.Online.Period, c.Online.MaxAge)
	}
	if err := c.Backoff.Validate(); err != nil {
		return err
	}
	if err := nodes.CheckRegions(c.Regions); err != nil {
		return err
	}
	if err := c.Kafka.Validate(); err != nil {
		return err
	}
	if c.Kafka.QueueBytes < c.maxRecord() {
		return fmt.Errorf("kafka.queueBytes: %d holds no record of httpServer.maxBody: needs %d at least", c.Kafka.QueueBytes, c.maxRecord())
	}
	return c.Redis.Validate()
}
