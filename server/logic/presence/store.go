// Package presence keeps in Redis who is where: which comet holds a session, which sessions
// a member has, and how many sessions each comet has in each room. Keys and values are
// goim's, so that its logic and ours share one Redis.
package presence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// A Store reads and writes presence, with one session a key until SetBounds says otherwise.
// Its methods may be called from any goroutine; each is one round trip of pipelined commands
// that keep to one slot each, so that a cluster can serve them, and one more where sessions
// replace others.
type Store struct {
	client    redis.UniversalClient
	clustered bool
	expire    time.Duration
	bounds    atomic.Pointer[Bounds]
	log       *slog.Logger
	errors    map[operation]prometheus.Counter // never changed after Open
}

// An operation is a method of Store, for counting errors.
type operation string

const (
	opAdd     operation = "add"
	opRenew   operation = "renew"
	opRemove  operation = "remove"
	opServers operation = "servers"
	opMembers operation = "members"
	opReport  operation = "report"
	opSum     operation = "sum"
	opPing    operation = "ping"
)

var operations = [...]operation{opAdd, opRenew, opRemove, opServers, opMembers, opReport, opSum, opPing}

// Open returns a Store. It does not wait for Redis: its methods fail until Redis is there.
func Open(cfg Config, log *slog.Logger, reg prometheus.Registerer) *Store {
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_logic_redis_errors_total",
		Help: "Round trips to Redis that failed, by operation.",
	}, []string{"operation"})
	reg.MustRegister(failures)
	s := &Store{
		client:    redis.NewUniversalClient(cfg.options()),
		clustered: cfg.clustered(),
		expire:    cfg.Expire,
		log:       log,
		errors:    make(map[operation]prometheus.Counter),
	}
	s.SetBounds(Bounds{PerKey: 1})
	for _, op := range operations {
		s.errors[op] = failures.WithLabelValues(string(op))
	}
	return s
}

// Ping returns nil when Redis answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.client.Ping(ctx).Err(); err != nil {
		return s.failed(opPing, fmt.Errorf("redis: %w", err))
	}
	return nil
}

// Close closes the connections to Redis.
func (s *Store) Close() error {
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("close redis client: %w", err)
	}
	return nil
}

func (s *Store) failed(op operation, err error) error {
	s.errors[op].Inc()
	return err
}

// failedAny counts one failure, however many sessions of a round trip met one.
func (s *Store) failedAny(op operation, list []*change) {
	if slices.ContainsFunc(list, func(c *change) bool { return c.err() != nil }) {
		s.errors[op].Inc()
	}
}

// run runs a pipeline and returns the first error that is not a missing key.
func run(ctx context.Context, pipe redis.Pipeliner) error {
	commands, err := pipe.Exec(ctx)
	if !errors.Is(err, redis.Nil) {
		return err // of the connection (then the commands may have none), or of the first command that failed
	}
	for _, command := range commands {
		if err := command.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
	}
	return nil
}

// execute runs a pipeline; each command then has its error, or its connection's.
func execute(ctx context.Context, pipe redis.Pipeliner) {
	commands, err := pipe.Exec(ctx)
	if err == nil || slices.ContainsFunc(commands, func(c redis.Cmder) bool { return c.Err() != nil }) {
		return
	}
	for _, command := range commands {
		command.SetErr(err)
	}
}

func memberKey(mid int64) string { return "mid_" + strconv.FormatInt(mid, 10) }

func sessionKey(key string) string { return "key_" + key }

func onlineKey(server string) string { return "ol_" + server }

func dialUnix(timeout time.Duration) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		dialer := net.Dialer{Timeout: timeout}
		return dialer.DialContext(ctx, "unix", addr)
	}
}
