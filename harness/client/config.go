package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"barrage/server/wire"
)

// A Transport is how a client and a comet speak.
type Transport string

// The transports, by the names that comet's metrics have for them.
const (
	TCP          Transport = "tcp"
	WebSocket    Transport = "ws"
	TCPTLS       Transport = "tcp+tls"
	WebSocketTLS Transport = "wss"
)

func (t Transport) websocket() bool { return t == WebSocket || t == WebSocketTLS }
func (t Transport) tls() bool       { return t == TCPTLS || t == WebSocketTLS }

// A Token is what a client says of itself. All of it may be left out.
type Token struct {
	Mid      int64   `json:"mid,omitempty"`      // the member; 0 is none
	Key      string  `json:"key,omitempty"`      // the session's name; the server makes one for ""
	RoomID   string  `json:"room_id,omitempty"`  // written type://id; "" is no room
	Platform string  `json:"platform,omitempty"` // free text
	Accepts  []int32 `json:"accepts,omitempty"`  // operations to accept from pushes to keys, members and all
}

// A Config says where to connect, as whom, and how. Nodes is needed; all else has defaults.
type Config struct {
	Nodes     Nodes     // the comets to try: Fixed or Logic
	Transport Transport // TCP by default
	Token     Token

	TLS    *tls.Config // for the transports with TLS; the server's name is the node's by default
	Header http.Header // for the WebSocket handshake; Cookie is given to the server's logic

	// Heartbeat is the time between heartbeats, as Nodes advises by default, else 30 s. It
	// must be shorter than what the server waits for.
	Heartbeat time.Duration
	// Timeout is how long the server may take to answer a heartbeat and to take a frame, 10 s
	// by default. A connection that is silent for longer than Heartbeat and Timeout is dead.
	Timeout time.Duration
	// ConnectTimeout is how long an attempt may take from dialing to the reply to auth, 10 s
	// by default.
	ConnectTimeout time.Duration
	// Backoff is for attempts to connect, as Nodes advises by default, else DefaultBackoff.
	Backoff Backoff
	// ComeBack has the client connect anew also after it was replaced or rejected.
	ComeBack bool

	Queue    int // frames that wait for Receive, 256 by default; when it is full, reading stops
	MaxFrame int // the most bytes of a frame or WebSocket message from the server, 16 MiB by default

	// OnConnect and OnDisconnect hear of sessions that begin and end. They must not block or
	// call the client's Close.
	OnConnect    func(node string)
	OnDisconnect func(node string, err error)

	// Dial makes TCP connections, net.Dialer's by default.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  *slog.Logger // hears of connections that end; nothing by default
}

// withDefaults returns the configuration with what is left out filled in, but for what
// Nodes may advise.
func (c Config) withDefaults() Config {
	if c.Transport == "" {
		c.Transport = TCP
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 10 * time.Second
	}
	if c.Queue == 0 {
		c.Queue = 256
	}
	if c.MaxFrame == 0 {
		c.MaxFrame = 16 << 20
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate returns an error that names the field at fault and what it accepts.
func (c Config) Validate() error {
	c = c.withDefaults()
	if c.Nodes == nil {
		return errors.New("client: Nodes is nil, accepted are Fixed and Logic")
	}
	switch c.Transport {
	case TCP, WebSocket, TCPTLS, WebSocketTLS:
	default:
		return fmt.Errorf("client: Transport is %q, accepted are %s, %s, %s and %s", c.Transport, TCP, WebSocket, TCPTLS, WebSocketTLS)
	}
	for _, d := range []struct {
		field string
		value time.Duration
		least time.Duration
	}{{"Heartbeat", c.Heartbeat, 0}, {"Timeout", c.Timeout, 1}, {"ConnectTimeout", c.ConnectTimeout, 1}} {
		if d.value < d.least {
			return fmt.Errorf("client: %s is %v, accepted is more than 0", d.field, d.value)
		}
	}
	if c.Queue < 1 {
		return fmt.Errorf("client: Queue is %d, accepted is 1 and more", c.Queue)
	}
	if c.MaxFrame < wire.HeaderLen || c.MaxFrame > 1<<30 {
		return fmt.Errorf("client: MaxFrame is %d, accepted is %d to %d", c.MaxFrame, wire.HeaderLen, 1<<30)
	}
	if err := c.Backoff.validate(); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	return nil
}

// token is the body of the auth frame by which a session begins with w.
func (c *Client) token(w wish) ([]byte, error) {
	t := c.cfg.Token
	t.RoomID, t.Accepts = w.room, w.accepts
	b, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode token: %w", err)
	}
	if len(b) > wire.MaxClientBody {
		return nil, fmt.Errorf("the token, with room and operations, has %d bytes, accepted are at most %d", len(b), wire.MaxClientBody)
	}
	return b, nil
}
