package presence

import (
	"fmt"
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
