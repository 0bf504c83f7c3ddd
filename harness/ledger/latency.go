package ledger

import (
	"math/bits"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The range of the latency histograms, in nanoseconds. What lies outside is recorded at
// the nearest end.
const (
	LatencyLowest  = int64(time.Microsecond)
	LatencyHighest = int64(10 * time.Minute)
)

// NewHistogram returns a histogram of nanoseconds from 1 us to 10 min with 3 significant
// digits (180 KB): the one that all reports use, so that any two of them merge without loss.
func NewHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(LatencyLowest, LatencyHighest, 3)
}

// NewLiveHistogram returns a histogram over the same range with 2 digits (22 KB), for
// figures on a display.
func NewLiveHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(LatencyLowest, LatencyHighest, 2)
}

// Record puts ns nanoseconds into h, at the nearest end of the range where they lie outside.
func Record(h *hdrhistogram.Histogram, ns int64) {
	// RecordValue can only fail on a value out of range.
	_ = h.RecordValue(clampLatency(ns))
}

func clampLatency(ns int64) int64 { return min(max(ns, 0), LatencyHighest) }

// fineCounts counts latencies in exactly the buckets of NewHistogram, for the path where
// a nanosecond counts: its index takes a third of the time of the library's.
type fineCounts [(fineBuckets + 1) << (fineBits - 1)]int64

// The geometry of a HDR histogram from 1 us to 10 min: the unit is the power of 2 below the
// lowest value, the first bucket has 2^bits of them, and each one after it half as many,
// twice as wide.
const (
	fineUnit    = 9 // 512 ns
	fineBits    = 11
	fineBuckets = 21
)

// index returns the bucket of a latency in [0, LatencyHighest].
func fineIndex(ns int64) int {
	u := uint64(ns) >> fineUnit
	e := bits.Len64(u|(1<<fineBits-1)) - fineBits
	return e<<(fineBits-1) + int(u>>(e&63))
}

// addTo adds the counts to h, which must be of the geometry of NewHistogram, or a coarser one.
func (c *fineCounts) addTo(h *hdrhistogram.Histogram) {
	for i, n := range c {
		if n == 0 {
			continue
		}
		e := max(i>>(fineBits-1)-1, 0)
		v := int64(i-e<<(fineBits-1)) << (e + fineUnit)
		// The lowest value of a bucket is in the range that the index covers.
		_ = h.RecordValues(min(v, LatencyHighest), n)
	}
}

// liveCounts counts latencies to 3 percent, in a space that stays in the nearest cache.
type liveCounts [(liveBuckets + 1) << (liveBits - 1)]uint32

const (
	liveUnit    = 10 // 1024 ns
	liveBits    = 6
	liveBuckets = 25
)

func liveIndex(ns int64) int {
	u := uint64(ns) >> liveUnit
	e := bits.Len64(u|(1<<liveBits-1)) - liveBits
	return e<<(liveBits-1) + int(u>>(e&63))
}

// addTo adds the counts to h, each at the middle of its bucket.
func (c *liveCounts) addTo(h *hdrhistogram.Histogram) {
	for i, n := range c {
		recordLive(h, i, int64(n))
	}
}

// recordLive adds n latencies of bucket i of a liveCounts to h.
func recordLive(h *hdrhistogram.Histogram, i int, n int64) {
	if n == 0 {
		return
	}
	e := max(i>>(liveBits-1)-1, 0)
	width := int64(1) << (e + liveUnit)
	v := int64(i-e<<(liveBits-1))*width + width/2
	_ = h.RecordValues(min(v, LatencyHighest), n)
}

// A Receipt is when one push arrived.
type Receipt struct {
	Stream   uint16
	Seq      uint32
	Intended int64         // unix nanoseconds
	First    time.Duration // from the intended time to the first client's receipt
	Last     time.Duration // and to the last client's
}

// receipt is a Receipt in a Book's flat array.
type receipt struct {
	intended int64 // 0: nothing arrived yet
	first    uint32
	last     uint32 // both in microseconds after intended, which is 71 minutes at most
}

// note enters a receipt; latency must not be negative.
func (r *receipt) note(intended, latency int64) {
	us := microseconds(latency)
	if r.intended == 0 {
		r.intended, r.first = intended, us
	}
	r.first, r.last = min(r.first, us), max(r.last, us)
}

// microseconds is a time of a receipt; ns must not be negative.
func microseconds(ns int64) uint32 { return uint32(min(uint64(ns)/1000, 1<<32-1)) }

func (r *receipt) merge(o receipt) {
	switch {
	case o.intended == 0:
	case r.intended == 0:
		*r = o
	default:
		r.first = min(r.first, o.first)
		r.last = max(r.last, o.last)
	}
}
