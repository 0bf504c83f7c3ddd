package discovery

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bilibili/discovery/model"
)

func instance(host string) *model.Instance {
	now := time.Now().UnixNano()
	return &model.Instance{
		Zone: "z", Env: "dev", AppID: "app", Hostname: host, Status: model.InstanceStatusUP,
		Addrs: []string{"grpc://127.0.0.1:1"}, Metadata: map[string]string{},
		LatestTimestamp: now, DirtyTimestamp: now, RenewTimestamp: now,
	}
}

func TestEviction(t *testing.T) {
	for _, c := range []struct {
		name    string
		hosts   []string
		renewed []string // by each in the last minute, twice
		after   time.Duration
		evicted int
	}{
		{"nobody is overdue", []string{"a", "b"}, nil, time.Minute, 0},
		{"one dead of two goes", []string{"a", "b"}, []string{"a"}, 2 * time.Minute, 1},
		{"all silent at once is the network", []string{"a", "b", "c"}, nil, 2 * time.Minute, 0},
		{"but not for ever", []string{"a", "b", "c"}, nil, 2 * time.Hour, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegistry()
			for _, host := range c.hosts {
				r.register(instance(host))
			}
			later := time.Now().Add(c.after)
			for _, host := range c.renewed {
				for range 2 {
					r.renew("dev", "app", "z", host)
				}
				_, app := r.app("dev", "app", "z")
				in, _ := app.Renew(host)
				in.RenewTimestamp = later.UnixNano()
				app.NewInstance(in, 0)
			}
			r.now = func() time.Time { return later }
			if evicted := r.evict(); len(evicted) != c.evicted {
				t.Errorf("%d evicted, want %d", len(evicted), c.evicted)
			}
		})
	}
}

func TestPollMissesNoChange(t *testing.T) {
	r := newRegistry()
	r.register(instance("a"))
	latest := int64(0)
	for i := range 200 {
		done := make(chan bool)
		go func() {
			infos, _, ok := r.poll(t.Context(), &model.ArgPolls{Env: "dev", AppID: []string{"app"}, LatestTimestamp: []int64{latest}}, false)
			if ok {
				latest = infos["app"].LatestTimestamp
			}
			done <- ok
		}()
		if i > 0 { // the first sees what is there
			if !r.set(&model.ArgSet{Zone: "z", Env: "dev", AppID: "app", Hostname: []string{"a"}, Metadata: []string{`{"n":"1"}`}, SetTimestamp: time.Now().UnixNano()}) {
				t.Fatal("set failed")
			}
		}
		if !<-done {
			t.Fatal("a poll ended without the change")
		}
	}
}

func TestSetMergesMetadataAndLeavesOldAnswersAlone(t *testing.T) {
	r := newRegistry()
	in := instance("a")
	in.Metadata["weight"] = "10"
	r.register(in)
	before, _ := r.fetch("dev", "app", "", 0, model.InstanceStatusUP)
	if !r.set(&model.ArgSet{Zone: "z", Env: "dev", AppID: "app", Hostname: []string{"a"}, Metadata: []string{`{"n":"1"}`}, SetTimestamp: time.Now().UnixNano()}) {
		t.Fatal("set failed")
	}
	after, _ := r.fetch("dev", "app", "", before.LatestTimestamp, model.InstanceStatusUP)
	if after == nil {
		t.Fatal("the change is not newer than what was known before")
	}
	if m := after.Instances["z"][0].Metadata; m["weight"] != "10" || m["n"] != "1" {
		t.Errorf("metadata is %v", m)
	}
	if m := before.Instances["z"][0].Metadata; len(m) != 1 {
		t.Errorf("an answer given before changed: %v", m)
	}
	for name, arg := range map[string]*model.ArgSet{
		"unknown host":   {Hostname: []string{"x"}},
		"wrong status":   {Hostname: []string{"a"}, Status: []int64{7}},
		"wrong metadata": {Hostname: []string{"a"}, Metadata: []string{"{"}},
	} {
		arg.Zone, arg.Env, arg.AppID = "z", "dev", "app"
		if r.set(arg) {
			t.Errorf("%s: set succeeded", name)
		}
	}
}

func TestAPIAnswers(t *testing.T) {
	node, err := NewNode(DefaultNodeConfig(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	node.registry.register(instance("a"))
	server := httptest.NewServer(node.handler())
	defer server.Close()
	const who = "zone=z&env=dev&appid=app&hostname=a"
	for _, c := range []struct {
		method, path, params string
		code                 int
		contains             string
	}{
		{"POST", "register", who + "&status=1&addrs=grpc://h:1,grpc://h:2", 0, ""},
		{"GET", "fetch", "env=dev&appid=app&status=1", 0, `"addrs":["grpc://h:1","grpc://h:2"]`},
		{"POST", "register", "zone=z&env=dev&appid=app&status=1&addrs=x", codeRequestError, "hostname is missing"},
		{"POST", "register", who + "&status=1", codeRequestError, "addrs is missing"},
		{"POST", "register", who + "&status=9&addrs=x", codeRequestError, "status is 9"},
		{"POST", "register", who + "&status=one&addrs=x", codeRequestError, `status is \"one\"`},
		{"POST", "register", who + "&status=1&addrs=x&metadata={", codeRequestError, "metadata"},
		{"POST", "renew", who, 0, `"hostname":"a"`},
		{"POST", "renew", strings.Replace(who, "hostname=a", "hostname=b", 1), codeNothingFound, ""},
		{"POST", "renew", who + "&replication=true&dirty_timestamp=1", codeConflict, `"hostname":"a"`},
		{"POST", "renew", who + "&replication=true&dirty_timestamp=9000000000000000000", codeNothingFound, ""},
		{"POST", "set", who + "&metadata={}&metadata={}", codeRequestError, "once for each hostname"},
		{"GET", "fetch", "env=dev&appid=none&status=1", codeNothingFound, ""},
		{"GET", "fetchs", "env=dev&appid=none&appid=app&status=1", 0, `"app":`},
		{"GET", "fetch/all", "", 0, `"app":`},
		{"GET", "nodes", "", 0, `"addr":"127.0.0.1:7171"`},
		{"GET", "poll", "env=dev&hostname=h&appid=none", codeNothingFound, "none not found"},
		{"GET", "polls", "env=dev&hostname=h&appid=app&appid=none", 0, `"error":{"-404":["none"]}`},
		{"GET", "polls", "env=dev&hostname=h&appid=app&latest_timestamp=1&latest_timestamp=2", codeRequestError, "same number"},
		{"GET", "polls", "env=dev&hostname=h&appid=none&latest_timestamp=5&absent=1", 0, `"error":{"-404":["none"]}`},
		{"POST", "cancel", who, 0, ""},
		{"POST", "cancel", who, codeNothingFound, ""},
	} {
		t.Run(c.path+" "+c.params, func(t *testing.T) {
			url := server.URL + "/discovery/" + c.path
			var body io.Reader
			if c.method == "POST" {
				body = strings.NewReader(c.params)
			} else {
				url += "?" + c.params
			}
			req, err := http.NewRequest(c.method, url, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			var a struct{ Code int }
			if err := json.Unmarshal(text, &a); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s (%v)", resp.Status, text, err)
			}
			if a.Code != c.code || !strings.Contains(string(text), c.contains) {
				t.Errorf("got %s, want code %d and %q", text, c.code, c.contains)
			}
		})
	}
}

func TestProtectedNodeTakesButGivesNothing(t *testing.T) {
	node, err := NewNode(DefaultNodeConfig(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	node.protectUntil = time.Now().Add(time.Hour)
	server := httptest.NewServer(node.handler())
	defer server.Close()
	client := NewClient(Config{Nodes: []string{strings.TrimPrefix(server.URL, "http://")}}, testEnv("a"), quiet())
	register(t, client, Instance{AppID: AppJob, Addrs: []string{"grpc://127.0.0.1:1"}})
	if err := client.call(t.Context(), http.MethodGet, "fetch/all", nil, nil); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a protected node's list: %v", err)
	}
}

func TestNodeConfigErrorsNameTheField(t *testing.T) {
	for name, change := range map[string]func(*NodeConfig){
		"httpServer.addr": func(c *NodeConfig) { c.HTTPServer.Addr = "7171" },
		"env.zone":        func(c *NodeConfig) { c.Env.Zone = "" },
		"nodes":           func(c *NodeConfig) { c.Nodes = []string{":7171"} },
		"zones.sh002":     func(c *NodeConfig) { c.Zones = map[string][]string{"sh002": {"x"}} },
	} {
		cfg := DefaultNodeConfig()
		change(&cfg)
		if _, err := NewNode(cfg, quiet()); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// An application that goes and comes back, as an older one that another node had, is news to
// a client that polls with the time at which it went: the original's client does.
func TestPollSeesAnOlderApplicationComeBack(t *testing.T) {
	r := newRegistry()
	old := instance("a")
	r.register(copyOf(old))
	before, _ := r.fetch("dev", "app", "", 0, model.InstanceStatusUP)
	for _, at := range []int64{0, before.LatestTimestamp - 1, before.LatestTimestamp + int64(time.Hour)} {
		known, _ := r.fetch("dev", "app", "", 0, model.InstanceStatusUP)
		if _, ok := r.cancel("dev", "app", "z", "a", at); !ok {
			t.Fatal("cancel failed")
		}
		r.register(copyOf(old))
		back, code := r.fetch("dev", "app", "", max(at, known.LatestTimestamp), model.InstanceStatusUP)
		if code != codeOK || len(back.Instances["z"]) != 1 {
			t.Errorf("cancelled at %d: after it came back there is nothing newer than %d: code %d", at, known.LatestTimestamp, code)
		}
	}
}

// What a node takes over from a peer never revives the dead.
func TestTakingOverRevivesNobody(t *testing.T) {
	r := newRegistry()
	start := time.Now()
	now := start
	r.now = func() time.Time { return now }
	silent := instance("silent")
	silent.RenewTimestamp = start.Add(-evictAfter - time.Minute).UnixNano()
	theirs := map[string][]*model.Instance{"app": {instance("ended"), instance("lives"), silent}}
	r.cancel("dev", "app", "z", "ended", 1) // known or not: the change was faster than the list
	hosts := func() (list []string) {
		if info, code := r.fetch("dev", "app", "", 0, model.InstanceStatusUP); code == codeOK {
			for _, in := range info.Instances["z"] {
				list = append(list, in.Hostname)
			}
		}
		slices.Sort(list)
		return list
	}
	for _, c := range []struct {
		asked time.Duration // after start
		want  []string
	}{{-time.Second, []string{"lives"}}, {time.Second, []string{"lives"}}, {onTheWay + time.Second, []string{"ended", "lives"}}} {
		now = start.Add(c.asked)
		r.takeOver(theirs, now)
		if got := hosts(); !slices.Equal(got, c.want) {
			t.Errorf("asked %v after the end: %v are taken over, want %v", c.asked, got, c.want)
		}
	}
	now = start.Add(time.Minute)
	r.evict()
	if len(r.ended) != 0 {
		t.Errorf("%d ends are remembered for ever", len(r.ended))
	}
}
