package job

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"barrage/server/admin"
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
	Topic   string   `toml:"topic" doc:"Topic that logic writes pushes to."`
	Group   string   `toml:"group" doc:"Consumer group; its members share the partitions."`
	Brokers []string `toml:"brokers" doc:"Kafka brokers to start from, as host:port."`

	InstanceID      string        `toml:"instanceId" doc:"Static member name, unique in the group; a restart within the session time-out then moves no partition. Empty for a dynamic member."`
	OffsetReset     string        `toml:"offsetReset" doc:"Where a partition without a committed offset starts: earliest (nothing accepted is lost) or latest."`
	SessionTimeout  time.Duration `toml:"sessionTimeout" doc:"Silence after which the group takes a member for dead, 1s to 30m."`
	MaxPollInterval time.Duration `toml:"maxPollInterval" doc:"Time without a poll after which the group takes a member for stuck, at least kafka.sessionTimeout, at most 24h."`
	CommitInterval  time.Duration `toml:"commitInterval" doc:"How often stored offsets are committed, 10ms to 1m. A crash redelivers about so much."`
	RevokeWait      time.Duration `toml:"revokeWait" doc:"How long a partition that moves to another job waits for its calls in flight, 0s to 1m."`
	Window          int           `toml:"window" doc:"Records of one partition that may be under way before it is paused, 1 to 100000000."`
	Options         []string      `toml:"options" doc:"Further settings of librdkafka as key=value, for example security.protocol=SSL."`
}

// CometConfig is how comets are called and when they are given up.
type CometConfig struct {
	RPCTimeout      time.Duration `toml:"rpcTimeout" doc:"Time for one call, 100ms to 10m. A comet under back-pressure answers late: a short time-out makes duplicates."`
	DeadAfter       time.Duration `toml:"deadAfter" doc:"Time of nothing but failures after which a comet is given up until it connects again, 100ms to 10m. What waits for it is dropped."`
	LeaveWait       time.Duration `toml:"leaveWait" doc:"How long a comet that left discovery still gets what already waits for it, 0s to 1m."`
	BackoffMin      time.Duration `toml:"backoffMin" doc:"First wait before a failed call is repeated, 1ms to 1m."`
	BackoffMax      time.Duration `toml:"backoffMax" doc:"Longest wait before a failed call is repeated, comet.backoffMin to 1m."`
	WaitForFirst    bool          `toml:"waitForFirst" doc:"Whether records wait in Kafka while there is no comet; if not they are dropped, as goim does."`
	SkipUnheldRooms bool          `toml:"skipUnheldRooms" doc:"Whether rooms that a comet does not hold are kept from it, see package job for what that costs."`
	RoomsInterval   time.Duration `toml:"roomsInterval" doc:"Shortest time between two questions for a comet's rooms when comet.skipUnheldRooms is on, 10ms to 1m."`
}

// LaneConfig is the ordered ways to each comet.
type LaneConfig struct {
	Count       int `toml:"count" doc:"Lanes for rooms and keys to each comet, 1 to 256: as many calls are in flight at once, plus one for broadcasts."`
	QueueBytes  int `toml:"queueBytes" doc:"Bytes that may wait in one lane before the partitions that feed it are paused, 65536 to 1073741824."`
	BatchBytes  int `toml:"batchBytes" doc:"Bytes of frames merged into one call, 1024 to 8388608. A larger frame travels alone."`
	BatchFrames int `toml:"batchFrames" doc:"Frames merged into one call, 1 to 1000000."`
}

// DrainConfig is the end of the process.
type DrainConfig struct {
	Timeout time.Duration `toml:"timeout" doc:"Time to deliver what was read before the process ends, 0s to 10m. The rest is delivered again by the next job."`
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
	var errs []error
	fail := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	duration := func(field string, d, least, most time.Duration) {
		if d < least || d > most {
			fail(field, "%v is out of range, accepted is %v to %v", d, least, most)
		}
	}
	number := func(field string, n, least, most int) {
		if n < least || n > most {
			fail(field, "%d is out of range, accepted is %d to %d", n, least, most)
		}
	}

	k := &c.Kafka
	if k.Topic == "" {
		fail("kafka.topic", "is empty, expected the name of a topic")
	}
	if k.Group == "" {
		fail("kafka.group", "is empty, expected the name of a consumer group")
	}
	if len(k.Brokers) == 0 || slices.Contains(k.Brokers, "") {
		fail("kafka.brokers", "%q, expected at least one host:port", k.Brokers)
	}
	if k.OffsetReset != resetEarliest && k.OffsetReset != resetLatest {
		fail("kafka.offsetReset", "%q, accepted are %s and %s", k.OffsetReset, resetEarliest, resetLatest)
	}
	duration("kafka.sessionTimeout", k.SessionTimeout, time.Second, 30*time.Minute)
	duration("kafka.maxPollInterval", k.MaxPollInterval, max(time.Second, k.SessionTimeout), 24*time.Hour)
	duration("kafka.commitInterval", k.CommitInterval, 10*time.Millisecond, time.Minute)
	duration("kafka.revokeWait", k.RevokeWait, 0, time.Minute)
	number("kafka.window", k.Window, 1, 100_000_000)
	for _, option := range k.Options {
		if _, _, err := splitOption(option); err != nil {
			fail("kafka.options", "%v", err)
		}
	}

	duration("comet.rpcTimeout", c.Comet.RPCTimeout, 100*time.Millisecond, 10*time.Minute)
	duration("comet.deadAfter", c.Comet.DeadAfter, 100*time.Millisecond, 10*time.Minute)
	duration("comet.leaveWait", c.Comet.LeaveWait, 0, time.Minute)
	duration("comet.backoffMin", c.Comet.BackoffMin, time.Millisecond, time.Minute)
	duration("comet.backoffMax", c.Comet.BackoffMax, c.Comet.BackoffMin, time.Minute)
	duration("comet.roomsInterval", c.Comet.RoomsInterval, 10*time.Millisecond, time.Minute)

	number("lane.count", c.Lane.Count, 1, 256)
	number("lane.queueBytes", c.Lane.QueueBytes, 64<<10, 1<<30)
	number("lane.batchBytes", c.Lane.BatchBytes, 1<<10, 8<<20)
	number("lane.batchFrames", c.Lane.BatchFrames, 1, 1_000_000)

	duration("drain.timeout", c.Drain.Timeout, 0, 10*time.Minute)
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

// splitOption takes key=value apart and refuses what job sets itself.
func splitOption(option string) (key, value string, err error) {
	key, value, ok := strings.Cut(option, "=")
	if !ok || key == "" {
		return "", "", fmt.Errorf("%q, expected key=value", option)
	}
	if slices.Contains(reserved(), key) || strings.HasPrefix(key, "go.") {
		return "", "", fmt.Errorf("%q is set by job and can't be an option", key)
	}
	return key, value, nil
}
