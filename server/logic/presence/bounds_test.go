package presence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// ids are the ids of sessions, sorted.
func ids(list []Session) string {
	var out []string
	for _, s := range list {
		out = append(out, s.id())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// testBounds goes through what the bounds promise, over any kind of Redis.
func testBounds(t *testing.T, ctx context.Context, s *Store) {
	session := func(mid int64, key, server, id string) Session {
		return Session{Mid: mid, Key: key, Server: server, ID: id}
	}
	add := func(x Session, replaced string) {
		t.Helper()
		a, err := s.Add(ctx, x)
		if err != nil || a.Rejected || ids(a.Replaced) != replaced {
			t.Fatalf("adding %v replaced %q, rejected %v, %v; want %q replaced", x, ids(a.Replaced), a.Rejected, err, replaced)
		}
	}
	reject := func(x Session, holders string) {
		t.Helper()
		a, err := s.Add(ctx, x)
		if err != nil || !a.Rejected || ids(a.Holders) != holders || len(a.Replaced) > 0 {
			t.Fatalf("adding %v: %+v, %v; want it rejected for %q", x, a, err, holders)
		}
	}
	servers := func(key, want string) {
		t.Helper()
		got, err := s.Servers(ctx, []string{key})
		if err != nil || strings.Join(got[0], " ") != want {
			t.Fatalf("key %s is on %q, %v; want %s", key, got, err, want)
		}
	}
	members := func(mid int64, want string) {
		t.Helper()
		list, err := s.Sessions(ctx, []int64{mid})
		var got []string
		for _, x := range list {
			got = append(got, x.Key+"@"+x.Server)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Fatalf("member %d has %q, %v; want %s", mid, got, err, want)
		}
	}
	remove := func(x Session, want bool) {
		t.Helper()
		if had, err := s.Remove(ctx, x); err != nil || had != want {
			t.Fatalf("removing %v: %v, %v", x, had, err)
		}
	}
	renew := func(x Session, want bool) {
		t.Helper()
		if replaced, err := s.Renew(ctx, x); err != nil || replaced != want {
			t.Fatalf("renewing %v: replaced %v, %v", x, replaced, err)
		}
	}

	// One a key: the older goes, on whatever comet, and its late end takes nothing away.
	s.SetBounds(Bounds{PerKey: 1})
	add(session(71, "one", "c1", "a-1"), "")
	add(session(71, "one", "c1", "a-2"), "a-1")
	remove(session(71, "one", "c1", "a-1"), false)
	servers("one", "c1")
	members(71, "one@c1")
	add(session(72, "one", "c2", "b-1"), "a-2") // another member's now
	members(71, "")
	members(72, "one@c2")
	renew(session(71, "one", "c1", "a-2"), true)
	renew(session(72, "one", "c2", "b-1"), false)
	servers("one", "c2")
	remove(session(72, "one", "c2", "b-1"), true)
	servers("one", "")
	members(72, "")

	// Three a key, on two comets, and keys that look odd.
	s.SetBounds(Bounds{PerKey: 3})
	for _, key := range []string{"s", "s {x} y", "s{}", "s\n\x00", "ключ", "s 1 2 3 "} {
		if err := s.checkSlot(Session{Key: key}); err != nil {
			if _, err := s.Add(ctx, session(0, key, "c1", "x")); err == nil || !strings.Contains(err.Error(), "closing brace") {
				t.Fatalf("key %q in a cluster: %v", key, err)
			}
			continue
		}
		add(session(73, key, "c1", "a-1"), "")
		add(session(73, key, "c2", "b-1"), "")
		add(session(73, key, "c1", "a-2"), "")
		servers(key, "c1 c2")
		members(73, key+"@c1 "+key+"@c2")
		add(session(73, key, "c3", "c-1"), "a-1")
		servers(key, "c1 c2 c3")
		remove(session(73, key, "c3", "c-1"), true)
		servers(key, "c1 c2")
		remove(session(73, key, "c2", "b-1"), true)
		servers(key, "c1")
		remove(session(73, key, "c1", "a-2"), true)
		servers(key, "")
		members(73, "")
	}

	// No bound, and a member's.
	s.SetBounds(Bounds{PerMid: 2})
	add(session(74, "x", "c1", "a-1"), "")
	add(session(74, "y", "c2", "b-1"), "")
	add(session(0, "x", "c1", "a-2"), "") // a key of somebody else's
	add(session(74, "z", "c3", "c-1"), "a-1")
	members(74, "y@c2 z@c3")
	servers("x", "c1") // the other one
	remove(session(0, "x", "c1", "a-2"), true)
	servers("x", "")

	// Rejected: by the member's bound, and nothing of it stays under the key.
	s.SetBounds(Bounds{PerKey: 1, PerMid: 2, Reject: true})
	reject(session(74, "w", "c1", "a-3"), "b-1 c-1")
	servers("w", "")
	members(74, "y@c2 z@c3")
	// By the key's bound, and nothing of it stays with the member.
	reject(session(75, "y", "c1", "a-4"), "b-1")
	members(75, "")
	// The session itself is no reason to reject it: a comet may ask twice.
	add(session(74, "y", "c2", "b-1"), "")
	remove(session(74, "y", "c2", "b-1"), true)
	add(session(74, "w", "c1", "a-5"), "")
	remove(session(74, "w", "c1", "a-5"), true)
	remove(session(74, "z", "c3", "c-1"), true)
	members(74, "")

	// A comet that gives no ids has one session a key.
	s.SetBounds(Bounds{PerKey: 2})
	add(session(0, "g", "goim", ""), "")
	add(session(0, "g", "goim", ""), "")
	add(session(0, "g", "c1", "a-1"), "")
	servers("g", "c1 goim")
	remove(session(0, "g", "goim", ""), true)
	remove(session(0, "g", "c1", "a-1"), true)
}

// What died without a word is forgotten when its time is over, and doesn't count.
func TestExpiredSessionsDoNotCount(t *testing.T) {
	mini := miniredis.RunT(t)
	s := open(t, func(cfg *Config) { cfg.Addr, cfg.Expire = mini.Addr(), time.Minute })
	s.SetBounds(Bounds{PerKey: 1, Reject: true})
	ctx := t.Context()
	if err := added(s.Add(ctx, Session{Key: "k", Server: "c1", ID: "a-1"})); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Add(ctx, Session{Key: "k", Server: "c2", ID: "b-1"}); err != nil || !a.Rejected {
		t.Fatalf("%+v, %v", a, err)
	}
	// As if a minute had passed since it was renewed, while another session keeps the hash.
	old := fmt.Sprintf("1 %d 0 2 c1k", time.Now().Add(-time.Minute).UnixMilli())
	mini.HSet("ses_{key_k}", "a-1", old)
	mini.HSet("ses_{key_k}", "junk", "no session")
	if a, err := s.Add(ctx, Session{Key: "k", Server: "c2", ID: "b-1"}); err != nil || a.Rejected {
		t.Fatalf("%+v, %v", a, err)
	}
	if got, _ := mini.HKeys("ses_{key_k}"); !slices.Equal(got, []string{"b-1"}) {
		t.Errorf("sessions %q are left", got)
	}
}

// Redis comes back empty: each heartbeat enters its session again.
func TestRenewAfterLoss(t *testing.T) {
	s, mini := openMini(t)
	s.SetBounds(Bounds{PerKey: 2})
	ctx := t.Context()
	all := []Session{{Mid: 7, Key: "k", Server: "c1", ID: "a-1"}, {Mid: 7, Key: "k", Server: "c2", ID: "b-1"}}
	for _, x := range all {
		if err := added(s.Add(ctx, x)); err != nil {
			t.Fatal(err)
		}
	}
	mini.FlushAll() // the scripts too
	for _, x := range all {
		if replaced, err := s.Renew(ctx, x); err != nil || replaced {
			t.Fatalf("replaced %v, %v", replaced, err)
		}
	}
	if got, err := s.Servers(ctx, []string{"k"}); err != nil || !slices.Equal(got[0], []string{"c1", "c2"}) {
		t.Errorf("%q, %v", got, err)
	}
	if got := mini.HGet("mid_7", "k"); got != "c1" {
		t.Errorf("mid_7 has k on %q", got)
	}
}

// Many connect with one key at the same instant, through several logics: there are never
// more than the bound, and every other one is told that it has to go, or that it can't come.
func TestConnectsAtTheSameInstant(t *testing.T) {
	addr := startRedis(t)
	for _, reject := range []bool{false, true} {
		for _, bounds := range []Bounds{{PerKey: 1}, {PerKey: 1, PerMid: 1}, {PerKey: 3}, {PerKey: 3, PerMid: 3}} {
			bounds.Reject = reject
			bound := bounds.PerKey
			t.Run(fmt.Sprintf("%+v", bounds), func(t *testing.T) {
				const logics, rounds = 4, 50
				var stores []*Store
				for range logics {
					s := open(t, func(cfg *Config) { cfg.Addr = addr })
					s.SetBounds(bounds)
					stores = append(stores, s)
				}
				for round := range rounds {
					key := fmt.Sprintf("k-%v-%d-%d-%d", reject, bounds.PerKey, bounds.PerMid, round)
					admissions := make([]Admission, 2*logics)
					var all sync.WaitGroup
					for i := range admissions {
						all.Go(func() {
							var err error
							admissions[i], err = stores[i%logics].Add(context.Background(), Session{Mid: int64(1000*(bounds.PerKey+10*bounds.PerMid) + round + 1), Key: key, Server: fmt.Sprint("c", i), ID: fmt.Sprint("s", i)})
							if err != nil {
								t.Error(err)
							}
						})
					}
					all.Wait()
					gone := map[string]bool{}
					for i, a := range admissions {
						if a.Rejected {
							gone[fmt.Sprint("s", i)] = true
						}
						for _, old := range a.Replaced {
							if gone[old.ID] {
								t.Fatalf("round %d: %s is replaced twice", round, old.ID)
							}
							gone[old.ID] = true
						}
					}
					left, err := stores[0].client.HKeys(context.Background(), sessionsKey(sessionKey(key))).Result()
					if err != nil {
						t.Fatal(err)
					}
					if !reject && (len(left) != bound || len(gone) != len(admissions)-bound) || len(left) > bound {
						t.Fatalf("round %d: %q are left of %d, %d are gone", round, left, len(admissions), len(gone))
					}
					for _, id := range left {
						if gone[id] {
							t.Fatalf("round %d: %s is there and was told to go", round, id)
						}
					}
				}
				if t.Failed() {
					return
				}
			})
		}
	}
}

// Comets of goim give no ids: each key is a session of its own to its member's bound.
func TestMemberWithoutIDs(t *testing.T) {
	s, _ := openMini(t)
	s.SetBounds(Bounds{PerKey: 1, PerMid: 2})
	for _, step := range []struct{ key, replaced string }{{"a", ""}, {"b", ""}, {"c", "c1 a"}, {"c", ""}, {"d", "c1 b"}} {
		a, err := s.Add(t.Context(), Session{Mid: 7, Key: step.key, Server: "c1"})
		if err != nil || a.Rejected || ids(a.Replaced) != step.replaced {
			t.Errorf("%s: %+v, %v; want %q replaced", step.key, a, err, step.replaced)
		}
	}
	list, err := s.Sessions(t.Context(), []int64{7})
	if err != nil || len(list) != 2 || list[0].Key != "c" || list[1].Key != "d" {
		t.Errorf("the member has %v, %v", list, err)
	}
}

// Redis fails after it has decided, and before what was replaced or rejected is out of its
// other place: who has to go is told all the same, and a rejected session does not stay.
func TestCleanUpFails(t *testing.T) {
	s, mini := openMini(t)
	s.SetBounds(Bounds{PerKey: 1})
	var failing failures
	s.client.AddHook(&failing)
	ctx := t.Context()
	if err := added(s.Add(ctx, Session{Mid: 5, Key: "k", Server: "c1", ID: "a-1"})); err != nil {
		t.Fatal(err)
	}
	failing.after(1, 1)
	a, err := s.Add(ctx, Session{Mid: 5, Key: "k", Server: "c2", ID: "b-1"})
	if err != nil || a.Rejected || ids(a.Replaced) != "a-1" {
		t.Errorf("%+v, %v; want a-1 replaced", a, err)
	}
	s.SetBounds(Bounds{PerKey: 1, PerMid: 2, Reject: true})
	if err := added(s.Add(ctx, Session{Mid: 6, Key: "l", Server: "c1", ID: "a-2"})); err != nil {
		t.Fatal(err)
	}
	failing.after(1, 1)
	a, err = s.Add(ctx, Session{Mid: 7, Key: "l", Server: "c2", ID: "b-2"})
	if err != nil || !a.Rejected || ids(a.Holders) != "a-2" {
		t.Errorf("%+v, %v; want it rejected for a-2", a, err)
	}
	if mini.Exists("mid_7") || mini.Exists("ses_{mid_7}") {
		t.Errorf("Redis has\n%s", dump(mini))
	}
}

// failures lets some pipelines pass and then some fail.
type failures struct{ pass, fail int }

func (f *failures) after(pass, fail int) { f.pass, f.fail = pass, fail }

func (f *failures) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *failures) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (f *failures) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		if f.pass--; f.pass < 0 && f.fail > 0 {
			f.fail--
			return errors.New("redis is away")
		}
		return next(ctx, commands)
	}
}

func TestSessionsKey(t *testing.T) {
	for index, want := range map[string]string{
		"mid_5":        "ses_{mid_5}",
		"key_a":        "ses_{key_a}",
		"key_{user}.1": "ses_key_{user}.1",
		"key_{}x":      "ses_{key_{}x}", // no tag: a cluster hashes the whole, so this is refused there
		"key_a{b":      "ses_{key_a{b}",
	} {
		if got := sessionsKey(index); got != want {
			t.Errorf("%s: %s, want %s", index, got, want)
		}
	}
}

func FuzzParseSession(f *testing.F) {
	f.Add("1 2 3 2 c1key")
	f.Add("")
	f.Add("1 2 3 99 c")
	f.Add("1 2 3 -1 c")
	f.Fuzz(func(t *testing.T, v string) {
		s, _, ok := parseSession(v)
		if ok && !strings.HasSuffix(v, s.Server+s.Key) {
			t.Errorf("%q: %+v", v, s)
		}
	})
}

// A session that is entered again, since the first answer was lost, hears of those that it replaced then.
func TestReplacedAreToldAgain(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *Store{
		"miniredis":    func(t *testing.T) *Store { s, _ := openMini(t); return s },
		"redis-server": func(t *testing.T) *Store { return open(t, func(cfg *Config) { cfg.Addr = startRedis(t) }) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			for _, b := range []Bounds{{PerKey: 1}, {PerKey: 2}, {PerMid: 1}, {PerKey: 1, PerMid: 1}, {PerKey: 1, PerMid: 2}} {
				ctx := t.Context()
				s.client.FlushDB(ctx)
				s.SetBounds(b)
				most := max(b.PerKey, b.PerMid)
				var first string
				for i := range most {
					key := "k"
					if b.PerKey == 0 || b.PerMid > b.PerKey {
						key = fmt.Sprint("k", i) // bounded by the member
					}
					old := Session{Mid: 1, Key: key, Server: "a", ID: fmt.Sprint("old", i)}
					if a, err := s.Add(ctx, old); err != nil || a.Rejected || len(a.Replaced) > 0 {
						t.Fatalf("%+v: %+v, %v", b, a, err)
					}
					if i == 0 {
						first = old.ID
					}
				}
				again := Session{Mid: 1, Key: "k", Server: "b", ID: "new"}
				s.runAll(ctx, s.entries(again, time.Now(), b)) // and nobody reads what comes of it
				a, err := s.Add(ctx, again)
				if err != nil || a.Rejected || ids(a.Replaced) != first {
					t.Errorf("%+v: replaced %q, rejected %v, %v; want %q", b, ids(a.Replaced), a.Rejected, err, first)
				}
				if n := s.client.HLen(ctx, sessionsKey(memberKey(1))).Val(); n != int64(most) {
					t.Errorf("%+v: the member has %d sessions in the end, want %d", b, n, most)
				}
			}
		})
	}
}
