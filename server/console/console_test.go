package console

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// newPage is a page whose push API is api, a handler; it is not listening.
func newPage(t *testing.T, cfg Config, api http.Handler) (*Server, *httptest.Server) {
	t.Helper()
	logic := httptest.NewServer(api)
	t.Cleanup(logic.Close)
	s, err := New(cfg, Deps{
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		API: func() string { return logic.Listener.Addr().String() },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, logic
}

// serve answers a request whose Host is localhost:1999 unless the headers say otherwise.
func serve(s *Server, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "localhost:1999"
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

// What the page sends arrives at logic as it was, and so does the answer here.
func TestAPushIsPassedOnUntouched(t *testing.T) {
	var got *http.Request
	var body string
	s, _ := newPage(t, DefaultConfig(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got, body = r, string(text)
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		fmt.Fprint(w, `{"code":0,"message":""}`)
	}))
	message := "a=b&c=%zz\x00\xff;\r\n"
	w := serve(s, "POST", "/goim/push/keys?operation=1000&keys=a;b&keys=%zz", message,
		"Origin: http://localhost:1999", "Authorization: Bearer secret", "Cookie: other=1",
		"Content-Type: application/x-www-form-urlencoded")
	if w.Code != http.StatusOK || w.Body.String() != `{"code":0,"message":""}` {
		t.Fatalf("answer %d %q", w.Code, w.Body)
	}
	if got.RequestURI != "/goim/push/keys?operation=1000&keys=a;b&keys=%zz" || body != message {
		t.Errorf("logic got %q with body %q", got.RequestURI, body)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer secret", "Content-Type": "application/x-www-form-urlencoded",
		"Cookie": "", "Origin": "", "X-Forwarded-For": "192.0.2.1",
	} {
		if value := got.Header.Get(name); value != want {
			t.Errorf("logic got %s: %q, want %q", name, value, want)
		}
	}
	if n := testutil.ToFloat64(s.metrics[passedOn]); n != 1 {
		t.Errorf("passed_on is %v", n)
	}
}

func TestOnlyThePushAPIsRoutesArePassedOn(t *testing.T) {
	s, _ := newPage(t, DefaultConfig(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	}))
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/goim/push/keys", http.StatusTeapot},
		{"POST", "/goim/push/mids", http.StatusTeapot},
		{"POST", "/goim/push/room", http.StatusTeapot},
		{"POST", "/goim/push/all", http.StatusTeapot},
		{"GET", "/goim/online/top", http.StatusTeapot},
		{"GET", "/goim/online/room", http.StatusTeapot},
		{"GET", "/goim/online/total", http.StatusTeapot},
		{"GET", "/goim/nodes/weighted", http.StatusTeapot},
		{"GET", "/goim/nodes/instances", http.StatusTeapot},
		{"GET", "/goim/push/room", http.StatusMethodNotAllowed},
		{"POST", "/goim/online/total", http.StatusMethodNotAllowed},
		{"GET", "/goim/", http.StatusNotFound},
		{"POST", "/goim/push/room/x", http.StatusNotFound},
		{"GET", "/metrics", http.StatusNotFound},
		{"GET", "/debug/pprof/", http.StatusNotFound},
		{"GET", "/page/index.html", http.StatusNotFound},
		{"POST", "/", http.StatusMethodNotAllowed},
	} {
		if w := serve(s, c.method, c.path, "", "Sec-Fetch-Site: same-origin"); w.Code != c.status {
			t.Errorf("%s %s: status %d, want %d", c.method, c.path, w.Code, c.status)
		}
	}
}

func TestOtherPagesCannotPush(t *testing.T) {
	pushed := 0
	s, _ := newPage(t, Config{Hosts: []string{"Push.Example"}}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { pushed++ }))
	for _, c := range []struct {
		name    string
		headers string
		good    bool
	}{
		{"the page itself", "Sec-Fetch-Site: same-origin|Origin: http://localhost:1999", true},
		{"the page over plain HTTP from another machine", "Host: 10.0.0.7:1999|Origin: http://10.0.0.7:1999", true},
		{"by an IPv6 address", "Host: [::1]:1999|Origin: http://[::1]:1999", true},
		{"behind a proxy that does TLS", "Host: push.example|Origin: https://push.example", true},
		{"a name below localhost", "Host: barrage.localhost:1999|Origin: http://barrage.localhost:1999", true},
		{"another site", "Sec-Fetch-Site: cross-site|Origin: https://evil.example", false},
		{"another port of this machine", "Sec-Fetch-Site: same-site|Origin: http://localhost:8080", false},
		{"another port, without fetch metadata", "Origin: http://localhost:8080", false},
		{"a link or a bookmark", "Sec-Fetch-Site: none", false},
		{"a sandboxed frame", "Origin: null", false},
		{"nothing that a browser sends", "", false},
		{"a name made to point here", "Host: evil.example:1999|Sec-Fetch-Site: same-origin|Origin: http://evil.example:1999", false},
		{"a name with more in it", "Host: a;x.localhost|Sec-Fetch-Site: same-origin", false},
		{"no host", "Host: |Sec-Fetch-Site: same-origin", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := pushed
			w := serve(s, "POST", "/goim/push/all?operation=1", "x", strings.Split(c.headers, "|")...)
			if passed := pushed > before; passed != c.good || c.good != (w.Code == http.StatusOK) {
				t.Errorf("status %d, passed on: %v", w.Code, passed)
			}
			if !c.good && (w.Code != http.StatusForbidden || !strings.HasPrefix(w.Body.String(), `{"code":-400,"message":"`)) {
				t.Errorf("refused with %d %q", w.Code, w.Body)
			}
		})
	}
	if w := serve(s, "GET", "/", "", "Host: evil.example"); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "setting hosts") {
		t.Errorf("the page by a foreign name: %d %q", w.Code, w.Body)
	}
	if hosts, origins := testutil.ToFloat64(s.metrics[foreignHost]), testutil.ToFloat64(s.metrics[foreignOrigin]); hosts != 4 || origins != 6 {
		t.Errorf("counted %v foreign hosts and %v foreign origins", hosts, origins)
	}
}

func TestLogicAwayIsA502InGoimsEnvelope(t *testing.T) {
	s, logic := newPage(t, DefaultConfig(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	logic.Close()
	w := serve(s, "GET", "/goim/online/total", "")
	var answer struct {
		Code    int
		Message string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	if w.Code != http.StatusBadGateway || answer.Code != -500 || !strings.Contains(answer.Message, logic.Listener.Addr().String()) ||
		w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("answer %d %v %+v", w.Code, w.Header(), answer)
	}
	if !s.apiAway.Load() || testutil.ToFloat64(s.metrics[apiUnreachable]) != 1 {
		t.Error("nothing says that the push API is away")
	}
}

func TestABrowserThatLeavesSaysNothingOfLogic(t *testing.T) {
	asked := make(chan struct{})
	s, _ := newPage(t, DefaultConfig(), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-asked
		leave()
	}()
	r := httptest.NewRequest("GET", "/goim/online/total", nil).WithContext(ctx)
	r.Host = "localhost"
	s.Handler().ServeHTTP(httptest.NewRecorder(), r)
	if s.apiAway.Load() || testutil.ToFloat64(s.metrics[browserLeft]) != 1 {
		t.Error("taken for a push API that is away")
	}
}

func TestHeadersOfThePage(t *testing.T) {
	s, _ := newPage(t, Config{WebSocket: ":3102"}, http.NotFoundHandler())
	w := serve(s, "GET", "/", "", "Host: 10.0.0.7:1999")
	for name, want := range map[string]string{
		"Content-Type":           "text/html; charset=utf-8",
		"Cache-Control":          "no-cache",
		"X-Content-Type-Options": "nosniff",
		"X-Frame-Options":        "DENY",
		"Referrer-Policy":        "same-origin",
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
			"connect-src 'self' ws://10.0.0.7:3102; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if w := serve(s, "GET", "/", "", "If-None-Match: "+w.Header().Get("Etag")); w.Code != http.StatusNotModified {
		t.Errorf("the same page again: status %d", w.Code)
	}
	if w := serve(s, "GET", "/barrage.js", ""); w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("the client: %d %v", w.Code, w.Header())
	}
	s, _ = newPage(t, DefaultConfig(), http.NotFoundHandler())
	if csp := serve(s, "GET", "/", "").Header().Get("Content-Security-Policy"); !strings.Contains(csp, "connect-src 'self' ws: wss:;") {
		t.Errorf("with unknown comets: %s", csp)
	}
}

func TestWhereThePageConnects(t *testing.T) {
	for _, c := range []struct {
		name      string
		cfg       Config
		deps      Deps
		host      string
		api       string
		webSocket string
	}{
		{"nothing known", Config{}, Deps{}, "localhost:1999", "127.0.0.1:3111", ""},
		{"the process's own", Config{}, known("127.0.0.1:4111", "127.0.0.1:4102"), "localhost:1999", "127.0.0.1:4111", "ws://127.0.0.1:4102/sub"},
		{"own, on all addresses", Config{}, known("[::]:4111", "0.0.0.0:4102"), "10.0.0.7:1999", "10.0.0.7:4111", "ws://10.0.0.7:4102/sub"},
		{"own, not bound yet", Config{}, known("", ""), "localhost", "127.0.0.1:3111", ""},
		{"own, off", Config{}, known("", "off"), "localhost", "127.0.0.1:3111", ""},
		{"configured before own", Config{API: "10.0.0.1:1", WebSocket: "wss://push.example"}, known("[::]:4111", ":4102"), "[::1]:1999", "10.0.0.1:1", "wss://push.example/sub"},
		{"by IPv6", Config{WebSocket: ":3102"}, Deps{}, "[::1]:1999", "127.0.0.1:3111", "ws://[::1]:3102/sub"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.deps.Log = slog.New(slog.DiscardHandler)
			s, err := New(c.cfg, c.deps)
			if err != nil {
				t.Fatal(err)
			}
			w := serve(s, "GET", "/console.json", "", "Host: "+c.host)
			var got settings
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if want := (settings{c.api, c.webSocket, 3102}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// Whatever is configured and by whatever name the page is opened: the policy has exactly
// one place to connect to, or any.
func FuzzWebSocketURL(f *testing.F) {
	for _, addr := range []string{":3102", "[::]:3102", "comet:3102", "wss://push.example/x?y=1", "ws://a;b/", "ws://[::1]:1", "ws://a:", "//x:1"} {
		f.Add(addr, "localhost:1999")
		f.Add(addr, "[::1]:1999")
	}
	f.Fuzz(func(t *testing.T, addr, host string) {
		s, err := New(Config{WebSocket: addr}, Deps{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code == http.StatusForbidden {
			return
		}
		csp := w.Header().Get("Content-Security-Policy")
		_, sources, _ := strings.Cut(csp, "connect-src 'self' ")
		sources, _, _ = strings.Cut(sources, "; form-action")
		one := strings.HasPrefix(sources, "ws://") || strings.HasPrefix(sources, "wss://")
		if strings.Count(csp, ";") != 7 || sources != "ws: wss:" && addr != "" && (!one || strings.ContainsAny(sources, " ,;'\"")) {
			t.Errorf("%q by %q: %s", addr, host, csp)
		}
	})
}

func known(api, webSocket string) Deps {
	return Deps{API: func() string { return api }, WebSocket: func() string { return webSocket }}
}

func TestValidateNamesTheField(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{DefaultConfig(), ""},
		{Config{Addr: ":1999", API: "logic:3111", WebSocket: "comet:3102", Hosts: []string{"push.example"}}, ""},
		{Config{Addr: "1999"}, `addr: "1999" is no address`},
		{Config{API: "http://logic:3111"}, `api: `},
		{Config{API: "logic:99999"}, `api: port "99999" is outside 0 to 65535`},
		{Config{WebSocket: "http://comet"}, `websocket: "http://comet": the scheme is none of ws, wss`},
		{Config{WebSocket: "ws:///sub"}, `websocket: "ws:///sub" names no host`},
		{Config{WebSocket: "ws://a;script-src *"}, `websocket: `},
		{Config{WebSocket: "a; script-src x:1"}, `websocket: `},
		{Config{Hosts: []string{"push.example:1999"}}, `hosts: "push.example:1999" is no host name`},
	} {
		err := c.cfg.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
}

func TestListenAndRun(t *testing.T) {
	s, err := New(Config{Addr: "127.0.0.1:0"}, Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	resp, err := http.Get("http://" + s.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "Barrage") {
		t.Errorf("the page is %q, %v", text, err)
	}
	taken, err := New(Config{Addr: s.Addr().String()}, Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := taken.Listen(); err == nil || !strings.Contains(err.Error(), s.Addr().String()) {
		t.Errorf("a taken port: %v", err)
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not end")
	}
	if _, err := net.DialTimeout("tcp", s.Addr().String(), time.Second); err == nil {
		t.Error("still listening after Run")
	}

	off, err := New(DefaultConfig(), Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := off.Listen(); err != nil || off.Addr() != nil {
		t.Errorf("turned off: %v, %v", err, off.Addr())
	}
	if err := off.Run(ctx); err != nil {
		t.Errorf("turned off: Run: %v", err)
	}
}
