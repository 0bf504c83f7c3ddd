package nodes

import (
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"barrage/server/discovery"
)

// update rewrites the golden files: go test ./server/logic/nodes -update
var update = flag.Bool("update", false, "rewrite the golden files")

func newBalancer() *Balancer {
	return NewBalancer(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// comet is an instance in a region, with a weight and connections.
func comet(host, region string, weight, conns int, more ...string) discovery.Instance {
	in := discovery.Instance{
		AppID: "goim.comet", Hostname: host, Region: region, Zone: region + "001", Env: "dev", Version: "1", Addrs: []string{"grpc://10.0.0.1:3109"},
		LatestTimestamp: 1,
		Metadata: map[string]string{
			"weight": fmt.Sprint(weight), "offline": "false", "addrs": "1.1.1." + host[len(host)-1:], "conn_count": fmt.Sprint(conns), "ip_count": "1",
		},
	}
	for i := 0; i+1 < len(more); i += 2 {
		in.Metadata[more[i]] = more[i+1]
	}
	return in
}

// goim's arithmetic, by hand: weight = fixed + round((share - held/2) x all connections),
// where share is the fixed weight's of all and held the connections' of all; a region's gain
// counts in the share and in the sum.
func TestWeights(t *testing.T) {
	cases := []struct {
		name               string
		fixed, conns       int64
		allFixed, allConns int64
		gain               float64
		want               int64
	}{
		{"nobody has connections", 10, 0, 20, 0, 1, 0},
		{"nobody, in the region", 10, 0, 20, 0, 1.6, 0},
		{"its share exactly", 10, 50, 20, 100, 1, 10 + 25},   // (0.5-0.25) x 100
		{"none yet", 10, 0, 20, 100, 1, 10 + 50},             // 0.5 x 100
		{"all of them", 10, 100, 20, 100, 1, 10 + 0},         // (0.5-0.5) x 100
		{"in the region", 10, 50, 20, 100, 1.6, 16 + 37},     // 16/26 = 0.61538; (0.61538-0.25) x 100 = 36.5 -> 37
		{"rounds down", 1, 0, 3, 100, 1, 1 + 33},             // 33.33
		{"rounds up", 2, 0, 3, 100, 1, 2 + 67},               // 66.67
		{"half goes down", 1, 0, 2, 1, 1, 1 + 0},             // 0.5: floor - more is -0.5
		{"far too many", 1, 100, 100, 100, 1, 1},             // 1 + (0.01-0.5) x 100 = -48, least 1
		{"capped", 1 << 20, 0, 1 << 20, 1 << 20, 1, 1 << 20}, // 2 x 2^20, most 2^20
		{"a weight of zero", 0, 0, 10, 100, 1, 0},
		{"nobody has a weight", 0, 40, 0, 100, 1, 1},          // (0-0.2) x 100 = -20, least 1
		{"a gain below one", 1, 50, 1, 100, 0.1, 1},           // 0.1 of a sum of 0: no share
		{"the smallest in its region", 1, 0, 4, 100, 1.6, 41}, // the sum stays 4: 1.6 + 40 = 41.6
	}
	for _, c := range cases {
		n := &node{fixed: c.fixed, conns: c.conns}
		n.weigh(c.allFixed, c.allConns, c.gain)
		if n.weight != c.want {
			t.Errorf("%s: %d, want %d", c.name, n.weight, c.want)
		}
	}
}

func TestChoose(t *testing.T) {
	b := newBalancer()
	if hosts, addrs := b.choose("", 1.6); len(hosts)+len(addrs) != 0 {
		t.Errorf("of nothing: %q, %q", hosts, addrs)
	}
	b.Update([]discovery.Instance{comet("a1", "sh", 10, 100), comet("b2", "bj", 10, 10), comet("c3", "bj", 10, 40)})
	hosts, addrs := b.choose("", 1.6)
	if !slices.Equal(hosts, []string{"b2", "c3", "a1"}) || !slices.Equal(addrs, []string{"1.1.1.2", "1.1.1.3", "1.1.1.1"}) {
		t.Errorf("%q, %q", hosts, addrs)
	}
	if b.nodes["b2"].conns != 11 || b.conns != 151 {
		t.Errorf("the chosen one has %d connections of %d", b.nodes["b2"].conns, b.conns)
	}
	// In its own region the fuller one is the better one: 16+(16/36-50/151)x151 > 10+(10/30-...)x151.
	if hosts, _ := b.choose("sh", 4); hosts[0] != "a1" {
		t.Errorf("for a client of sh: %q", hosts)
	}
	// An instance that has not changed keeps what was counted here, another one doesn't.
	b.Update([]discovery.Instance{comet("a1", "sh", 10, 100), comet("b2", "bj", 10, 10)})
	if b.nodes["b2"].conns != 11 || b.conns != 112 {
		t.Errorf("%d connections of %d", b.nodes["b2"].conns, b.conns)
	}
	newer := comet("b2", "bj", 10, 30)
	newer.LatestTimestamp = 2
	b.Update([]discovery.Instance{comet("a1", "sh", 10, 100), newer})
	if b.nodes["b2"].conns != 30 {
		t.Errorf("%d connections", b.nodes["b2"].conns)
	}
	// New clients spread evenly where the weights are equal.
	b.Update([]discovery.Instance{comet("x1", "sh", 10, 0), comet("y2", "sh", 10, 0)})
	counts := map[string]int{}
	for range 4000 {
		hosts, _ := b.choose("", 1.6)
		counts[hosts[0]]++
	}
	if counts["x1"] < 1990 || counts["x1"] > 2010 || counts["x1"]+counts["y2"] != 4000 {
		t.Errorf("%v", counts)
	}
}

func TestAtMostFive(t *testing.T) {
	b := newBalancer()
	var list []discovery.Instance
	for i := range 9 {
		list = append(list, comet(fmt.Sprint("c", i), "sh", 10, 10*i, "addrs", fmt.Sprintf("1.0.0.%d, 2.0.0.%d", i, i)))
	}
	b.Update(list)
	if hosts, addrs := b.choose("", 1); len(hosts) != 5 || len(addrs) != 10 || addrs[1] != "2.0.0.0" {
		t.Errorf("%q, %q", hosts, addrs)
	}
}

// More than half of the comets vanish: that is discovery's mistake, until it has lasted.
func TestHalfLost(t *testing.T) {
	b := newBalancer()
	now := time.Unix(1000, 0)
	b.now = func() time.Time { return now }
	all := []discovery.Instance{comet("a1", "sh", 10, 1), comet("b2", "sh", 10, 1), comet("c3", "sh", 10, 1), comet("d4", "sh", 10, 1)}
	known := func(want int) {
		t.Helper()
		b.choose("", 1)
		if len(b.nodes) != want {
			t.Fatalf("%d nodes are known, want %d", len(b.nodes), want)
		}
	}
	b.Update(all)
	known(4)
	b.Update(all[:2]) // half is believed
	known(2)
	b.Update(all)
	b.Update(all[:1])
	known(4)
	now = now.Add(lossPatience - time.Second)
	b.Update(nil)
	known(4)
	if n := testutil.ToFloat64(b.refused); n != 2 {
		t.Errorf("%v refused lists", n)
	}
	if got := b.Instances(); len(got) != 0 {
		t.Errorf("instances are %v; they are what discovery says", got)
	}
	b.Update(all[:3]) // they come back
	known(3)
	b.Update(all[:1])
	known(3)
	now = now.Add(lossPatience) // without another word from discovery
	known(1)
	b.Update(nil)
	known(1)
	now = now.Add(lossPatience)
	known(0)
	b.Update(all)
	known(4)
}

func TestOddMetadata(t *testing.T) {
	b := newBalancer()
	b.Update([]discovery.Instance{
		comet("ok1", "sh", 10, 1),
		comet("off2", "sh", 10, 1, "offline", "true"),
		comet("off3", "sh", 10, 1, "offline", "maybe"),
		comet("conn4", "sh", 10, 1, "conn_count", "many"),
		comet("ip5", "sh", 10, 1, "ip_count", ""),
		comet("weight6", "sh", 10, 1, "weight", "9999999999"),
		comet("ok1", "bj", 10, 500), // twice
		{Hostname: "none7"},
		comet("weight8", "sh", -1, 1),
		comet("conn9", "sh", 10, -1),
		comet("noaddr0", "sh", 10, 1, "addrs", " , "),
	})
	hosts, addrs := b.choose("", 1)
	slices.Sort(hosts)
	if !slices.Equal(hosts, []string{"noaddr0", "ok1"}) || !slices.Equal(addrs, []string{"1.1.1.1"}) {
		t.Errorf("%q, %q", hosts, addrs)
	}
	for f, want := range map[flaw]float64{flawOffline: 2, flawConns: 2, flawIPs: 1, flawWeight: 2} {
		if n := testutil.ToFloat64(b.skipped[f]); n != want {
			t.Errorf("%v are left out for %s, want %v", n, f, want)
		}
	}
	var listed []string
	for _, in := range b.Instances() {
		listed = append(listed, in.Hostname)
	}
	if want := []string{"ok1", "weight6", "ok1", "weight8", "noaddr0"}; !slices.Equal(listed, want) {
		t.Errorf("%q are listed, want %q", listed, want)
	}
	// One that is put right is there.
	b.Update([]discovery.Instance{comet("ok1", "sh", 10, 1), comet("weight6", "sh", 10, 1)})
	if hosts, _ := b.choose("", 1); len(hosts) != 2 {
		t.Errorf("%q", hosts)
	}
}

// A comet that is listed as offline is not offered, also where discovery is not believed.
func TestOffline(t *testing.T) {
	b := newBalancer()
	a1, b2, c3 := comet("a1", "sh", 10, 1), comet("b2", "sh", 10, 1), comet("c3", "sh", 10, 1)
	off := func(in discovery.Instance) discovery.Instance {
		in.Metadata = map[string]string{"offline": "true"}
		return in
	}
	for _, c := range []struct {
		name string
		list []discovery.Instance
		want []string
	}{
		{"all online", []discovery.Instance{a1, b2, c3}, []string{"a1", "b2", "c3"}},
		{"most go", []discovery.Instance{off(a1), off(b2), c3}, []string{"c3"}},
		{"one is back", []discovery.Instance{a1, off(b2), c3}, []string{"a1", "c3"}},
		{"one goes, the other is lost", []discovery.Instance{off(a1)}, []string{"c3"}},
		{"moved to another zone", []discovery.Instance{off(c3), c3}, []string{"c3"}},
		{"all go", []discovery.Instance{off(a1), off(b2), off(c3)}, nil},
		{"and come back", []discovery.Instance{a1, b2, c3}, []string{"a1", "b2", "c3"}},
	} {
		b.Update(c.list)
		hosts, _ := b.choose("", 1)
		slices.Sort(hosts)
		if !slices.Equal(hosts, c.want) {
			t.Errorf("%s: %q, want %q", c.name, hosts, c.want)
		}
		if got := testutil.ToFloat64(b.known); int(got) != len(c.want) {
			t.Errorf("%s: the gauge says %v", c.name, got)
		}
	}
}

// Whatever discovery lists, the choice is made of what it lists, and sums are kept.
func FuzzUpdate(f *testing.F) {
	f.Add("10", "false", "100", "5", "1.1.1.1,2.2.2.2", int64(1))
	f.Add("-1", "0", "-2147483648", "", ",", int64(0))
	f.Add("0", "F", "2147483647", "0", "", int64(-1))
	f.Add("1e3", "maybe", " 1", "0x10", " , ,", int64(1))
	f.Fuzz(func(t *testing.T, weight, offline, conns, ips, addrs string, updated int64) {
		b := newBalancer()
		in := comet("odd1", "sh", 0, 0, "weight", weight, "offline", offline, "conn_count", conns, "ip_count", ips, "addrs", addrs)
		in.LatestTimestamp = updated
		b.Update([]discovery.Instance{in, comet("even2", "bj", 0, 7)})
		for range 3 {
			hosts, addrs := b.choose("sh", 1.6)
			if n := len(hosts); n != len(b.nodes) || !slices.Contains(hosts, "even2") || slices.Contains(addrs, "") {
				t.Fatalf("%q, %q of %d", hosts, addrs, len(b.nodes))
			}
			var sum int64
			for _, n := range b.nodes {
				sum += n.conns
				if n.weight < 0 || n.weight > maxWeight && n.fixed < maxWeight/2 || n.conns < 0 {
					t.Fatalf("%+v", n)
				}
			}
			if sum != b.conns {
				t.Fatalf("%d connections, the sum is %d", sum, b.conns)
			}
		}
	})
}

func TestRegions(t *testing.T) {
	section := map[string][]string{
		"bj": {"北京", "10.0.0.0/8", "2001:db8::/32"}, "sh": {"上海", "10.1.0.0/16", "10.1.2.3"}, "gz": {"10.1.2.7/24", "::ffff:172.16.0.0/108"},
	}
	if err := CheckRegions(section); err != nil {
		t.Error(err)
	}
	var log strings.Builder
	r := NewRegions(section, slog.New(slog.NewTextHandler(&log, nil)))
	if text := log.String(); strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, "names=2") {
		t.Errorf("it logs %q", text)
	}
	for addr, want := range map[string]string{
		"172.31.1.1": "gz", "172.32.1.1": "", "fe80::1%eth0": "", "2001:db8::1%eth0": "bj",
		"10.9.9.9": "bj", "10.1.9.9": "sh", "10.1.2.9": "gz", "10.1.2.3": "sh", "::ffff:10.1.2.3": "sh", "2001:db8::1": "bj",
		"192.168.0.1": "", "": "", "junk": "", "北京": "",
	} {
		if got := r.Of(addr); got != want {
			t.Errorf("%q is in %q, want %q", addr, got, want)
		}
	}
}

func TestBadRegions(t *testing.T) {
	for _, c := range []struct {
		section map[string][]string
		want    string
	}{
		{map[string][]string{"sh": {"10.1.0.0/33"}}, `regions.sh: "10.1.0.0/33" is no network; networks look like 10.1.0.0/16 or 2001:db8::/32`},
		{map[string][]string{"bj": {"10.1.0.0/16"}, "sh": {"10.1.9.9/16"}}, `regions.sh: "10.1.9.9/16" is a network of region bj too`},
	} {
		if err := CheckRegions(c.section); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
		NewRegions(c.section, slog.New(slog.DiscardHandler)).Of("10.1.0.1")
	}
	if err := CheckRegions(map[string][]string{"bj": {"10.1.0.0/16", "10.1.0.0/16", ""}}); err != nil {
		t.Error(err)
	}
}

// What clients read, to the byte as goim prints it.
func TestGolden(t *testing.T) {
	b := newBalancer()
	advice := &Advice{Node: DefaultConfig(), Backoff: DefaultBackoff(), Regions: NewRegions(nil, slog.New(slog.DiscardHandler)), Balancer: b}
	show := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "no comet\n%s\n%s\n", show(advice.For("web", "")), show(b.Instances()))
	b.Update([]discovery.Instance{comet("comet-1", "sh", 10, 100, "addrs", "1.2.3.4,5.6.7.8"), comet("comet-2", "bj", 10, 5)})
	fmt.Fprintf(&out, "web\n%s\n", show(advice.For("web", "9.9.9.9")))
	fmt.Fprintf(&out, "android\n%s\n", show(advice.For("android", "")))
	advice.Node = Config{Heartbeat: time.Second, HeartbeatMax: 1}
	fmt.Fprintf(&out, "zeros are absent\n%s\n", show(advice.For("", "")))
	fmt.Fprintf(&out, "instances\n%s\n", show(b.Instances()))
	path := filepath.Join("testdata", "nodes.txt")
	if *update {
		os.MkdirAll("testdata", 0o755)
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || out.String() != string(want) {
		t.Errorf("%v; got:\n%s", err, out.String())
	}
}

func TestManyAtOnce(t *testing.T) {
	b := newBalancer()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for k := range 300 {
				if i == 0 {
					b.Update([]discovery.Instance{comet("a1", "sh", 10, k), comet("b2", "sh", 10, 300-k)})
				}
				b.choose("sh", 1.6)
				b.Instances()
			}
		})
	}
	all.Wait()
}

func TestBackoff(t *testing.T) {
	b := DefaultBackoff()
	if err := b.Validate(); err != nil {
		t.Error(err)
	}
	b.BaseDelay = 301
	if err := b.Validate(); err == nil || !strings.Contains(err.Error(), "backoff.baseDelay: 301 is more than backoff.maxDelay, 300") {
		t.Error(err)
	}
}
