package presence

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

var update = flag.Bool("update", false, "write the golden files anew")

// dump writes all that is in a Redis, one line a key and field, with what is different in
// each run (the times) replaced.
func dump(mini *miniredis.Miniredis) string {
	var out strings.Builder
	for _, key := range mini.Keys() {
		kind := mini.Type(key)
		fmt.Fprintf(&out, "%s (%s, expires in %v)\n", key, kind, mini.TTL(key))
		if kind == "string" {
			value, _ := mini.Get(key)
			fmt.Fprintf(&out, "\t%q\n", value)
			continue
		}
		fields, _ := mini.HKeys(key)
		slices.Sort(fields)
		for _, field := range fields {
			value := mini.HGet(key, field)
			if strings.HasPrefix(key, "ses_") {
				if parts := strings.SplitN(value, " ", 3); len(parts) == 3 {
					value = "CONNECTED RENEWED " + parts[2]
				}
			}
			fmt.Fprintf(&out, "\t%q: %q\n", field, value)
		}
	}
	return out.String()
}

// The whole content of Redis, to the byte: goim's keys, and ours beside them, whatever the
// bounds.
func TestContent(t *testing.T) {
	for name, bounds := range map[string]Bounds{
		"one-a-key":   {PerKey: 1},
		"two-a-key":   {PerKey: 2, PerMid: 3},
		"no-bounds":   {},
		"one-refused": {PerKey: 1, Reject: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, mini := openMini(t)
			s.SetBounds(bounds)
			for _, x := range []Session{
				{Mid: 123, Key: "key-a", Server: "comet-1", ID: "boot1-1"},
				{Mid: 123, Key: "key-b", Server: "comet-2", ID: "boot2-1"},
				{Mid: 123, Key: "key-b", Server: "comet-1", ID: "boot1-2"},
				{Key: "key-c", Server: "comet of goim"},
				{Key: "of {x} Ω", Server: "comet-1", ID: "boot1-3"},
			} {
				if err := added(s.Add(t.Context(), x)); err != nil {
					t.Fatal(err)
				}
			}
			golden := filepath.Join("testdata", name+".txt")
			got := dump(mini)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("Redis has\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// goimAdds and goimRemoves do what goim's logic does, which knows nothing of our keys.
func goimAdds(mini *miniredis.Miniredis, x Session) {
	if x.Mid > 0 {
		mini.HSet(memberKey(x.Mid), x.Key, x.Server)
		mini.SetTTL(memberKey(x.Mid), 30*time.Minute)
	}
	mini.Set(sessionKey(x.Key), x.Server)
	mini.SetTTL(sessionKey(x.Key), 30*time.Minute)
}

func goimRemoves(mini *miniredis.Miniredis, x Session) {
	mini.HDel(memberKey(x.Mid), x.Key)
	mini.Del(sessionKey(x.Key))
}

// While a deployment moves over, some comets ask goim's logic and some ours, and a comet of
// goim may ask either, from call to call.
func TestBesideGoimsLogic(t *testing.T) {
	for _, bound := range []int{1, 2} {
		t.Run(fmt.Sprint("bound ", bound), func(t *testing.T) {
			s, mini := openMini(t)
			s.SetBounds(Bounds{PerKey: bound})
			ctx := t.Context()
			on := func(want ...string) {
				t.Helper()
				got, err := s.Servers(ctx, []string{"k"})
				if err != nil || !slices.Equal(got[0], want) {
					t.Fatalf("k is on %q, %v, not on %q", got[0], err, want)
				}
				list, err := s.Sessions(ctx, []int64{7})
				var members []string
				for _, x := range list {
					members = append(members, x.Server)
				}
				if err != nil || !slices.Equal(members, want) {
					t.Fatalf("7 is on %q, %v, not on %q", members, err, want)
				}
			}
			theirs := Session{Mid: 7, Key: "k", Server: "goim"}
			ours := Session{Mid: 7, Key: "k", Server: "ours", ID: "o-1"}

			// Entered by goim's logic, renewed and ended through ours.
			goimAdds(mini, theirs)
			on("goim")
			if replaced, err := s.Renew(ctx, theirs); err != nil || replaced {
				t.Fatalf("renew: %v, %v", replaced, err)
			}
			on("goim")
			if had, err := s.Remove(ctx, theirs); err != nil || !had {
				t.Fatalf("remove: %v, %v", had, err)
			}
			on()

			// Entered by goim's logic, and not renewed yet when it ends.
			goimAdds(mini, theirs)
			if had, err := s.Remove(ctx, theirs); err != nil || !had {
				t.Fatalf("remove: %v, %v", had, err)
			}
			on()

			// Entered through ours, then goim's logic takes the key for another comet: the end of
			// our session leaves that alone.
			if err := added(s.Add(ctx, ours)); err != nil {
				t.Fatal(err)
			}
			goimAdds(mini, theirs)
			if had, err := s.Remove(ctx, ours); err != nil || !had {
				t.Fatalf("remove: %v, %v", had, err)
			}
			on("goim")

			// And the other way round: goim's logic removes the key whoever has it; our session's
			// next renewal brings it back.
			if err := added(s.Add(ctx, ours)); err != nil {
				t.Fatal(err)
			}
			goimRemoves(mini, theirs)
			if replaced, err := s.Renew(ctx, ours); err != nil || replaced {
				t.Fatalf("renew: %v, %v", replaced, err)
			}
			on("ours")
		})
	}
}

// Sessions over a bound that was lowered since are told so when they are renewed, the oldest
// first, and the newest stay.
func TestLoweredBound(t *testing.T) {
	s, _ := openMini(t)
	s.SetBounds(Bounds{})
	ctx := context.Background()
	var all []Session
	for i := range 4 {
		all = append(all, Session{Mid: 7, Key: "k", Server: fmt.Sprint("c", i), ID: fmt.Sprint("s-", i)})
		if err := added(s.Add(ctx, all[i])); err != nil {
			t.Fatal(err)
		}
	}
	s.SetBounds(Bounds{PerKey: 2})
	for i, x := range all {
		replaced, err := s.Renew(ctx, x)
		if want := i < 2; err != nil || replaced != want {
			t.Errorf("session %d: replaced %v, %v; want %v", i, replaced, err, want)
		}
	}
	if got, err := s.Servers(ctx, []string{"k"}); err != nil || !slices.Equal(got[0], []string{"c2", "c3"}) {
		t.Errorf("k is on %q, %v", got, err)
	}
}

// A member's entry of a key goes with the last session that had it, also when that dies
// without a word.
func TestDeadKeysLeaveTheMember(t *testing.T) {
	s, mini := openMini(t)
	ctx := t.Context()
	for _, x := range []Session{{Mid: 7, Key: "dead", Server: "c1", ID: "a-1"}, {Mid: 7, Key: "live", Server: "c1", ID: "a-2"}} {
		if err := added(s.Add(ctx, x)); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-31 * time.Minute).UnixMilli()
	mini.HSet("ses_{mid_7}", "a-1", fmt.Sprintf("%d %d 7 2 c1dead", long, long))
	if _, err := s.Renew(ctx, Session{Mid: 7, Key: "live", Server: "c1", ID: "a-2"}); err != nil {
		t.Fatal(err)
	}
	list, err := s.Sessions(ctx, []int64{7})
	if err != nil || len(list) != 1 || list[0].Key != "live" {
		t.Errorf("member 7 has %v, %v", list, err)
	}
}
