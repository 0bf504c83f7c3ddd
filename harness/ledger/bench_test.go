package ledger

import (
	"fmt"
	"syscall"
	"testing"
)

// BenchmarkAccount is the cost of one frame in order, for 10,000 clients that are read in
// turn, each with so many frames a read. The budget is 30 ns. It includes parsing the
// stamp and, where the name doesn't say otherwise, a look at the clock for each read. On a
// machine that has other work, cpu-ns/frame is the figure to look at.
func BenchmarkAccount(b *testing.B) {
	for _, c := range []struct {
		perRead int
		clock   bool
	}{{1, true}, {1, false}, {10, true}, {100, true}} {
		name := fmt.Sprintf("frames=%d", c.perRead)
		if !c.clock {
			name += "/without-clock"
		}
		b.Run(name, func(b *testing.B) {
			const clients, streamCount, pushes = 10_000, 16, 4096
			var list []Stream
			var ids []uint16
			for i := range streamCount {
				list = append(list, Stream{ID: uint16(i), Pushes: pushes})
				ids = append(ids, uint16(i))
			}
			streams := mustStreams(b, list...)
			set := mustSubscribe(b, streams, ids...)
			book := NewBook(streams, clients, clients*streamCount)
			for i := range clients {
				book.Join(book.Add(set, Kind(i%Kinds)), nil)
			}
			var next [streamCount]uint32
			bodies := make([][]byte, c.perRead) // as a read leaves them: each client gets the same
			b.ReportAllocs()
			cpu := cpuNanos(b)
			b.ResetTimer()
			for n := 0; n < b.N; {
				for k := range bodies {
					s := k % streamCount
					bodies[k] = AppendBody(bodies[k][:0], Stamp{Stream: uint16(s), Seq: next[s]}, 64)
					next[s]++
				}
				at := Now()
				for client := range clients {
					if c.clock {
						at = Now()
					}
					for k, body := range bodies {
						stamp, ok := ParseBody(body)
						if !ok {
							b.Fatal("no stamp")
						}
						stamp.Intended = at - int64(client)*1000 - int64(k)*50_000
						book.Account(client, stamp, at)
					}
				}
				n += clients * len(bodies)
			}
			b.StopTimer()
			b.ReportMetric(float64(cpuNanos(b)-cpu)/float64(b.N), "cpu-ns/frame")
			counts, err := book.Count(nil)
			if err != nil || counts.Duplicate+counts.Reordered != 0 {
				b.Fatal(counts, err)
			}
		})
	}
}

func cpuNanos(b *testing.B) int64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return r.Utime.Nano() + r.Stime.Nano()
}
