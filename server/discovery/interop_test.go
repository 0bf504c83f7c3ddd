package discovery

import (
	"context"
	"slices"
	"testing"
	"time"

	originalconf "github.com/bilibili/discovery/conf"
	originalnode "github.com/bilibili/discovery/discovery"
	originalhttp "github.com/bilibili/discovery/http"
	"github.com/bilibili/discovery/naming"
	"github.com/go-kratos/kratos/pkg/conf/paladin"
	"github.com/go-kratos/kratos/pkg/net/http/blademaster"
	xtime "github.com/go-kratos/kratos/pkg/time"
)

// goim's own processes, with the original's client, see ours at our node and are seen.
func TestOriginalClientAtOurNode(t *testing.T) {
	addr, _ := startNode(t, "127.0.0.1:0", nil)
	ours := NewClient(Config{Nodes: []string{addr}}, testEnv("ours"), quiet())
	lists := ours.Watch(t.Context(), AppComet)
	register(t, ours, Instance{AppID: AppLogic, Addrs: []string{"grpc://127.0.0.1:3119"}, Metadata: map[string]string{"weight": "10"}})

	theirs := naming.New(&naming.Config{Nodes: []string{addr}, Region: "sh", Zone: "sh001", Env: "dev", Host: "theirs"})
	defer theirs.Close()
	resolver := theirs.Build(AppLogic)
	timeout := time.After(20 * time.Second)
	for {
		select {
		case <-resolver.Watch():
		case <-timeout:
			t.Fatal("the original's client does not see our instance")
		}
		info, ok := resolver.Fetch()
		if ok && len(info.Instances["sh001"]) == 1 && info.Instances["sh001"][0].Addrs[0] == "grpc://127.0.0.1:3119" {
			break
		}
	}
	comet := &naming.Instance{Region: "sh", Zone: "sh001", Env: "dev", AppID: AppComet, Hostname: "theirs",
		Addrs: []string{"grpc://127.0.0.1:3109"}, Metadata: map[string]string{"weight": "10"}}
	cancel, err := theirs.Register(comet)
	if err != nil {
		t.Fatal(err)
	}
	await(t, lists, "theirs")
	comet.Metadata = map[string]string{"conn_count": "3"}
	if err := theirs.Set(comet); err != nil {
		t.Fatal(err)
	}
	if m := await(t, lists, "theirs")[0].Metadata; m["conn_count"] != "3" || m["weight"] != "10" {
		t.Errorf("metadata after the original's Set: %v", m)
	}
	cancel()
	await(t, lists)
}

// Our processes at the original's node.
func TestOurClientAtOriginalNode(t *testing.T) {
	addr := freeAddr(t)
	paladin.DefaultClient = paladin.NewMock(map[string]string{})
	conf := &originalconf.Config{
		Nodes:      []string{addr},
		HTTPServer: &blademaster.ServerConfig{Addr: addr, Timeout: xtime.Duration(40 * time.Second)},
		HTTPClient: &blademaster.ClientConfig{Dial: xtime.Duration(time.Second), Timeout: xtime.Duration(40 * time.Second), KeepAlive: xtime.Duration(time.Minute)},
		Env:        &originalconf.Env{Region: "sh", Zone: "sh001", DeployEnv: "dev", Host: "original"},
	}
	silenceKratos()
	node, stop := originalnode.New(conf)
	defer stop()
	originalhttp.Init(conf, node) // panics when the port is taken

	client := NewClient(Config{Nodes: []string{addr}}, testEnv("a"), quiet())
	lists := client.Watch(t.Context(), AppComet)
	await(t, lists)
	a := register(t, client, Instance{AppID: AppComet, Hostname: "a", Addrs: []string{"grpc://127.0.0.1:1", "grpc://127.0.0.1:2"}, Version: "v1"})
	list := await(t, lists, "a")
	if got := list[0]; got.Version != "v1" || !slices.Equal(got.Addrs, []string{"grpc://127.0.0.1:1", "grpc://127.0.0.1:2"}) {
		t.Errorf("instance came as %+v", got)
	}
	if err := a.Update(map[string]string{"conn_count": "1"}); err != nil {
		t.Fatal(err)
	}
	register(t, client, Instance{AppID: AppComet, Hostname: "b", Addrs: []string{"grpc://127.0.0.1:3"}})
	list = await(t, lists, "a", "b")
	if list[0].Metadata["conn_count"] != "1" {
		t.Errorf("metadata after Update: %v", list[0].Metadata)
	}
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	if err := a.renewOnce(ctx); err != nil {
		t.Errorf("renew: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, lists, "b")
}
