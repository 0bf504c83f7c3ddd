package discovery

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"
)

// clientOf is a client of some nodes, of the usual zone, which renews quickly.
func clientOf(nodes ...string) *Client {
	c := NewClient(Config{Nodes: nodes}, testEnv("client"), quiet())
	c.renew = 50 * time.Millisecond
	return c
}

// eventually polls check until it returns nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// knows waits until the node lists exactly these nodes of its zone.
func knows(t *testing.T, node string, want ...string) {
	t.Helper()
	slices.Sort(want)
	eventually(t, func() error {
		var list []struct{ Addr string }
		if err := clientOf(node).call(t.Context(), http.MethodGet, "nodes", nil, &list); err != nil {
			return err
		}
		var got []string
		for _, n := range list {
			got = append(got, n.Addr)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("node %s knows %v, want %v", node, got, want)
		}
		return nil
	})
}

// A node that is added needs to know one other. All learn of it, and of its end.
func TestNodesLearnOfEachOther(t *testing.T) {
	a, b, c := freeAddr(t), freeAddr(t), freeAddr(t)
	startNode(t, a, nil)
	_, stopB := startNode(t, b, func(cfg *NodeConfig) { cfg.Nodes = []string{a} })
	startNode(t, c, func(cfg *NodeConfig) { cfg.Nodes = []string{b} })
	for _, node := range []string{a, b, c} {
		knows(t, node, a, b, c)
	}
	atA, atC := clientOf(a), clientOf(c)
	listA, listC := atA.Watch(t.Context(), AppComet), atC.Watch(t.Context(), AppComet)
	ofA := register(t, atA, Instance{AppID: AppComet, Hostname: "of-a", Addrs: []string{"grpc://127.0.0.1:1"}})
	await(t, listC, "of-a")

	stopB()
	knows(t, a, a, c)
	knows(t, c, b, a, c) // it is told to know b
	ofC := register(t, atC, Instance{AppID: AppComet, Hostname: "of-c", Addrs: []string{"grpc://127.0.0.1:2"}})
	await(t, listA, "of-a", "of-c")
	if err := ofA.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, listC, "of-c")
	if err := ofC.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, listA)

	startNode(t, b, nil) // back, and told nothing: c tells it, and a is told
	register(t, atC, Instance{AppID: AppComet, Hostname: "of-c", Addrs: []string{"grpc://127.0.0.1:2"}})
	await(t, clientOf(b).Watch(t.Context(), AppComet), "of-c")
	await(t, listA, "of-c")
}

// Two zones of two nodes each: what one node is told, all know, with its zone; and a zone
// stays informed by any of the other's nodes.
func TestZonesKnowEachOther(t *testing.T) {
	a1, a2, b1, b2 := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	zone := func(name string, own []string, other string, others []string) func(*NodeConfig) {
		return func(cfg *NodeConfig) {
			cfg.Env.Zone, cfg.Nodes = name, own
			cfg.Zones = map[string][]string{name: own, other: others} // the original's files list the own one too
		}
	}
	inA := zone("sh001", []string{a1, a2}, "sh002", []string{b1, b2})
	inB := zone("sh002", []string{b1, b2}, "sh001", []string{a1, a2})
	startNode(t, a1, inA)
	startNode(t, a2, inA)
	_, stopB1 := startNode(t, b1, inB)
	startNode(t, b2, inB)
	knows(t, a1, a1, a2) // its own zone's
	knows(t, b2, b1, b2)

	var lists []<-chan []Instance
	for _, node := range []string{a1, a2, b1, b2} {
		lists = append(lists, clientOf(node).Watch(t.Context(), AppComet))
	}
	all := func(hosts ...string) (last []Instance) {
		t.Helper()
		for _, list := range lists {
			last = await(t, list, hosts...)
		}
		return last
	}
	near := register(t, clientOf(a1), Instance{AppID: AppComet, Hostname: "near", Addrs: []string{"grpc://127.0.0.1:1"}})
	all("near")
	far := register(t, clientOf(b2), Instance{AppID: AppComet, Hostname: "far", Zone: "sh002", Addrs: []string{"grpc://127.0.0.1:2"}})
	if got := all("near", "far"); got[0].Zone != "sh001" || got[1].Zone != "sh002" {
		t.Errorf("the zones are %s and %s", got[0].Zone, got[1].Zone)
	}
	if err := near.Update(map[string]string{"offline": "true"}); err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		for await(t, list, "near", "far")[0].Metadata["offline"] != "true" {
		}
	}

	stopB1()
	lists = append(lists[:2:2], lists[3])
	if err := near.Close(); err != nil { // through the node of sh002 that is left
		t.Fatal(err)
	}
	all("far")
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	all()
}

// A node that was away, with all that it knew, gets it from its peers, and from the renewals
// what came while it was starting.
func TestPeerThatForgotIsTold(t *testing.T) {
	a, b := freeAddr(t), freeAddr(t)
	both := func(cfg *NodeConfig) { cfg.Nodes = []string{a, b} }
	startNode(t, a, both)
	_, stopB := startNode(t, b, both)
	register(t, clientOf(a), Instance{AppID: AppLogic, Hostname: "kept", Addrs: []string{"grpc://127.0.0.1:1"}})
	await(t, clientOf(b).Watch(t.Context(), AppLogic), "kept")
	stopB()
	startNode(t, b, both)
	await(t, clientOf(b).Watch(t.Context(), AppLogic), "kept")
	// It loses one that a has.
	params := identity(Instance{AppID: AppLogic, Hostname: "kept", Zone: "sh001", Env: "dev"})
	params.Set("replication", "true")
	lists := clientOf(b).Watch(t.Context(), AppLogic)
	await(t, lists, "kept")
	if err := clientOf(b).call(t.Context(), http.MethodPost, "cancel", params, nil); err != nil {
		t.Fatal(err)
	}
	await(t, lists)
	await(t, lists, "kept")
}

// Of several nodes the first that answers is used, for registering as for watching, whichever
// of them are down.
func TestAnyNodeThatAnswersIsUsed(t *testing.T) {
	dead, a, b := freeAddr(t), freeAddr(t), freeAddr(t)
	both := func(cfg *NodeConfig) { cfg.Nodes = []string{a, b} }
	_, stopA := startNode(t, a, both)
	client := clientOf(dead, a, b)
	lists := client.Watch(t.Context(), AppComet)
	r := register(t, client, Instance{AppID: AppComet, Hostname: "x", Addrs: []string{"grpc://127.0.0.1:1"}})
	await(t, lists, "x")
	_, stopB := startNode(t, b, both)
	stopA()
	register(t, clientOf(b, a), Instance{AppID: AppComet, Hostname: "y", Addrs: []string{"grpc://127.0.0.1:2"}})
	await(t, lists, "x", "y")
	stopB()
	startNode(t, a, both) // empty: nobody is left to ask
	eventually(t, func() error { return r.Update(map[string]string{"n": "2"}) })
	for await(t, lists, "x", "y")[0].Metadata["n"] != "2" {
	}
	await(t, clientOf(a).Watch(t.Context(), AppComet), "x", "y") // not the watcher's patience: it knows both
}

// The life of a registration at our node as the node's own answers show it. It is the
// original's life, too: TestOurClientAtOriginalNode.
func TestLifeOfARegistration(t *testing.T) {
	addr, _ := startNode(t, "127.0.0.1:0", nil)
	lifeOfARegistration(t, addr)
}

// lifeOfARegistration registers a comet at a node, lets it renew, change, be forgotten and
// end, and looks at what the node says of it.
func lifeOfARegistration(t *testing.T, node string) {
	t.Helper()
	client := clientOf(node)
	type seen struct {
		Instance
		Status int   `json:"status"`
		Renew  int64 `json:"renew_timestamp"`
	}
	fetch := func() (list []seen, err error) {
		var info struct {
			Instances map[string][]seen `json:"instances"`
		}
		err = client.call(t.Context(), http.MethodGet, "fetch", url.Values{"env": {"dev"}, "appid": {AppComet}, "status": {"1"}}, &info)
		return info.Instances["sh001"], err
	}
	one := func(check func(seen) error) seen {
		t.Helper()
		var last seen
		eventually(t, func() error {
			list, err := fetch()
			if err != nil || len(list) != 1 {
				return fmt.Errorf("%d instances, %v", len(list), err)
			}
			last = list[0]
			return check(last)
		})
		return last
	}
	metadata := map[string]string{"weight": "10", "offline": "false", "addrs": "127.0.0.1", "conn_count": "0", "ip_count": "0"}
	r := register(t, client, Instance{AppID: AppComet, Hostname: "life", Version: "v1", Addrs: []string{"grpc://127.0.0.1:3109"}, Metadata: metadata})
	first := one(func(s seen) error {
		for k, v := range metadata {
			if s.Metadata[k] != v {
				return fmt.Errorf("%s is %q, want %q", k, s.Metadata[k], v)
			}
		}
		return nil
	})
	if first.Hostname != "life" || first.Region != "sh" || first.Env != "dev" || first.Version != "v1" || first.Status != 1 || !slices.Equal(first.Addrs, []string{"grpc://127.0.0.1:3109"}) {
		t.Errorf("the node says %+v", first)
	}
	one(func(s seen) error {
		if s.Renew <= first.Renew {
			return fmt.Errorf("not renewed since %d", first.Renew)
		}
		return nil
	})

	metadata["offline"], metadata["conn_count"] = "true", "7" // as a comet that drains
	if err := r.Update(metadata); err != nil {
		t.Fatal(err)
	}
	changed := one(func(s seen) error {
		if s.Metadata["offline"] != "true" || s.Metadata["conn_count"] != "7" {
			return fmt.Errorf("metadata %v", s.Metadata)
		}
		return nil
	})
	if changed.LatestTimestamp <= first.LatestTimestamp {
		t.Errorf("the change is not newer: %d after %d", changed.LatestTimestamp, first.LatestTimestamp)
	}

	// The node forgets it. The next renewal brings it back, as it was last.
	if err := client.call(t.Context(), http.MethodPost, "cancel", identity(r.instance), nil); err != nil {
		t.Fatal(err)
	}
	one(func(s seen) error {
		if s.Metadata["conn_count"] != "7" || s.Version != "v1" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if list, err := fetch(); !hasCode(err, codeNothingFound) {
		t.Errorf("after the end: %v, %v", list, err)
	}
	if err := r.Update(metadata); err == nil {
		t.Error("an update after the end succeeded")
	}
}
