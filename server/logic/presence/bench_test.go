package presence

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// What a session that connects costs, with the default bounds and with those that need a
// script.
func BenchmarkAdd(b *testing.B) {
	for _, bounds := range []Bounds{{PerKey: 1}, {PerKey: 2, PerMid: 3}} {
		b.Run(fmt.Sprintf("PerKey %d PerMid %d", bounds.PerKey, bounds.PerMid), func(b *testing.B) {
			s, _ := openMini(b)
			s.SetBounds(bounds)
			var next atomic.Int64
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					n := next.Add(1)
					if err := added(s.Add(b.Context(), Session{Mid: n, Key: fmt.Sprint("k", n), Server: "comet-1", ID: fmt.Sprint("s-", n)})); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
