package presence

import (
	"fmt"
	"testing"
)

// What a session costs that connects and then ends, alone and with many in one round trip: with
// the default bounds and with those that need a script, in miniredis and, where it is
// installed, in redis-server.
func BenchmarkSessions(b *testing.B) {
	for _, redis := range []struct {
		name string
		open func(b *testing.B) *Store
	}{
		{"miniredis", func(b *testing.B) *Store { s, _ := openMini(b); return s }},
		{"redis", func(b *testing.B) *Store {
			addr := startRedis(b)
			return open(b, func(cfg *Config) { cfg.Addr = addr })
		}},
	} {
		for _, bounds := range []Bounds{{PerKey: 1}, {PerKey: 2, PerMid: 3}} {
			for _, together := range []int{1, 16, 64, 256} {
				b.Run(fmt.Sprintf("%s/perKey=%d,perMid=%d/together=%d", redis.name, bounds.PerKey, bounds.PerMid, together), func(b *testing.B) {
					s := redis.open(b)
					s.SetBounds(bounds)
					benchSessions(b, s, together)
				})
			}
		}
	}
}

func benchSessions(b *testing.B, s *Store, together int) {
	ctx, number := b.Context(), 0
	var rounds [][]Session
	for number < b.N {
		list := make([]Session, together)
		for i := range list {
			number++
			list[i] = Session{Mid: int64(number), Key: fmt.Sprint("k", number), Server: "comet-1", ID: fmt.Sprint("s-", number)}
		}
		rounds = append(rounds, list)
	}
	b.ResetTimer()
	for _, list := range rounds {
		for i, r := range s.AddAll(ctx, list) {
			if r.Err != nil || r.Rejected {
				b.Fatalf("%v: %+v", list[i], r)
			}
		}
	}
	added := b.Elapsed()
	for _, list := range rounds {
		for i, r := range s.RemoveAll(ctx, list) {
			if r.Err != nil || !r.Had {
				b.Fatalf("%v: %+v", list[i], r)
			}
		}
	}
	b.ReportMetric(float64(added.Microseconds())/float64(number), "µs/connect")
	b.ReportMetric(float64((b.Elapsed()-added).Microseconds())/float64(number), "µs/end")
	b.ReportMetric(0, "ns/op")
}
