package discovery

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
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

// originalEnv makes the test binary a node of the original's, a process of its own: its
// handlers are globals, it can't be stopped otherwise, and its registry has races. It holds
// the originalSpec.
const originalEnv = "BARRAGE_TEST_DISCOVERY_ORIGINAL"

type originalSpec struct {
	Addr, Zone string
	Nodes      []string
	Zones      map[string][]string
}

func TestMain(m *testing.M) {
	if text := os.Getenv(originalEnv); text != "" {
		if err := runOriginal(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runOriginal runs a node until its standard input ends.
func runOriginal(text string) error {
	var spec originalSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	paladin.DefaultClient = paladin.NewMock(map[string]string{})
	silenceKratos()
	conf := &originalconf.Config{
		Nodes: spec.Nodes, Zones: spec.Zones,
		HTTPServer: &blademaster.ServerConfig{Addr: spec.Addr, Timeout: xtime.Duration(40 * time.Second)},
		HTTPClient: &blademaster.ClientConfig{Dial: xtime.Duration(time.Second), Timeout: xtime.Duration(40 * time.Second), KeepAlive: xtime.Duration(time.Minute)},
		Env:        &originalconf.Env{Region: "sh", Zone: spec.Zone, DeployEnv: "dev", Host: "original"},
	}
	node, stop := originalnode.New(conf)
	defer stop()
	originalhttp.Init(conf, node)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// startOriginal runs a node of the original's until kill is called, or the test ends. What it
// knew dies with it.
func startOriginal(t *testing.T, spec originalSpec) (kill func()) {
	t.Helper()
	if spec.Zone == "" {
		spec.Zone = "sh001"
	}
	if spec.Nodes == nil {
		spec.Nodes = []string{spec.Addr}
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), originalEnv+"="+string(text))
	stdin, err := cmd.StdinPipe() // ends with this process, whatever its end is
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill()
		stdin.Close()
		cmd.Wait()
	})
	t.Cleanup(kill)
	eventually(t, func() error { return clientOf(spec.Addr).call(t.Context(), http.MethodGet, "fetch/all", nil, nil) })
	return kill
}

// Our processes at the original's node.
func TestOurClientAtOriginalNode(t *testing.T) {
	addr := freeAddr(t)
	startOriginal(t, originalSpec{Addr: addr})
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
	b := register(t, client, Instance{AppID: AppComet, Hostname: "b", Addrs: []string{"grpc://127.0.0.1:3"}})
	list = await(t, lists, "a", "b")
	if list[0].Metadata["conn_count"] != "1" {
		t.Errorf("metadata after Update: %v", list[0].Metadata)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, lists, "b")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	lifeOfARegistration(t, addr)
}

// The original's node goes away and comes back with nothing in its memory. Our watchers keep
// what they knew, and our processes register anew by themselves.
func TestOriginalNodeRestartLosesNobody(t *testing.T) {
	addr := freeAddr(t)
	kill := startOriginal(t, originalSpec{Addr: addr})
	client := clientOf(addr)
	lists := client.Watch(t.Context(), AppComet)
	r := register(t, client, Instance{AppID: AppComet, Hostname: "a", Addrs: []string{"grpc://127.0.0.1:1"}})
	await(t, lists, "a")
	kill()
	if err := r.Update(map[string]string{"n": "2"}); err == nil {
		t.Error("an update without a node succeeded")
	}
	startOriginal(t, originalSpec{Addr: addr})
	for deadline := time.After(20 * time.Second); ; {
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

// A node of ours and one of the original's, in one zone and in two: each has what the other
// is told, and the changes to it.
func TestNodesOfBothKindsTogether(t *testing.T) {
	for _, zone := range []string{"sh001", "sh002"} {
		t.Run("the original in "+zone, func(t *testing.T) {
			ours, original := freeAddr(t), freeAddr(t)
			startNode(t, ours, func(cfg *NodeConfig) {
				if zone == cfg.Env.Zone {
					cfg.Nodes = []string{ours, original}
				} else {
					cfg.Zones = map[string][]string{zone: {original}}
				}
			})
			spec := originalSpec{Addr: original, Zone: zone}
			if zone == "sh001" {
				spec.Nodes = []string{ours, original}
			} else {
				spec.Zones = map[string][]string{"sh001": {ours}}
			}
			startOriginal(t, spec)
			atOurs, atOriginal := clientOf(ours), clientOf(original)
			listOurs, listOriginal := atOurs.Watch(t.Context(), AppComet), atOriginal.Watch(t.Context(), AppComet)
			await(t, listOurs)
			await(t, listOriginal)
			both := func(hosts ...string) (o, p []Instance) {
				t.Helper()
				return await(t, listOurs, hosts...), await(t, listOriginal, hosts...)
			}
			one := register(t, atOurs, Instance{AppID: AppComet, Hostname: "one", Addrs: []string{"grpc://127.0.0.1:1", "grpc://127.0.0.1:2"}, Metadata: map[string]string{"weight": "10"}})
			both("one")
			two := register(t, atOriginal, Instance{AppID: AppComet, Hostname: "two", Zone: zone, Addrs: []string{"grpc://127.0.0.1:3"}, Metadata: map[string]string{"weight": "20"}})
			o, p := both("one", "two")
			for _, list := range [][]Instance{o, p} {
				if !slices.Equal(list[0].Addrs, []string{"grpc://127.0.0.1:1", "grpc://127.0.0.1:2"}) || list[0].Metadata["weight"] != "10" || list[1].Metadata["weight"] != "20" || list[1].Zone != zone {
					t.Errorf("the instances are %+v", list)
				}
			}
			// The original tells of a change only those who are waiting just then. Comets
			// say anew every few seconds how they are, and so the next one is heard.
			changed := map[string]map[string]bool{"ours": {}, "the original": {}}
			note := func(node string, list []Instance) {
				for _, in := range list {
					if in.Metadata["offline"] == "true" {
						changed[node][in.Hostname] = true
					}
				}
			}
			eventually(t, func() error {
				for _, r := range []*Registration{one, two} {
					if err := r.Update(map[string]string{"offline": "true"}); err != nil {
						t.Fatal(err)
					}
				}
				select {
				case list := <-listOurs:
					note("ours", list)
				case list := <-listOriginal:
					note("the original", list)
				default:
				}
				if len(changed["ours"]) < 2 || len(changed["the original"]) < 2 {
					return fmt.Errorf("changes arrived: %v", changed)
				}
				return nil
			})
			if err := one.Close(); err != nil {
				t.Fatal(err)
			}
			both("two")
			if err := two.Close(); err != nil {
				t.Fatal(err)
			}
			await(t, listOurs)
		})
	}
}
