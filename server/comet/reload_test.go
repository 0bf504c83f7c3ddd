package comet

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cometpb "barrage/server/api/comet"
	"barrage/server/config"
	"barrage/server/discovery"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus"
)

// Every frame of a listed member is logged, in and out, whichever way it goes; nobody
// else's is, and the list changes for sessions that are there.
func TestWhitelist(t *testing.T) {
	both(t, func(t *testing.T, websocket bool) {
		file := filepath.Join(t.TempDir(), "white.log")
		c := startComet(t, &fakeLogic{}, func(cfg *Config) {
			cfg.Whitelist = WhitelistConfig{Whitelist: []int64{5}, WhiteLog: file}
		})
		listed := c.login(t, websocket, `{"mid":5,"key":"k5","room_id":"live://1","accepts":[1000]}`)
		other := c.login(t, websocket, `{"mid":6,"key":"k6","room_id":"live://1","accepts":[1000]}`)
		talk := func(tag string) {
			t.Helper()
			for _, cl := range []*client{listed, other} {
				cl.send(wire.Frame{Ver: 1, Op: wire.OpSub, Seq: 3, Body: []byte("1001")})
				if f := cl.read(); f.Op != wire.OpSubReply {
					t.Fatalf("reply is %+v", f)
				}
			}
			ctx := context.Background()
			if _, err := c.rpc.BroadcastRoom(ctx, &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(1000, tag+" room 1", tag+" room 2")}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.rpc.PushMsg(ctx, &cometpb.PushMsgReq{Keys: []string{"k5", "k6"}, ProtoOp: 1000, Proto: raw(1000, tag+" key")}); err != nil {
				t.Fatal(err)
			}
			for _, cl := range []*client{listed, other} {
				var got []string
				for range 3 {
					got = append(got, string(cl.read().Body))
				}
				slices.Sort(got)
				if want := []string{tag + " key", tag + " room 1", tag + " room 2"}; !slices.Equal(got, want) {
					t.Fatalf("got %q, want %q", got, want)
				}
			}
		}
		talk("first")
		lines := readLines(t, file, 7)
		want := map[string]string{
			`msg=in mid=5 key=k5 op=7 ver=1 seq=7 bytes=58 body="{\"mid\":5,\"key\":\"k5\",\"room_id\":\"live://1\",\"accepts\":[1000]}"`: "",
			"msg=in mid=5 key=k5 op=14 ver=1 seq=3 bytes=4 body=1001":                                                                     "",
			"msg=out mid=5 key=k5 op=15 ver=1 seq=3 bytes=4 body=1001":                                                                    "",
			"msg=out mid=5 key=k5 op=8 ver=1 seq=7 bytes=0 body=\"\"":                                                                     "",
			"msg=out mid=5 key=k5 op=1000 ver=1 seq=0 bytes=12 body=\"first room 1\"":                                                     "",
			"msg=out mid=5 key=k5 op=1000 ver=1 seq=0 bytes=12 body=\"first room 2\"":                                                     "",
			"msg=out mid=5 key=k5 op=1000 ver=1 seq=0 bytes=9 body=\"first key\"":                                                         "",
		}
		for _, line := range lines {
			_, line, _ = strings.Cut(line, "level=INFO ")
			before, after, _ := strings.Cut(line, " session=")
			_, after, _ = strings.Cut(after, " ")
			delete(want, before+" "+after)
		}
		if len(want) > 0 {
			t.Errorf("not logged: %q\nlogged:\n%s", slices.Collect(maps.Keys(want)), strings.Join(lines, "\n"))
		}

		second := filepath.Join(t.TempDir(), "second.log")
		cfg := c.cfg
		cfg.Whitelist = WhitelistConfig{Whitelist: []int64{6}, WhiteLog: second}
		changed, err := c.Reload(cfg)
		if err != nil || !slices.Equal(changed, []string{"whitelist.whitelist", "whitelist.whiteLog"}) {
			t.Fatalf("changed %q, %v", changed, err)
		}
		talk("second")
		for _, line := range readLines(t, second, 5) {
			if !strings.Contains(line, "mid=6") {
				t.Errorf("logged %s", line)
			}
		}
		if n := len(readLines(t, file, 7)); n != 7 {
			t.Errorf("%d lines in the first log", n)
		}
	})
}

// readLines waits until the file has n lines, and returns them.
func readLines(t testing.TB, file string, n int) (lines []string) {
	t.Helper()
	eventually(t, "the log has its lines", func() bool {
		text, _ := os.ReadFile(file)
		lines = strings.Split(strings.TrimSpace(string(text)), "\n")
		return len(lines) >= n
	})
	return lines
}

// A fakeRegistration keeps what discovery is told.
type fakeRegistration struct {
	mu       sync.Mutex
	metadata map[string]string
	closed   bool
}

func (r *fakeRegistration) Update(metadata map[string]string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.metadata = metadata
	return nil
}

func (r *fakeRegistration) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return nil
}

func (r *fakeRegistration) get(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.metadata[name]
}

// Discovery hears of the comet's load again and again.
func TestRegistrationIsRenewed(t *testing.T) {
	reg := &fakeRegistration{}
	c := startComet(t, &fakeLogic{}, func(cfg *Config) { cfg.Online.Period = 10 * time.Millisecond },
		func(_ context.Context, in discovery.Instance) (Registration, error) {
			return reg, reg.Update(in.Metadata)
		})
	first, second := c.login(t, false, `{"key":"a"}`), c.login(t, true, `{"key":"b"}`)
	eventually(t, "two connections of one address are known", func() bool {
		return reg.get("conn_count") == "2" && reg.get("ip_count") == "1"
	})
	first.conn.Close()
	second.conn.Close()
	eventually(t, "and that they have gone", func() bool {
		return reg.get("conn_count") == "0" && reg.get("ip_count") == "0"
	})
}

func TestReload(t *testing.T) {
	cfg := DefaultConfig()
	cfg.TCP.Bind, cfg.WebSocket.Bind, cfg.RPCServer.Addr = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}, "127.0.0.1:0"
	cfg.Env = discovery.Env{Region: "sh", Zone: "sh001", DeployEnv: "dev", Host: "test", Weight: 10, Addrs: []string{"1.2.3.4", "5.6.7.8"}}
	cfg.Drain.Window = 0
	cfg.Online.Period = time.Minute // what it is told in time comes by Reload alone
	reg := &fakeRegistration{}
	s, err := New(cfg, Deps{Logic: &fakeLogic{}, Metrics: prometheus.NewRegistry(),
		Register: func(_ context.Context, in discovery.Instance) (Registration, error) {
			if in.AppID != "goim.comet" || in.Hostname != "test" || in.Region != "sh" || in.Zone != "sh001" || in.Env != "dev" ||
				len(in.Addrs) != 1 || !strings.HasPrefix(in.Addrs[0], "grpc://127.0.0.1:") {
				t.Errorf("registered %+v", in)
			}
			return reg, reg.Update(in.Metadata)
		}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	eventually(t, "it is registered", func() bool { return s.Ready() == nil })
	want := map[string]string{"weight": "10", "offline": "false", "addrs": "1.2.3.4,5.6.7.8", "conn_count": "0", "ip_count": "0"}
	for name, v := range want {
		if got := reg.get(name); got != v {
			t.Errorf("%s is %q, want %q", name, got, v)
		}
	}

	next := cfg
	next.Env.Weight, next.Env.Offline, next.Env.Addrs = 20, true, []string{"9.9.9.9"}
	next.Limit.Connections = 3
	next.Env.Zone, next.Room.LogBytes = "sh002", 8192
	changed, err := s.Reload(next)
	var restart *config.RestartError
	if !errors.As(err, &restart) || !slices.Equal(restart.Paths, []string{"env.zone", "room.logBytes"}) {
		t.Errorf("later: %v", err)
	}
	if want := []string{"env.weight", "env.addrs", "env.offline", "limit.connections"}; !slices.Equal(changed, want) {
		t.Errorf("changed %q, want %q", changed, want)
	}
	eventually(t, "discovery hears of it", func() bool {
		return reg.get("weight") == "20" && reg.get("offline") == "true" && reg.get("addrs") == "9.9.9.9"
	})
	if n := s.limits.connections(); n != 3 {
		t.Errorf("limit is %d", n)
	}
	// The same again changes nothing more, and what takes effect later is still said.
	if changed, err := s.Reload(next); len(changed) != 0 || !errors.As(err, &restart) {
		t.Errorf("again: %q, %v", changed, err)
	}
	for name, bad := range map[string]func(*Config){
		"out of range": func(c *Config) { c.Limit.PerAddress = -1 },
		"no such file": func(c *Config) { c.Whitelist = WhitelistConfig{Whitelist: []int64{1}, WhiteLog: t.TempDir()} },
	} {
		worse := next
		worse.Env.Weight = 99
		bad(&worse)
		if changed, err := s.Reload(worse); err == nil || errors.As(err, &restart) || len(changed) != 0 {
			t.Errorf("%s: %q, %v", name, changed, err)
		}
	}
	if got := reg.get("weight"); got != "20" {
		t.Errorf("a reload that failed changed the weight to %s", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !reg.closed || reg.get("offline") != "true" {
		t.Errorf("at the end: closed %v, offline %s", reg.closed, reg.get("offline"))
	}
}
