package logic

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"barrage/server/config"
)

// goimFile has every key of goim's example file for logic.
const goimFile = `
[regions]
    "bj" = ["北京","天津"]
    "sh" = ["上海"]

[node]
    defaultDomain = "conn.goim.io"
    hostDomain = ".goim.io"
    heartbeat = "30s"
    heartbeatMax = 3
    tcpPort = 3101
    wsPort = 3102
    wssPort = 3103
    regionWeight = 1.6

[backoff]
    maxDelay = 300
    baseDelay = 3
    factor = 1.8
    jitter = 0.3

[discovery]
    nodes = ["127.0.0.1:7171"]

[rpcServer]
    network = "tcp"
    addr = ":3119"
    timeout = "500ms"

[rpcClient]
    dial = "1s"
    timeout = "1s"

[httpServer]
    network = "tcp"
    addr = ":3111"
    readTimeout = "1s"
    writeTimeout = "1s"

[kafka]
    topic = "goim-push-topic"
    brokers = ["127.0.0.1:9092", "127.0.0.1:9093"]

[redis]
    network = "tcp"
    addr = "127.0.0.1:6379"
    active = 60000
    idle = 1024
    dialTimeout = "200ms"
    readTimeout = "500ms"
    writeTimeout = "500ms"
    idleTimeout = "120s"
    expire = "30m"
`

func TestGoimsFileLoads(t *testing.T) {
	file := filepath.Join(t.TempDir(), "logic.toml")
	if err := os.WriteFile(file, []byte(goimFile), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	spec := config.Spec{Role: "logic", Dst: &cfg, Ignored: IgnoredKeys()}
	args := []string{"-conf", file, "-region=sh", "-zone=sh001", "-deploy.env=dev", "-weight=10"}
	warnings, err := config.Load(spec, args, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "rpcClient") {
		t.Errorf("warnings are %q", warnings)
	}
	if cfg.Node.Heartbeat != 30*time.Second || cfg.Node.HeartbeatMax != 3 || cfg.Redis.Active != 60000 || len(cfg.Kafka.Brokers) != 2 || cfg.RPCServer.Timeout != 500*time.Millisecond {
		t.Errorf("loaded %+v", cfg)
	}
}

func TestValidate(t *testing.T) {
	cfg := DefaultConfig()
	if err := cfg.Validate(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	for _, test := range []struct {
		change func(c *Config)
		want   string
	}{
		{func(c *Config) { c.HTTPServer.Addr = "3111" }, `httpServer.addr: "3111" is no address host:port or :port`},
		{func(c *Config) { c.RPCServer.Addr = ":70000" }, `rpcServer.addr: port "70000" is outside 0 to 65535`},
		{func(c *Config) { c.RPCServer.Network = "udp" }, `rpcServer.network: "udp" is none of tcp, tcp4, tcp6`},
		{func(c *Config) { c.HTTPServer.ReadTimeout = 0 }, `httpServer.readTimeout: 0s is outside 10ms to 10m`},
		{func(c *Config) { c.HTTPServer.MaxBody = 16 << 20 }, `httpServer.maxBody: 16777216 is outside 1 to 15728640`},
		{func(c *Config) { c.Node.HeartbeatMax = 0 }, `node.heartbeatMax: 0 is outside 1 to 1000`},
		{func(c *Config) { c.Online.Period = time.Hour }, `online.period: 1h0m0s is more than online.maxAge, 5m0s`},
		{func(c *Config) { c.Online.MaxAge = 0 }, `online.maxAge: 0s is outside 1s to 24h`},
		{func(c *Config) { c.Session.MaxPerKey = -1 }, `session.maxPerKey: -1 is outside 0 to 1000`},
		{func(c *Config) { c.Session.MaxPerMid = 1001 }, `session.maxPerMid: 1001 is outside 0 to 1000`},
		{func(c *Config) { c.Session.Policy = "drop" }, `session.policy: "drop" is none of replace, reject`},
		{func(c *Config) { c.Backoff.Jitter = 2.5 }, `backoff.jitter: 2.5 is outside 0 to 2`},
		{func(c *Config) { c.Regions = map[string][]string{"bj": {"10.1.0.0/33"}} }, `regions.bj: "10.1.0.0/33" is no network; networks look like 10.1.0.0/16 or 2001:db8::/32`},
		{func(c *Config) { c.Kafka.Topic = "" }, `kafka.topic: it is empty; it needs the name of a topic`},
		{func(c *Config) { c.Kafka.Brokers = nil }, `kafka.brokers: it is empty; it needs at least one address host:port`},
		{func(c *Config) { c.Kafka.Linger = -1 }, `kafka.linger: -1ns is outside 0s to 1s`},
		{func(c *Config) { c.Kafka.Timeout = 0 }, `kafka.timeout: 0s is outside 100ms to 5m`},
		{func(c *Config) { c.Kafka.Linger, c.Kafka.Timeout = time.Second, time.Second }, `kafka.linger: 1s must be less than kafka.timeout, 1s`},
		{func(c *Config) { c.Kafka.Compression = "zip" }, `kafka.compression: "zip" is none of none, lz4, snappy, gzip, zstd`},
		{func(c *Config) { c.Kafka.QueueBytes = 2 << 20 }, `kafka.queueBytes: 2097152 holds no record of httpServer.maxBody: needs 2101248 at least`},
		{func(c *Config) { c.Redis.Network = "udp" }, `redis.network: "udp" is none of tcp, unix`},
		{func(c *Config) { c.Redis.Addr = " , " }, `redis.addr: it is empty; it needs an address`},
		{func(c *Config) { c.Redis.DB, c.Redis.Cluster = 1, true }, `redis.db: a cluster has database 0 only, not 1`},
		{func(c *Config) { c.Redis.Active = 0 }, `redis.active: 0 is outside 1 to 1000000`},
		{func(c *Config) { c.Redis.Idle = 300 }, `redis.idle: 300 is more than redis.active, 256`},
		{func(c *Config) { c.Redis.ReadTimeout = 0 }, `redis.readTimeout: 0s is outside 1ms to 1m`},
		{func(c *Config) { c.Redis.Expire = time.Second }, `redis.expire: 1s is less than 1m`},
	} {
		cfg := DefaultConfig()
		test.change(&cfg)
		if err := cfg.Validate(); err == nil || err.Error() != test.want {
			t.Errorf("got  %v\nwant %s", err, test.want)
		}
	}
}
