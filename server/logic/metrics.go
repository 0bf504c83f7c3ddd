package logic

import (
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"barrage/server/admin"
)

// A pushKind is a route of the push API.
type pushKind string

const (
	kindKeys pushKind = "keys"
	kindMids pushKind = "mids"
	kindRoom pushKind = "room"
	kindAll  pushKind = "all"
)

// A pushResult is how a push ended.
type pushResult string

const (
	pushOK      pushResult = "ok"      // Kafka has it
	pushNobody  pushResult = "nobody"  // none of the keys or members is online
	pushRefused pushResult = "refused" // the request was wrong
	pushFailed  pushResult = "failed"  // Kafka or Redis did not take it
)

// A refusal is what was wrong with a request.
type refusal string

const (
	badParameter   refusal = "parameter"
	unauthorized   refusal = "unauthorized"
	bodyTooLarge   refusal = "body_too_large"
	bodyIncomplete refusal = "body_incomplete" // the client stopped, or took longer than readTimeout
)

// A cut is why logic closed an HTTP connection by itself.
type cut string

const (
	cutReading  cut = "slow_request" // not complete within readTimeout
	cutWriting  cut = "slow_reader"  // did not take the answer within writeTimeout
	cutPanicked cut = "panic"
	cutStopping cut = "shutdown"
)

// A callResult is how a call of a comet ended.
type callResult string

const (
	callOK      callResult = "ok"
	callRefused callResult = "refused" // the comet's or its client's fault
	callFailed  callResult = "failed"  // ours, Redis' or the time's
)

// A closeResult is how asking a comet to close replaced sessions ended.
type closeResult string

const (
	closeOK          closeResult = "ok"
	closeUnsupported closeResult = "unsupported" // the comet can't be asked
	closeFailed      closeResult = "failed"
	closeLeft        closeResult = "left" // too many at a time: the session hears of it with its next report
)

// A roundKind is a kind of change to sessions in Redis.
type roundKind string

const (
	roundAdd    roundKind = "add"
	roundRenew  roundKind = "renew"
	roundRemove roundKind = "remove"
)

type metrics struct {
	closes   map[closeResult]prometheus.Counter
	rejected prometheus.Counter
	pushes   map[pushKind]map[pushResult]prometheus.Counter
	latency  map[pushKind]prometheus.Observer
	arrival  prometheus.Histogram
	refusals map[refusal]prometheus.Counter
	cuts     map[cut]prometheus.Counter
	conns    prometheus.Gauge
	calls    map[string]map[callResult]prometheus.Counter // by method
	callTime map[string]prometheus.Observer
	sessions map[string]map[callResult]prometheus.Counter // by the method for one session
	rounds   map[roundKind]prometheus.Observer
	comets   prometheus.Gauge
	rooms    prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	pushes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_logic_pushes_total",
		Help: "Requests of the push API, by route and result.",
	}, []string{"kind", "result"})
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "barrage_logic_push_seconds",
		Help:    "Time to answer a request of the push API, from its last byte on, by route.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
	}, []string{"kind"})
	refusals := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_logic_http_refusals_total",
		Help: "HTTP requests that were answered with code -400, by reason.",
	}, []string{"reason"})
	cuts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_logic_http_closes_total",
		Help: "HTTP connections that logic closed in the middle of a request or at its end, by reason.",
	}, []string{"reason"})
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_logic_rpcs_total",
		Help: "Calls of comets, by method and result.",
	}, []string{"method", "result"})
	callTime := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "barrage_logic_rpc_seconds",
		Help:    "Time to answer a call of a comet, by method.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 15),
	}, []string{"method"})
	sessions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_logic_sessions_total",
		Help: "Sessions that comets' calls were about, by the method for a single one and by result, whether they came alone or with many.",
	}, []string{"method", "result"})
	rounds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "barrage_logic_redis_round_sessions",
		Help:    "Sessions that one round trip to Redis was for, by operation.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 11),
	}, []string{"operation"})
	closes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_logic_sessions_replaced_total",
		Help: "Sessions that had to go since others took their place on another comet, by what came of asking their comet.",
	}, []string{"result"})
	m := &metrics{
		closes: make(map[closeResult]prometheus.Counter),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "barrage_logic_sessions_rejected_total",
			Help: "Sessions that were not let in since their key or member has as many as it may.",
		}),
		pushes:  make(map[pushKind]map[pushResult]prometheus.Counter),
		latency: make(map[pushKind]prometheus.Observer),
		arrival: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "barrage_logic_push_arrival_seconds",
			Help:    "Time from when a push was sent, as its header X-Request-Start says, until logic had read it. Other pushes are not in it.",
			Buckets: admin.StageBuckets(),
		}),
		refusals: make(map[refusal]prometheus.Counter),
		cuts:     make(map[cut]prometheus.Counter),
		conns: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "barrage_logic_http_connections",
			Help: "Open HTTP connections.",
		}),
		calls:    make(map[string]map[callResult]prometheus.Counter),
		callTime: make(map[string]prometheus.Observer),
		sessions: make(map[string]map[callResult]prometheus.Counter),
		rounds:   make(map[roundKind]prometheus.Observer),
		comets: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "barrage_logic_comets",
			Help: "Comets that discovery lists and that take clients.",
		}),
		rooms: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "barrage_logic_rooms",
			Help: "Rooms with a session, over all comets, as last summed.",
		}),
	}
	for _, kind := range []pushKind{kindKeys, kindMids, kindRoom, kindAll} {
		m.pushes[kind] = make(map[pushResult]prometheus.Counter)
		for _, result := range []pushResult{pushOK, pushNobody, pushRefused, pushFailed} {
			m.pushes[kind][result] = pushes.WithLabelValues(string(kind), string(result))
		}
		m.latency[kind] = latency.WithLabelValues(string(kind))
	}
	for _, reason := range []refusal{badParameter, unauthorized, bodyTooLarge, bodyIncomplete} {
		m.refusals[reason] = refusals.WithLabelValues(string(reason))
	}
	for _, reason := range []cut{cutReading, cutWriting, cutPanicked, cutStopping} {
		m.cuts[reason] = cuts.WithLabelValues(string(reason))
	}
	for _, method := range []string{"Connect", "Disconnect", "Heartbeat"} {
		m.sessions[method] = make(map[callResult]prometheus.Counter)
		for _, result := range []callResult{callOK, callRefused, callFailed} {
			m.sessions[method][result] = sessions.WithLabelValues(method, string(result))
		}
	}
	for _, kind := range []roundKind{roundAdd, roundRenew, roundRemove} {
		m.rounds[kind] = rounds.WithLabelValues(string(kind))
	}
	for _, method := range []string{"Connect", "Disconnect", "Heartbeat", "ConnectAll", "DisconnectAll", "HeartbeatAll", "RenewOnline", "Receive", "Nodes"} {
		m.calls[method] = make(map[callResult]prometheus.Counter)
		for _, result := range []callResult{callOK, callRefused, callFailed} {
			m.calls[method][result] = calls.WithLabelValues(method, string(result))
		}
		m.callTime[method] = callTime.WithLabelValues(method)
	}
	for _, result := range []closeResult{closeOK, closeUnsupported, closeFailed, closeLeft} {
		m.closes[result] = closes.WithLabelValues(string(result))
	}
	reg.MustRegister(closes, m.rejected, pushes, latency, m.arrival, refusals, cuts, m.conns, calls, callTime, sessions, rounds, m.comets, m.rooms)
	return m
}

func (m *metrics) pushed(kind pushKind, result pushResult, took time.Duration) {
	m.pushes[kind][result].Inc()
	m.latency[kind].Observe(took.Seconds())
}

// headerStart is where a client, or a proxy before us, says when it sent a request: t= and
// seconds since 1970, as nginx writes "t=${msec}". More digits behind the point are taken.
const headerStart = "X-Request-Start"

// maxArrival bounds what is believed of a request's start.
const maxArrival = time.Hour

// arrived notes how long a push that was read at the time now had been under way, if it says.
func (m *metrics) arrived(start string, now time.Time) {
	sent, ok := requestStart(start)
	if !ok {
		return
	}
	if took := now.UnixNano() - sent; took < int64(maxArrival) {
		// Less than 0 where the two clocks disagree by more than it took.
		m.arrival.Observe(max(0, time.Duration(took).Seconds()))
	}
}

// requestStart returns the time in a header X-Request-Start in Unix nanoseconds.
func requestStart(text string) (ns int64, ok bool) {
	text, ok = strings.CutPrefix(text, "t=")
	whole, part, _ := strings.Cut(text, ".")
	if !ok || len(whole) > 10 || len(part) > 9 {
		return 0, false
	}
	// Digits alone: a float would lose the last of them.
	ns, err := strconv.ParseInt(whole+part+"000000000"[len(part):], 10, 64)
	return ns, err == nil && whole != "" && whole[0] >= '0' && whole[0] <= '9'
}

func (m *metrics) called(method string, code codes.Code, took time.Duration) {
	m.calls[method][resultOf(code)].Inc()
	m.callTime[method].Observe(took.Seconds())
}

// session counts what became of one session; err is a gRPC status, or nil.
func (m *metrics) session(method string, err error) {
	m.sessions[method][resultOf(status.Code(err))].Inc()
}

func resultOf(code codes.Code) callResult {
	switch code {
	case codes.OK:
		return callOK
	case codes.InvalidArgument, codes.Canceled, codes.Unimplemented, codes.AlreadyExists:
		return callRefused
	}
	return callFailed
}
