package pusher

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"google.golang.org/protobuf/proto"

	"barrage/harness/ledger"
	"barrage/server/api/logic"
)

// KafkaConfig says where the topic is.
type KafkaConfig struct {
	Brokers []string // host:port of some of them
	Topic   string   // "": goim's
	// Timeout is the most that an acknowledgement may take. 0 is 10 s.
	Timeout time.Duration
}

// Kafka writes the records that logic writes for a push, without logic. Acknowledged means
// that all replicas in sync have the record.
//
// A lane does not wait for an acknowledgement before it sends the next push: all pushes to
// one target have the same key, so they are in one partition, and an idempotent producer
// keeps the order of a partition also where it has to send a batch again. One stream then
// carries any rate, where waiting would bound it by the time of an acknowledgement.
type Kafka struct {
	topic    string
	timeout  time.Duration
	producer *kafka.Producer
	reading  sync.WaitGroup // the goroutine that takes the producer's reports
}

const (
	goimTopic = "goim-push-topic"

	// kafkaLinger is what logic has by default: what a push through it takes longer is then
	// logic's own time.
	kafkaLinger = "2"

	// maxRecord is the largest record in bytes: a body and what is around it.
	maxRecord = 16 << 20

	// The producer says what became of a record when the time-out is over; this is what it
	// may be late with that.
	reportGrace = 2 * time.Second
)

// NewKafka connects to the brokers and returns when they have answered for the topic, or
// why they did not by the end of ctx or within the time-out.
func NewKafka(ctx context.Context, cfg KafkaConfig) (*Kafka, error) {
	if cfg.Topic == "" {
		cfg.Topic = goimTopic
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	producer, err := kafka.NewProducer(&kafka.ConfigMap{
		"bootstrap.servers":  strings.Join(cfg.Brokers, ","),
		"client.id":          "barrage-bench",
		"enable.idempotence": true,
		"acks":               "all",
		// As logic has it, and goim's: a room is in the partition that it always is in.
		"partitioner":                  "fnv1a",
		"linger.ms":                    kafkaLinger,
		"message.timeout.ms":           int(cfg.Timeout / time.Millisecond),
		"message.max.bytes":            maxRecord,
		"queue.buffering.max.messages": 1_000_000,
		"queue.buffering.max.kbytes":   256 << 10,
		"socket.keepalive.enable":      true,
		"reconnect.backoff.ms":         50,
		"reconnect.backoff.max.ms":     1000,
		"go.delivery.report.fields":    "none",
		"log_level":                    0, // what matters comes with the reports
	})
	if err != nil {
		return nil, fmt.Errorf("make a Kafka producer: %w", err)
	}
	k := &Kafka{topic: cfg.Topic, timeout: cfg.Timeout, producer: producer}
	k.reading.Go(k.read)
	if err := k.findTopic(ctx); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// findTopic waits until the brokers know the topic.
func (k *Kafka) findTopic(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	const patience = 500 * time.Millisecond // of one question; ctx is looked at between them
	for {
		answer, err := k.producer.GetMetadata(&k.topic, false, int(patience/time.Millisecond))
		if err == nil {
			found := answer.Topics[k.topic]
			if found.Error.Code() == kafka.ErrNoError && len(found.Partitions) > 0 {
				return nil
			}
			err = fmt.Errorf("it has %d partitions: %w", len(found.Partitions), found.Error)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ask the brokers for topic %q: %w", k.topic, err)
		case <-time.After(patience / 10):
		}
	}
}

// read hands out the producer's reports, until it is closed.
func (k *Kafka) read() {
	for event := range k.producer.Events() {
		m, ok := event.(*kafka.Message)
		if !ok {
			continue // an error of a broker: what it means for a push, the push's report says
		}
		r := m.Opaque.(*pendingRecord)
		r.lane.settle(r, k.fate(m.TopicPartition.Error))
	}
}

// fate is the error of a push whose record the producer reports on with err.
func (k *Kafka) fate(err error) error {
	if err == nil {
		return nil
	}
	var answer kafka.Error
	if errors.As(err, &answer) {
		switch answer.Code() {
		case kafka.ErrMsgSizeTooLarge, kafka.ErrInvalidMsg, kafka.ErrUnknownTopicOrPart, kafka.ErrTopicAuthorizationFailed:
			return fmt.Errorf("topic %q: %w: %w", k.topic, ErrRefused, err)
		}
	}
	return fmt.Errorf("write to topic %q: %w", k.topic, err)
}

// Close gives up what is still under way and ends the producer. Every sender must be closed.
func (k *Kafka) Close() {
	// Without this the brokers would be tried for as long as the time-out.
	_ = k.producer.Purge(kafka.PurgeQueue | kafka.PurgeInFlight)
	k.producer.Close()
	k.reading.Wait()
}

// Open implements Way.
func (k *Kafka) Open(targets []Target) (Sender, error) {
	lane := &kafkaLane{way: k, pending: map[*pendingRecord]struct{}{}}
	for i := range targets {
		t := &targets[i]
		if err := ViaKafka.Carries(t.Kind); err != nil {
			return nil, err
		}
		r := kafkaTarget{message: &logic.PushMsg{Operation: t.Operation}}
		switch t.Kind {
		case KindRoom:
			r.key, r.message.Type, r.message.Room = []byte(t.Room()), logic.PushMsg_ROOM, t.Room()
		case KindAll:
			r.key, r.message.Type, r.message.Speed = strconv.AppendInt(nil, int64(t.Operation), 10), logic.PushMsg_BROADCAST, t.Speed
		}
		lane.targets = append(lane.targets, r)
	}
	return lane, nil
}

// kafkaLane is a lane of Kafka.
type kafkaLane struct {
	way     *Kafka
	targets []kafkaTarget
	value   []byte // encoding of the last record, for the next one's

	mu      sync.Mutex // held while a push is settled, so that Close knows that it is
	pending map[*pendingRecord]struct{}
	empty   chan struct{} // made by Close where records are pending; closed with the last
}

// kafkaTarget is what all records of a target have in common.
type kafkaTarget struct {
	key     []byte
	message *logic.PushMsg
}

// pendingRecord is a record that the producer has not reported on.
type pendingRecord struct {
	lane *kafkaLane
	done func(error)
}

// Connect implements Sender: NewKafka has done it.
func (l *kafkaLane) Connect(context.Context) {}

// Send implements Sender.
func (l *kafkaLane) Send(_ context.Context, target int, body []byte, done func(error)) {
	t := &l.targets[target]
	// As of logic, whose place this takes.
	t.message.Msg, t.message.Accepted = body, ledger.Now()
	var err error
	l.value, err = proto.MarshalOptions{}.MarshalAppend(l.value[:0], t.message)
	if err != nil {
		done(fmt.Errorf("%w: encode the record: %w", ErrNotSent, err))
		return
	}
	r := &pendingRecord{l, done}
	l.mu.Lock()
	l.pending[r] = struct{}{}
	l.mu.Unlock()
	// Produce copies the key and the value.
	err = l.way.producer.Produce(&kafka.Message{
		TopicPartition: kafka.TopicPartition{Topic: &l.way.topic, Partition: kafka.PartitionAny},
		Key:            t.key, Value: l.value, Opaque: r,
	}, nil)
	if err != nil {
		l.settle(r, fmt.Errorf("topic %q: %w: %w", l.way.topic, ErrNotSent, err))
	}
}

// settle tells what became of a record, once.
func (l *kafkaLane) settle(r *pendingRecord, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.pending[r]; !ok { // given up by Close
		return
	}
	delete(l.pending, r)
	r.done(err)
	if len(l.pending) == 0 && l.empty != nil {
		close(l.empty)
	}
}

// Close implements Sender.
func (l *kafkaLane) Close(ctx context.Context) {
	l.mu.Lock()
	if len(l.pending) == 0 {
		l.mu.Unlock()
		return
	}
	l.empty = make(chan struct{})
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.way.timeout+reportGrace)
	defer cancel()
	select {
	case <-l.empty:
		return
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.pending {
		r.done(fmt.Errorf("wait for the acknowledgement of topic %q: %w", l.way.topic, ctx.Err()))
	}
	clear(l.pending)
}
