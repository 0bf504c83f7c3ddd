package presence

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
)

func open(t testing.TB, change func(cfg *Config)) *Store {
	t.Helper()
	cfg := DefaultConfig()
	cfg.ReadTimeout = 20 * time.Second // the machine may be busy
	change(&cfg)
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := Open(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() { s.Close() })
	return s
}

func openMini(t testing.TB) (*Store, *miniredis.Miniredis) {
	mini := miniredis.RunT(t)
	return open(t, func(cfg *Config) { cfg.Addr = mini.Addr() }), mini
}

// Keys, types and times as goim's logic reads and writes them.
func TestKeysAreGoims(t *testing.T) {
	s, mini := openMini(t)
	ctx := t.Context()
	for _, session := range []Session{{Mid: 123, Key: "key-a", Server: "comet-1"}, {Mid: 123, Key: "key-b", Server: "comet-2"}, {Key: "key-c", Server: "comet-1"}} {
		if _, err := s.Add(ctx, session); err != nil {
			t.Fatal(err)
		}
	}
	// Ours stand beside them, under names that goim doesn't use.
	ours := []string{"ses_{key_key-a}", "ses_{key_key-b}", "ses_{key_key-c}", "ses_{mid_123}"}
	if got, want := mini.Keys(), append([]string{"key_key-a", "key_key-b", "key_key-c", "mid_123"}, ours...); !slices.Equal(got, want) {
		t.Errorf("keys %v, not %v", got, want)
	}
	if got, _ := mini.Get("key_key-b"); got != "comet-2" {
		t.Errorf("key_key-b is %q", got)
	}
	if got := mini.HGet("mid_123", "key-a"); got != "comet-1" {
		t.Errorf("mid_123 has key-a on %q", got)
	}
	for _, key := range mini.Keys() {
		if ttl := mini.TTL(key); ttl != 30*time.Minute {
			t.Errorf("%s expires in %v", key, ttl)
		}
	}
	if err := s.Report(ctx, "comet-1", map[string]int32{"live://1000": 10, "test://test_room": 2}, time.Unix(1700000000, 0)); err != nil {
		t.Fatal(err)
	}
	// The fields are CityHash32 mod 64 as computed by goim's own library, zhenjl/cityhash.
	for field, want := range map[string]string{
		"43": `{"server":"comet-1","room_count":{"live://1000":10},"updated":1700000000}`,
		"59": `{"server":"comet-1","room_count":{"test://test_room":2},"updated":1700000000}`,
	} {
		if got := mini.HGet("ol_comet-1", field); got != want {
			t.Errorf("ol_comet-1 %s is %s, not %s", field, got, want)
		}
	}
	if ttl := mini.TTL("ol_comet-1"); ttl != 30*time.Minute {
		t.Errorf("ol_comet-1 expires in %v", ttl)
	}
}

// zhenjl/cityhash (goim's library) gave these for rooms of all the hash's length classes.
func TestOnlineFields(t *testing.T) {
	for room, want := range map[string]int{
		"a": 13, "live://1000": 43, "test://test_room": 59, "中文://房间": 46, "live://a-much-longer-room-name-than-24": 35,
	} {
		if got := onlineField(room); got != want {
			t.Errorf("room %q is in field %d, not %d", room, got, want)
		}
	}
}

func TestSum(t *testing.T) {
	s, mini := openMini(t)
	ctx := t.Context()
	now := time.Now()
	report := func(server string, rooms map[string]int32, at time.Time) {
		t.Helper()
		if err := s.Report(ctx, server, rooms, at); err != nil {
			t.Fatal(err)
		}
	}
	many := make(map[string]int32)
	for i := range 500 {
		many[fmt.Sprintf("live://%d", i)] = int32(i + 1)
	}
	report("comet-1", many, now)
	report("comet-2", map[string]int32{"live://7": 100, "video://1": 5}, now)
	report("comet-old", map[string]int32{"live://7": 1000}, now.Add(-MaxReportAge-2*time.Second))
	report("comet-gone", map[string]int32{"live://7": 5000}, now)
	mini.HSet("ol_comet-2", "0", "no JSON")
	// What goim's logic leaves behind when a comet's last room of a field has emptied.
	stale, _ := json.Marshal(reportOf("comet-2", map[string]int32{"live://7": 9}, now.Add(-time.Hour)))
	mini.HSet("ol_comet-2", "63", string(stale))

	sum, err := s.Sum(ctx, []string{"comet-1", "comet-2", "comet-old", "comet-silent"}, now.Add(-MaxReportAge))
	if err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(many)
	want["live://7"] += 100
	want["video://1"] = 5
	if !maps.Equal(sum, want) {
		t.Errorf("live://7 is %d, not %d; %d rooms, not %d", sum["live://7"], want["live://7"], len(sum), len(want))
	}
	if n := testutil.ToFloat64(s.errors[opSum]); n != 1 {
		t.Errorf("%v errors are counted for the one field that can't be read", n)
	}

	// Rooms that emptied vanish with the next report.
	report("comet-1", map[string]int32{"live://499": 1}, now)
	sum, err = s.Sum(ctx, []string{"comet-1"}, now.Add(-MaxReportAge))
	if err != nil || !maps.Equal(sum, map[string]int32{"live://499": 1}) {
		t.Errorf("%d rooms are left, %v", len(sum), err)
	}
	report("comet-1", nil, now)
	if sum, err = s.Sum(ctx, []string{"comet-1"}, now.Add(-MaxReportAge)); err != nil || len(sum) != 0 {
		t.Errorf("%v is left, %v", sum, err)
	}
	if sum, err = s.Sum(ctx, nil, now); err != nil || len(sum) != 0 {
		t.Errorf("the sum of nothing is %v, %v", sum, err)
	}
}

func reportOf(server string, rooms map[string]int32, at time.Time) report {
	return report{Server: server, RoomCount: rooms, Updated: at.Unix()}
}

// The whole story on every kind of Redis: a session of a key moves from comet to comet.
func TestSessionsOn(t *testing.T) {
	for _, kind := range []struct {
		name string
		open func(t *testing.T) *Store
	}{
		{"miniredis", func(t *testing.T) *Store { s, _ := openMini(t); return s }},
		{"redis-server", func(t *testing.T) *Store {
			addr := startRedis(t)
			return open(t, func(cfg *Config) { cfg.Addr = addr })
		}},
		{"redis-server at a socket", func(t *testing.T) *Store {
			path := filepath.Join(t.TempDir(), "redis.sock")
			startRedis(t, "--unixsocket", path)
			return open(t, func(cfg *Config) { cfg.Network, cfg.Addr = "unix", path })
		}},
		{"redis cluster", func(t *testing.T) *Store {
			_, bus, _ := net.SplitHostPort(freeAddr(t))
			addr := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus)
			formCluster(t, addr)
			return open(t, func(cfg *Config) { cfg.Addr, cfg.Cluster = addr, true })
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			s := kind.open(t)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := s.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			testSessions(t, ctx, s)
			testBounds(t, ctx, s)
		})
	}
}

func testSessions(t *testing.T, ctx context.Context, s *Store) {
	older, newer, other := Session{Mid: 7, Key: "k", Server: "comet-1"}, Session{Mid: 7, Key: "k", Server: "comet-2"}, Session{Mid: 7, Key: "a", Server: "comet-1"}
	nobody := Session{Mid: 0, Key: "n", Server: "comet-1"}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	where := func(want ...string) {
		t.Helper()
		lists, err := s.Servers(ctx, []string{"k", "a", "n", "unknown"})
		var got []string
		for _, list := range lists {
			got = append(got, strings.Join(list, " "))
		}
		if err != nil || !slices.Equal(got, append(want, "")) {
			t.Fatalf("k, a, n are on %q, %v, not on %q", got, err, want)
		}
	}
	who := func(want ...Session) {
		t.Helper()
		got, err := s.Sessions(ctx, []int64{0, 7, 8})
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("member 7 has %v, %v, not %v", got, err, want)
		}
	}
	for _, session := range []Session{older, other, nobody} {
		must(added(s.Add(ctx, session)))
	}
	where("comet-1", "comet-1", "comet-1")
	who(other, older)

	must(added(s.Add(ctx, newer)))
	must(renewed(s.Renew(ctx, older))) // a late heartbeat takes nothing back
	where("comet-2", "comet-1", "comet-1")
	had, err := s.Remove(ctx, older)
	must(err)
	if had {
		t.Error("the older session took the newer one away")
	}
	where("comet-2", "comet-1", "comet-1")
	who(other, newer)

	had, err = s.Remove(ctx, newer)
	must(err)
	if !had {
		t.Error("the session was not there to be removed")
	}
	where("", "comet-1", "comet-1")
	who(other)
	had, err = s.Remove(ctx, newer)
	must(err)
	if had {
		t.Error("removed twice")
	}

	must(renewed(s.Renew(ctx, newer))) // forgotten, and entered again
	where("comet-2", "comet-1", "comet-1")
	who(other, newer)

	// Room counts need several keys at once, too.
	must(s.Report(ctx, "comet-1", map[string]int32{"live://1": 2}, time.Now()))
	must(s.Report(ctx, "comet-2", map[string]int32{"live://1": 3}, time.Now()))
	sum, err := s.Sum(ctx, []string{"comet-1", "comet-2"}, time.Now().Add(-time.Minute))
	if err != nil || sum["live://1"] != 5 {
		t.Errorf("live://1 has %d sessions, %v", sum["live://1"], err)
	}
}

func added(_ Admission, err error) error { return err }

func renewed(_ bool, err error) error { return err }

func TestErrorsAreCounted(t *testing.T) {
	s, mini := openMini(t)
	mini.SetError("READONLY")
	ctx, session := t.Context(), Session{Mid: 1, Key: "k", Server: "comet-1"}
	_, removeErr := s.Remove(ctx, session)
	_, serversErr := s.Servers(ctx, []string{"k"})
	_, sessionsErr := s.Sessions(ctx, []int64{1})
	_, sumErr := s.Sum(ctx, []string{"comet-1"}, time.Now())
	for op, err := range map[operation]error{
		opAdd:     added(s.Add(ctx, session)),
		opRenew:   renewed(s.Renew(ctx, session)),
		opRemove:  removeErr,
		opServers: serversErr,
		opMembers: sessionsErr,
		opReport:  s.Report(ctx, "comet-1", nil, time.Now()),
		opSum:     sumErr,
		opPing:    s.Ping(ctx),
	} {
		if err == nil || !strings.Contains(err.Error(), "READONLY") {
			t.Errorf("%s: %v", op, err)
		}
		if n := testutil.ToFloat64(s.errors[op]); n != 1 {
			t.Errorf("%s: %v errors are counted", op, n)
		}
	}
}

// A Redis that accepts and says nothing must not hold a call longer than its context.
func TestContextBoundsEveryCall(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s := open(t, func(cfg *Config) {
		cfg.Addr = silent.Addr().String()
		cfg.ReadTimeout = time.Minute
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := s.Add(ctx, Session{Mid: 1, Key: "k", Server: "comet-1"}); err == nil {
		t.Error("no error")
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

// startRedis runs a redis-server until the test ends and returns its address.
func startRedis(t testing.TB, args ...string) string {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	args = append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...)
	server := exec.Command(binary, args...)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	client := redis.NewClient(&redis.Options{Addr: addr, DisableIdentity: true})
	defer client.Close()
	deadline := time.Now().Add(20 * time.Second)
	for client.Ping(t.Context()).Err() != nil {
		if time.Now().After(deadline) {
			t.Fatal("redis-server does not answer")
		}
		time.Sleep(10 * time.Millisecond)
	}
	return addr
}

// freeAddr returns an address that nobody listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// formCluster gives a single node all slots: commands over several slots fail as in a large cluster.
func formCluster(t *testing.T, addr string) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, DisableIdentity: true})
	defer client.Close()
	if err := client.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		info, err := client.ClusterInfo(t.Context()).Result()
		if err == nil && strings.Contains(info, "cluster_state:ok") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no cluster: %s, %v", info, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := client.MGet(t.Context(), "key_a", "key_b").Err(); err == nil || !strings.Contains(err.Error(), "CROSSSLOT") {
		t.Fatalf("this is no cluster: %v", err)
	}
}
