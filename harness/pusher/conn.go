package pusher

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"barrage/harness/ledger"
)

// An answer of logic is small; what is longer is none.
const maxAnswer = 64 << 10

// conn is a keep-alive connection that carries one request at a time. It is opened anew
// after an error. It is plain net/http on the wire, but writes a request in one send and
// has no goroutines of its own, since at a thousand pushes a second net/http's client
// takes processor time that the server under test then lacks.
type conn struct {
	addr   string
	head   string      // header lines of every request
	tls    *tls.Config // nil: plain
	socket net.Conn    // nil: not open
	reader *bufio.Reader
	buf    []byte
}

// dial opens the connection where it isn't.
func (c *conn) dial(ctx context.Context, timeout time.Duration) error {
	if c.socket != nil {
		return nil
	}
	d := &net.Dialer{Timeout: timeout}
	dial := d.DialContext
	if c.tls != nil {
		dial = (&tls.Dialer{NetDialer: d, Config: c.tls}).DialContext // the time-out is for both
	}
	socket, err := dial(ctx, "tcp", c.addr)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	c.socket, c.reader = socket, bufio.NewReaderSize(socket, 4096)
	return nil
}

func (c *conn) close() {
	if c.socket != nil {
		c.socket.Close()
		c.socket = nil
	}
}

// post sends body to target and returns nil for code 0, a RefusedError for another answer,
// an error that wraps ErrNotSent when there was no connection, and any other error when the
// fate of the push is unknown.
func (c *conn) post(ctx context.Context, target string, body []byte, timeout time.Duration) error {
	sent := ledger.Now()
	if err := c.dial(ctx, timeout); err != nil {
		return err
	}
	socket := c.socket
	if err := socket.SetDeadline(time.Now().Add(timeout)); err != nil {
		c.close()
		return fmt.Errorf("push: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { socket.SetDeadline(time.Unix(1, 0)) })
	keep, err := c.exchange(target, body, sent)
	// Where stop comes too late the deadline may still be moved, so the socket is not used again.
	if !stop() || !keep {
		c.close()
	}
	return err
}

// exchange is one request and its answer; keep is false when the connection is done for.
func (c *conn) exchange(target string, body []byte, sent int64) (keep bool, err error) {
	b := append(c.buf[:0], "POST "...)
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = append(b, c.head...)
	// As proxies say it, so that logic can tell how long a push was on its way.
	b = fmt.Appendf(b, "X-Request-Start: t=%d.%09d\r\nContent-Length: ", sent/1e9, sent%1e9)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	b = append(b, body...)
	c.buf = b
	if _, err := c.socket.Write(b); err != nil {
		return false, fmt.Errorf("push: send: %w", err)
	}
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return false, fmt.Errorf("push: read the answer: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	resp.Body.Close()
	if err != nil {
		return false, fmt.Errorf("push: read the answer's body: %w", err)
	}
	keep = !resp.Close && len(text) <= maxAnswer
	answer := struct {
		Code    *int   `json:"code"`
		Message string `json:"message"`
	}{}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Code == nil {
		return keep, &RefusedError{Status: resp.StatusCode, Code: -1, Message: fmt.Sprintf("no JSON with a code: %.80q", text)}
	}
	if resp.StatusCode != http.StatusOK || *answer.Code != 0 {
		return keep, &RefusedError{Status: resp.StatusCode, Code: *answer.Code, Message: answer.Message}
	}
	return keep, nil
}
