package presence

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"barrage/server/config"
)

// A Config is the section redis of logic's file.
type Config struct {
	Network      string        `toml:"network" oneof:"tcp unix" doc:"tcp, or unix for a socket's path in addr"`
	Addr         string        `toml:"addr" doc:"address host:port; several, separated by commas, are nodes of a cluster, or sentinels when masterName is set"`
	Auth         string        `toml:"auth" secret:"yes" doc:"password, empty for none"`
	DB           int           `toml:"db" range:"0.." doc:"database number, not for a cluster"`
	MasterName   string        `toml:"masterName" doc:"name of the master that the sentinels at addr watch, empty without sentinels"`
	Cluster      bool          `toml:"cluster" doc:"whether the single address in addr belongs to a cluster"`
	Active       int           `toml:"active" range:"1..1000000" doc:"connections at most, to each node"`
	Idle         int           `toml:"idle" range:"0.." doc:"idle connections that are kept, to each node"`
	DialTimeout  time.Duration `toml:"dialTimeout" range:"1ms..1m" doc:"time to connect"`
	ReadTimeout  time.Duration `toml:"readTimeout" range:"1ms..1m" doc:"time to read an answer"`
	WriteTimeout time.Duration `toml:"writeTimeout" range:"1ms..1m" doc:"time to write commands"`
	IdleTimeout  time.Duration `toml:"idleTimeout" range:"1s.." doc:"how long an idle connection is kept"`
	Batch        int           `toml:"batch" range:"1..4096" doc:"sessions at most that one round trip enters, renews or forgets"`
	Batches      int           `toml:"batches" range:"1..1000" doc:"such round trips under way at a time, of each kind; the sessions that come meanwhile go along with the next one"`
	Expire       time.Duration `toml:"expire" range:"1m.." doc:"how long sessions and room counts are remembered without being renewed"`
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
		Batch:        128,
		Batches:      2,
		Expire:       30 * time.Minute,
	}
}

// Validate returns an error that names the first field out of range.
func (c *Config) Validate() error {
	if err := config.CheckAt("redis", c); err != nil {
		return err
	}
	if len(c.addrs()) == 0 {
		return errors.New("redis.addr: it is empty; it needs an address")
	}
	if c.DB != 0 && c.clustered() {
		return fmt.Errorf("redis.db: a cluster has database 0 only, not %d", c.DB)
	}
	if c.Idle > c.Active {
		return fmt.Errorf("redis.idle: %d is more than redis.active, %d", c.Idle, c.Active)
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
