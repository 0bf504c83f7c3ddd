package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"barrage/harness/client"
	"barrage/server/comet/secure/securetest"
	"barrage/server/wire"
)

// A testCluster is processes of their own on this machine, as a deployment has them.
type testCluster struct {
	t     *testing.T
	nodes string // flag
	api   string // base URL of the push API
	logic *barrage
	job   *barrage
	comet map[string]*barrage
	addrs map[string]map[client.Transport]string
}

// clusterFlags are flags for each process of a kind.
type clusterFlags struct{ logic, job, comet []string }

// startCluster starts services, logic and job, and the comets with the names.
func startCluster(t *testing.T, flags clusterFlags, names ...string) *testCluster {
	t.Helper()
	services := launch(t, "services", "-admin.addr=127.0.0.1:0")
	found := services.find(t, &services.stdout, `ready: kafka (\S+), redis (\S+), discovery (\S+), admin`)
	c := &testCluster{t: t, nodes: "-discovery.nodes=" + found[3], comet: map[string]*barrage{}, addrs: map[string]map[client.Transport]string{}}
	c.logic = launch(t, append([]string{"logic", c.nodes, "-kafka.brokers=" + found[1], "-redis.addr=" + found[2],
		"-httpServer.addr=127.0.0.1:0", "-rpcServer.addr=127.0.0.1:0", "-admin.addr=127.0.0.1:0", "-online.period=50ms", "-online.maxAge=1s"}, flags.logic...)...)
	c.api = "http://" + c.logic.find(t, &c.logic.stderr, `msg="logic serves" .*http=(\S+)`)[1]
	c.job = launch(t, append([]string{"job", c.nodes, "-kafka.brokers=" + found[1], "-kafka.options=fetch.wait.max.ms=2",
		"-admin.addr=127.0.0.1:0"}, flags.job...)...)
	for _, name := range names {
		c.startComet(name, flags.comet...)
	}
	return c
}

func (c *testCluster) startComet(name string, flags ...string) {
	c.t.Helper()
	b := launch(c.t, append([]string{"comet", c.nodes, "-host=" + name, "-tcp.bind=127.0.0.1:0", "-websocket.bind=127.0.0.1:0",
		"-rpcServer.addr=127.0.0.1:0", "-admin.addr=127.0.0.1:0", "-online.period=50ms"}, flags...)...)
	at := b.find(c.t, &b.stderr, `msg="comet serves" .*tcp=\[(\S*)\] websocket=\[(\S*)\] tcp_tls=\[(\S*)\] websocket_tls=\[(\S*)\]`)
	c.comet[name] = b
	c.addrs[name] = map[client.Transport]string{client.TCP: at[1], client.WebSocket: at[2], client.TCPTLS: at[3], client.WebSocketTLS: at[4]}
	// Whoever is pushed to must be known to job, and whoever connects needs logic.
	within(c.t, name+" is known", func() error {
		answer := c.get("/goim/nodes/instances")
		if !strings.Contains(answer, `"hostname":"`+name+`"`) {
			return errors.New(answer)
		}
		return nil
	})
}

// kill ends a comet at once.
func (c *testCluster) kill(name string) {
	c.t.Helper()
	if err := c.comet[name].cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	<-c.comet[name].ended
}

// dial connects a client to the comets with the names.
func (c *testCluster) dial(transport client.Transport, token client.Token, names ...string) *client.Client {
	c.t.Helper()
	cfg := client.Config{Transport: transport, Token: token, TLS: &tls.Config{InsecureSkipVerify: true},
		Backoff: client.Backoff{BaseDelay: 10 * time.Millisecond, MaxDelay: 100 * time.Millisecond, Factor: 2}}
	var fixed client.Fixed
	for _, name := range names {
		fixed = append(fixed, c.addrs[name][transport])
	}
	cfg.Nodes = fixed
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cl, err := client.Dial(ctx, cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cl.Close() })
	return cl
}

func (c *testCluster) get(path string) string {
	c.t.Helper()
	return get(c.t, c.api+path)
}

func (c *testCluster) push(path, body string) {
	c.t.Helper()
	resp, err := http.Post(c.api+path, "", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != `{"code":0,"message":""}` {
		c.t.Fatalf("push %s: %s, %v", path, text, err)
	}
}

// wants waits for the next frame of cl.
func (c *testCluster) wants(cl *client.Client, body string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if f, err := cl.Receive(ctx); err != nil || string(f.Body) != body {
		c.t.Fatalf("got %q, %v, want %q", f.Body, err, body)
	}
}

// settle waits until pushes to a room reach its member: job has taken the comets up by then.
func (c *testCluster) settle(cl *client.Client, room string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	c.push("/goim/push/room?operation=1000&type=live&room="+room, "begin")
	for {
		f, err := cl.Receive(ctx)
		if err != nil {
			c.t.Fatalf("nothing reaches the client: %v", err)
		}
		if string(f.Body) == "begin" {
			return
		}
	}
}

// One session a key, over all comets: the older one goes, with the reason.
func TestOneSessionAKeyOverAllComets(t *testing.T) {
	c := startCluster(t, clusterFlags{}, "comet-1", "comet-2")
	token := client.Token{Mid: 7, Key: "k", RoomID: "live://1", Accepts: []int32{1000}}
	first := c.dial(client.TCP, token, "comet-1")
	c.settle(first, "1")
	second := c.dial(client.WebSocket, token, "comet-2")
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if _, err := first.Receive(ctx); !errors.Is(err, client.ErrReplaced) {
		t.Fatalf("the older session ended with %v", err)
	}
	c.settle(second, "1")
	c.push("/goim/push/keys?operation=1000&keys=k", "for the key")
	c.wants(second, "for the key")
	c.push("/goim/push/mids?operation=1000&mids=7", "for the member")
	c.wants(second, "for the member")
	third := c.dial(client.TCP, token, "comet-2") // on the same comet
	if _, err := second.Receive(ctx); !errors.Is(err, client.ErrReplaced) {
		t.Fatalf("the second session ended with %v", err)
	}
	c.push("/goim/push/keys?operation=1000&keys=k", "still there")
	c.wants(third, "still there")
}

// Several sessions under one key, on two comets and over every transport: a push reaches
// all of them, once each; the one too many is turned away.
func TestSeveralSessionsAKeyOverAllComets(t *testing.T) {
	cert, key, _ := securetest.Pair(t, t.TempDir(), "comet", "127.0.0.1")
	c := startCluster(t, clusterFlags{logic: []string{"-session.maxPerKey=4", "-session.policy=reject"}, comet: []string{
		"-tcp.tlsOpen", "-tcp.tlsBind=127.0.0.1:0", "-websocket.tlsOpen", "-websocket.tlsBind=127.0.0.1:0", "-websocket.certFile=" + cert, "-websocket.privateFile=" + key,
	}}, "comet-1", "comet-2")
	token := client.Token{Mid: 7, Key: "k", RoomID: "live://1", Accepts: []int32{1000}}
	var all []*client.Client
	for i, transport := range []client.Transport{client.TCP, client.WebSocket, client.TCPTLS, client.WebSocketTLS} {
		all = append(all, c.dial(transport, token, fmt.Sprint("comet-", 1+i%2)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if _, err := client.Dial(ctx, client.Config{Nodes: client.Fixed{c.addrs["comet-1"][client.TCP]}, Token: token}); !errors.Is(err, client.ErrRejected) {
		t.Fatalf("the fifth session: %v", err)
	}
	for _, cl := range all {
		c.settle(cl, "1")
	}
	for _, path := range []string{"keys?operation=1000&keys=k", "mids?operation=1000&mids=7", "all?operation=1000"} {
		c.push("/goim/push/"+path, path)
	}
	for _, cl := range all {
		got := map[string]int{}
		for len(got) < 3 {
			f, err := cl.Receive(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if string(f.Body) != "begin" { // other clients' settling
				got[string(f.Body)]++
			}
		}
		for body, n := range got {
			if n != 1 {
				t.Errorf("%q came %d times", body, n)
			}
		}
	}
	// A crash locks nobody out: the sessions of a comet that has died count no more.
	c.kill("comet-2")
	c.startComet("comet-2", "-tcp.bind=127.0.0.1:0")
	again := c.dial(client.TCP, token, "comet-2")
	c.settle(again, "1")
}

// The counts of rooms are right over all comets, and again after one was killed.
func TestOnlineCounts(t *testing.T) {
	c := startCluster(t, clusterFlags{}, "comet-1", "comet-2")
	var clients []*client.Client
	for i := range 5 {
		name := "comet-1"
		if i >= 3 {
			name = "comet-2"
		}
		clients = append(clients, c.dial(client.TCP, client.Token{RoomID: fmt.Sprintf("live://%d", i%2)}, name))
	}
	is := func(path, want string) {
		t.Helper()
		within(t, path, func() error {
			if got := c.get(path); got != want {
				return fmt.Errorf("got %s, want %s", got, want)
			}
			return nil
		})
	}
	is("/goim/online/room?type=live&rooms=0&rooms=1&rooms=2", `{"code":0,"message":"","data":{"0":3,"1":2,"2":0}}`)
	is("/goim/online/top?type=live&limit=1", `{"code":0,"message":"","data":[{"room_id":"0","count":3}]}`)
	is("/goim/online/total", `{"code":0,"message":"","data":{"conn_count":5,"ip_count":2}}`)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	within(t, "the heartbeat's count", func() error {
		if n, err := clients[0].Heartbeat(ctx); err != nil || n != 3 {
			return fmt.Errorf("%d, %v", n, err)
		}
		return nil
	})
	if err := clients[0].ChangeRoom(ctx, "live://1"); err != nil {
		t.Fatal(err)
	}
	is("/goim/online/room?type=live&rooms=0&rooms=1", `{"code":0,"message":"","data":{"0":2,"1":3}}`)
	c.kill("comet-2")
	is("/goim/online/room?type=live&rooms=0&rooms=1", `{"code":0,"message":"","data":{"0":1,"1":2}}`)
	is("/goim/online/top?type=live&limit=9", `{"code":0,"message":"","data":[{"room_id":"1","count":2},{"room_id":"0","count":1}]}`)
}

// A comet that ends sends its clients to the others, with what they had.
func TestDrainedClientsGoElsewhere(t *testing.T) {
	c := startCluster(t, clusterFlags{comet: []string{"-drain.window=200ms"}}, "comet-1", "comet-2")
	cl := c.dial(client.WebSocket, client.Token{Key: "k", RoomID: "live://1"}, "comet-1", "comet-2")
	c.settle(cl, "1")
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := cl.ChangeRoom(ctx, "live://2"); err != nil {
		t.Fatal(err)
	}
	if err := cl.Sub(ctx, 1001); err != nil {
		t.Fatal(err)
	}
	if err := cl.Send(ctx, wire.OpSendMsg, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	c.comet["comet-1"].end(t, syscall.SIGTERM)
	within(t, "the client is at the other comet", func() error {
		if at := cl.Node(); at != c.addrs["comet-2"][client.WebSocket] {
			return fmt.Errorf("it is at %q", at)
		}
		return nil
	})
	c.settle(cl, "2")
	c.push("/goim/push/keys?operation=1001&keys=k", "subscribed")
	c.wants(cl, "subscribed")
}
