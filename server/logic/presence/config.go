package presence

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// A Config is the section redis of logic's file.
type Config struct {
	Network      string        `toml:"network" doc:"tcp, or unix for a socket's path in addr"`
	Addr         string        `toml:"addr" doc:"address host:port; several, separated by commas, are nodes of a cluster, or sentinels when masterName is set"`
	Auth         string        `toml:"auth" doc:"password, empty for none"`
	DB           int           `toml:"db" doc:"database number, not for a cluster"`
	MasterName   string        `toml:"masterName" doc:"name of the master that the sentinels at addr watch, empty without sentinels"`
	Cluster      bool          `toml:"cluster" doc:"whether the single address in addr belongs to a cluster"`
	Active       int           `toml:"active" doc:"connections at most, to each node"`
	Idle         int           `toml:"idle" doc:"idle connections that are kept, to each node"`
	DialTimeout  time.Duration `toml:"dialTimeout" doc:"time to connect"`
	ReadTimeout  time.Duration `toml:"readTimeout" doc:"time to read an answer"`
	WriteTimeout time.Duration `toml:"writeTimeout" doc:"time to write commands"`
	IdleTimeout  time.Duration `toml:"idleTimeout" doc:"how long an idle connection is kept"`
	Expire       time.Duration `toml:"expire" doc:"how long sessions and room counts are remembered without being renewed"`
}

// DefaultConfig returns goim's settings for a Redis on this machine.
func DefaultConfig() Config {
	return Config{
		Network:      "tcp",
		Addr:         "127.0.0.1:6379",
		Active:       256,
		Idle:         32,
		DialTimeout:  500 * time.Millisecond,
		ReadTimeout:  500 * time.Millisecond,
		WriteTimeout: 500 * time.Millisecond,
		IdleTimeout:  2 * time.Minute,
		Expire:       30 * time.Minute,
	}
}

// Validate returns an error that names the first field out of range.
func (c *Config) Validate() error {
	if c.Network != "tcp" && c.Network != "unix" {
		return fmt.Errorf("redis.network: %q is neither tcp nor unix", c.Network)
	}
	if len(c.addrs()) == 0 {
		return errors.New("redis.addr: must not be empty")
	}
	if c.DB < 0 {
		return fmt.Errorf("redis.db: %d is negative", c.DB)
	}
	if c.DB != 0 && c.clustered() {
		return fmt.Errorf("redis.db: a cluster has database 0 only, not %d", c.DB)
	}
	if c.Active < 1 || c.Active > 1_000_000 {
		return fmt.Errorf("redis.active: %d is outside 1 to 1000000", c.Active)
	}
	if c.Idle < 0 || c.Idle > c.Active {
		return fmt.Errorf("redis.idle: %d is outside 0 to redis.active, %d", c.Idle, c.Active)
	}
	for _, t := range []struct {
		name  string
		value time.Duration
	}{{"dialTimeout", c.DialTimeout}, {"readTimeout", c.ReadTimeout}, {"writeTimeout", c.WriteTimeout}} {
		if t.value < time.Millisecond || t.value > time.Minute {
			return fmt.Errorf("redis.%s: %v is outside 1ms to 1m", t.name, t.value)
		}
	}
	if c.IdleTimeout < time.Second {
		return fmt.Errorf("redis.idleTimeout: %v is less than 1s", c.IdleTimeout)
	}
	if c.Expire < time.Minute {
		return fmt.Errorf("redis.expire: %v is less than 1m", c.Expire)
	}
	return nil
}

func (c *Config) addrs() (addrs []string) {
	for addr := range strings.SplitSeq(c.Addr, ",") {
		if addr = strings.TrimSpace(addr); addr != "" {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func (c *Config) clustered() bool {
	return c.MasterName == "" && (c.Cluster || len(c.addrs()) > 1)
}

func (c *Config) options() *redis.UniversalOptions {
	o := &redis.UniversalOptions{
		Addrs:                 c.addrs(),
		Password:              c.Auth,
		DB:                    c.DB,
		MasterName:            c.MasterName,
		IsClusterMode:         c.Cluster && c.MasterName == "",
		ClientName:            "barrage-logic",
		DisableIdentity:       true, // CLIENT SETINFO is unknown to old servers
		MaxRetries:            1,    // a connection that died while idle
		DialerRetries:         1,
		DialTimeout:           c.DialTimeout,
		ReadTimeout:           c.ReadTimeout,
		WriteTimeout:          c.WriteTimeout,
		PoolTimeout:           c.ReadTimeout,
		ContextTimeoutEnabled: true,
		PoolSize:              c.Active,
		PipelinePoolSize:      -1, // everything is a pipeline: one pool is enough
		MaxIdleConns:          c.Idle,
		ConnMaxIdleTime:       c.IdleTimeout,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}
	if c.Network == "unix" {
		o.Dialer = dialUnix(c.DialTimeout)
	}
	return o
}
