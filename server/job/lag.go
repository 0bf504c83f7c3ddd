package job

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// A watcher asks Kafka what the consumer does not know by itself, away from the reader's
// goroutine: the ends of partitions that are not being fetched, and whether brokers that
// were lost are back.
type watcher struct {
	consumer *kafka.Consumer
	cfg      KafkaConfig
	down     *atomic.Bool
	wanted   chan []int32         // partitions to ask for, buffer 1
	found    chan map[int32]int64 // their lag in records, buffer 1
}

// watchInterval is the time between two rounds of questions, watchTimeout that for each.
const (
	watchInterval = 2 * time.Second
	watchTimeout  = time.Second
)

func newWatcher(consumer *kafka.Consumer, cfg KafkaConfig, down *atomic.Bool) *watcher {
	return &watcher{consumer: consumer, cfg: cfg, down: down, wanted: make(chan []int32, 1), found: make(chan map[int32]int64, 1)}
}

func (w *watcher) run(ctx context.Context) {
	for sleep(ctx, watchInterval) {
		if w.down.Load() {
			if _, err := w.consumer.GetMetadata(&w.cfg.Topic, false, int(watchTimeout.Milliseconds())); err == nil {
				w.down.Store(false)
			}
			continue
		}
		select {
		case ids := <-w.wanted:
			lags := w.ask(ctx, ids)
			select {
			case w.found <- lags:
			default: // the reader has not taken the last ones
			}
		default:
		}
	}
}

// ask returns how far behind its end the committed offset of each partition is.
func (w *watcher) ask(ctx context.Context, ids []int32) map[int32]int64 {
	timeout := int(watchTimeout.Milliseconds())
	list := make([]kafka.TopicPartition, len(ids))
	for i, id := range ids {
		list[i] = kafka.TopicPartition{Topic: &w.cfg.Topic, Partition: id}
	}
	committed, err := w.consumer.Committed(list, timeout)
	if err != nil {
		return nil
	}
	lags := make(map[int32]int64)
	for _, tp := range committed {
		if ctx.Err() != nil {
			break
		}
		low, high, err := w.consumer.QueryWatermarkOffsets(w.cfg.Topic, tp.Partition, timeout)
		if err != nil {
			continue
		}
		from := int64(tp.Offset)
		if from < 0 { // nothing committed: where kafka.offsetReset will start
			from = low
			if w.cfg.OffsetReset == resetLatest {
				from = high
			}
		}
		lags[tp.Partition] = max(0, high-from)
	}
	return lags
}

// measure sets the lag of every partition: from what the consumer has fetched, which costs
// nothing, or from the watcher's last answer where nothing is fetched.
func (r *reader) measure() {
	var unknown []int32
	for _, p := range r.parts {
		taken, _ := p.progress()
		_, high, err := r.consumer.GetWatermarkOffsets(r.cfg.Kafka.Topic, p.id)
		if taken < 0 || p.paused || err != nil || high < 0 {
			unknown = append(unknown, p.id)
			continue
		}
		r.metrics.lag.WithLabelValues(partitionLabel(p.id)).Set(float64(max(0, high-taken)))
	}
	select {
	case lags := <-r.watcher.found:
		for _, id := range unknown {
			if lag, ok := lags[id]; ok {
				r.metrics.lag.WithLabelValues(partitionLabel(id)).Set(float64(lag))
			}
		}
	default:
	}
	if len(unknown) == 0 {
		return
	}
	select {
	case r.watcher.wanted <- unknown:
	default:
	}
}
