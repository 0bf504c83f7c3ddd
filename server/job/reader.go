package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"barrage/server/api/logic"
)

// How often the reader sees to what is not a record, and how long one poll waits.
const (
	storeInterval = 100 * time.Millisecond // from taken to stored; the commit has its own interval
	lagInterval   = time.Second
	idlePoll      = 100 * time.Millisecond
	pausedPoll    = 5 * time.Millisecond // while a partition waits for a lane to drain
	closeTimeout  = 10 * time.Second     // for leaving the group
)

// A reader is the consumer: it reads records, hands them to the fleet, pauses partitions
// whose records nobody can take, and stores offsets behind the comets. One goroutine runs
// it and owns all that is not marked otherwise; rebalances are handled on that goroutine,
// within a poll.
type reader struct {
	cfg      Config
	log      *slog.Logger
	metrics  *metrics
	fleet    *fleet
	consumer *kafka.Consumer

	changed atomic.Bool // by anybody: pausing has to be looked at again
	joined  atomic.Bool // the group has given us our partitions, maybe none
	down    atomic.Bool // no broker is reached

	parts   map[int32]*partition
	held    fifo[*record] // read when there was no comet, one or a few of each partition
	scratch logic.PushMsg
	stored  time.Time // when offsets were stored last
	lagged  time.Time // when lag was looked at last
	closing bool      // partitions that are revoked now were drained before
	watcher *watcher

	badLog, missLog, errorLog limitedLogger
}

func newReader(cfg Config, log *slog.Logger, m *metrics) *reader {
	return &reader{cfg: cfg, log: log, metrics: m, parts: make(map[int32]*partition)}
}

// notify asks the reader to look at what to pause, resume and store. Anybody may call it.
func (r *reader) notify() { r.changed.Store(true) }

// open makes the consumer. It does not wait for Kafka: the error is about the settings.
func (r *reader) open() error {
	settings := consumerSettings(r.cfg.Kafka)
	consumer, err := kafka.NewConsumer(&settings)
	if err != nil {
		return fmt.Errorf("open kafka consumer (kafka.brokers, kafka.options): %w", err)
	}
	r.consumer = consumer
	return nil
}

func consumerSettings(c KafkaConfig) kafka.ConfigMap {
	brokers := ""
	for i, b := range c.Brokers {
		if i > 0 {
			brokers += ","
		}
		brokers += b
	}
	settings := kafka.ConfigMap{
		"partition.assignment.strategy": "cooperative-sticky",
		"socket.nagle.disable":          true,
		"allow.auto.create.topics":      false,
		// A topic, or a partition, that is made later is found within so much.
		"topic.metadata.refresh.interval.ms": 10_000,
		"reconnect.backoff.max.ms":           1_000,
		// A partition that goes on waits for the fetch under way, and one that was full for its backoff.
		"fetch.wait.max.ms":      100,
		"fetch.queue.backoff.ms": 50,
	}
	for _, option := range c.Options {
		if key, value, err := splitOption(option); err == nil { // Validate has refused the others
			settings[key] = value
		}
	}
	settings["bootstrap.servers"] = brokers
	settings["group.id"] = c.Group
	settings["auto.offset.reset"] = c.OffsetReset
	settings["enable.auto.offset.store"] = false
	settings["enable.auto.commit"] = true
	settings["auto.commit.interval.ms"] = int(c.CommitInterval.Milliseconds())
	settings["session.timeout.ms"] = int(c.SessionTimeout.Milliseconds())
	settings["heartbeat.interval.ms"] = int(min(c.SessionTimeout/3, 3*time.Second).Milliseconds())
	settings["max.poll.interval.ms"] = int(c.MaxPollInterval.Milliseconds())
	settings["go.logs.channel.enable"] = true
	if c.InstanceID != "" {
		settings["group.instance.id"] = c.InstanceID
	}
	return settings
}

// run reads until ctx ends. The error is one that the consumer can't recover from.
func (r *reader) run(ctx context.Context) error {
	if err := r.consumer.Subscribe(r.cfg.Kafka.Topic, r.rebalance); err != nil {
		return fmt.Errorf("subscribe to topic %q: %w", r.cfg.Kafka.Topic, err)
	}
	var watching sync.WaitGroup
	watchCtx, stop := context.WithCancel(ctx)
	r.watcher = newWatcher(r.consumer, r.cfg.Kafka, &r.down)
	watching.Go(func() { r.watcher.run(watchCtx) })
	defer watching.Wait()
	defer stop()

	wait := idlePoll
	for ctx.Err() == nil {
		event := r.consumer.Poll(int(wait.Milliseconds()))
		if err := r.handle(event); err != nil {
			return err
		}
		if r.changed.CompareAndSwap(true, false) {
			wait = r.balance()
		}
		if now := time.Now(); now.Sub(r.stored) >= storeInterval {
			r.stored = now
			r.store()
			if now.Sub(r.lagged) >= lagInterval {
				r.lagged = now
				r.measure()
			}
		}
	}
	return nil
}

// drain waits until everything that was read has been taken, or ctx ends, and then stores
// what was taken. Nothing is polled meanwhile.
func (r *reader) drain(ctx context.Context) {
	const look = 5 * time.Millisecond
	for r.fleet.waiting() > 0 && sleep(ctx, look) {
		// Lanes go on by themselves.
	}
	r.store()
}

// close commits what is stored, leaves the group and ends the consumer.
func (r *reader) close() {
	r.closing = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.consumer.Close(); err != nil {
			r.log.Warn("close kafka consumer", "err", err)
		}
	}()
	select {
	case <-done:
	case <-time.After(closeTimeout):
		// librdkafka waits for brokers that don't answer; the process ends anyway.
		r.log.Warn("kafka consumer does not close in time: the group will notice by its session time-out", "after", closeTimeout)
	}
}

// ready returns nil when records are read, else what is waited for. Anybody may call it.
func (r *reader) ready() error {
	if r.down.Load() {
		return fmt.Errorf("waiting for kafka: none of the brokers %q is reached", r.cfg.Kafka.Brokers)
	}
	if !r.joined.Load() {
		return fmt.Errorf("waiting for partitions of topic %q in group %q", r.cfg.Kafka.Topic, r.cfg.Kafka.Group)
	}
	return nil
}

// handle sees to one event of the consumer. The error is fatal to the consumer.
func (r *reader) handle(event kafka.Event) error {
	switch e := event.(type) {
	case nil:
	case *kafka.Message:
		if e.TopicPartition.Error != nil {
			r.complain(e.TopicPartition.Error, "partition", e.TopicPartition.Partition)
			return nil
		}
		r.down.Store(false)
		r.read(e)
	case kafka.OffsetsCommitted:
		r.committed(e)
	case kafka.Error:
		if e.IsFatal() {
			return fmt.Errorf("consume topic %q in group %q: %w", r.cfg.Kafka.Topic, r.cfg.Kafka.Group, e)
		}
		if e.Code() == kafka.ErrAllBrokersDown {
			r.down.Store(true)
		}
		r.complain(e)
	}
	return nil
}

// read takes one record over from Kafka.
func (r *reader) read(m *kafka.Message) {
	p := r.parts[m.TopicPartition.Partition]
	if p == nil {
		return // revoked while it was on its way to us: not ours any more
	}
	offset := int64(m.TopicPartition.Offset)
	if p.next >= 0 && offset != p.next {
		if offset > p.next {
			r.metrics.missing.Add(float64(offset - p.next))
		}
		r.missLog.warn(r.log, "offsets don't follow each other: records expired in Kafka before they were read, or the topic was made anew",
			"partition", p.id, "offset", offset, "expected", p.next)
	}
	p.next = offset + 1
	if p.paused { // the consumer has gone on by itself: pause it again
		p.paused = false
		r.notify()
	}

	rec, err := decode(m.Value, &r.scratch)
	if err != nil {
		var bad *badRecord
		if errors.As(err, &bad) {
			r.metrics.bad[bad.reason].Inc()
		}
		r.badLog.warn(r.log, "record can't be delivered to anybody: skipped", "partition", p.id, "offset", offset, "err", err)
		p.skip(offset)
		return
	}
	rec.offset, rec.read = offset, time.Now()
	r.metrics.read(rec)
	underway := p.add(rec)
	// Never past one that is kept: their order is the partition's.
	if r.held.len() > 0 || !r.offer(rec) {
		r.held.push(rec)
		r.notify()
	}
	if underway >= r.cfg.Kafka.Window || p.blockers.Load() > 0 {
		r.notify()
	}
}

// offer hands rec to the comets and reports whether it is settled: if not, it has to wait
// for a comet.
func (r *reader) offer(rec *record) bool {
	switch {
	case rec.part.revoked.Load() || r.fleet.hand(rec):
		return true
	case r.cfg.Comet.WaitForFirst || r.fleet.ready() != nil:
		return false
	default:
		r.metrics.drop(dropNoComet, 1)
		release(rec)
		return true
	}
}

// balance pauses and resumes partitions as the lanes and the fleet allow, and returns how
// long a poll may wait.
func (r *reader) balance() time.Duration {
	open := r.fleet.ready() == nil
	for open && r.held.len() > 0 {
		// Before anything new is read from their partitions.
		if open = r.offer(r.held.front()); open {
			r.held.pop()
		}
	}
	var pause, resume []*partition
	paused := 0
	for _, p := range r.parts {
		want := !open || p.blockers.Load() > 0 || r.overfull(p)
		if p.next < 0 {
			want = false // not started, see assigned
		}
		switch {
		case want && !p.paused:
			pause = append(pause, p)
		case !want && p.paused:
			resume = append(resume, p)
		}
		if want {
			paused++
		}
	}
	r.setPaused(pause, true)
	r.setPaused(resume, false)
	r.metrics.paused.Set(float64(paused))
	if paused > 0 {
		return pausedPoll
	}
	return idlePoll
}

// overfull reports whether too much of p is under way; once paused, half must be done.
func (r *reader) overfull(p *partition) bool {
	_, underway := p.progress()
	if p.paused {
		return underway > r.cfg.Kafka.Window/2
	}
	return underway >= r.cfg.Kafka.Window
}

// setPaused tells the consumer. What it has read ahead of a paused partition is read again
// from Kafka when it goes on.
func (r *reader) setPaused(parts []*partition, paused bool) {
	if len(parts) == 0 {
		return
	}
	call, what := r.consumer.Resume, "resume"
	if paused {
		call, what = r.consumer.Pause, "pause"
	}
	if err := call(r.topicPartitions(parts)); err != nil {
		r.complain(fmt.Errorf("%s partitions: %w", what, err))
		r.notify() // tried again with the next poll
		return
	}
	for _, p := range parts {
		if paused && !p.paused {
			r.metrics.pauses.Inc()
		}
		p.paused = paused
	}
}

// store gives the consumer the offsets up to which every comet has taken the records.
func (r *reader) store() {
	var parts []*partition
	var offsets []kafka.TopicPartition
	total := 0
	for _, p := range r.parts {
		taken, underway := p.progress()
		total += underway
		if taken < 0 || taken == p.stored {
			continue
		}
		parts = append(parts, p)
		offsets = append(offsets, r.topicPartition(p, kafka.Offset(taken)))
	}
	r.metrics.underway.Set(float64(total))
	if len(offsets) == 0 {
		return
	}
	results, err := r.consumer.StoreOffsets(offsets)
	for i, p := range parts {
		if i < len(results) && results[i].Error != nil {
			r.notStored(p, results[i].Error)
			continue
		}
		if err == nil || i < len(results) {
			p.stored = int64(offsets[i].Offset)
		}
	}
}

func (r *reader) notStored(p *partition, err error) {
	var kerr kafka.Error
	if errors.As(err, &kerr) && kerr.Code() == kafka.ErrState {
		r.metrics.staleStores.Inc() // just revoked: the next owner reads it again
		return
	}
	r.metrics.storeErrors.Inc()
	r.complain(fmt.Errorf("store offset: %w", err), "partition", p.id)
}

func (r *reader) committed(e kafka.OffsetsCommitted) {
	var kerr kafka.Error
	if e.Error == nil {
		r.down.Store(false)
		return
	}
	if errors.As(e.Error, &kerr) && kerr.Code() == kafka.ErrNoOffset {
		return // nothing new to commit
	}
	r.metrics.commitErrors.Inc()
	r.complain(fmt.Errorf("commit offsets: %w", e.Error))
}

func (r *reader) complain(err error, args ...any) {
	r.metrics.kafkaErrors.Inc()
	r.errorLog.warn(r.log, "kafka consumer", append(args, "err", err)...)
}

func (r *reader) topicPartition(p *partition, offset kafka.Offset) kafka.TopicPartition {
	return kafka.TopicPartition{Topic: &r.cfg.Kafka.Topic, Partition: p.id, Offset: offset}
}

func (r *reader) topicPartitions(parts []*partition) []kafka.TopicPartition {
	list := make([]kafka.TopicPartition, len(parts))
	for i, p := range parts {
		list[i] = r.topicPartition(p, kafka.OffsetInvalid)
	}
	return list
}
