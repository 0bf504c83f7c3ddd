package job

import (
	"fmt"
	"slices"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// rebalance is called by the consumer, within a poll, when partitions come or go.
func (r *reader) rebalance(c *kafka.Consumer, event kafka.Event) error {
	r.metrics.rebalances.Inc()
	cooperative := c.GetRebalanceProtocol() != "EAGER"
	var err error
	switch e := event.(type) {
	case kafka.AssignedPartitions:
		assign := c.Assign
		if cooperative {
			assign = c.IncrementalAssign
		}
		if err = assign(e.Partitions); err != nil {
			err = fmt.Errorf("assign partitions: %w", err)
			break
		}
		r.assigned(e.Partitions)
	case kafka.RevokedPartitions:
		r.revoked(e.Partitions, c.AssignmentLost())
		if cooperative {
			err = c.IncrementalUnassign(e.Partitions)
		} else {
			err = c.Unassign()
		}
		if err != nil {
			err = fmt.Errorf("unassign partitions: %w", err)
		}
	}
	r.metrics.assigned.Set(float64(len(r.parts)))
	if err != nil {
		r.complain(err)
	}
	return err
}

// assigned begins to read partitions. New ones are not paused here even if nobody can take
// their records: librdkafka may lose a start that meets a pause, and the partition would
// stand still for ever (librdkafka issues 2190 and 5591). Their first record is kept, and
// pauses them.
func (r *reader) assigned(list []kafka.TopicPartition) {
	for _, tp := range list {
		r.parts[tp.Partition] = newPartition(tp.Partition, r.notify)
	}
	// Those that stayed are paused anew: a rebalance may have left the consumer with another
	// idea of what is paused than ours.
	var paused []*partition
	for _, p := range r.parts {
		if p.paused {
			paused = append(paused, p)
		}
	}
	r.setPaused(paused, true)
	r.notify()
	r.joined.Store(true)
	r.log.Info("partitions assigned", "partitions", ids(list), "now", len(r.parts))
}

// revoked gives partitions up. So that the next owner's copies of a record don't meet ours,
// what waits for a comet is taken out of the lanes, and calls in flight are waited for, for
// at most kafka.revokeWait; what was taken by then is stored, and committed by the consumer
// as the partitions go. When the wait was too short a client may see an old copy late:
// duplicates, but still no record before an earlier one that it had not seen. A lost
// assignment has its next owner already: nothing is waited for, and nothing stored.
func (r *reader) revoked(list []kafka.TopicPartition, lost bool) {
	var parts []*partition
	for _, tp := range list {
		if p := r.parts[tp.Partition]; p != nil {
			parts = append(parts, p)
		}
	}
	for _, p := range parts {
		p.revoked.Store(true)
		r.fleet.forget(p)
	}
	r.held.keep(func(rec *record) bool { return !rec.part.revoked.Load() })
	if !lost && !r.closing {
		deadline := time.Now().Add(r.cfg.Kafka.RevokeWait)
		for _, p := range parts {
			if !p.waitLanded(deadline) {
				r.log.Warn("calls are still in flight for a partition that is given up: its records may be delivered twice", "partition", p.id)
			}
		}
	}
	if !lost {
		r.store()
	}
	// The consumer remembers a pause until the partition comes back: end it while it is ours.
	var paused []*partition
	for _, p := range parts {
		if p.paused {
			paused = append(paused, p)
		}
	}
	r.setPaused(paused, false)
	for _, p := range parts {
		delete(r.parts, p.id)
		r.metrics.lag.DeleteLabelValues(partitionLabel(p.id))
	}
	r.notify()
	r.log.Info("partitions revoked", "partitions", ids(list), "now", len(r.parts), "lost", lost)
}

// waitLanded waits until no batch in flight holds records of the revoked p, and reports
// whether that was so before the deadline.
func (p *partition) waitLanded(deadline time.Time) bool {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for p.flying.Load() > 0 {
		select {
		case <-p.landed:
		case <-timer.C:
			return p.flying.Load() == 0
		}
	}
	return true
}

func ids(list []kafka.TopicPartition) []int32 {
	out := make([]int32, len(list))
	for i, tp := range list {
		out[i] = tp.Partition
	}
	slices.Sort(out)
	return out
}
