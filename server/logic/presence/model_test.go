package presence

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// differences says where Redis has anything else than the sessions that are held.
func differences(t *testing.T, s *Store, held map[string]Session, b Bounds) string {
	t.Helper()
	ctx := context.Background()
	var bad []string
	fail := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	byKey, byMid := map[string][]Session{}, map[int64][]Session{}
	for _, x := range held {
		byKey[x.Key] = append(byKey[x.Key], x)
		if x.Mid > 0 {
			byMid[x.Mid] = append(byMid[x.Mid], x)
		}
	}
	known := map[string]bool{}
	check := func(index string, list []Session, bound int) {
		known[index], known[sessionsKey(index)] = true, true
		if got := strings.Join(fields(t, s, index), " "); got != ids(list) {
			fail("%s has %q, not %q", sessionsKey(index), got, ids(list))
		}
		if bound > 0 && len(list) > bound {
			fail("%d sessions at %s", len(list), index)
		}
	}
	has := func(list []Session, key, server string) bool {
		return slices.ContainsFunc(list, func(x Session) bool { return x.Key == key && x.Server == server })
	}
	for key, list := range byKey {
		check(sessionKey(key), list, b.PerKey)
		if server, _ := s.client.Get(ctx, sessionKey(key)).Result(); !has(list, key, server) {
			fail("key_%s is %q of %v", key, server, list)
		}
	}
	for mid, list := range byMid {
		check(memberKey(mid), list, b.PerMid)
		entries, _ := s.client.HGetAll(ctx, memberKey(mid)).Result()
		for key, server := range entries {
			if !has(list, key, server) {
				fail("mid_%d has %s on %s, of %v", mid, key, server, list)
			}
		}
		for _, x := range list {
			if entries[x.Key] == "" {
				fail("mid_%d has no %s", mid, x.Key)
			}
		}
	}
	all, err := s.client.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range all {
		if !known[key] {
			fail("%s is left over", key)
		}
	}
	slices.Sort(bad)
	return strings.Join(bad, "\n")
}

func randomBounds(r *rand.Rand) Bounds {
	return Bounds{PerKey: r.IntN(4), PerMid: r.IntN(5), Reject: r.IntN(2) == 0}
}

// Sessions come, go and are renewed, one after the other, against a plain list.
func TestModel(t *testing.T) {
	addr := startRedis(t)
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 7))
		b := randomBounds(r)
		s := open(t, func(cfg *Config) { cfg.Addr = addr })
		s.SetBounds(b)
		ctx := t.Context()
		s.client.FlushAll(ctx)
		held, order, ever := map[string]Session{}, []string{}, []Session{}
		drop := func(id string) {
			delete(held, id)
			order = slices.DeleteFunc(order, func(x string) bool { return x == id })
		}
		over := func(x Session, bound int, same func(y Session) bool) (gone []string) {
			for _, id := range order {
				if same(held[id]) {
					gone = append(gone, id)
				}
			}
			return gone[:max(0, len(gone)-bound+1)]
		}
		for step := range 100 {
			var what string
			var wrong bool
			switch n := r.IntN(10); {
			case n < 5 || len(ever) == 0:
				x := Session{Mid: int64(r.IntN(3)), Key: fmt.Sprint("k", r.IntN(4)), Server: fmt.Sprint("c", r.IntN(3)), ID: fmt.Sprintf("s-%03d", len(ever))}
				ever = append(ever, x)
				var go1, go2 []string
				if b.PerKey > 0 {
					go1 = over(x, b.PerKey, func(y Session) bool { return y.Key == x.Key })
				}
				if b.PerMid > 0 && x.Mid > 0 {
					go2 = over(x, b.PerMid, func(y Session) bool { return y.Mid == x.Mid })
				}
				gone := append(go1, go2...)
				slices.Sort(gone)
				gone = slices.Compact(gone)
				a, err := s.Add(ctx, x)
				what = fmt.Sprintf("add %v: %+v, %v", x, a, err)
				if b.Reject && len(gone) > 0 {
					wrong = !a.Rejected
					break
				}
				wrong = err != nil || a.Rejected || ids(a.Replaced) != strings.Join(gone, " ")
				for _, id := range gone {
					drop(id)
				}
				held[x.ID] = x
				order = append(order, x.ID)
			case n < 8:
				x := ever[r.IntN(len(ever))]
				_, there := held[x.ID]
				had, err := s.Remove(ctx, x)
				what = fmt.Sprintf("remove %v: %v, %v", x, had, err)
				wrong = err != nil || had != there
				drop(x.ID)
			case len(order) > 0:
				x := held[order[r.IntN(len(order))]]
				replaced, err := s.Renew(ctx, x)
				what = fmt.Sprintf("renew %v: %v, %v", x, replaced, err)
				wrong = err != nil || replaced
			}
			if bad := differences(t, s, held, b); wrong || bad != "" {
				t.Fatalf("seed %d, step %d, %+v: %s\n%s", seed, step, b, what, bad)
			}
		}
	}
}

// Many come and go at once; when they are at rest those are there that were not told to go.
func TestManyAtOnceThenAtRest(t *testing.T) {
	addr := startRedis(t)
	for seed := range uint64(6) {
		b := randomBounds(rand.New(rand.NewPCG(seed, 9)))
		stores := make([]*Store, 3)
		for i := range stores {
			stores[i] = open(t, func(cfg *Config) { cfg.Addr = addr })
			stores[i].SetBounds(b)
		}
		ctx := context.Background()
		stores[0].client.FlushAll(ctx)
		var mu sync.Mutex
		held, gone := map[string]Session{}, map[string]bool{}
		leave := func(list ...Session) { // mu must be held
			for _, x := range list {
				gone[x.ID] = true
				delete(held, x.ID)
			}
		}
		var all sync.WaitGroup
		for w := range 8 {
			all.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(100+w)))
				s := stores[w%len(stores)]
				var mine []Session
				for i := range 40 {
					if r.IntN(3) > 0 || len(mine) == 0 {
						x := Session{Mid: int64(r.IntN(3)), Key: fmt.Sprint("k", r.IntN(4)), Server: fmt.Sprint("c", w), ID: fmt.Sprintf("%d-%d", w, i)}
						a, err := s.Add(ctx, x)
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						leave(a.Replaced...)
						if !a.Rejected {
							if !gone[x.ID] {
								held[x.ID] = x
							}
							mine = append(mine, x)
						}
						mu.Unlock()
						continue
					}
					x := mine[0]
					mine = mine[1:]
					if _, err := s.Remove(ctx, x); err != nil {
						t.Error(err)
					}
					mu.Lock()
					leave(x)
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if bad := differences(t, stores[0], held, b); bad != "" {
			t.Errorf("seed %d, %+v:\n%s", seed, b, bad)
		}
	}
}

// A logic's clock has no part in which session is the oldest, nor in which has expired.
func TestClocksOfLogicsDoNotMatter(t *testing.T) {
	s, _ := openMini(t)
	s.SetBounds(Bounds{PerKey: 2})
	add := func(id string, at time.Time) string {
		t.Helper()
		calls := s.entries(Session{Key: "k", Server: "c1", ID: id}, at, *s.bounds.Load())
		s.runAll(t.Context(), calls)
		if err := firstError(calls); err != nil {
			t.Fatal(err)
		}
		return ids(calls[0].listed)
	}
	now := time.Now()
	add("1-first", now.Add(time.Hour))
	add("2-second", now.Add(-time.Hour))
	if gone := add("3-third", now); gone != "1-first" {
		t.Errorf("replaced is %q and not the oldest", gone)
	}
	if got, err := s.Servers(t.Context(), []string{"k"}); err != nil || len(got[0]) != 1 {
		t.Errorf("k is on %q, %v", got, err)
	}
}
