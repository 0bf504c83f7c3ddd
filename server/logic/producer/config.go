package producer

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"barrage/server/config"
)

// A Config is the section kafka of logic's file.
type Config struct {
	Topic       string        `toml:"topic" need:"the name of a topic" doc:"topic that pushes are written to"`
	Brokers     []string      `toml:"brokers" need:"at least one address host:port" doc:"addresses host:port of some Kafka brokers; the others are learnt from them"`
	Linger      time.Duration `toml:"linger" range:"0s..1s" doc:"how long a record waits for others to share its batch"`
	Timeout     time.Duration `toml:"timeout" range:"100ms..5m" doc:"how long the brokers may take to acknowledge a record before the push fails"`
	Compression string        `toml:"compression" oneof:"none lz4 snappy gzip zstd" doc:"compression of batches: none, lz4, snappy, gzip or zstd"`
	QueueBytes  int           `toml:"queueBytes" range:"1048576..2147483647" doc:"bytes of records that may wait for the brokers; pushes beyond it fail"`
}

// DefaultConfig returns goim's topic on a broker of this machine.
func DefaultConfig() Config {
	return Config{
		Topic:       "goim-push-topic",
		Brokers:     []string{"127.0.0.1:9092"},
		Linger:      2 * time.Millisecond,
		Timeout:     5 * time.Second,
		Compression: "none",
		QueueBytes:  256 << 20,
	}
}

// Validate returns an error that names the first field out of range.
func (c *Config) Validate() error {
	if err := config.CheckAt("kafka", c); err != nil {
		return err
	}
	if c.Linger >= c.Timeout {
		return fmt.Errorf("kafka.linger: %v must be less than kafka.timeout, %v", c.Linger, c.Timeout)
	}
	return nil
}

// settings returns librdkafka's settings for records of up to maxRecord bytes.
//
// The partitioner is FNV-1a because goim's producer (sarama) hashes keys with it: goim's
// logic and ours put a room into the same partition, so its order survives a mixed cluster.
func (c *Config) settings(maxRecord int) *kafka.ConfigMap {
	return &kafka.ConfigMap{
		"bootstrap.servers":          strings.Join(c.Brokers, ","),
		"client.id":                  "barrage-logic",
		"enable.idempotence":         true,
		"acks":                       "all",
		"partitioner":                "fnv1a",
		"linger.ms":                  strconv.FormatFloat(float64(c.Linger)/float64(time.Millisecond), 'f', 3, 64),
		"message.timeout.ms":         int(c.Timeout / time.Millisecond),
		"message.max.bytes":          maxRecord,
		"compression.type":           c.Compression,
		"queue.buffering.max.kbytes": c.QueueBytes >> 10,
		"socket.keepalive.enable":    true,
		"reconnect.backoff.ms":       50,
		"reconnect.backoff.max.ms":   1000,
		"go.delivery.report.fields":  "none",
		"go.logs.channel.enable":     true,
		"go.events.channel.size":     1024,
	}
}
