package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Nodes says which comets to try.
type Nodes interface {
	// Advise returns at least one address, or an error.
	Advise(ctx context.Context, transport Transport) (Advice, error)
}

// An Advice is where to connect, the best first, and how often to say so.
type Advice struct {
	Addresses []string      // host:port
	Heartbeat time.Duration // 0 is none advised
	Backoff   Backoff       // the zero value is none advised
}

// Fixed are comets at known addresses, host:port, to be tried in this order.
type Fixed []string

// Advise returns the addresses.
func (f Fixed) Advise(context.Context, Transport) (Advice, error) {
	if len(f) == 0 {
		return Advice{}, errors.New("the list of nodes is empty")
	}
	return Advice{Addresses: slices.Clone(f)}, nil
}

// Logic asks goim's logic, or Barrage's, before each connection.
type Logic struct {
	URL      string       // of the push API, as http://127.0.0.1:3111
	Platform string       // "web" for host names, addresses otherwise
	Port     int          // instead of the advised one; needed for TCPTLS, for which none is
	HTTP     *http.Client // http.DefaultClient by default
}

// weighted is logic's answer.
type weighted struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    struct {
		TCPPort   int      `json:"tcp_port"`
		WSPort    int      `json:"ws_port"`
		WSSPort   int      `json:"wss_port"`
		Heartbeat int64    `json:"heartbeat"` // seconds
		Nodes     []string `json:"nodes"`
		Backoff   struct {
			MaxDelay  int64   `json:"max_delay"`  // seconds
			BaseDelay int64   `json:"base_delay"` // seconds
			Factor    float64 `json:"factor"`
			Jitter    float64 `json:"jitter"`
		} `json:"backoff"`
	} `json:"data"`
}

// maxAnswer bounds logic's answer, in bytes.
const maxAnswer = 1 << 20

// Advise asks GET /goim/nodes/weighted.
func (l Logic) Advise(ctx context.Context, transport Transport) (Advice, error) {
	at := strings.TrimSuffix(l.URL, "/") + "/goim/nodes/weighted?platform=" + url.QueryEscape(l.Platform)
	a, err := l.get(ctx, at)
	if err != nil {
		return Advice{}, fmt.Errorf("ask logic for nodes: %w", err)
	}
	advice, err := l.advice(a, transport)
	if err != nil {
		return Advice{}, fmt.Errorf("answer of %s: %w", at, err)
	}
	return advice, nil
}

func (l Logic) get(ctx context.Context, at string) (*weighted, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	client := l.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	r, err := client.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: HTTP status %s", at, r.Status)
	}
	a := &weighted{}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(a); err != nil {
		return nil, fmt.Errorf("GET %s: %w", at, err)
	}
	if a.Code != 0 {
		return nil, fmt.Errorf("GET %s: code %d %s", at, a.Code, a.Message)
	}
	return a, nil
}

func (l Logic) advice(a *weighted, transport Transport) (Advice, error) {
	port, field := l.Port, "Logic.Port"
	if port == 0 {
		switch transport {
		case TCP:
			port, field = a.Data.TCPPort, "tcp_port"
		case WebSocket:
			port, field = a.Data.WSPort, "ws_port"
		case WebSocketTLS:
			port, field = a.Data.WSSPort, "wss_port"
		}
	}
	if port < 1 || port > 65535 {
		return Advice{}, fmt.Errorf("%s is %d, accepted for %s is 1 to 65535", field, port, transport)
	}
	var advice Advice
	for _, host := range a.Data.Nodes {
		if host != "" {
			advice.Addresses = append(advice.Addresses, net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port)))
		}
	}
	if len(advice.Addresses) == 0 {
		return Advice{}, errors.New("nodes are none")
	}
	// What can't be right is as if it had not been advised.
	const most = 1 << 30 // seconds
	if s := a.Data.Heartbeat; s > 0 && s < most {
		advice.Heartbeat = time.Duration(s) * time.Second
	}
	if b := a.Data.Backoff; b.BaseDelay < most && b.MaxDelay < most {
		got := Backoff{time.Duration(b.BaseDelay) * time.Second, time.Duration(b.MaxDelay) * time.Second, b.Factor, b.Jitter}
		if got.validate() == nil {
			advice.Backoff = got
		}
	}
	return advice, nil
}

// A choice is which node comes next. It is run's alone.
type choice struct {
	nodes     Nodes
	transport Transport

	advice  Advice   // the last that there was
	untried []string // of its addresses
	node    string   // chosen last
}

// next chooses a node: of those that were not tried yet the first, and of a new advice one
// that is not the last node, if it has another.
func (c *choice) next(ctx context.Context) (string, error) {
	if err := c.ask(ctx); err != nil {
		return "", err
	}
	c.node, c.untried = c.untried[0], c.untried[1:]
	return c.node, nil
}

// ask asks for advice when no node of the last is left. Without an answer the last advice
// has to do, if there was one.
func (c *choice) ask(ctx context.Context) error {
	if len(c.untried) > 0 {
		return nil
	}
	advice, err := c.nodes.Advise(ctx, c.transport)
	if err == nil && len(advice.Addresses) == 0 {
		err = errors.New("no nodes are advised")
	}
	if err != nil && len(c.advice.Addresses) == 0 {
		return err
	}
	if err == nil {
		c.advice = advice
	}
	c.untried = slices.Clone(c.advice.Addresses)
	return nil
}

// hasOther puts the last node behind the others and reports whether there are any.
func (c *choice) hasOther(ctx context.Context) bool {
	if c.ask(ctx) != nil {
		return false
	}
	others := slices.DeleteFunc(slices.Clone(c.untried), func(node string) bool { return node == c.node })
	if len(others) > 0 && len(others) < len(c.untried) {
		c.untried = append(others, c.node)
	}
	return len(others) > 0
}

// succeeded has the next choice begin with new advice.
func (c *choice) succeeded() { c.untried = nil }

// backoff returns the one that holds, where own was configured.
func (c *choice) backoff(own Backoff) Backoff {
	switch {
	case own != Backoff{}:
		return own
	case c.advice.Backoff != Backoff{}:
		return c.advice.Backoff
	}
	return DefaultBackoff()
}

// heartbeat returns the one that holds, where own was configured.
func (c *choice) heartbeat(own time.Duration) time.Duration {
	switch {
	case own != 0:
		return own
	case c.advice.Heartbeat != 0:
		return c.advice.Heartbeat
	}
	return 30 * time.Second
}
