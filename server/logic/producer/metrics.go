package producer

import (
	"context"
	"errors"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/prometheus/client_golang/prometheus"
)

// A reason is why a record was not acknowledged.
type reason string

const (
	timedOut  reason = "timeout"    // no acknowledgement within kafka.timeout
	gaveUp    reason = "caller"     // the caller's context ended first
	queueFull reason = "queue_full" // kafka.queueBytes are waiting already
	tooLarge  reason = "too_large"  // larger than the brokers take
	replaced  reason = "replaced"   // the producer failed for good or was closed
	rejected  reason = "rejected"   // anything else the brokers answered
)

var reasons = [...]reason{timedOut, gaveUp, queueFull, tooLarge, replaced, rejected}

type metrics struct {
	latency  prometheus.Histogram
	records  prometheus.Counter
	replaced prometheus.Counter
	failures map[reason]prometheus.Counter // never changed after newMetrics
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "barrage_logic_produce_seconds",
			Help:    "Time from handing a push's records over until Kafka acknowledged all of them.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "barrage_logic_produced_records_total",
			Help: "Records that Kafka acknowledged.",
		}),
		replaced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "barrage_logic_producer_replacements_total",
			Help: "Times that the Kafka producer failed for good and was made anew.",
		}),
		failures: make(map[reason]prometheus.Counter),
	}
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_logic_produce_failures_total",
		Help: "Pushes that Kafka did not acknowledge, by reason.",
	}, []string{"reason"})
	for _, r := range reasons {
		m.failures[r] = failures.WithLabelValues(string(r))
	}
	reg.MustRegister(m.latency, m.records, m.replaced, failures)
	return m
}

func (m *metrics) failed(err error) { m.failures[reasonOf(err)].Inc() }

func reasonOf(err error) reason {
	var answer kafka.Error
	switch {
	case errors.Is(err, context.Canceled):
		return gaveUp
	case errors.Is(err, context.DeadlineExceeded):
		return timedOut
	case errors.Is(err, ErrClosed):
		return replaced
	case !errors.As(err, &answer):
		return rejected
	}
	switch answer.Code() {
	case kafka.ErrMsgTimedOut, kafka.ErrTimedOut, kafka.ErrRequestTimedOut:
		return timedOut
	case kafka.ErrQueueFull:
		return queueFull
	case kafka.ErrMsgSizeTooLarge:
		return tooLarge
	case kafka.ErrFatal, kafka.ErrPurgeQueue, kafka.ErrPurgeInflight, kafka.ErrState:
		return replaced
	}
	if answer.IsFatal() {
		return replaced
	}
	return rejected
}
