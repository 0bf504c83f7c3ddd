// Package backing runs what a cluster leans on inside one process: a Kafka broker, a Redis
// server and a node of discovery, for a first look, for development and for measuring on
// one machine. Nothing of it is written to disk.
//
// The broker is librdkafka's mock cluster: it speaks Kafka's protocol over loopback, with
// consumer groups and idempotent producers, and within these limits:
//
//   - a partition keeps its newest 5 MiB, and no more than 100,000 message sets (what a
//     producer sent at once). A consumer that lags by more has lost the older ones;
//   - an empty answer to a fetch comes when fetch.wait.max.ms is over, even if a record
//     arrives meanwhile, which is then late by so much: ConsumerOptions makes it short;
//   - a fetch finds its place by walking the partition's message sets from the oldest, so
//     that it costs more the more of them are kept;
//   - the port is chosen by the system, and clients must be on this machine.
//
// For anything that must last, or be fast for long, use Apache Kafka and Redis.
package backing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"barrage/server/config"
	"barrage/server/discovery"
)

// ConsumerOptions are librdkafka's settings ("key=value") that a consumer of the embedded
// broker should have. With Apache Kafka they are neither needed nor harmful.
func ConsumerOptions() []string { return []string{"fetch.wait.max.ms=2"} }

// Config says what to run and where.
type Config struct {
	Kafka     KafkaConfig     `toml:"kafka"`
	Redis     RedisConfig     `toml:"redis"`
	Discovery DiscoveryConfig `toml:"discovery"`
	Env       discovery.Env   `toml:"env"`
}

// KafkaConfig is the broker's.
type KafkaConfig struct {
	Topic      string `toml:"topic" need:"a name like goim-push-topic" doc:"Topic of the pushes."`
	Partitions int    `toml:"partitions" range:"1..1000" doc:"Number of its partitions; each keeps its newest 5 MiB."`
}

// RedisConfig is the Redis server's.
type RedisConfig struct {
	Addr string `toml:"addr" doc:"Address (host:port) of the embedded Redis; port 0 is any that is free."`
}

// DiscoveryConfig is the discovery node's.
type DiscoveryConfig struct {
	Addr string `toml:"addr" doc:"Address (host:port) of the embedded discovery node; port 0 is any that is free."`
}

// DefaultConfig has goim's topic, and free ports on loopback.
func DefaultConfig() Config {
	return Config{
		Kafka:     KafkaConfig{Topic: "goim-push-topic", Partitions: 8},
		Redis:     RedisConfig{Addr: "127.0.0.1:0"},
		Discovery: DiscoveryConfig{Addr: "127.0.0.1:0"},
		Env:       discovery.DefaultEnv(),
	}
}

// Validate says which setting is wrong, and what would be right.
func (c *Config) Validate() error {
	if err := config.Check(c); err != nil {
		return err
	}
	for _, field := range []struct{ name, addr string }{{"redis.addr", c.Redis.Addr}, {"discovery.addr", c.Discovery.Addr}} {
		if _, _, err := net.SplitHostPort(field.addr); err != nil {
			return fmt.Errorf("%s %q: an address like 127.0.0.1:6379 is needed", field.name, field.addr)
		}
	}
	return nil
}

// Services are the running broker, Redis and discovery node.
type Services struct {
	log       *slog.Logger
	discovery *runningNode
	redis     *redis
	kafka     *kafka.MockCluster
}

// Start runs everything, or nothing and says why. An address that is taken gives an error
// that names it and its setting and wraps syscall.EADDRINUSE. The services run until Close.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (*Services, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Services{log: log}
	if err := s.start(ctx, cfg); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	log.Info("the embedded Kafka and Redis are in memory only: what they hold ends with this process")
	log.Debug("backing services run", "kafka", s.KafkaBrokers(), "redis", s.RedisAddr(), "discovery", s.DiscoveryAddr())
	return s, nil
}

func (s *Services) start(ctx context.Context, cfg Config) error {
	var err error
	if s.discovery, err = startNode(cfg, s.log); err != nil {
		return err
	}
	if s.redis, err = startRedis(cfg.Redis.Addr); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.kafka, err = startKafka(cfg.Kafka); err != nil {
		return err
	}
	return nil
}

// KafkaBrokers is the broker's address, for bootstrap.servers.
func (s *Services) KafkaBrokers() string { return s.kafka.BootstrapServers() }

// RedisAddr is the Redis server's host:port.
func (s *Services) RedisAddr() string { return s.redis.server.Addr() }

// DiscoveryAddr is the discovery node's host:port.
func (s *Services) DiscoveryAddr() string { return discovery.AdvertiseAddr(s.discovery.node.Addr()) }

// Close ends all of it: the broker first, discovery last. Call it once, when nobody uses
// the services any more.
func (s *Services) Close() error {
	if s.kafka != nil {
		s.kafka.Close()
	}
	if s.redis != nil {
		s.redis.close()
	}
	if s.discovery != nil {
		return s.discovery.close()
	}
	return nil
}

// NewBroker starts the embedded Kafka broker alone, without topics. Its thread gets no
// signals: it would take the first for the end of all, and a CPU profile sends some.
func NewBroker() (cluster *kafka.MockCluster, err error) {
	withoutSignals(func() {
		withoutWarning(func() { cluster, err = kafka.NewMockCluster(1) })
	})
	if err != nil {
		return nil, fmt.Errorf("start the embedded Kafka: %w", err)
	}
	return cluster, nil
}

func startKafka(cfg KafkaConfig) (cluster *kafka.MockCluster, err error) {
	if cluster, err = NewBroker(); err != nil {
		return nil, err
	}
	if err := cluster.CreateTopic(cfg.Topic, cfg.Partitions, 1); err != nil {
		cluster.Close()
		return nil, fmt.Errorf("make topic %s in the embedded Kafka: %w", cfg.Topic, err)
	}
	return cluster, nil
}

// A runningNode is a discovery node and the goroutine that runs it.
type runningNode struct {
	node   *discovery.Node
	cancel context.CancelFunc
	ended  chan error
}

func startNode(cfg Config, log *slog.Logger) (*runningNode, error) {
	nodeCfg := discovery.DefaultNodeConfig()
	nodeCfg.HTTPServer.Addr = cfg.Discovery.Addr
	nodeCfg.Env = cfg.Env
	node, err := discovery.NewNode(nodeCfg, log)
	if err != nil {
		return nil, err
	}
	if err := node.Listen(); err != nil {
		// The node calls the setting httpServer.addr, as in a file of its own.
		return nil, fmt.Errorf("discovery.addr %s: %w", cfg.Discovery.Addr, errors.Unwrap(err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &runningNode{node: node, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- node.Run(ctx) }()
	return r, nil
}

func (r *runningNode) close() error {
	r.cancel()
	return <-r.ended
}

// clockStep is how often the time of the embedded Redis advances: it has no clock for
// expiring keys but the one that it is told.
const clockStep = time.Second

// A redis is a Redis server and the goroutine that lets its keys expire.
type redis struct {
	server *miniredis.Miniredis
	stop   chan struct{}
	done   chan struct{}
}

func startRedis(addr string) (*redis, error) {
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(addr); err != nil {
		return nil, fmt.Errorf("redis.addr %s: %w", addr, err)
	}
	r := &redis{server: server, stop: make(chan struct{}), done: make(chan struct{})}
	go r.keepTime()
	return r, nil
}

// keepTime passes real time on. A step looks at every key, with the server locked, so that
// with many of them steps are spaced to take no more than a hundredth of the time.
func (r *redis) keepTime() {
	defer close(r.done)
	last := time.Now()
	timer := time.NewTimer(clockStep)
	defer timer.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-timer.C:
		}
		now := time.Now()
		r.server.FastForward(now.Sub(last))
		last = now
		timer.Reset(max(clockStep, 100*time.Since(now)))
	}
}

func (r *redis) close() {
	close(r.stop)
	<-r.done
	r.server.Close()
}
