package pusher

import (
	"context"
	"fmt"
	"time"
)

// HTTP is logic's push API. Acknowledged means that it answered with code 0: the push is in
// Kafka. Two requests under way may overtake each other, so a lane has one at a time.
type HTTP struct {
	Addr string // host:port
	// Timeout is the most that an answer may take. A push without one is of unknown fate.
	// 0 is 10 s.
	Timeout time.Duration
}

// Open implements Way.
func (h HTTP) Open(targets []Target) (Sender, error) {
	if h.Timeout == 0 {
		h.Timeout = defaultTimeout
	}
	s := &httpSender{conn: conn{addr: h.Addr}, timeout: h.Timeout}
	for i := range targets {
		s.paths = append(s.paths, targets[i].Path())
	}
	return s, nil
}

// httpSender is a lane of HTTP.
type httpSender struct {
	conn    conn
	paths   []string // by target
	timeout time.Duration
}

// Connect implements Sender.
func (s *httpSender) Connect(ctx context.Context) { _ = s.conn.dial(ctx, s.timeout) }

// Send implements Sender.
func (s *httpSender) Send(ctx context.Context, target int, body []byte, done func(error)) {
	done(s.conn.post(ctx, s.paths[target], body, s.timeout))
}

// Close implements Sender.
func (s *httpSender) Close(context.Context) { s.conn.close() }

// A RefusedError is an answer other than code 0. It wraps ErrRefused.
type RefusedError struct {
	Status  int // of HTTP
	Code    int // goim's
	Message string
}

// Error returns the answer in one line.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused: HTTP status %d, code %d, %q", e.Status, e.Code, e.Message)
}

// Unwrap returns ErrRefused.
func (e *RefusedError) Unwrap() error { return ErrRefused }
