// Package producer puts records on the push topic and waits until Kafka has them: many
// callers' records share batches, and each caller learns the fate of its own.
package producer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// grace is what Send waits beyond Config.Timeout for librdkafka's verdict, so that a
	// failed push is one that librdkafka has given up, not one that may still be written.
	grace = 2 * time.Second

	probeTimeout = time.Second
	probeWaiting = 500 * time.Millisecond // between probes while the topic can't be reached
	probeWorking = 5 * time.Second        // between probes while it can
	flushTimeout = 5 * time.Second        // for records in flight when Run ends
)

// ErrClosed is returned by Send after Run has ended.
var ErrClosed = errors.New("producer is closed")

// A Record is one message of the topic. Records of one key keep their order: they go to one
// partition, and a record that is sent after another's Send returned stands behind it.
type Record struct {
	Key   []byte
	Value []byte
}

// A Producer writes records to one topic. Its methods may be called at any time, from any
// goroutine; Run must be running for Ready to become nil and for fatal errors to be mended.
type Producer struct {
	cfg       Config
	maxRecord int
	log       *slog.Logger
	metrics   *metrics

	mu     sync.RWMutex // held for reading while a record is handed over, so that Close waits
	handle *kafka.Producer

	stateMu sync.Mutex
	state   error // why the topic can't be written to, nil when it can
}

// New returns a Producer for records of up to maxRecord bytes, key and value together. It
// does not wait for the brokers.
func New(cfg Config, maxRecord int, log *slog.Logger, reg prometheus.Registerer) (*Producer, error) {
	p := &Producer{
		cfg:       cfg,
		maxRecord: maxRecord,
		log:       log,
		metrics:   newMetrics(reg),
		state:     errors.New("kafka: no broker has answered yet"),
	}
	handle, err := kafka.NewProducer(cfg.settings(maxRecord))
	if err != nil {
		return nil, fmt.Errorf("make Kafka producer: %w", err)
	}
	p.handle = handle
	return p, nil
}

// Send writes records and returns nil once the brokers acknowledged all of them. After an
// error some of them may be in the topic.
func (p *Producer) Send(ctx context.Context, records ...Record) error {
	start := time.Now()
	err := p.send(ctx, records)
	if err != nil {
		p.metrics.failed(err)
		return err
	}
	p.metrics.latency.Observe(time.Since(start).Seconds())
	p.metrics.records.Add(float64(len(records)))
	return nil
}

func (p *Producer) send(ctx context.Context, records []Record) error {
	// The channel holds a report of every record: librdkafka's poller never waits for us.
	reports := make(chan kafka.Event, len(records))
	queued, err := p.queue(records, reports)
	timeout := time.NewTimer(p.cfg.Timeout + grace)
	defer timeout.Stop()
	for range queued {
		select {
		case report := <-reports:
			message, ok := report.(*kafka.Message)
			if ok && message.TopicPartition.Error != nil && err == nil {
				err = fmt.Errorf("write to topic %q: %w", p.cfg.Topic, message.TopicPartition.Error)
			}
		case <-ctx.Done():
			return fmt.Errorf("wait for the acknowledgement of topic %q: %w", p.cfg.Topic, ctx.Err())
		case <-timeout.C:
			return fmt.Errorf("wait for the acknowledgement of topic %q: %w", p.cfg.Topic, context.DeadlineExceeded)
		}
	}
	return err
}

// queue hands records over to librdkafka and returns how many it took.
func (p *Producer) queue(records []Record, reports chan kafka.Event) (queued int, err error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.handle == nil {
		return 0, ErrClosed
	}
	for _, record := range records {
		err := p.handle.Produce(&kafka.Message{
			TopicPartition: kafka.TopicPartition{Topic: &p.cfg.Topic, Partition: kafka.PartitionAny},
			Key:            record.Key,
			Value:          record.Value,
		}, reports)
		if err != nil {
			return queued, fmt.Errorf("queue a record for topic %q: %w", p.cfg.Topic, err)
		}
		queued++
	}
	return queued, nil
}

// Ready returns nil while the brokers answer for the topic, else what is missing.
func (p *Producer) Ready() error {
	p.stateMu.Lock()
	defer p.stateMu.Unlock()
	return p.state
}

// Run watches over the producer until ctx ends, then waits a few seconds for the records in
// flight and closes it. It returns an error only when the producer can't be made anew.
func (p *Producer) Run(ctx context.Context) error {
	for {
		fatal := p.watch(ctx)
		if fatal == nil {
			p.close(flushTimeout)
			return nil
		}
		p.log.Error("kafka producer failed for good, making a new one", "err", fatal)
		p.metrics.replaced.Inc()
		p.setState(fmt.Errorf("kafka: producer is being replaced: %w", fatal))
		if err := p.replace(); err != nil {
			return err
		}
	}
}

// watch takes the producer's events until ctx ends (nil) or the producer reports a fatal error.
func (p *Producer) watch(ctx context.Context) (fatal error) {
	handle := p.handle // only Run's goroutine changes it
	ctx, cancel := context.WithCancel(ctx)
	var probing sync.WaitGroup
	probing.Go(func() { p.probe(ctx, handle) })
	defer probing.Wait()
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-handle.Events():
			if err, ok := event.(kafka.Error); ok {
				if err.IsFatal() {
					return err
				}
				p.log.Debug("kafka", "err", err)
			}
		case line := <-handle.Logs():
			p.log.Debug("librdkafka", "tag", line.Tag, "text", line.Message)
		}
	}
}

// probe asks for the topic's metadata now and then and keeps state.
func (p *Producer) probe(ctx context.Context, handle *kafka.Producer) {
	for {
		err := askTopic(handle, p.cfg.Topic)
		p.setState(err)
		wait := probeWorking
		if err != nil {
			wait = probeWaiting
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func askTopic(handle *kafka.Producer, topic string) error {
	answer, err := handle.GetMetadata(&topic, false, int(probeTimeout/time.Millisecond))
	if err != nil {
		return fmt.Errorf("kafka: ask brokers for topic %q: %w", topic, err)
	}
	found := answer.Topics[topic]
	if code := found.Error.Code(); code != kafka.ErrNoError {
		return fmt.Errorf("kafka: topic %q: %w", topic, found.Error)
	}
	if len(found.Partitions) == 0 {
		return fmt.Errorf("kafka: topic %q has no partitions", topic)
	}
	return nil
}

// setState keeps err for Ready and logs when the topic comes or goes.
func (p *Producer) setState(err error) {
	p.stateMu.Lock()
	before := p.state
	p.state = err
	p.stateMu.Unlock()
	switch {
	case before != nil && err == nil:
		p.log.Info("kafka is reachable", "topic", p.cfg.Topic, "brokers", p.cfg.Brokers)
	case before == nil && err != nil && !errors.Is(err, ErrClosed):
		p.log.Warn("kafka is out of reach, pushes fail until it is back", "topic", p.cfg.Topic, "err", err)
	}
}

// replace puts a new producer in the place of one that failed for good. The records that the
// old one held are reported as failed to their senders.
func (p *Producer) replace() error {
	next, err := kafka.NewProducer(p.cfg.settings(p.maxRecord))
	if err != nil {
		return fmt.Errorf("make Kafka producer anew: %w", err)
	}
	p.mu.Lock()
	old := p.handle
	p.handle = next
	p.mu.Unlock()
	if err := old.Purge(kafka.PurgeInFlight | kafka.PurgeQueue); err != nil {
		p.log.Debug("purge the failed kafka producer", "err", err)
	}
	old.Flush(int(probeTimeout / time.Millisecond))
	old.Close()
	return nil
}

// close lets nobody send any more, waits for what is in flight and frees the producer.
func (p *Producer) close(wait time.Duration) {
	p.mu.Lock()
	handle := p.handle
	p.handle = nil
	p.mu.Unlock()
	if left := handle.Flush(int(wait / time.Millisecond)); left > 0 {
		p.log.Warn("records were not acknowledged before the end", "records", left)
	}
	handle.Close()
	p.setState(ErrClosed)
}
