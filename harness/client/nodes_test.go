package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

const answer = `{"code":0,"message":"","data":{"domain":"conn.example.com","tcp_port":3101,"ws_port":3102,"wss_port":3103,` +
	`"heartbeat":240,"nodes":["10.0.0.1","::1"],"backoff":{"max_delay":300,"base_delay":3,"factor":1.8,"jitter":1.3},"heartbeat_max":2}}`

func TestLogicAdvice(t *testing.T) {
	goim := Backoff{3 * time.Second, 300 * time.Second, 1.8, 1.3}
	for _, tc := range []struct {
		name      string
		answer    string
		transport Transport
		port      int
		want      Advice
		err       string
	}{
		{"tcp", answer, TCP, 0, Advice{[]string{"10.0.0.1:3101", "[::1]:3101"}, 4 * time.Minute, goim}, ""},
		{"ws", answer, WebSocket, 0, Advice{[]string{"10.0.0.1:3102", "[::1]:3102"}, 4 * time.Minute, goim}, ""},
		{"wss", answer, WebSocketTLS, 0, Advice{[]string{"10.0.0.1:3103", "[::1]:3103"}, 4 * time.Minute, goim}, ""},
		{"port of one's own", answer, TCPTLS, 3104, Advice{[]string{"10.0.0.1:3104", "[::1]:3104"}, 4 * time.Minute, goim}, ""},
		{"no port for it", answer, TCPTLS, 0, Advice{}, "Logic.Port is 0, accepted for tcp+tls is 1 to 65535"},
		{"no port", `{"data":{"nodes":["a"]}}`, WebSocket, 0, Advice{}, "ws_port is 0"},
		{"only what is needed", `{"data":{"tcp_port":1,"nodes":["a.example.com",""]}}`, TCP, 0, Advice{Addresses: []string{"a.example.com:1"}}, ""},
		{"nothing", `{"data":{"tcp_port":1}}`, TCP, 0, Advice{}, "nodes are none"},
		{"nonsense where there are defaults", `{"data":{"tcp_port":1,"nodes":["a"],"heartbeat":-5,"backoff":{"base_delay":5,"max_delay":9000000000000,"factor":1}}}`,
			TCP, 0, Advice{Addresses: []string{"a:1"}}, ""},
		{"an error", `{"code":-500,"message":"broken"}`, TCP, 0, Advice{}, "code -500 broken"},
		{"no JSON", `<html>`, TCP, 0, Advice{}, "invalid character"},
		{"not found", "", TCP, 0, Advice{}, "404"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != "GET" || r.URL.String() != "/goim/nodes/weighted?platform=a%26b" || tc.answer == "" {
					http.NotFound(w, r)
					return
				}
				fmt.Fprint(w, tc.answer)
			}))
			defer h.Close()
			got, err := Logic{URL: h.URL + "/", Platform: "a&b", Port: tc.port}.Advise(timeout(t), tc.transport)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error is %v, want %q in it", err, tc.err)
				}
				return
			}
			if err != nil || fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("advice is %+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}

// The advice of a logic is followed: node, heartbeats, backoff.
func TestAdviceIsFollowed(t *testing.T) {
	c := startComet(t, TCP)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"data":{"tcp_port":%d,"nodes":["127.0.0.1"],"heartbeat":1}}`, c.ln.Addr().(*net.TCPAddr).Port)
	}))
	defer h.Close()
	cfg := c.config()
	cfg.Nodes, cfg.Heartbeat = Logic{URL: h.URL}, 0
	cl, p := c.dial(cfg)
	go p.serve()
	eventually(t, "a second heartbeat", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.beats == 2
	})
	if cl.current.heartbeat != time.Second || cl.Node() != c.addr() {
		t.Errorf("heartbeat is %v at %s", cl.current.heartbeat, cl.Node())
	}
}

// advised are answers in their turn.
type advised struct {
	list []Advice
	errs []error
}

func (a *advised) Advise(context.Context, Transport) (Advice, error) {
	advice, err := a.list[0], a.errs[0]
	a.list, a.errs = a.list[1:], a.errs[1:]
	return advice, err
}

func TestChoice(t *testing.T) {
	ctx := context.Background()
	broken := errors.New("broken")
	c := choice{nodes: &advised{
		[]Advice{{}, {Addresses: []string{"a", "b"}, Heartbeat: 7, Backoff: Backoff{BaseDelay: 1}}, {}, {Addresses: []string{"c", "a"}}, {Addresses: []string{"c"}}, {}},
		[]error{broken, nil, broken, nil, nil, nil},
	}}
	next := func(want string) {
		t.Helper()
		if got, err := c.next(ctx); got != want || err != nil {
			t.Fatalf("next is %q, %v, want %q", got, err, want)
		}
	}
	if _, err := c.next(ctx); err != broken {
		t.Fatalf("error is %v", err)
	}
	if c.heartbeat(0) != 30*time.Second || c.backoff(Backoff{}) != DefaultBackoff() {
		t.Error("no defaults without advice")
	}
	next("a")
	next("b")
	if c.heartbeat(0) != 7 || c.heartbeat(9) != 9 || c.backoff(Backoff{}).BaseDelay != 1 || c.backoff(Backoff{BaseDelay: 2}).BaseDelay != 2 {
		t.Error("advice is followed, and one's own goes before it")
	}
	next("a") // no new answer: the old one
	c.succeeded()
	if !c.hasOther(ctx) || !slices.Equal(c.untried, []string{"c", "a"}) {
		t.Errorf("after a come %v", c.untried)
	}
	next("c")
	c.succeeded()
	if c.hasOther(ctx) {
		t.Errorf("other than c are %v", c.untried)
	}
	next("c")
	next("c") // none advised: the old one
}

func TestBackoff(t *testing.T) {
	b := Backoff{3 * time.Second, 20 * time.Second, 2, 0.5}
	for _, tc := range []struct {
		b       Backoff
		retries int
		random  float64
		want    time.Duration
	}{
		{b, 0, 0, 3 * time.Second}, // the first has no jitter
		{b, 0, 0.99, 3 * time.Second},
		{b, 1, 0.5, 6 * time.Second},
		{b, 1, 0, 3 * time.Second},
		{b, 1, 0.75, 7500 * time.Millisecond},
		{b, 2, 0.5, 12 * time.Second},
		{b, 3, 0.5, 20 * time.Second},
		{b, 3, 0, 10 * time.Second},
		{b, math.MaxInt, 0.5, 20 * time.Second},
		{b, -1, 0.5, 3 * time.Second},
		{Backoff{1, 10, 1, 0}, math.MaxInt, 0, 1},
		{Backoff{10, 10, 1, 1.3}, 1, 0, 0}, // never less than nothing
		{Backoff{time.Second, math.MaxInt64, math.Inf(1), 10}, 5, 0.999, 1 << 62},
	} {
		if got := tc.b.delay(tc.retries, tc.random); got != tc.want {
			t.Errorf("%+v after %d: %v, want %v", tc.b, tc.retries, got, tc.want)
		}
	}
	for range 1000 {
		if d := b.Delay(2); d < 6*time.Second || d > 18*time.Second {
			t.Fatalf("delay is %v", d)
		}
	}
}
