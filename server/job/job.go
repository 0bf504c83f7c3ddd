// Package job carries pushes from Kafka to the comets: records come in through a consumer
// group, frames go out by gRPC to every comet that they are for.
//
// # Order
//
// Each comet has a few lanes. A room always takes the same lane, with one batch of it in
// flight, and so reaches each comet in the order of its Kafka partition. The same holds for
// pushes with the same first key, and for all broadcasts among themselves as far as they
// share a partition (one operation does); broadcasts have a lane of their own. Between two
// rooms, two first keys, or a room and a broadcast, no order is promised.
//
// # Calls
//
// A lane has one call on its way at a time: what comes meanwhile waits, and goes with the next
// one, whatever rooms and keys it is for (barrage.pushes.Pushes). The comet answers once it
// has tried all of it; a room whose log has no space is answered for later, and what comes
// for that room waits until then, while the others go on. goim's comets don't know such a
// call: they are asked once, and get a call for each room or first key.
//
// # Delivery
//
// An offset is stored when every comet that was live when the record was read has taken it
// and all records before it: at least once. After a crash or a change of partitions a client
// may see frames again, but never one before an earlier one that it has not seen. A comet
// that is slow fills its lanes, then the partitions that feed it are paused. What a comet
// does not get, since it was given up, left, or refused, is counted in
// barrage_job_records_dropped_total; nothing is dropped otherwise. A comet that appears gets
// what is read from then on.
//
// A group without committed offsets starts at the earliest record (kafka.offsetReset), so
// that what logic has accepted before the first job ran is delivered too.
//
// # Speed
//
// The speed of a broadcast is messages a second over the whole cluster. Each comet gets a
// share of it by the sessions that it holds, as it says in discovery (conn_count), so that all
// of them end at about the same time, and the shares together are the speed. A comet can't be
// told less than 1 a second: of a speed below the number of live comets each gets 1, and the
// cluster sends as many messages a second as it has comets. goim would send at once then.
//
// # Rooms that a comet does not hold
//
// By default every comet gets every room's records: a call for an unheld room is cheap.
// With comet.skipUnheldRooms a job asks each comet for its rooms and keeps the others from
// it. No message is lost by that: a record for a room that the last answer did not name
// waits for a question asked after the record was read, and is dropped for this comet only
// if that answer does not name the room either. The price is that the first record for a
// room that is new on a comet may wait for up to comet.roomsInterval, and the offset with
// it; and the comet must name a room as soon as a client can know that it is in it.
package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/prometheus/client_golang/prometheus"

	"barrage/server/discovery"
)

// Deps are what a job needs from its process. Nil Log and Metrics mean none.
type Deps struct {
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	Instances <-chan []discovery.Instance // whole lists of the comets; nothing is read before the first
}

// A Job is one consumer of the push topic and its connections to the comets.
type Job struct {
	cfg       Config
	log       *slog.Logger
	instances <-chan []discovery.Instance
	metrics   *metrics
	fleet     *fleet
	reader    *reader
}

// New returns a job with the given configuration. The error is Validate's.
func New(cfg Config, deps Deps) (*Job, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure job: %w", err)
	}
	if deps.Instances == nil {
		return nil, errors.New("configure job: no source of comets")
	}
	log := deps.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	reg := deps.Metrics
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := newMetrics(reg)
	r := newReader(cfg, log, m)
	f := newFleet(cfg, log, m, r.notify)
	r.fleet = f
	reg.MustRegister(f)
	return &Job{cfg: cfg, log: log, instances: deps.Instances, metrics: m, fleet: f, reader: r}, nil
}

// Listen opens the consumer; a job has no port of its own. The error says what librdkafka
// does not accept in the configuration. It does not wait for Kafka.
func (j *Job) Listen() error { return j.reader.open() }

// Run delivers until ctx ends, then stops reading, delivers what was read for at most
// drain.timeout, commits, and leaves the group. Before that it returns only with an error
// that the consumer can't recover from. Listen must have been called.
func (j *Job) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	logCtx, stopLog := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLog()
	work.Go(func() { logKafka(logCtx, j.log, j.reader.consumer.Logs()) })

	followCtx, stopFollowing := context.WithCancel(ctx)
	// The comets outlive ctx: they are needed to drain.
	linkCtx, stopLinks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLinks()
	var following sync.WaitGroup
	following.Go(func() { j.fleet.follow(followCtx, linkCtx, j.instances) })

	err := j.reader.run(ctx)

	stopFollowing()
	following.Wait()
	if err == nil {
		drainCtx, done := context.WithTimeout(linkCtx, j.cfg.Drain.Timeout)
		j.reader.drain(drainCtx)
		done()
		if n := j.fleet.waiting(); n > 0 {
			j.log.Warn("not all was delivered in time: the next job delivers it again", "records", n, "after", j.cfg.Drain.Timeout)
		}
	}
	stopLinks()
	j.fleet.close()
	j.reader.close()
	return err
}

// Ready returns nil when the job reads and has comets to deliver to, else what it waits for.
func (j *Job) Ready() error {
	return errors.Join(j.fleet.ready(), j.reader.ready())
}

// logKafka passes librdkafka's log on until ctx ends or the consumer is closed.
func logKafka(ctx context.Context, log *slog.Logger, events <-chan kafka.LogEvent) {
	const errorLevel, warningLevel = 3, 4 // syslog's
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			level := slog.LevelDebug
			if e.Level <= errorLevel {
				level = slog.LevelWarn // the consumer recovers, or says so by an event
			} else if e.Level == warningLevel {
				level = slog.LevelInfo
			}
			log.Log(ctx, level, "kafka: "+e.Message, "tag", e.Tag)
		case <-ctx.Done():
			return
		}
	}
}
