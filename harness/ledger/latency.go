package ledger

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The range of the latency histograms, in nanoseconds. What lies outside is recorded at
// the nearest end.
const (
	LatencyLowest  = int64(time.Microsecond)
	LatencyHighest = int64(time.Minute)
)

// NewHistogram returns a histogram of nanoseconds from 1 us to 60 s with 3 significant
// digits (148 KB): the one that all reports use, so that any two of them merge without loss.
func NewHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(LatencyLowest, LatencyHighest, 3)
}

// NewLiveHistogram returns a histogram over the same range with 2 digits (18 KB), for
// figures on a display.
func NewLiveHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(LatencyLowest, LatencyHighest, 2)
}

// record puts ns into h, at the nearest end of the range where it lies outside.
func record(h *hdrhistogram.Histogram, ns int64) {
	// RecordValue can only fail on a value out of range.
	_ = h.RecordValue(min(max(ns, 0), LatencyHighest))
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

func (r *receipt) note(intended, latency int64) {
	us := uint32(min(uint64(max(latency, 0))/1000, 1<<32-1))
	if r.intended == 0 {
		r.intended = intended
		r.first = us
	}
	r.last = max(r.last, us)
}

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
