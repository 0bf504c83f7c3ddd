package discovery

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func testEnv(host string) Env {
	env := DefaultEnv()
	env.Host = host
	return env
}

// startNode runs a node at addr until the returned function is called.
func startNode(t *testing.T, addr string, change func(*NodeConfig)) (nodeAddr string, stop func()) {
	t.Helper()
	cfg := DefaultNodeConfig()
	cfg.HTTPServer.Addr = addr
	cfg.Env.Host = "node-" + addr
	if change != nil {
		change(&cfg)
	}
	node, err := NewNode(cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- node.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("node: %v", err)
		}
	}
	t.Cleanup(stop)
	return node.Addr().String(), stop
}

// freeAddr is a loopback address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// await takes lists until one has exactly these hosts.
func await(t *testing.T, lists <-chan []Instance, hosts ...string) []Instance {
	t.Helper()
	timeout := time.After(20 * time.Second)
	var last []string
	for {
		select {
		case list := <-lists:
			last = nil
			for _, in := range list {
				last = append(last, in.Hostname)
			}
			if slices.Equal(last, hosts) {
				return list
			}
		case <-timeout:
			t.Fatalf("no list with %v came; the last was %v", hosts, last)
		}
	}
}

func register(t *testing.T, c *Client, in Instance) *Registration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := c.Register(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestWatchSeesInstancesComeChangeAndGo(t *testing.T) {
	addr, _ := startNode(t, "127.0.0.1:0", nil)
	client := NewClient(Config{Nodes: []string{addr}}, testEnv("watcher"), quiet())
	lists := client.Watch(t.Context(), AppComet)
	await(t, lists) // at first there is none, and that is said

	first := register(t, client, Instance{AppID: AppComet, Hostname: "a", Addrs: []string{"grpc://127.0.0.1:1"}, Metadata: map[string]string{"weight": "10"}})
	list := await(t, lists, "a")
	if got := list[0]; got.Zone != "sh001" || got.Env != "dev" || got.Metadata["weight"] != "10" || got.GRPCAddr() != "127.0.0.1:1" {
		t.Errorf("instance came as %+v", got)
	}
	second := register(t, client, Instance{AppID: AppComet, Hostname: "b", Addrs: []string{"grpc://127.0.0.1:2"}})
	await(t, lists, "a", "b")

	if err := first.Update(map[string]string{"conn_count": "7"}); err != nil {
		t.Fatal(err)
	}
	if list = await(t, lists, "a", "b"); list[0].Metadata["conn_count"] != "7" {
		t.Errorf("after an update the metadata is %v", list[0].Metadata)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, lists, "b")
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, lists) // the last one going is seen too
	if err := second.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestWatchersWithOneHostNameDoNotMixUp(t *testing.T) {
	addr, _ := startNode(t, "127.0.0.1:0", nil)
	client := NewClient(Config{Nodes: []string{addr}}, testEnv("same"), quiet())
	other := NewClient(Config{Nodes: []string{addr}}, testEnv("same"), quiet())
	comets, logics := client.Watch(t.Context(), AppComet), other.Watch(t.Context(), AppLogic)
	await(t, comets)
	await(t, logics)
	register(t, client, Instance{AppID: AppComet, Addrs: []string{"grpc://127.0.0.1:1"}})
	register(t, other, Instance{AppID: AppLogic, Addrs: []string{"grpc://127.0.0.1:2"}})
	await(t, comets, "same")
	await(t, logics, "same")
}

func TestNothingBlocksOrPanicsWithoutNodes(t *testing.T) {
	for name, nodes := range map[string][]string{"none configured": nil, "none answers": {freeAddr(t)}} {
		t.Run(name, func(t *testing.T) {
			client := NewClient(Config{Nodes: nodes}, testEnv("h"), quiet())
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			lists := client.Watch(ctx, AppComet)
			if _, err := client.Register(ctx, Instance{AppID: AppJob}); err == nil || !strings.Contains(err.Error(), AppJob) {
				t.Errorf("Register: %v, want an error that names %s", err, AppJob)
			}
			select {
			case list := <-lists:
				t.Errorf("a list came from nowhere: %v", list)
			default:
			}
		})
	}
}

func TestNodeThatComesLate(t *testing.T) {
	addr := freeAddr(t)
	client := NewClient(Config{Nodes: []string{addr}}, testEnv("early"), quiet())
	lists := client.Watch(t.Context(), AppLogic)
	registered := make(chan error, 1)
	go func() {
		r, err := client.Register(t.Context(), Instance{AppID: AppLogic, Addrs: []string{"grpc://127.0.0.1:1"}})
		if err == nil {
			t.Cleanup(func() { r.Close() })
		}
		registered <- err
	}()
	startNode(t, addr, nil)
	if err := <-registered; err != nil {
		t.Fatal(err)
	}
	await(t, lists, "early")
}

// A node that restarts has forgotten everybody. Watchers keep what they knew meanwhile, and
// the instances come back by themselves, with their newest metadata.
func TestNodeRestartLosesNobody(t *testing.T) {
	addr, stop := startNode(t, "127.0.0.1:0", nil)
	env := testEnv("a")
	client := NewClient(Config{Nodes: []string{addr}}, env, quiet())
	client.renew = 50 * time.Millisecond
	lists := client.Watch(t.Context(), AppComet)
	r := register(t, client, Instance{AppID: AppComet, Addrs: []string{"grpc://127.0.0.1:1"}})
	await(t, lists, "a")
	stop()
	if err := r.Update(map[string]string{"n": "2"}); err == nil {
		t.Error("an update without a node succeeded")
	}
	startNode(t, addr, nil)
	deadline := time.After(10 * time.Second)
	for {
		select {
		case list := <-lists:
			if len(list) != 1 {
				t.Fatalf("the watcher was told %v", list)
			}
			if list[0].Metadata["n"] == "2" {
				return
			}
		case <-deadline:
			t.Fatal("the instance did not come back with its newest metadata")
		}
	}
}

func TestInstancesGoAfterTheGrace(t *testing.T) {
	addr, stop := startNode(t, "127.0.0.1:0", nil)
	client := NewClient(Config{Nodes: []string{addr}}, testEnv("a"), quiet())
	client.grace = 50 * time.Millisecond
	lists := client.Watch(t.Context(), AppComet)
	r := register(t, client, Instance{AppID: AppComet, Addrs: []string{"grpc://127.0.0.1:1"}})
	await(t, lists, "a")
	stop()
	r.cancel() // it dies with the node
	startNode(t, addr, nil)
	other := register(t, client, Instance{AppID: AppComet, Hostname: "b", Addrs: []string{"grpc://127.0.0.1:2"}})
	deadline := time.Now().Add(10 * time.Second)
	for n := 0; time.Now().Before(deadline); n++ {
		if err := other.Update(map[string]string{"n": time.Now().String()}); err != nil {
			t.Fatal(err)
		}
		if list := <-lists; len(list) == 1 && list[0].Hostname == "b" {
			return
		}
	}
	t.Error("an instance that never came back stayed on the list")
}

func TestChangesReachTheOtherNodes(t *testing.T) {
	addrs := []string{freeAddr(t), freeAddr(t)}
	nodes := func(cfg *NodeConfig) { cfg.Nodes = addrs }
	_, stopFirst := startNode(t, addrs[0], nodes)
	second := NewClient(Config{Nodes: addrs[1:]}, testEnv("second"), quiet())
	lists := second.Watch(t.Context(), AppComet)

	both := NewClient(Config{Nodes: addrs}, testEnv("c"), quiet())
	both.renew = 100 * time.Millisecond
	r := register(t, both, Instance{AppID: AppComet, Addrs: []string{"grpc://127.0.0.1:1"}})
	startNode(t, addrs[1], nodes) // takes over what the first knows
	await(t, lists, "c")
	if err := r.Update(map[string]string{"v": "1"}); err != nil {
		t.Fatal(err)
	}
	for await(t, lists, "c")[0].Metadata["v"] != "1" {
	}
	stopFirst()
	if err := r.Close(); err != nil { // through the second
		t.Fatal(err)
	}
	await(t, lists)
}

func TestAdvertiseAddr(t *testing.T) {
	for _, c := range []struct{ listen, want string }{
		{"127.0.0.1:3109", "127.0.0.1:3109"},
		{"0.0.0.0:3109", InternalIP() + ":3109"},
		{"[::]:3109", InternalIP() + ":3109"},
		{"[::1]:3109", "[::1]:3109"},
	} {
		addr, err := net.ResolveTCPAddr("tcp", c.listen)
		if err != nil {
			t.Fatal(err)
		}
		if got := AdvertiseAddr(addr); got != c.want {
			t.Errorf("AdvertiseAddr(%s) = %s, want %s", c.listen, got, c.want)
		}
	}
}
