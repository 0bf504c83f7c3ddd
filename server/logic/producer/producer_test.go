package producer

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"barrage/server/backing"
)

const (
	partitions = 8
	maxRecord  = 64 << 10
	patience   = 20 * time.Second
)

func start(t testing.TB, change func(cfg *Config)) (*Producer, *kafka.MockCluster, context.CancelFunc) {
	t.Helper()
	mock, err := backing.NewBroker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mock.Close)
	cfg := DefaultConfig()
	cfg.Brokers = []string{mock.BootstrapServers()}
	if err := mock.CreateTopic(cfg.Topic, partitions, 1); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg, maxRecord, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop := func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return p, mock, stop
}

func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// read returns the values of n records, by key, each key's in the order of its partition.
func read(t testing.TB, mock *kafka.MockCluster, topic string, n int) map[string][]string {
	t.Helper()
	consumer, err := kafka.NewConsumer(&kafka.ConfigMap{"bootstrap.servers": mock.BootstrapServers(), "group.id": "test", "enable.auto.commit": false})
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	var all []kafka.TopicPartition
	for p := range int32(partitions) {
		all = append(all, kafka.TopicPartition{Topic: &topic, Partition: p, Offset: kafka.OffsetBeginning})
	}
	if err := consumer.Assign(all); err != nil {
		t.Fatal(err)
	}
	values := make(map[string][]string)
	for range n {
		message, err := consumer.ReadMessage(patience)
		if err != nil {
			t.Fatal(err)
		}
		key := string(message.Key)
		values[key] = append(values[key], string(message.Value))
		if want := saramaPartition(key); message.TopicPartition.Partition != want {
			t.Errorf("key %q is in partition %d, sarama would choose %d", key, message.TopicPartition.Partition, want)
		}
	}
	return values
}

func saramaPartition(key string) int32 {
	h := fnv.New32a()
	h.Write([]byte(key))
	p := int32(h.Sum32()) % partitions
	if p < 0 {
		p = -p
	}
	return p
}

func TestKeysKeepTheirPartitionAndOrder(t *testing.T) {
	p, mock, stop := start(t, nil)
	const keys, each = 50, 10
	var senders sync.WaitGroup
	for k := range keys {
		senders.Go(func() {
			key := fmt.Sprintf("live://房间-%d", k)
			for n := range each {
				if err := p.Send(t.Context(), Record{Key: []byte(key), Value: []byte(fmt.Sprint(n))}); err != nil {
					t.Errorf("send: %v", err)
				}
			}
		})
	}
	senders.Wait()
	stop()
	for key, values := range read(t, mock, p.cfg.Topic, keys*each) {
		for n, value := range values {
			if value != fmt.Sprint(n) {
				t.Fatalf("key %q: %v", key, values)
			}
		}
	}
}

func TestOutage(t *testing.T) {
	p, mock, _ := start(t, func(cfg *Config) { cfg.Timeout = 300 * time.Millisecond })
	record := Record{Key: []byte("k"), Value: []byte("v")}
	eventually(t, "ready", p.Ready)
	if err := p.Send(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	if err := mock.SetBrokerDown(1); err != nil {
		t.Fatal(err)
	}
	if err := p.Send(t.Context(), record, record); err == nil {
		t.Fatal("a record was acknowledged by nobody")
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Send(cancelled, record); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gave up: %v", err)
	}
	eventually(t, "not ready", func() error {
		if p.Ready() == nil {
			return errors.New("ready without brokers")
		}
		return nil
	})
	if err := mock.SetBrokerUp(1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "after the outage", func() error { return p.Send(t.Context(), record) })
	eventually(t, "ready again", p.Ready)
	if n := testutil.ToFloat64(p.metrics.failures[timedOut]); n < 1 {
		t.Errorf("%v timeouts are counted", n)
	}
	if n := testutil.ToFloat64(p.metrics.failures[gaveUp]); n != 1 {
		t.Errorf("%v callers that gave up are counted", n)
	}
}

// librdkafka's idempotent producer ends for good after some errors: a new one takes over.
func TestFatalErrorIsSurvived(t *testing.T) {
	p, _, _ := start(t, nil)
	record := Record{Key: []byte("k"), Value: []byte("v")}
	if err := p.Send(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	p.mu.RLock()
	p.handle.TestFatalError(kafka.ErrOutOfOrderSequenceNumber, "made up by the test")
	p.mu.RUnlock()
	eventually(t, "replaced", func() error {
		if n := testutil.ToFloat64(p.metrics.replaced); n != 1 {
			return fmt.Errorf("%v replacements", n)
		}
		return nil
	})
	eventually(t, "after the replacement", func() error { return p.Send(t.Context(), record) })
	eventually(t, "ready", p.Ready)
}

func TestTooLargeAndClosed(t *testing.T) {
	p, _, stop := start(t, nil)
	err := p.Send(t.Context(), Record{Key: []byte("k"), Value: make([]byte, 2*maxRecord)})
	if err == nil || reasonOf(err) != tooLarge {
		t.Errorf("a record that is too large: %v", err)
	}
	if err := p.Send(t.Context()); err != nil {
		t.Errorf("nothing to send: %v", err)
	}
	stop()
	if err := p.Send(t.Context(), Record{Key: []byte("k")}); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	if err := p.Ready(); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end Ready says %v", err)
	}
}

// Run's end waits for what is in flight.
func TestStopFlushes(t *testing.T) {
	p, mock, stop := start(t, func(cfg *Config) { cfg.Linger = 300 * time.Millisecond })
	eventually(t, "ready", p.Ready)
	sent := make(chan error, 1)
	go func() { sent <- p.Send(context.Background(), Record{Key: []byte("k"), Value: []byte("last")}) }()
	eventually(t, "in flight", func() error {
		p.mu.RLock()
		defer p.mu.RUnlock()
		if p.handle.Len() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	stop()
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if got := read(t, mock, p.cfg.Topic, 1)["k"]; len(got) != 1 || got[0] != "last" {
		t.Errorf("read %v", got)
	}
}

func BenchmarkSend(b *testing.B) {
	p, _, _ := start(b, nil)
	eventually(b, "ready", p.Ready)
	record := Record{Key: []byte("live://1000"), Value: make([]byte, 100)}
	b.SetParallelism(256)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := p.Send(context.Background(), record); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
