package job

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"barrage/server/admin"
)

// dropReason is why a record did not reach a comet that it was meant for.
type dropReason uint8

const (
	dropCometGone dropReason = iota // the comet is not live, or left before it took the record
	dropCometDead                   // the comet was given up while the record waited for it
	dropRefused                     // the comet answered with an error that repeating can't mend
	dropExhausted                   // the comet had no resources for it for as long as comet.deadAfter
	dropNoComet                     // there was no comet, and comet.waitForFirst is off
	numDrops
)

var dropNames = [numDrops]string{"comet_gone", "comet_dead", "refused", "exhausted", "no_comet"}

// giveBack is why a record was left for the next owner of its partition to deliver.
type giveBack uint8

const (
	backRevoked  giveBack = iota // its partition went to another job
	backShutdown                 // the job ended first
	numBacks
)

var backNames = [numBacks]string{"revoked", "shutdown"}

// metrics are a job's counters.
type metrics struct {
	records      [numKinds]prometheus.Counter
	bad          [numBad]prometheus.Counter
	dropped      [numDrops]prometheus.Counter
	givenBack    [numBacks]prometheus.Counter
	unheld       prometheus.Counter
	batches      [numKinds]prometheus.Counter
	batchFrames  prometheus.Histogram
	callBatches  prometheus.Histogram
	retries      prometheus.Counter
	rpcSeconds   prometheus.Histogram
	untilRead    prometheus.Histogram
	untilTaken   prometheus.Histogram
	deaths       prometheus.Counter
	lag          *prometheus.GaugeVec
	assigned     prometheus.Gauge
	paused       prometheus.Gauge
	pauses       prometheus.Counter
	underway     prometheus.Gauge
	rebalances   prometheus.Counter
	staleStores  prometheus.Counter
	storeErrors  prometheus.Counter
	commitErrors prometheus.Counter
	kafkaErrors  prometheus.Counter
	missing      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := new(metrics)
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "barrage_job_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "barrage_job_" + name, Help: help})
		reg.MustRegister(g)
		return g
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "barrage_job_" + name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	// closed makes the counter of each value of an enum now, so that it is seen as 0 before it first happens.
	closed := func(into []prometheus.Counter, name, label string, values []string, help string) {
		vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "barrage_job_" + name, Help: help}, []string{label})
		reg.MustRegister(vec)
		for i, value := range values {
			into[i] = vec.WithLabelValues(value)
		}
	}

	closed(m.records[:], "records_total", "type", kindNames[:], "Records that were read from Kafka and are meant for some comet.")
	closed(m.bad[:], "records_bad_total", "reason", badNames[:], "Records that nobody can be given: their offset moves on.")
	closed(m.dropped[:], "records_dropped_total", "reason", dropNames[:], "Records that a comet they were meant for did not take, counted for each such comet.")
	closed(m.givenBack[:], "records_given_back_total", "reason", backNames[:], "Records that waited for a comet and were left to the next owner of their partition, counted for each comet.")
	m.unheld = counter("records_unheld_total", "Room records that were kept from a comet because it held no member of the room.")
	closed(m.batches[:], "batches_total", "type", kindNames[:], "Batches that comets took: frames for one room or key, or for all, handed over together. A call carries one or more.")
	m.batchFrames = histogram("batch_frames", "Frames of one batch that a comet took.", prometheus.ExponentialBuckets(1, 4, 8))
	m.callBatches = histogram("call_batches", "Batches that a comet answered for in one call.", prometheus.ExponentialBuckets(1, 4, 6))
	m.retries = counter("rpc_retries_total", "Calls to comets that were repeated after a failure.")
	m.rpcSeconds = histogram("rpc_duration_seconds", "Time that calls to comets took, failed ones included.", prometheus.ExponentialBuckets(0.0001, 2.5, 14))
	m.untilRead = histogram("read_seconds", "Time from when logic accepted a push until its record was read from Kafka, by the clocks of both. Records of goim's logic don't say.", admin.StageBuckets())
	m.untilTaken = histogram("handover_seconds", "Time from when a record was read until a comet had taken it and said so, counted for each comet.", admin.StageBuckets())
	m.deaths = counter("comets_given_up_total", "Times that a comet was given up because all calls to it failed.")
	m.lag = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "barrage_job_lag_records",
		Help: "Records of the partition that not every comet has taken."}, []string{"partition"})
	reg.MustRegister(m.lag)
	m.assigned = gauge("partitions_assigned", "Partitions that this job reads.")
	m.paused = gauge("partitions_paused", "Partitions that are paused because comets are slow or missing.")
	m.pauses = counter("partition_pauses_total", "Times that a partition was paused.")
	m.underway = gauge("records_underway", "Records that were read and that not every comet has taken.")
	m.rebalances = counter("rebalances_total", "Changes of the partitions that this job reads.")
	m.staleStores = counter("offset_stores_stale_total", "Offsets that were not stored because the partition had just been revoked.")
	m.storeErrors = counter("offset_store_errors_total", "Offsets that could not be stored for any other reason.")
	m.commitErrors = counter("offset_commit_errors_total", "Commits that Kafka did not take.")
	m.kafkaErrors = counter("kafka_errors_total", "Errors that the consumer reported.")
	m.missing = counter("offsets_missing_total", "Offsets that were skipped between two records of a partition: records that Kafka no longer had when they were to be read.")
	return m
}

// read counts a record, and how long it took to get here if that is known.
func (m *metrics) read(r *record) {
	m.records[r.kind].Inc()
	if r.accepted != 0 {
		// Less than 0 where the two clocks disagree by more than it took.
		m.untilRead.Observe(max(0, time.Duration(r.read.UnixNano()-r.accepted).Seconds()))
	}
}

// handedOver notes how long the records waited for the comet that has just taken them.
func (m *metrics) handedOver(records []*record, now time.Time) {
	for _, r := range records {
		m.untilTaken.Observe(now.Sub(r.read).Seconds())
	}
}

func (m *metrics) drop(reason dropReason, n int) { m.dropped[reason].Add(float64(n)) }

func partitionLabel(id int32) string { return strconv.Itoa(int(id)) }
