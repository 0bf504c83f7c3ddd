package logic

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"barrage/server/admin"
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
	Auth         auth.Config   `toml:"auth"`
	MaxBody      int           `toml:"maxBody" doc:"largest message in bytes; the topic's max.message.bytes must be a little more (4 KiB and the keys' length)"`
}

// SessionConfig bounds how many sessions there may be at a time, over all comets.
type SessionConfig struct {
	MaxPerKey int    `toml:"maxPerKey" doc:"sessions with one key, 0 for any number"`
	MaxPerMid int    `toml:"maxPerMid" doc:"sessions of one member, 0 for any number"`
	Policy    string `toml:"policy" doc:"what happens to the one too many: replace (the oldest is closed) or reject (it is not let in)"`
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
	Period time.Duration `toml:"period" doc:"time between two sums of all comets' room counts"`
	MaxAge time.Duration `toml:"maxAge" doc:"age from which on a comet's room counts are not counted"`
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
		{"online.maxAge", c.Online.MaxAge, time.Second, 24 * time.Hour},
		{"online.period", c.Online.Period, 10 * time.Millisecond, c.Online.MaxAge},
	} {
		if t.value < t.low || t.value > t.high {
			return fmt.Errorf("%s: %v is outside %v to %v", t.name, t.value, t.low, t.high)
		}
	}
	if c.HTTPServer.MaxBody < 1 || c.HTTPServer.MaxBody > 15<<20 {
		return fmt.Errorf("httpServer.maxBody: %d is outside 1 to %d", c.HTTPServer.MaxBody, 15<<20)
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"maxPerKey", c.Session.MaxPerKey}, {"maxPerMid", c.Session.MaxPerMid}} {
		if n.value < 0 || n.value > 10_000 {
			return fmt.Errorf("session.%s: %d is outside 0 to 10000", n.name, n.value)
		}
	}
	if p := c.Session.Policy; p != policyReplace && p != policyReject {
		return fmt.Errorf("session.policy: %q is neither %s nor %s", p, policyReplace, policyReject)
	}
	if err := c.Node.Validate(); err != nil {
		return err
	}
	if err := c.Backoff.Validate(); err != nil {
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
