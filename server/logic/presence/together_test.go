package presence

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// contents is what Redis has, without the times in it.
func contents(t *testing.T, s *Store) string {
	t.Helper()
	ctx := context.Background()
	names, err := s.client.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, "key_"):
			lines = append(lines, name+" is "+s.client.Get(ctx, name).Val())
		default:
			fields := s.client.HGetAll(ctx, name).Val()
			for _, field := range slices.Sorted(maps.Keys(fields)) {
				value := fields[field]
				if strings.HasPrefix(name, "ses_") {
					x, _, ok := parseSession(value)
					value = fmt.Sprint(x, ok)
				}
				lines = append(lines, name+" has "+field+": "+value)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func outcome(a Added) string {
	return fmt.Sprintf("rejected %v, replaced %q, holders %q, error %v", a.Rejected, ids(a.Replaced), ids(a.Holders), a.Err != nil)
}

// Many sessions in one round trip fare as they do one after the other.
func TestTogetherIsAsOneByOne(t *testing.T) {
	servers := map[string]func(t *testing.T) string{
		"miniredis": func(t *testing.T) string {
			_, mini := openMini(t)
			return mini.Addr()
		},
		"redis-server": func(t *testing.T) string { return startRedis(t) },
	}
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			addr := start(t)
			at := func(db int) *Store { return open(t, func(cfg *Config) { cfg.Addr, cfg.DB = addr, db }) }
			together, single := at(0), at(1)
			for seed := range uint64(20) {
				r := rand.New(rand.NewPCG(seed, 11))
				b := randomBounds(r)
				if seed < 4 {
					b = Bounds{PerKey: 1} // what nearly everybody has
				}
				for _, s := range []*Store{together, single} {
					s.SetBounds(b)
					s.client.FlushDB(t.Context())
				}
				compareTogether(t, r, b, together, single, fmt.Sprintf("seed %d, %+v", seed, b))
			}
		})
	}
}

func compareTogether(t *testing.T, r *rand.Rand, b Bounds, together, single *Store, what string) {
	t.Helper()
	ctx := t.Context()
	var ever []Session
	for step := range 8 {
		list := make([]Session, 1+r.IntN(150/(step+1)))
		add := step == 0 || r.IntN(2) == 0
		for i := range list {
			if !add {
				list[i] = ever[r.IntN(len(ever))]
				continue
			}
			key := r.IntN(12)
			x := Session{Mid: int64(r.IntN(4)), Key: fmt.Sprint("k", key), Server: fmt.Sprint("c", r.IntN(3)), ID: fmt.Sprintf("s-%04d", len(ever))}
			if b.PerKey > 0 && b.PerMid > 0 {
				// A key is one member's, else what one replaces may be in a third one's way, which
				// sees it for an instant, as it does where they come by themselves.
				x.Mid = int64(key % 4)
			}
			list[i] = x
			ever = append(ever, x)
		}
		var got, want []string
		var kind string
		switch {
		case add:
			kind = "add"
			for i, a := range together.AddAll(ctx, list) {
				got = append(got, outcome(a))
				want = append(want, outcome(single.AddAll(ctx, list[i:i+1])[0]))
			}
		case r.IntN(2) == 0:
			kind = "remove"
			for i, x := range together.RemoveAll(ctx, list) {
				got = append(got, fmt.Sprint(x))
				want = append(want, fmt.Sprint(single.RemoveAll(ctx, list[i:i+1])[0]))
			}
		default:
			kind = "renew"
			for i, x := range together.RenewAll(ctx, list) {
				got = append(got, fmt.Sprint(x))
				want = append(want, fmt.Sprint(single.RenewAll(ctx, list[i:i+1])[0]))
			}
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s, step %d: %s %v as one of %d: %s\nby itself: %s", what, step, kind, list[i], len(list), got[i], want[i])
			}
		}
		if x, y := contents(t, together), contents(t, single); x != y {
			t.Fatalf("%s, step %d: %d together leave\n%s\none by one\n%s", what, step, len(list), x, y)
		}
	}
}

// What is wrong with one session's place is told to that one, and does the others no harm.
func TestFailureOfOneOfMany(t *testing.T) {
	for _, b := range []Bounds{{PerKey: 1}, {PerKey: 2}, {PerKey: 1, PerMid: 2}} {
		t.Run(fmt.Sprintf("%+v", b), func(t *testing.T) {
			s, mini := openMini(t)
			s.SetBounds(b)
			mini.Set("mid_3", "not a hash")
			var list []Session
			for i := range 6 {
				list = append(list, Session{Mid: int64(i), Key: fmt.Sprint("k", i), Server: "c1", ID: fmt.Sprint("s-", i)})
			}
			check := func(what string, i int, err error) {
				t.Helper()
				if bad := i == 3; (err != nil) != bad || bad && !strings.Contains(err.Error(), "WRONGTYPE") {
					t.Errorf("%s %d: %v", what, i, err)
				}
			}
			for i, r := range s.AddAll(t.Context(), list) {
				check("add", i, r.Err)
			}
			if mini.Exists("key_k3") || mini.Exists("ses_{key_k3}") {
				t.Error("the session that could not be entered is at its key's place")
			}
			for i, r := range s.RenewAll(t.Context(), list) {
				check("renew", i, r.Err)
			}
			for i, r := range s.RemoveAll(t.Context(), list) {
				check("remove", i, r.Err)
				if i != 3 && !r.Had {
					t.Errorf("session %d was not there", i)
				}
			}
		})
	}
}

// In a cluster, too, sessions come and go in one round trip, whatever their slots.
func TestTogetherInACluster(t *testing.T) {
	addr := startCluster(t)
	for _, b := range []Bounds{{PerKey: 1}, {PerKey: 2, PerMid: 3}, {PerMid: 2}} {
		s := open(t, func(cfg *Config) { cfg.Addr, cfg.Cluster = addr, true })
		s.SetBounds(b)
		s.client.FlushAll(t.Context())
		held := map[string]Session{}
		var list []Session
		for i := range 300 {
			x := Session{Mid: int64(i % 7), Key: fmt.Sprint("k", i%70), Server: fmt.Sprint("c", i%3), ID: fmt.Sprintf("s-%03d", i)}
			list = append(list, x)
		}
		for i, r := range s.AddAll(t.Context(), list) {
			if r.Err != nil || r.Rejected {
				t.Fatalf("%+v, %v: %+v", b, list[i], r)
			}
			held[list[i].ID] = list[i]
			for _, old := range r.Replaced {
				delete(held, old.ID)
			}
		}
		if bad := differences(t, s, held, b); bad != "" {
			t.Fatalf("%+v:\n%s", b, bad)
		}
		rest := slices.Collect(maps.Values(held))
		for i, r := range s.RenewAll(t.Context(), rest) {
			if r.Err != nil || r.Replaced {
				t.Fatalf("%+v, %v: %+v", b, rest[i], r)
			}
		}
		for i, r := range s.RemoveAll(t.Context(), rest) {
			if r.Err != nil || !r.Had {
				t.Fatalf("%+v, %v: %+v", b, rest[i], r)
			}
		}
		if bad := differences(t, s, nil, b); bad != "" {
			t.Fatalf("%+v, after all have gone:\n%s", b, bad)
		}
	}
}

func startCluster(t *testing.T) (addr string) {
	t.Helper()
	bus := freeAddr(t)
	addr = startRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus[strings.LastIndexByte(bus, ':')+1:])
	formCluster(t, addr)
	return addr
}
