package comet

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// Against a list of who is where: all sessions of a key are in one shard, those who come one
// behind the other are in the same, and the shards are as full as one another.
func TestDirectory(t *testing.T) {
	shards := make([]*shard, 5)
	for i := range shards {
		shards[i] = &shard{}
	}
	d := newDirectory(shards)
	if d.find("nobody") != nil {
		t.Error("nobody has a shard")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	type entry struct {
		shard    *shard
		sessions int
	}
	want := make(map[string]*entry)
	check := func(key string) {
		t.Helper()
		switch e := want[key]; {
		case e == nil && d.find(key) != nil:
			t.Fatalf("%s: has no session, and a shard", key)
		case e != nil && d.find(key) != e.shard:
			t.Fatalf("%s: is in another shard than its sessions", key)
		}
	}
	for range 20_000 {
		key := fmt.Sprint("k", rng.IntN(3000))
		e := want[key]
		if e != nil && rng.IntN(3) == 0 {
			d.leave(key)
			if e.sessions--; e.sessions == 0 {
				delete(want, key)
			}
		} else {
			sh := d.enter(key)
			if e == nil {
				e = &entry{shard: sh}
				want[key] = e
			}
			if e.sessions++; e.shard != sh {
				t.Fatalf("%s: a session is not where the others are", key)
			}
		}
		check(key)
	}
	for key, e := range want {
		for range e.sessions {
			d.leave(key)
		}
	}
	for i, n := range d.members {
		if n != 0 {
			t.Errorf("shard %d: %d are left of none", i, n)
		}
	}
	for i := range d.parts {
		if n := len(d.parts[i].keys); n != 0 {
			t.Errorf("%d keys are left of none", n)
		}
	}

	d = newDirectory(shards)
	for i := range 10 * len(shards) * sliceMembers {
		sh := d.enter(fmt.Sprint("new", i))
		if i%sliceMembers > 0 && sh != d.find(fmt.Sprint("new", i-1)) {
			t.Fatalf("session %d is not where the one before it is", i)
		}
	}
	for i, n := range d.members {
		if n != 10*sliceMembers {
			t.Errorf("shard %d has %d, and there are %d for each", i, n, 10*sliceMembers)
		}
	}
}

// A push to a room goes to the shards that have members of it, and to no other.
func TestRoomHolders(t *testing.T) {
	shards := []*shard{{}, {}, {}}
	var rooms roomRefs
	want := make(map[*shard]int)
	rng := rand.New(rand.NewPCG(3, 4))
	var ref *roomRef
	total := 0
	for range 2000 {
		sh := shards[rng.IntN(len(shards))]
		if want[sh] > 0 && rng.IntN(2) == 0 {
			rooms.leave(ref, sh)
			want[sh]--
			total--
		} else {
			ref = rooms.enter("r", sh)
			want[sh]++
			total++
		}
		held, holders := rooms.holders("r")
		if total == 0 {
			if held != nil || len(holders) > 0 {
				t.Fatal("a room without members is held")
			}
			continue
		}
		got := make(map[*shard]bool)
		for _, sh := range holders {
			got[sh] = true
		}
		for _, sh := range shards {
			if got[sh] != (want[sh] > 0) || len(got) != len(holders) || held != ref || int(ref.online.Load()) != total {
				t.Fatalf("holders %v, members %v", got, want)
			}
		}
	}
}
