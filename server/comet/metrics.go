package comet

import (
	"github.com/prometheus/client_golang/prometheus"

	"barrage/server/admin"
)

// A reason is why a session was closed.
type reason uint8

const (
	reasonPeer          reason = iota // the peer closed or reset the connection
	reasonAuthTimeout                 // no good auth frame in time
	reasonAuthRefused                 // logic refused the token
	reasonAuthFailed                  // logic could not be asked
	reasonFirstFrames                 // too many frames before auth
	reasonBadFrame                    // package or header length out of range
	reasonBadTLS                      // the TLS handshake failed
	reasonBadUpgrade                  // not a WebSocket handshake
	reasonBadWebSocket                // against RFC 6455
	reasonTextMessage                 // a text message; the protocol is binary
	reasonTooBig                      // a message over the limit
	reasonInputOverflow               // too much input while logic was being asked
	reasonHeartbeat                   // heartbeat overdue
	reasonReplaced                    // another session took the place
	reasonRejected                    // the key or the member has as many sessions as it may
	reasonSlow                        // fell off the room log, with policy close
	reasonBackedUp                    // pending bytes over the limit, with policy close
	reasonWriteError                  // the socket failed
	reasonDescriptors                 // its shard's table of descriptors is full
	reasonPanic                       // a bug in the handler
	reasonDrain                       // the server ends
	numReasons
)

var reasonNames = [numReasons]string{
	"peer", "auth_timeout", "auth_refused", "auth_failed", "first_frames", "bad_frame",
	"bad_tls", "bad_upgrade", "bad_websocket", "text_message", "too_big", "input_overflow", "heartbeat",
	"replaced", "rejected", "slow", "backed_up", "write_error", "descriptors", "panic", "drain",
}

func (r reason) String() string { return reasonNames[r] }

// A refusal is why a connection was not accepted.
type refusal uint8

const (
	refusedConnections refusal = iota // limit.connections
	refusedAddress                    // limit.perAddress
	refusedRate                       // limit.perAddressRate
	refusedMemory                     // limit.memory
	refusedDescriptors                // the process has no descriptor left
	numRefusals
)

var refusalNames = [numRefusals]string{"connections", "address", "address_rate", "memory", "descriptors"}

// A skip is why a frame did not reach a session that it was meant for.
type skip uint8

const (
	skipLogOverrun skip = iota // the session fell off its room's log
	skipBackedUp               // the session's queue was full
	numSkips
)

var skipNames = [numSkips]string{"log_overrun", "backed_up"}

// cometMetrics are a comet's counters. The hot ones are added once a slice, not once a write.
type cometMetrics struct {
	sessions      [4]prometheus.Gauge // by transport
	connections   prometheus.Gauge
	accepted      prometheus.Counter
	refused       [numRefusals]prometheus.Counter
	closed        [numReasons]prometheus.Counter
	framesIn      prometheus.Counter
	framesOut     prometheus.Counter
	writes        prometheus.Counter
	writtenBytes  prometheus.Counter
	eagain        prometheus.Counter
	skipped       [numSkips]prometheus.Counter
	sweeps        prometheus.Histogram
	pushWait      prometheus.Histogram
	untilAccepted prometheus.Histogram
	untilWritten  prometheus.Histogram
	pushes        map[string]prometheus.Counter
	pushMissed    prometheus.Counter
	rpcErrors     map[string]prometheus.Counter
	batches       map[string]prometheus.Observer
	shards        prometheus.Gauge
	laggards      prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *cometMetrics {
	m := &cometMetrics{}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "barrage_comet_" + name, Help: help})
		r.MustRegister(c)
		return c
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "barrage_comet_" + name, Help: help}, []string{label})
		r.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "barrage_comet_" + name, Help: help})
		r.MustRegister(g)
		return g
	}
	sessions := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "barrage_comet_sessions", Help: "Authenticated sessions."}, []string{"transport"})
	r.MustRegister(sessions)
	for i, name := range transportNames {
		m.sessions[i] = sessions.WithLabelValues(name)
	}
	m.connections = gauge("connections", "Open connections, authenticated or not.")
	m.shards = gauge("shards", "Shards, each of which sweeps its part of the rooms.")
	m.laggards = gauge("laggards", "Sessions whose socket buffer is full.")
	m.accepted = counter("accepted_total", "Connections accepted.")
	m.framesIn = counter("frames_received_total", "Frames read from clients.")
	m.framesOut = counter("frames_sent_total", "Pushed frames handed to sessions.")
	m.writes = counter("writes_total", "Send calls that wrote something.")
	m.writtenBytes = counter("written_bytes_total", "Bytes that send calls wrote.")
	m.eagain = counter("send_eagain_total", "Send calls that the peer's window cut short.")
	m.pushMissed = counter("push_missed_total", "Keys pushed to that have no session here or don't accept the operation.")
	refused := vec("refused_total", "Connections refused, by reason.", "reason")
	for i, name := range refusalNames {
		m.refused[i] = refused.WithLabelValues(name)
	}
	closed := vec("closed_total", "Sessions and connections closed, by reason.", "reason")
	for i, name := range reasonNames {
		m.closed[i] = closed.WithLabelValues(name)
	}
	skipped := vec("frames_skipped_total", "Frames that a session did not get, by reason.", "reason")
	for i, name := range skipNames {
		m.skipped[i] = skipped.WithLabelValues(name)
	}
	pushes := vec("pushes_total", "Pushes taken from job, by kind.", "kind")
	m.pushes = make(map[string]prometheus.Counter)
	for _, kind := range []string{"keys", "room", "all"} {
		m.pushes[kind] = pushes.WithLabelValues(kind)
	}
	rpc := vec("logic_errors_total", "Sessions, frames and reports for which a call to logic failed, by the method for a single one.", "method")
	m.rpcErrors = make(map[string]prometheus.Counter)
	for _, method := range []string{"Connect", "Disconnect", "Heartbeat", "Receive", "RenewOnline"} {
		m.rpcErrors[method] = rpc.WithLabelValues(method)
	}
	batches := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "barrage_comet_logic_batch_sessions", Help: "Sessions that one call to logic was for, by the method for a single one.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 13)}, []string{"method"})
	r.MustRegister(batches)
	m.batches = make(map[string]prometheus.Observer)
	for _, method := range []string{"Connect", "Disconnect", "Heartbeat"} {
		m.batches[method] = batches.WithLabelValues(method)
	}
	m.sweeps = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "barrage_comet_sweep_seconds", Help: "Time from a sweep's first member to its last, in one shard.",
		Buckets: prometheus.ExponentialBuckets(0.00005, 2, 18)})
	m.pushWait = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "barrage_comet_push_wait_seconds", Help: "Time that a push RPC waited until its frames were in the logs.",
		Buckets: prometheus.ExponentialBuckets(0.00005, 2, 18)})
	m.untilAccepted = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "barrage_comet_push_accepted_seconds", Buckets: admin.StageBuckets(),
		Help: "Time from when logic accepted a push until this comet had it for all of its sessions, by the clocks of both. Pushes for nobody here, and those of goim's job, are not in it."})
	m.untilWritten = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "barrage_comet_push_written_seconds", Buckets: admin.StageBuckets(),
		Help: "Time from then until the push was written to the last session that keeps up."})
	r.MustRegister(m.sweeps, m.pushWait, m.untilAccepted, m.untilWritten)
	return m
}

// wrote counts one send of n bytes outside of a sweep.
func (m *cometMetrics) wrote(n int) {
	if n > 0 {
		m.writes.Inc()
		m.writtenBytes.Add(float64(n))
	}
}

// session counts d authenticated sessions more on c's transport.
func (m *cometMetrics) session(c *session, d float64) {
	m.sessions[c.transport()].Add(d)
}

// transportNames are the transports of sessions.
var transportNames = [4]string{"tcp", "ws", "tcp+tls", "wss"}

// transport is the index of the session's transport in transportNames.
func (s *session) transport() (i int) {
	if s.websocket {
		i++
	}
	if s.tls {
		i += 2
	}
	return i
}
