package live

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"barrage/harness/ledger"
	"barrage/harness/swarm"
)

// Info is what a run's metrics say of the run itself.
type Info struct {
	Scenario string
	Commit   string // of the processes under test, "" where it is not known
	Began    time.Time
}

// Metrics are a run's figures for Prometheus, as of the last sample. They are a
// prometheus.Collector, and safe for concurrent use.
type Metrics struct {
	info   Info
	phase  atomic.Pointer[string]
	sample atomic.Pointer[Sample] // nil before the first
}

// NewMetrics returns the metrics of a run that begins.
func NewMetrics(info Info) *Metrics {
	m := &Metrics{info: info}
	m.SetPhase("")
	return m
}

// SetPhase says which phase the run is in; "" is none.
func (m *Metrics) SetPhase(name string) { m.phase.Store(&name) }

// SetSample takes over the figures of s, which must not change from then on.
func (m *Metrics) SetSample(s *Sample) { m.sample.Store(s) }

// namespace is what the names of all metrics begin with.
const namespace = "barrage_harness_"

// descs are the metrics, in the order in which a reader wants them.
var descs = struct {
	info, start, phase,
	clients, failures, closes, rejoins, heartbeats,
	deliveries, duplicates, reordered, missing, latency,
	frames, reads, bytes,
	intended, sent, pushes, lag,
	busy, starved, cpu, readLag,
	processCPU, processMemory *prometheus.Desc
}{
	info:  desc("info", "The run's scenario and the commit of what is under test; the value is always 1.", "scenario", "commit"),
	start: desc("start_time_seconds", "When the run began, in seconds since 1970."),
	phase: desc("phase", "Whether the run is in the phase: 1 or 0.", "phase"),

	clients:    desc("clients", "Simulated clients by transport and by how far they have come.", "transport", "state"),
	failures:   desc("connect_failures_total", "Clients that did not get as far as logged in, by cause.", "cause"),
	closes:     desc("early_closes_total", "Clients that lost their connection after they had logged in, by cause; slow and stalled ones are left out.", "cause"),
	rejoins:    desc("rejoins_total", "Times that a client came back which had left, or which a storm had taken."),
	heartbeats: desc("heartbeats_total", "Heartbeats of clients that were due: sent, or held back since the socket was full.", "result"),

	deliveries: desc("deliveries_total", "Pushes that a client received for the first time; slow and stalled clients are left out here and below."),
	duplicates: desc("duplicates_total", "Pushes that a client received once more."),
	reordered:  desc("reordered_total", "Pushes that a client received after a later one of the same stream."),
	missing:    desc("missing", "Pushes that a client jumped over and has not received so far; those at a stream's end are known at the run's end alone."),
	latency:    desc("latency_seconds", "Time from a measured push's intended time to a client's receipt, to 3 percent."),

	frames: desc("read_frames_total", "Frames that clients read, of pushes and of all else."),
	reads:  desc("reads_total", "Read calls of clients that returned something."),
	bytes:  desc("read_bytes_total", "Bytes that clients read."),

	intended: desc("pushes_intended_total", "Pushes that the schedule wanted to be sent by now."),
	sent:     desc("pushes_sent_total", "Pushes that have an end, whichever it is."),
	pushes:   desc("pushes_total", "Pushes by their end: acknowledged is in Kafka, failed was refused or had no connection, unknown had no answer.", "result"),
	lag:      desc("push_lag_seconds", "By how much the latest push of the last second was sent after its intended time."),

	busy:    desc("swarm_busy_ratio", "Part of the last second in which a thread of the swarm did not wait for events: near 1 it is saturated.", "thread"),
	starved: desc("swarm_starved_ratio", "Part of the last second in which a thread of the swarm had work and no processor.", "thread"),
	cpu:     desc("swarm_cpu_seconds_total", "Processor time of a thread of the swarm.", "thread"),
	readLag: desc("swarm_read_lag_seconds", "The longest time of the last second from the kernel's word to a thread's last read of a round of events.", "thread"),

	processCPU:    desc("process_cpu_seconds_total", "Processor time of a process of the run, the harness included.", "process"),
	processMemory: desc("process_resident_memory_bytes", "Resident memory of a process of the run, the harness included.", "process"),
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+name, help, labels, nil)
}

// Describe is that of prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	d := &descs
	for _, x := range []*prometheus.Desc{
		d.info, d.start, d.phase, d.clients, d.failures, d.closes, d.rejoins, d.heartbeats, d.deliveries, d.duplicates, d.reordered, d.missing,
		d.latency, d.frames, d.reads, d.bytes, d.intended, d.sent, d.pushes, d.lag, d.busy, d.starved, d.cpu, d.readLag, d.processCPU, d.processMemory,
	} {
		ch <- x
	}
}

// Collect is that of prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	s := m.sample.Load()
	if s == nil {
		s = &Sample{}
	}
	c := collecting{ch}
	m.collectRun(c)
	collectClients(c, &s.Swarm)
	m.collectDeliveries(c, &s.Swarm)
	c.counter(descs.intended, s.Pushes.Intended)
	c.counter(descs.sent, s.Pushes.Sent)
	c.counter(descs.pushes, s.Pushes.Acknowledged, "acknowledged")
	c.counter(descs.pushes, s.Pushes.Failed, "failed")
	c.counter(descs.pushes, s.Pushes.Unknown, "unknown")
	c.gauge(descs.lag, s.PushLag.Seconds())
	for i, t := range s.Swarm.Threads {
		thread := strconv.Itoa(i)
		c.gauge(descs.busy, t.Busy, thread)
		c.gauge(descs.starved, t.Starved, thread)
		c.send(descs.cpu, prometheus.CounterValue, t.CPU.Seconds(), thread)
		c.gauge(descs.readLag, t.ReadLag.Seconds(), thread)
	}
	for _, p := range s.Processes {
		c.send(descs.processCPU, prometheus.CounterValue, p.CPU().Seconds(), p.Name)
		c.gauge(descs.processMemory, float64(p.RSS), p.Name)
	}
}

func (m *Metrics) collectRun(c collecting) {
	c.gauge(descs.info, 1, m.info.Scenario, m.info.Commit)
	c.gauge(descs.start, float64(m.info.Began.UnixMilli())/1e3)
	now := *m.phase.Load()
	for _, name := range []string{Start, Target, Connect, WarmUp, Measure, Drain, Stop, Ceiling} {
		in := 0.0
		if name == now {
			in = 1
		}
		c.gauge(descs.phase, in, name)
	}
}

func collectClients(c collecting, s *swarm.Snapshot) {
	for _, w := range s.Where {
		c.gauge(descs.clients, float64(w.Count), w.Kind.String(), w.State)
	}
	for _, x := range []struct {
		desc *prometheus.Desc
		list []swarm.CauseCount
	}{{descs.failures, s.Failures}, {descs.closes, s.Closes}} {
		counts := map[swarm.Cause]int64{}
		for _, e := range x.list {
			counts[e.Cause] = e.Count
		}
		for _, cause := range swarm.Causes() {
			c.counter(x.desc, counts[cause], cause.String())
		}
	}
	c.counter(descs.rejoins, s.Rejoined)
	c.counter(descs.heartbeats, s.Heartbeats, "sent")
	c.counter(descs.heartbeats, s.HeldBack, "held_back")
}

func (m *Metrics) collectDeliveries(c collecting, s *swarm.Snapshot) {
	c.counter(descs.deliveries, s.Accepted)
	c.counter(descs.duplicates, s.Disorder.Duplicate)
	c.counter(descs.reordered, s.Disorder.Reordered)
	c.gauge(descs.missing, float64(s.Disorder.Missing))
	c.counter(descs.frames, s.Frames)
	c.counter(descs.reads, s.Reads)
	c.counter(descs.bytes, s.Bytes)
	h := s.AllLatency
	if h == nil {
		h = ledger.NewLiveHistogram()
	}
	latency, err := newLatencyMetric(descs.latency, h, m.info.Began)
	if err != nil {
		latency = prometheus.NewInvalidMetric(descs.latency, err)
	}
	c.ch <- latency
}

// collecting writes one scrape.
type collecting struct{ ch chan<- prometheus.Metric }

func (c collecting) send(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
	c.ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
}

func (c collecting) gauge(d *prometheus.Desc, v float64, labels ...string) {
	c.send(d, prometheus.GaugeValue, v, labels...)
}

func (c collecting) counter(d *prometheus.Desc, v int64, labels ...string) {
	c.send(d, prometheus.CounterValue, float64(v), labels...)
}
