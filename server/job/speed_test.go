package job

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"barrage/server/discovery"
)

func TestShareOfSpeed(t *testing.T) {
	const big = math.MaxInt32
	for _, tt := range []struct {
		name     string
		speed    int32
		sessions []int64
		want     []int32
	}{
		{"one comet has it all", 10, []int64{7}, []int32{10}},
		{"even comets", 9, []int64{100, 100, 100}, []int32{3, 3, 3}},
		{"what doesn't divide goes to the first of equals", 10, []int64{100, 100, 100}, []int32{4, 3, 3}},
		{"by sessions", 1000, []int64{900, 100}, []int32{900, 100}},
		{"the largest remainders are rounded up", 10, []int64{333, 167, 500}, []int32{3, 2, 5}},
		{"nobody is on the cluster", 10, []int64{0, 0}, []int32{5, 5}},
		{"nobody says", 10, []int64{unknown, unknown, unknown}, []int32{4, 3, 3}},
		{"one that doesn't say counts as the mean", 120, []int64{unknown, 200, 400}, []int32{40, 27, 53}},
		{"one that was empty counts a tenth of the mean", 210, []int64{0, 2000}, []int32{10, 200}},
		{"a small share is 1, at the others' cost", 10, []int64{1_000_000, 1_000_000, 10}, []int32{5, 4, 1}},
		{"several small shares", 6, []int64{1_000_000, 1, 1, 1}, []int32{3, 1, 1, 1}},
		{"as many comets as messages a second", 3, []int64{1000, 1, 1}, []int32{1, 1, 1}},
		{"more comets than messages a second: 1 is the least", 2, []int64{5, 5, 5}, []int32{1, 1, 1}},
		{"nothing overflows", big, []int64{big, big, unknown}, []int32{big/3 + 1, big / 3, big / 3}},
	} {
		if got := share(tt.speed, tt.sessions); !slices.Equal(got, tt.want) {
			t.Errorf("%s: share(%d, %d) is %d, want %d", tt.name, tt.speed, tt.sessions, got, tt.want)
		}
	}
}

// Whatever the numbers: the sum is the speed, nobody is told 0, and nobody with a share above
// the least is more than one message a second away from its due.
func TestShareOfSpeedIsExact(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		sessions := make([]int64, 1+rnd.IntN(20))
		for i := range sessions {
			sessions[i] = int64(math.Exp(rnd.Float64()*21)) - 1
			if rnd.IntN(10) == 0 {
				sessions[i] = unknown
			}
		}
		speed := int32(1 + math.Exp(rnd.Float64()*21))
		shares := share(speed, sessions)
		sum, least := int64(0), int64(0)
		var total, held int64 // of those above the least
		weights := weigh(sessions)
		for i, n := range shares {
			sum += int64(n)
			if n < 1 {
				t.Fatalf("share(%d, %d) is %d: 0 would mean at once", speed, sessions, shares)
			}
			if n == 1 {
				least++
			} else {
				total, held = total+weights[i], held+int64(n)
			}
		}
		if want := max(int64(speed), int64(len(sessions))); sum != want {
			t.Fatalf("share(%d, %d) is %d: %d together, want %d", speed, sessions, shares, sum, want)
		}
		for i, n := range shares {
			due := float64(held) * float64(weights[i]) / float64(max(1, total))
			if n > 1 && math.Abs(float64(n)-due) > 1+float64(least) {
				t.Fatalf("share(%d, %d) is %d: comet %d is due %.2f", speed, sessions, shares, i, due)
			}
		}
	}
}

// The shares follow what comets say in discovery, and the comets that live.
func TestBroadcastsAreSharedBySessions(t *testing.T) {
	y := newYard(t, quick())
	list := func(counts map[string]string) {
		y.list(slices.Sorted(maps.Keys(counts))...) // makes them
		var list []discovery.Instance
		for host, n := range counts {
			in := discovery.Instance{Hostname: host, Addrs: []string{"grpc://" + host}}
			if n != "" {
				in.Metadata = map[string]string{"conn_count": n}
			}
			list = append(list, in)
		}
		y.fleet.apply(list)
	}
	broadcast := func(speed int32) {
		r := newRecord(y.part, y.next, kindBroadcast, "", "all")
		r.pace = newPace(speed)
		y.hand(r)
		y.settled()
	}
	list(map[string]string{"a": "600", "b": "300", "c": "100"})
	broadcast(100)
	list(map[string]string{"a": "100", "b": "300", "c": "600"})
	broadcast(100)
	list(map[string]string{"a": "100", "b": "300"})
	broadcast(100)
	list(map[string]string{"a": "x", "b": ""})
	broadcast(101)
	broadcast(1)
	broadcast(0)
	for host, want := range map[string][]int32{"a": {60, 10, 25, 51, 1, 0}, "b": {30, 30, 75, 50, 1, 0}, "c": {10, 60}} {
		if got := y.comets[host].speeds; !slices.Equal(got, want) {
			t.Errorf("comet %s was called with speeds %d, want %d", host, got, want)
		}
	}
}
