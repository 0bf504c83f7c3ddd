package presence

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A crowd may share a member (everybody is 123 in many a test), or a key without a bound:
// what one session costs must not grow with the crowd. A script that reads all of it shows in
// the server's time for HGETALL, which is about that for HSET when it reads a few.
func TestCrowd(t *testing.T) {
	const crowd = 600
	for _, test := range []struct {
		name   string
		bounds Bounds
		key    func(i int) string
	}{
		{"one member, a key each", Bounds{PerKey: 1}, func(i int) string { return fmt.Sprint("k", i) }},
		{"one key, no bound", Bounds{}, func(int) string { return "k" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr := startRedis(t)
			s := open(t, func(cfg *Config) { cfg.Addr = addr })
			s.SetBounds(test.bounds)
			session := func(i int) Session {
				return Session{Mid: 123, Key: test.key(i), Server: fmt.Sprint("c", i%2), ID: fmt.Sprint("s-", i)}
			}
			each := func(what string, do func(x Session) error) {
				t.Helper()
				var all sync.WaitGroup
				for part := range 8 {
					all.Go(func() {
						for i := part; i < crowd; i += 8 {
							if err := do(session(i)); err != nil {
								t.Errorf("%s %v: %v", what, session(i), err)
							}
						}
					})
				}
				all.Wait()
			}
			each("add", func(x Session) error { return added(s.Add(t.Context(), x)) })
			each("renew", func(x Session) error { return renewed(s.Renew(t.Context(), x)) })
			if got, err := s.Servers(t.Context(), []string{session(0).Key}); err != nil || got[0][0] != "c0" && got[0][0] != "c1" {
				t.Errorf("the first one's key is on %q, %v", got, err)
			}
			each("remove", func(x Session) error {
				had, err := s.Remove(t.Context(), x)
				if err == nil && !had {
					return fmt.Errorf("was not there")
				}
				return err
			})
			stats, err := s.client.Info(t.Context(), "commandstats").Result()
			if err != nil {
				t.Fatal(err)
			}
			reading, writing := spent(t, stats, "hgetall"), spent(t, stats, "hset")
			if reading > 6*writing {
				t.Errorf("reading sessions took %v, writing them %v", reading, writing)
			}
			if left, err := s.client.Keys(t.Context(), "*").Result(); err != nil || len(left) > 0 {
				t.Errorf("left in Redis: %q, %v", left, err)
			}
		})
	}
}

// A session of a crowd connects again, to the same comet, and then its old one ends: its
// member still has it, also where nobody looks at the whole crowd; and when it ends itself its
// key leaves the member.
func TestReconnectInACrowd(t *testing.T) {
	kinds := map[string]func(t *testing.T) string{
		"server": func(t *testing.T) string { return startRedis(t) },
		"cluster": func(t *testing.T) string {
			_, bus, _ := net.SplitHostPort(freeAddr(t))
			addr := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus)
			formCluster(t, addr)
			return addr
		},
	}
	for kind, start := range kinds {
		addr := start(t)
		for n, bounds := range []Bounds{{PerKey: 1}, {PerKey: 2}, {}} {
			t.Run(fmt.Sprintf("%s %+v", kind, bounds), func(t *testing.T) {
				s := open(t, func(cfg *Config) { cfg.Addr, cfg.Cluster = addr, kind == "cluster" })
				s.SetBounds(bounds)
				ctx, mid := t.Context(), int64(n+1)
				session := func(boot string, i int) Session {
					return Session{Mid: mid, Key: fmt.Sprintf("k%d-%d", n, i), Server: "c1", ID: fmt.Sprint(boot, "-", i)}
				}
				const crowd, again = 500, 40
				for i := range crowd {
					if err := added(s.Add(ctx, session("a", i))); err != nil {
						t.Fatal(err)
					}
				}
				for i := range again {
					if err := added(s.Add(ctx, session("b", i))); err != nil {
						t.Fatal(err)
					}
					if _, err := s.Remove(ctx, session("a", i)); err != nil {
						t.Fatal(err)
					}
				}
				has := func(want int64) {
					t.Helper()
					if got, err := s.client.HLen(ctx, memberKey(mid)).Result(); err != nil || got != want {
						t.Errorf("the member has %d keys, %v; want %d", got, err, want)
					}
				}
				has(crowd)
				for i := range again {
					if had, err := s.Remove(ctx, session("b", i)); err != nil || !had {
						t.Fatalf("%v, %v", had, err)
					}
				}
				has(crowd - again)
			})
		}
	}
}

// A comet has crashed, and half of a crowd with it: renewals of the others forget the dead in
// small steps, and none of them reads the whole.
func TestDeadInACrowd(t *testing.T) {
	addr := startRedis(t)
	s := open(t, func(cfg *Config) { cfg.Addr = addr })
	s.SetBounds(Bounds{PerKey: 2})
	ctx := t.Context()
	const crowd = 2000
	pipe := s.client.Pipeline()
	session := func(i int) Session {
		return Session{Mid: 123, Key: fmt.Sprint("k", i/2), Server: fmt.Sprint("c", i%2), ID: fmt.Sprint("a-", i)}
	}
	for i := range crowd {
		x, at := session(i), time.Now()
		if i%4 < 2 { // every other key: both of its sessions
			at = at.Add(-31 * time.Minute)
		}
		for _, p := range x.places(Bounds{}) {
			pipe.HSet(ctx, p.sessions, x.ID, x.text(at))
		}
		pipe.HSet(ctx, "mid_123", x.Key, x.Server)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for i := 0; ; i++ {
		if i%4 < 2 {
			continue
		}
		if replaced, err := s.Renew(ctx, session(i%crowd)); err != nil || replaced {
			t.Fatalf("replaced %v, %v", replaced, err)
		}
		if n := s.client.HLen(ctx, "ses_{mid_123}").Val(); n == crowd/2 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d sessions are left, of which %d live", n, crowd/2)
		}
	}
	if n := s.client.HLen(ctx, "mid_123").Val(); n != crowd/4 {
		t.Errorf("the member has %d keys, and %d are alive", n, crowd/4)
	}
	stats, err := s.client.SlowLogGet(ctx, 100).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, slow := range stats {
		if slow.Duration > 100*time.Millisecond {
			t.Errorf("%v for %.80q", slow.Duration, slow.Args)
		}
	}
}

// spent returns what the server says that it spent with one command.
func spent(t *testing.T, stats, command string) time.Duration {
	t.Helper()
	_, after, _ := strings.Cut(stats, "cmdstat_"+command+":")
	var calls, micros int
	if _, err := fmt.Sscanf(after, "calls=%d,usec=%d,", &calls, &micros); err != nil {
		t.Fatalf("%s: %v in %s", command, err, stats)
	}
	return time.Duration(micros) * time.Microsecond
}
