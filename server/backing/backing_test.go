package backing

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	goredis "github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"

	"barrage/server/discovery"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func start(t *testing.T) *Services {
	t.Helper()
	s, err := Start(t.Context(), DefaultConfig(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func produce(t *testing.T, s *Services, values ...[]byte) {
	t.Helper()
	producer, err := kafka.NewProducer(&kafka.ConfigMap{
		"bootstrap.servers": s.KafkaBrokers(), "enable.idempotence": true, "linger.ms": 0, "message.max.bytes": 4 << 20,
		"batch.num.messages": 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	topic := DefaultConfig().Kafka.Topic
	acks := make(chan kafka.Event, len(values))
	for _, value := range values {
		if err := producer.Produce(&kafka.Message{
			TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: 0}, Value: value,
		}, acks); err != nil {
			t.Fatal(err)
		}
	}
	for range values {
		select {
		case e := <-acks:
			if m, ok := e.(*kafka.Message); !ok || m.TopicPartition.Error != nil {
				t.Fatalf("produce: %v", e)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a record was not acknowledged")
		}
	}
}

func consumer(t *testing.T, s *Services, group string, settings kafka.ConfigMap) *kafka.Consumer {
	t.Helper()
	all := kafka.ConfigMap{
		"bootstrap.servers": s.KafkaBrokers(), "group.id": group, "auto.offset.reset": "earliest",
		"partition.assignment.strategy": "cooperative-sticky", "enable.auto.commit": false,
	}
	for key, value := range settings {
		all[key] = value
	}
	for _, option := range ConsumerOptions() {
		key, value, _ := strings.Cut(option, "=")
		all[key] = value
	}
	c, err := kafka.NewConsumer(&all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func read(t *testing.T, c *kafka.Consumer) *kafka.Message {
	t.Helper()
	m, err := c.ReadMessage(30 * time.Second)
	if err != nil {
		t.Fatalf("read a record: %v", err)
	}
	return m
}

func TestRecordsGoThroughTheBrokerToAGroup(t *testing.T) {
	s := start(t)
	big := make([]byte, 2<<20)
	produce(t, s, []byte("first"), big)
	c := consumer(t, s, "group", nil)
	topic := DefaultConfig().Kafka.Topic
	if err := c.Subscribe(topic, nil); err != nil {
		t.Fatal(err)
	}
	if m := read(t, c); string(m.Value) != "first" {
		t.Errorf("the first record is %q", m.Value)
	}
	m := read(t, c)
	if len(m.Value) != len(big) {
		t.Errorf("a record of %d bytes came with %d", len(big), len(m.Value))
	}
	if _, err := c.CommitMessage(m); err != nil {
		t.Fatal(err)
	}
	metadata, err := c.GetMetadata(&topic, false, 5000)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(metadata.Topics[topic].Partitions); got != DefaultConfig().Kafka.Partitions {
		t.Errorf("the topic has %d partitions", got)
	}
}

// The limit that the package's comment warns of: what is older than the newest 5 MiB of a
// partition is gone for a consumer that has not read it yet.
func TestBrokerKeepsFiveMiBOfAPartition(t *testing.T) {
	s := start(t)
	values := make([][]byte, 20)
	for i := range values {
		values[i] = binary.BigEndian.AppendUint32(nil, uint32(i))
		values[i] = append(values[i], make([]byte, 512<<10)...)
	}
	produce(t, s, values...)
	c := consumer(t, s, "late", nil)
	topic := DefaultConfig().Kafka.Topic
	if err := c.Assign([]kafka.TopicPartition{{Topic: &topic, Partition: 0, Offset: kafka.OffsetBeginning}}); err != nil {
		t.Fatal(err)
	}
	first := int(binary.BigEndian.Uint32(read(t, c).Value))
	if kept := len(values) - first; kept < 8 || kept > 11 {
		t.Errorf("%d records of 512 KiB are kept, expected about 10 (5 MiB)", kept)
	}
	for want := first + 1; want < len(values); want++ {
		if got := int(binary.BigEndian.Uint32(read(t, c).Value)); got != want {
			t.Fatalf("record %d comes where %d should", got, want)
		}
	}
}

// A signal that meets the broker's thread in its poll, as a CPU profile's may, would end it.
func TestBrokerOutlivesSignals(t *testing.T) {
	s := start(t)
	names, err := filepath.Glob("/proc/self/task/*/comm")
	if err != nil {
		t.Fatal(err)
	}
	threads := 0
	for _, name := range names {
		if comm, err := os.ReadFile(name); err != nil || string(comm) != "rdk:mock\n" {
			continue // a thread may have ended meanwhile
		}
		tid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			t.Fatal(err)
		}
		for _, signal := range []syscall.Signal{unix.SIGURG, unix.SIGCHLD, unix.SIGPROF} {
			if err := unix.Tgkill(os.Getpid(), tid, signal); err != nil {
				t.Fatal(err)
			}
		}
		threads++
	}
	if threads == 0 {
		t.Fatal("no thread is the broker's")
	}
	produce(t, s, []byte("still there"))
}

func TestConsumerOptionsKeepRecordsFromWaiting(t *testing.T) {
	s := start(t)
	c := consumer(t, s, "quick", nil)
	topic := DefaultConfig().Kafka.Topic
	if err := c.Assign([]kafka.TopicPartition{{Topic: &topic, Partition: 0, Offset: kafka.OffsetBeginning}}); err != nil {
		t.Fatal(err)
	}
	produce(t, s, []byte("warm up"))
	read(t, c)
	quickest := time.Hour
	for range 10 {
		produced := make(chan time.Time, 1)
		go func() {
			produce(t, s, []byte("x"))
			produced <- time.Now()
		}()
		read(t, c)
		arrived := time.Now()
		quickest = min(quickest, arrived.Sub(<-produced))
	}
	if quickest > 100*time.Millisecond {
		t.Errorf("the quickest of ten records came %v after its acknowledgement", quickest)
	}
}

func TestRedisKeysExpireByThemselves(t *testing.T) {
	s := start(t)
	client := goredis.NewClient(&goredis.Options{Addr: s.RedisAddr()})
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := client.Set(ctx, "short", "1", time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Set(ctx, "long", "1", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	for client.Exists(ctx, "short").Val() == 1 {
		if ctx.Err() != nil {
			t.Fatal("a key of one second never expired")
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
	if ttl := client.TTL(ctx, "long").Val(); ttl <= 0 || ttl > time.Hour {
		t.Errorf("a key of one hour has %v left", ttl)
	}
}

func TestDiscoveryNodeAnswers(t *testing.T) {
	s := start(t)
	client := discovery.NewClient(discovery.Config{Nodes: []string{s.DiscoveryAddr()}}, discovery.DefaultEnv(), quiet())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := client.Register(ctx, discovery.Instance{AppID: discovery.AppJob, Addrs: []string{"grpc://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestTakenPortsAreNamed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	taken := listener.Addr().String()
	for field, change := range map[string]func(*Config){
		"redis.addr":     func(c *Config) { c.Redis.Addr = taken },
		"discovery.addr": func(c *Config) { c.Discovery.Addr = taken },
	} {
		t.Run(field, func(t *testing.T) {
			cfg := DefaultConfig()
			change(&cfg)
			_, err := Start(t.Context(), cfg, quiet())
			if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), field+" "+taken) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestConfigErrorsNameTheField(t *testing.T) {
	for field, change := range map[string]func(*Config){
		"kafka.topic":      func(c *Config) { c.Kafka.Topic = "" },
		"kafka.partitions": func(c *Config) { c.Kafka.Partitions = 0 },
		"redis.addr":       func(c *Config) { c.Redis.Addr = "6379" },
		"discovery.addr":   func(c *Config) { c.Discovery.Addr = "x" },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if _, err := Start(t.Context(), cfg, quiet()); err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: error is %v", field, err)
		}
	}
}

func TestOnlyTheWarningIsTakenFromStderr(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	saved, err := syscall.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Dup3(int(write.Fd()), 2, 0); err != nil {
		t.Fatal(err)
	}
	withoutWarning(func() {
		syscall.Write(2, []byte("before\n%5|1.2|CONFWARN|rdkafka#producer-1| [thrd:app]: No brokers\nafter"))
	})
	syscall.Write(2, []byte(", and later\n"))
	if err := syscall.Dup3(saved, 2, 0); err != nil {
		t.Fatal(err)
	}
	syscall.Close(saved)
	write.Close()
	got, err := io.ReadAll(read)
	if err != nil {
		t.Fatal(err)
	}
	if want := "before\nafter, and later\n"; string(got) != want {
		t.Errorf("stderr has %q, want %q", got, want)
	}
}
