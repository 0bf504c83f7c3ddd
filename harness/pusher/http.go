package pusher

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// HTTP is logic's push API. Acknowledged means that it answered with code 0: the push is in
// Kafka. Two requests under way may overtake each other, so a lane has one at a time.
type HTTP struct {
	Addr  string         // host:port, or a URL of http or https, without which TLS is not spoken
	Key   string         // a bearer key or JSON web token; "" for none
	Roots *x509.CertPool // what the server's certificate is checked against; nil: what the system trusts
	// Timeout is the most that an answer may take. A push without one is of unknown fate.
	// 0 is 10 s.
	Timeout time.Duration
}

// Open implements Way.
func (h HTTP) Open(targets []Target) (Sender, error) {
	if h.Timeout == 0 {
		h.Timeout = defaultTimeout
	}
	at := &url.URL{Scheme: "http", Host: h.Addr}
	if strings.Contains(h.Addr, "://") {
		var err error
		if at, err = url.Parse(h.Addr); err != nil {
			return nil, fmt.Errorf("the push API's address: %w", err)
		}
	}
	s := &httpSender{conn: conn{addr: at.Host, head: h.head(at.Host)}, timeout: h.Timeout}
	if at.Scheme == "https" {
		s.conn.tls = &tls.Config{RootCAs: h.Roots}
	}
	if at.Port() == "" {
		s.conn.addr = net.JoinHostPort(at.Hostname(), at.Scheme) // a name of a port is one too
	}
	for i := range targets {
		s.paths = append(s.paths, at.EscapedPath()+targets[i].Path())
	}
	return s, nil
}

// head returns the header lines that all requests have alike.
func (h HTTP) head(host string) string {
	head := "Host: " + host + "\r\nUser-Agent: barrage\r\nContent-Type: application/octet-stream\r\n"
	if h.Key != "" {
		head += "Authorization: Bearer " + h.Key + "\r\n"
	}
	return head
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
