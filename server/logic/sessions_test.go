package logic

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "barrage/server/api/logic"
	"barrage/server/api/sessions"
	"barrage/server/config"
	"barrage/server/discovery"
)

// A fakeComet answers logic's calls about single sessions.
type fakeComet struct {
	sessions.UnimplementedSessionsServer
	addr string

	mu     sync.Mutex
	holds  map[string]bool // ids
	closed []string        // ids
}

func startComet(t testing.TB, service bool) *fakeComet {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeComet{addr: l.Addr().String(), holds: map[string]bool{}}
	server := grpc.NewServer()
	if service {
		sessions.RegisterSessionsServer(server, f)
	}
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return f
}

func (f *fakeComet) Close(_ context.Context, q *sessions.CloseReq) (*sessions.CloseReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ref := range q.Sessions {
		f.closed = append(f.closed, q.Code+" "+ref.Key+" "+ref.Session)
	}
	return &sessions.CloseReply{Closed: q.Sessions}, nil
}

func (f *fakeComet) Holds(_ context.Context, q *sessions.HoldsReq) (*sessions.HoldsReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	reply := &sessions.HoldsReply{}
	for _, ref := range q.Sessions {
		if f.holds[ref.Session] {
			reply.Sessions = append(reply.Sessions, ref)
		}
	}
	return reply, nil
}

func (f *fakeComet) wasAsked(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.closed, what) {
		return fmt.Errorf("asked to close %q", f.closed)
	}
	return nil
}

// listed is discovery's list with the comets at their addresses.
func listed(by map[string]*fakeComet) []discovery.Instance {
	list := comets()
	for name, f := range by {
		in := comets(name)[0]
		in.Addrs = []string{"grpc://" + f.addr}
		list = append(list, in)
	}
	return list
}

func (c *cluster) tryConnect(server, token, id string) (*pb.ConnectReply, error) {
	return c.comet.Connect(context.Background(), &pb.ConnectReq{Server: server, Token: []byte(token), Session: id})
}

func (c *cluster) knows(t *testing.T, list []discovery.Instance) {
	t.Helper()
	c.instances <- list
	eventually(t, "the comets are known", func() error {
		c.server.peers.mu.Lock()
		defer c.server.peers.mu.Unlock()
		if len(c.server.peers.byName) != len(list) {
			return fmt.Errorf("%v", c.server.peers.byName)
		}
		return nil
	})
}

// The older session goes: on the same comet by the reply, on another by a call.
func TestReplace(t *testing.T) {
	c := startCluster(t, nil)
	one, two, goim := startComet(t, true), startComet(t, true), startComet(t, false)
	c.knows(t, listed(map[string]*fakeComet{"one": one, "two": two, "goim": goim}))
	connect := func(server, id string) *pb.ConnectReply {
		t.Helper()
		r, err := c.tryConnect(server, `{"mid":5,"key":"k"}`, id)
		if err != nil || r.Managed != (id != "") {
			t.Fatalf("%v, %v", r, err)
		}
		return r
	}
	if r := connect("one", "a-1"); len(r.Replaced) != 0 {
		t.Errorf("replaced %v", r.Replaced)
	}
	if r := connect("one", "a-2"); len(r.Replaced) != 1 || r.Replaced[0].Session != "a-1" || r.Replaced[0].Key != "k" {
		t.Errorf("replaced %v", r.Replaced)
	}
	if r := connect("two", "b-1"); len(r.Replaced) != 0 {
		t.Errorf("replaced %v: they are on another comet", r.Replaced)
	}
	eventually(t, "comet one is asked", func() error { return one.wasAsked("replaced k a-2") })
	connect("goim", "") // a comet that gives no ids and has no such service
	eventually(t, "comet two is asked", func() error { return two.wasAsked("replaced k b-1") })
	connect("two", "b-2")
	eventually(t, "what can't be asked is counted", func() error {
		if n := testutil.ToFloat64(c.server.metrics.closes[closeUnsupported]); n != 1 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	// A late end and a late report of older ones take nothing away; the report says so.
	if r, err := c.comet.Disconnect(t.Context(), &pb.DisconnectReq{Mid: 5, Key: "k", Server: "two", Session: "b-1"}); err != nil || r.Has {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := c.comet.Heartbeat(t.Context(), &pb.HeartbeatReq{Mid: 5, Key: "k", Server: "one", Session: "a-2"}); err != nil || !r.Replaced {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := c.comet.Heartbeat(t.Context(), &pb.HeartbeatReq{Mid: 5, Key: "k", Server: "two", Session: "b-2"}); err != nil || r.Replaced {
		t.Errorf("%v, %v", r, err)
	}
	if server, _ := c.redis.Get("key_k"); server != "two" {
		t.Errorf("the key is on %q", server)
	}
}

// The one too many is refused, unless those that hold its place are not there any more.
func TestReject(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) {
		cfg.Session = SessionConfig{MaxPerKey: 1, MaxPerMid: 2, Policy: policyReject}
	})
	one, two := startComet(t, true), startComet(t, true)
	c.knows(t, listed(map[string]*fakeComet{"one": one, "two": two}))
	one.holds["a-1"] = true
	good := func(server, token, id string) {
		t.Helper()
		if r, err := c.tryConnect(server, token, id); err != nil || len(r.Replaced) != 0 {
			t.Fatalf("%s: %v, %v", id, r, err)
		}
	}
	bad := func(server, token, id string) {
		t.Helper()
		if r, err := c.tryConnect(server, token, id); status.Code(err) != codes.AlreadyExists {
			t.Fatalf("%s: %v, %v", id, r, err)
		}
	}
	good("one", `{"key":"k"}`, "a-1")
	bad("two", `{"key":"k"}`, "b-1")
	if n := testutil.ToFloat64(c.server.metrics.rejected); n != 1 {
		t.Errorf("%v rejections are counted", n)
	}
	// It ended, and its comet could not say so.
	one.mu.Lock()
	one.holds["a-1"] = false
	one.mu.Unlock()
	good("two", `{"key":"k"}`, "b-2")
	// Its comet has died.
	c.knows(t, listed(map[string]*fakeComet{"one": one}))
	good("one", `{"key":"k"}`, "a-3")
	// Its comet doesn't answer: it may be there.
	c.knows(t, []discovery.Instance{{AppID: "goim.comet", Hostname: "one", Addrs: []string{"grpc://" + freeAddr(t)}, Metadata: comets("one")[0].Metadata}})
	bad("one", `{"key":"k"}`, "a-4")
	// Discovery knows nobody: that may be discovery's fault.
	c.knows(t, nil)
	bad("one", `{"key":"k"}`, "a-5")
	// A member's bound.
	good("one", `{"mid":9,"key":"m1"}`, "a-6")
	good("one", `{"mid":9,"key":"m2"}`, "a-7")
	bad("one", `{"mid":9,"key":"m3"}`, "a-8")
	if c.redis.Exists("key_m3") {
		t.Error("the session that was rejected is registered")
	}
}

// A push to a key reaches all comets that have it, with one record each.
func TestPushToSeveralSessionsOfAKey(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) { cfg.Session.MaxPerKey = 0 })
	for id, server := range map[string]string{"a-1": "one", "a-2": "one", "b-1": "two"} {
		if _, err := c.tryConnect(server, `{"mid":5,"key":"k"}`, id); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/goim/push/keys?operation=1&keys=k&keys=k", "/goim/push/mids?operation=1&mids=5&mids=5"} {
		if got := c.post(t, path, "x"); got != success {
			t.Fatal(got)
		}
	}
	var got []string
	for _, r := range c.records(t, 4) {
		got = append(got, r.push.Server+" "+strings.Join(r.push.Keys, ","))
	}
	slices.Sort(got)
	if want := []string{"one k", "one k", "two k", "two k"}; !slices.Equal(got, want) {
		t.Errorf("records are for %q, want %q", got, want)
	}
}

func TestNodesRPC(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) { cfg.Regions = map[string][]string{"bj": {"10.0.0.0/8"}} })
	near, far := comets("near-1")[0], comets("far-2")[0]
	near.Region, near.Metadata["addrs"] = "bj", "1.1.1.1"
	far.Region, far.Metadata["addrs"], far.Metadata["conn_count"] = "sh", "2.2.2.2", "2"
	c.instances <- []discovery.Instance{near, far}
	eventually(t, "nodes", func() error {
		r, err := c.comet.Nodes(t.Context(), &pb.NodesReq{Platform: "android", ClientIP: "10.9.9.9"})
		if err != nil || len(r.Nodes) != 2 || r.Nodes[0] != "1.1.1.1" || r.TcpPort != 3101 || r.Backoff.GetMaxDelay() != 300 {
			return fmt.Errorf("%v, %v", r, err)
		}
		return nil
	})
	if r, err := c.comet.Nodes(t.Context(), &pb.NodesReq{Platform: "web", ClientIP: "20.1.1.1"}); err != nil || !slices.Contains(r.Nodes, "far-2.goim.io") {
		t.Errorf("%v, %v", r, err)
	}
}

// ask sends a request with a header Authorization.
func (c *cluster) ask(t *testing.T, method, path, authorization string) string {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+c.server.HTTPAddr().String()+path, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	got, err := readAnswer(http.DefaultClient.Do(req))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestAuthorization(t *testing.T) {
	const key = "0123456789abcdef"
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := startCluster(t, func(cfg *Config, _ *Deps) { cfg.HTTPServer.Auth.KeysFile = keys })
	const push, read = "/goim/push/room?operation=1&type=live&room=1", "/goim/online/total"
	const missing = `{"code":-400,"message":"authorization: missing; send Authorization: Bearer KEY"}`
	const refused = `{"code":-400,"message":"authorization: the key or token is not accepted"}`
	for _, test := range []struct{ method, path, authorization, want string }{
		{"POST", push, "", missing},
		{"POST", push, "Bearer wrong", refused},
		{"POST", push, "Bearer " + key, success},
		{"POST", "/goim/push/keys?operation=1&keys=k", "", missing},
		{"POST", "/goim/push/mids?operation=1&mids=1", "", missing},
		{"POST", "/goim/push/all?operation=1", "", missing},
		{"GET", read, "", `{"code":0,"message":"","data":{"conn_count":0,"ip_count":0}}`},
	} {
		if got := c.ask(t, test.method, test.path, test.authorization); got != test.want {
			t.Errorf("%s with %q: %s", test.path, test.authorization, got)
		}
	}
	if n := len(c.records(t, 1)); n != 1 {
		t.Errorf("%d records", n)
	}
	// The file changes, and reading asks for a key as well.
	if err := os.WriteFile(keys, []byte("another key of sixteen\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	next := c.server.cfg
	next.HTTPServer.Auth.All = true
	if changed, err := c.server.Reload(next); err != nil || !slices.Equal(changed, []string{"httpServer.auth.all"}) {
		t.Fatalf("%q, %v", changed, err)
	}
	if got := c.ask(t, "POST", push, "Bearer "+key); got != refused {
		t.Error(got)
	}
	if got := c.ask(t, "GET", read, ""); got != missing {
		t.Error(got)
	}
	if got := c.ask(t, "GET", read, "Bearer another key of sixteen"); !strings.HasPrefix(got, `{"code":0,`) {
		t.Error(got)
	}
	next.HTTPServer.Auth.KeysFile = keys + "x"
	if _, err := c.server.Reload(next); err == nil {
		t.Error("a file that isn't there was taken")
	}
}

func TestReload(t *testing.T) {
	c := startCluster(t, nil)
	next := c.server.cfg
	next.Node.Heartbeat, next.Backoff.MaxDelay, next.Session.MaxPerKey = time.Minute, 77, 2
	next.Kafka.Topic = "other"
	changed, err := c.server.Reload(next)
	var restart *config.RestartError
	if !asRestart(err, &restart) || !slices.Equal(restart.Paths, []string{"kafka.topic"}) {
		t.Errorf("later: %v", err)
	}
	if want := []string{"node.heartbeat", "backoff.maxDelay", "session.maxPerKey"}; !slices.Equal(changed, want) {
		t.Errorf("changed %q", changed)
	}
	for i := range 2 {
		r, err := c.tryConnect("one", `{"key":"k"}`, fmt.Sprint("a-", i))
		if err != nil || r.Heartbeat != int64(2*time.Minute) || len(r.Replaced) != 0 {
			t.Errorf("%v, %v", r, err)
		}
	}
	if got := c.get(t, "/goim/nodes/weighted"); !strings.Contains(got, `"heartbeat":60,`) || !strings.Contains(got, `"max_delay":77,`) {
		t.Error(got)
	}
	next.Node.HeartbeatMax = 0
	if changed, err := c.server.Reload(next); err == nil || len(changed) != 0 {
		t.Errorf("%q, %v", changed, err)
	}
}

func asRestart(err error, to **config.RestartError) bool {
	r, ok := err.(*config.RestartError)
	*to = r
	return ok
}

// FuzzParameters: whatever stands in a request's line, the answer is one of goim's.
func FuzzParameters(f *testing.F) {
	for _, q := range []string{"operation=1&keys=a", "operation=%zz&keys=%", "keys[]=a&;x", "type=live&room=1&operation=1", "limit=99999999999&type=", "mids=1&mids=x", "speed=-1&operation=1&operation=2", "&&&=&=", "rooms=%00&type=%ff"} {
		f.Add(uint8(0), q)
	}
	c := startCluster(f, nil)
	routes := []string{"push/keys", "push/mids", "push/room", "push/all", "online/top", "online/room", "online/total", "nodes/weighted", "nodes/instances"}
	f.Fuzz(func(t *testing.T, route uint8, query string) {
		name := routes[int(route)%len(routes)]
		method := http.MethodGet
		if strings.HasPrefix(name, "push") {
			method = http.MethodPost
		}
		if strings.ContainsFunc(query, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }) || !strings.EqualFold(strings.ToValidUTF8(query, ""), query) {
			t.Skip("no request's line")
		}
		conn, err := net.Dial("tcp", c.server.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "%s /goim/%s?%s HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", method, name, query)
		var b strings.Builder
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			b.Write(buf[:n])
			if err != nil {
				break
			}
		}
		if got := b.String(); !strings.HasPrefix(got, "HTTP/1.1 200 OK") || !strings.Contains(got, `{"code":`) {
			t.Errorf("%s?%s: %.200q", name, query, got)
		}
	})
}

// FuzzToken: any token is accepted or refused as such.
func FuzzToken(f *testing.F) {
	for _, token := range []string{`{}`, `{"mid":123,"key":"k","room_id":"live://1","platform":"web","accepts":[1]}`, `{"mid":1e3}`, `null`, `[]`, `{"key":1}`, `{"accepts":[null]}`, "\xff"} {
		f.Add([]byte(token))
	}
	c := startCluster(f, nil)
	f.Fuzz(func(t *testing.T, token []byte) {
		_, err := c.comet.Connect(t.Context(), &pb.ConnectReq{Server: "one", Token: token, Session: "a-1"})
		if err != nil && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", token, err)
		}
	})
}
