package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Codes of the protocol; every answer is HTTP 200 with one of them.
const (
	codeOK           = 0
	codeNotModified  = -304
	codeRequestError = -400
	codeNothingFound = -404
	codeConflict     = -409
	codeServerError  = -500
)

const (
	renewEvery  = 30 * time.Second // a node forgets an instance after 90 s
	callTimeout = 5 * time.Second
	pollTimeout = 45 * time.Second // a node answers a poll after 30 s at the latest
	retryMin    = 100 * time.Millisecond
	retryMax    = 2 * time.Second
	// graceAfterLoss is for how long instances are kept that a node, unreachable before,
	// doesn't list: it may have restarted empty, and they renew within renewEvery.
	graceAfterLoss = 40 * time.Second
	answerLimit    = 16 << 20 // bytes
	// startHeader has, in the answers of our nodes, the time when the node started.
	startHeader = "Barrage-Node-Start"
)

// codeError is an answer of a node with a code other than OK.
type codeError struct {
	code    int
	message string
}

func (e codeError) Error() string {
	if e.message == "" {
		return fmt.Sprintf("code %d", e.code)
	}
	return fmt.Sprintf("code %d (%s)", e.code, e.message)
}

func hasCode(err error, codes ...int) bool {
	var ce codeError
	if !errors.As(err, &ce) {
		return false
	}
	for _, code := range codes {
		if ce.code == code {
			return true
		}
	}
	return false
}

// A Client speaks to discovery's nodes. It holds no connection until it is used and
// survives nodes that come and go: what can't be done yet is tried again, and said.
type Client struct {
	cfg  Config
	env  Env
	log  *slog.Logger
	http *http.Client
	// fresh makes a connection for each request: on a reused one net/http repeats a GET
	// that broke off by itself, and a watch would not learn that its node restarted.
	fresh *http.Client

	mu       sync.Mutex
	starts   map[string]string // mu guards; when each node said that it started
	restarts atomic.Uint64     // how often a node was seen to have started anew

	node   atomic.Uint64 // index of the node in use, modulo their number
	polls  atomic.Uint64 // numbers the polls' names
	renew  time.Duration
	grace  time.Duration
	prefix string // of the polls' names
}

// NewClient returns a client for the nodes of cfg; it neither blocks nor connects.
func NewClient(cfg Config, env Env, log *slog.Logger) *Client {
	return &Client{
		cfg:    cfg,
		env:    env,
		log:    log,
		http:   &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute}},
		starts: map[string]string{},
		fresh:  &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		// The original node keys its waiting polls by host name and mixes up the answers
		// of two processes with the same one, so that every watch has a name of its own.
		prefix: fmt.Sprintf("%s-%d", env.Host, os.Getpid()),
		renew:  renewEvery,
		grace:  graceAfterLoss,
	}
}

// call sends one request to the node in use and decodes the answer's data into data
// (which may be nil). A node that can't be reached is replaced by the next for later calls.
func (c *Client) call(ctx context.Context, method, path string, params url.Values, data any) error {
	if len(c.cfg.Nodes) == 0 {
		return errors.New("no discovery nodes are configured (discovery.nodes)")
	}
	n := c.node.Load()
	node := c.cfg.Nodes[n%uint64(len(c.cfg.Nodes))]
	err := c.callNode(ctx, node, method, path, params, data)
	var ce codeError
	// A node that is given up for time is left too: it may hang for ever.
	if err != nil && !errors.As(err, &ce) && !errors.Is(ctx.Err(), context.Canceled) {
		c.node.CompareAndSwap(n, n+1)
	}
	return err
}

func (c *Client) callNode(ctx context.Context, node, method, path string, params url.Values, data any) error {
	target := "http://" + node + "/discovery/" + path
	var body io.Reader
	if method == http.MethodGet {
		target += "?" + params.Encode()
	} else {
		body = strings.NewReader(params.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return fmt.Errorf("discovery %s: %w", path, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	client := c.http
	if path == "polls" {
		client = c.fresh
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("discovery %s: %w", path, err)
	}
	defer resp.Body.Close()
	c.sawStart(node, resp.Header.Get(startHeader))
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return fmt.Errorf("discovery %s at %s: %w", path, node, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("discovery %s at %s: HTTP status %s", path, node, resp.Status)
	}
	var answer struct {
		Code    int             `json:"code"`
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("discovery %s at %s: %w", path, node, err)
	}
	if answer.Code != codeOK {
		if answer.Code == codeConflict && data != nil {
			_ = json.Unmarshal(answer.Data, data) // what there is a conflict with, if it says
		}
		return fmt.Errorf("discovery %s at %s: %w", path, node, codeError{answer.Code, answer.Message})
	}
	if data == nil || len(answer.Data) == 0 {
		return nil
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		return fmt.Errorf("discovery %s at %s: %w", path, node, err)
	}
	return nil
}

// sawStart notes when node started, "" where it doesn't say: the original's nodes don't.
func (c *Client) sawStart(node, start string) {
	if start == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if before := c.starts[node]; before != "" && before != start {
		c.restarts.Add(1)
	}
	c.starts[node] = start
}

// A backoff spaces retries from retryMin to retryMax and says when to log one: the first,
// then at most one in ten seconds.
type backoff struct {
	wait   time.Duration
	logged time.Time
}

func (b *backoff) shouldLog() bool {
	now := time.Now()
	if !b.logged.IsZero() && now.Sub(b.logged) < 10*time.Second {
		return false
	}
	b.logged = now
	return true
}

// sleep waits for the next retry; false when ctx ended first.
func (b *backoff) sleep(ctx context.Context) bool {
	b.wait = min(max(2*b.wait, retryMin), retryMax)
	timer := time.NewTimer(b.wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (b *backoff) reset() { *b = backoff{} }

// failing is whether retries are under way.
func (b *backoff) failing() bool { return b.wait > 0 }

func cloneMetadata(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}
