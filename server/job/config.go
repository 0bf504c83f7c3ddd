package job

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"barrage/server/admin"
	"barrage/server/config"
	"barrage/server/discovery"
)

// Config is a job's configuration. Sections and keys are goim's where goim has them.
type Config struct {
	Env       discovery.Env    `toml:"env"`
	Discovery discovery.Config `toml:"discovery"`
	Kafka     KafkaConfig      `toml:"kafka"`
	Comet     CometConfig      `toml:"comet"`
	Lane      LaneConfig       `toml:"lane"`
	Drain     DrainConfig      `toml:"drain"`
	Admin     admin.Config     `toml:"admin"`
}

// KafkaConfig is the consumer.
type KafkaConfig struct {
	Topic   string   `toml:"topic" need:"the name of a topic" doc:"Topic that logic writes pushes to."`
	Group   string   `toml:"group" need:"the name of a consumer group" doc:"Consumer group; its members share the partitions."`
	Brokers []string `toml:"brokers" need:"at least one host:port" doc:"Kafka brokers to start from, as host:port."`

	InstanceID      string        `toml:"instanceId" doc:"Static member name, unique in the group; a restart within the session time-out then moves no partition. Empty for a dynamic member."`
	OffsetReset     string        `toml:"offsetReset" oneof:"earliest latest" doc:"Where a partition without a committed offset starts: earliest (nothing accepted is lost) or latest."`
	SessionTimeout  time.Duration `toml:"sessionTimeout" range:"1s..30m" doc:"Silence after which the group takes a member for dead."`
	MaxPollInterval time.Duration `toml:"maxPollInterval" range:"1s..24h" doc:"Time without a poll after which the group takes a member for stuck, at least kafka.sessionTimeout."`
	CommitInterval  time.Duration `toml:"commitInterval" range:"10ms..1m" doc:"How often stored offsets are committed. A crash redelivers about so much."`
	RevokeWait      time.Duration `toml:"revokeWait" range:"0s..1m" doc:"How long a partition that moves to another job waits for its calls in flight."`
	Window          int           `toml:"window" range:"1..100000000" doc:"Records of one partition that may be under way before it is paused."`
	Options         []string      `toml:"options" secret:"yes" doc:"Further settings of librdkafka as key=value, for example security.protocol=SSL."`
}

// CometConfig is how comets are called and when they are given up.
type CometConfig struct {
	RPCTimeout      time.Duration `toml:"rpcTimeout" range:"100ms..10m" doc:"Time for one call. A comet under back-pressure answers late: a short time-out makes duplicates."`
	DeadAfter       time.Duration `toml:"deadAfter" range:"100ms..10m" doc:"Time of nothing but failures or silence after which a comet is given up until it connects again. What waits for it is dropped. A comet that gets no processor for so long, as on an overloaded machine, looks like a dead one."`
	LeaveWait       time.Duration `toml:"leaveWait" range:"0s..1m" doc:"How long a comet that left discovery still gets what already waits for it."`
	BackoffMin      time.Duration `toml:"backoffMin" range:"1ms..1m" doc:"First wait before a failed call is repeated."`
	BackoffMax      time.Duration `toml:"backoffMax" range:"1ms..1m" doc:"Longest wait before a failed call is repeated, at least comet.backoffMin."`
	WaitForFirst    bool          `toml:"waitForFirst" doc:"Whether records wait in Kafka while there is no comet; if not they are dropped, as goim does."`
	SkipUnheldRooms bool          `toml:"skipUnheldRooms" doc:"Whether rooms that a comet does not hold are kept from it, see package job for what that costs."`
	RoomsInterval   time.Duration `toml:"roomsInterval" range:"10ms..1m" doc:"Shortest time between two questions for a comet's rooms when comet.skipUnheldRooms is on."`
}

// LaneConfig is the ordered ways to each comet.
type LaneConfig struct {
	Count       int `toml:"count" range:"1..256" doc:"Lanes for rooms and keys to each comet: as many calls are on their way at once, plus one for broadcasts. Behind them are only calls that wait for space in a room's log."`
	QueueBytes  int `toml:"queueBytes" range:"65536..1073741824" doc:"Bytes that may wait in one lane before the partitions that feed it are paused."`
	BatchBytes  int `toml:"batchBytes" range:"1024..8388608" doc:"Bytes of frames merged into one call, whatever rooms and keys they are for. A larger frame travels alone."`
	BatchFrames int `toml:"batchFrames" range:"1..1000000" doc:"Frames merged into one call."`
}

// DrainConfig is the end of the process.
type DrainConfig struct {
	Timeout time.Duration `toml:"timeout" range:"0s..10m" doc:"Time to deliver what was read before the process ends. The rest is delivered again by the next job."`
}

// DefaultConfig returns the configuration that applies where nothing is said. Environment,
// discovery nodes and admin address have their defaults too.
func DefaultConfig() Config {
	return Config{
		Env:       discovery.DefaultEnv(),
		Discovery: discovery.DefaultConfig(),
		Kafka: KafkaConfig{
			Topic:           "goim-push-topic",
			Group:           "goim-push-group-job",
			Brokers:         []string{"127.0.0.1:9092"},
			OffsetReset:     resetEarliest,
			SessionTimeout:  10 * time.Second,
			MaxPollInterval: 5 * time.Minute,
			CommitInterval:  time.Second,
			RevokeWait:      2 * time.Second,
			Window:          100_000,
		},
		Comet: CometConfig{
			RPCTimeout:    30 * time.Second,
			DeadAfter:     10 * time.Second,
			LeaveWait:     2 * time.Second,
			BackoffMin:    20 * time.Millisecond,
			BackoffMax:    time.Second,
			WaitForFirst:  true,
			RoomsInterval: time.Second,
		},
		Lane: LaneConfig{
			Count:       4,
			QueueBytes:  8 << 20,
			BatchBytes:  1 << 20,
			BatchFrames: 8192,
		},
		Drain: DrainConfig{Timeout: 5 * time.Second},
		Admin: admin.DefaultConfig("job"),
	}
}

const (
	resetEarliest = "earliest"
	resetLatest   = "latest"
)

// IgnoredKeys returns the keys of goim's job.toml that mean nothing here: goim's job has
// goroutines and windows to tune where this one has lanes.
func IgnoredKeys() []string {
	return []string{"comet.routineChan", "comet.routineSize", "room.batch", "room.signal", "room.idle"}
}

// Validate returns an error that names every field out of range, with the range.
func (c *Config) Validate() error {
	errs := []error{config.Check(c)}
	if c.Kafka.MaxPollInterval < c.Kafka.SessionTimeout {
		errs = append(errs, fmt.Errorf("kafka.maxPollInterval: %v is less than kafka.sessionTimeout, %v", c.Kafka.MaxPollInterval, c.Kafka.SessionTimeout))
	}
	if c.Comet.BackoffMax < c.Comet.BackoffMin {
		errs = append(errs, fmt.Errorf("comet.backoffMax: %v is less than comet.backoffMin, %v", c.Comet.BackoffMax, c.Comet.BackoffMin))
	}
	for i, option := range c.Kafka.Options {
		if _, _, err := splitOption(option); err != nil {
			errs = append(errs, fmt.Errorf("kafka.options: number %d %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

// reserved are the settings of librdkafka that delivery depends on: they can't be options.
func reserved() []string {
	return []string{
		"bootstrap.servers", "group.id", "group.instance.id", "auto.offset.reset",
		"enable.auto.commit", "enable.auto.offset.store", "auto.commit.interval.ms", "session.timeout.ms",
		"max.poll.interval.ms", "enable.partition.eof",
	}
}

// splitOption takes key=value apart and refuses what job sets itself. Its errors hold no value, which may
// be a password.
func splitOption(option string) (key, value string, err error) {
	key, value, ok := strings.Cut(option, "=")
	if !ok || key == "" {
		return "", "", errors.New("is not key=value")
	}
	if slices.Contains(reserved(), key) || strings.HasPrefix(key, "go.") {
		return "", "", fmt.Errorf("is %q, which job sets itself and which can't be an option", key)
	}
	return key, value, nil
}
