package swarm

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// A client's first heartbeat is within a period of its joining, and each later one a period after
// the one before it, however clients join; those who come together are spread.
func TestBeats(t *testing.T) {
	for name, join := range map[string]func(i int, r *rand.Rand) time.Duration{
		"one after the other": func(i int, _ *rand.Rand) time.Duration { return time.Duration(i) * 200 * time.Millisecond },
		"together":            func(int, *rand.Rand) time.Duration { return 3 * time.Second },
		"any time":            func(_ int, r *rand.Rand) time.Duration { return time.Duration(r.Int64N(int64(10 * time.Minute))) },
	} {
		t.Run(name, func(t *testing.T) {
			const clients, period, end = 500, 4 * time.Minute, 30 * time.Minute
			const slack = period/beatSlots + 10*time.Millisecond
			r := rand.New(rand.NewPCG(1, 2))
			start := int64(1e18)
			b := newBeats(period, clients, start)
			var joins, last [clients]time.Duration
			for i := range joins {
				joins[i] = join(i, r)
			}
			var beats, most int
			for now := time.Duration(0); now < end; now += 10 * time.Millisecond {
				for i := range joins {
					if joins[i] <= now && joins[i] > now-10*time.Millisecond {
						b.enter(i, uint64(i), start+int64(now))
					}
				}
				n := 0
				soon := b.soonest() <= start+int64(now)
				b.due(start+int64(now), func(i int) {
					n++
					since, least := now-last[i], period-slack
					if last[i] == 0 {
						since, least = now-joins[i], 0
					}
					if since < least || since > period+slack {
						t.Fatalf("client %d beats %v after it joined or beat", i, since)
					}
					last[i] = now
				})
				if n > 0 && !soon {
					t.Fatalf("%d beats before the soonest", n)
				}
				beats += n
				most = max(most, n)
			}
			for i := range last {
				if end-last[i] > period+slack {
					t.Errorf("client %d beat last at %v", i, last[i])
				}
			}
			if most > 6 {
				t.Errorf("%d at a time", most)
			}
		})
	}
}

// After a stall each client beats once; without clients, or a period, nobody ever does.
func TestBeatsAfterAStall(t *testing.T) {
	b := newBeats(time.Second, 3, 0)
	for i := range 3 {
		b.enter(i, uint64(i), 0)
	}
	n := 0
	b.due(int64(time.Hour), func(int) { n++ })
	if n != 3 {
		t.Errorf("%d beats", n)
	}
	for _, b := range []beats{newBeats(-1, 3, 0), newBeats(time.Second, 0, 0), {}} {
		b.due(int64(time.Hour), func(int) { t.Error("a beat") })
		if b.soonest() != math.MaxInt64 {
			t.Errorf("soonest %d", b.soonest())
		}
	}
	var none beats
	none.enter(1, 1, 1)
}
