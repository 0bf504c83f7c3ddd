package cluster

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A Histogram is one of Prometheus' classic ones, over all its other labels together.
type Histogram struct {
	Count   float64
	Sum     float64
	buckets []bucket // by their bounds
}

type bucket struct {
	bound float64 // inclusive; the last one's is infinite
	count float64 // values at or below it
}

// Histogram returns the histogram called name; one that isn't there has no values.
func (m Metrics) Histogram(name string) Histogram {
	h := Histogram{Count: m.Sum(name + "_count"), Sum: m.Sum(name + "_sum")}
	counts := map[float64]float64{}
	for series, v := range m {
		base, labels, ok := strings.Cut(series, "{")
		if !ok || base != name+"_bucket" {
			continue
		}
		if bound, err := strconv.ParseFloat(label(labels, "le"), 64); err == nil && !math.IsNaN(bound) {
			counts[bound] += v
		}
	}
	for bound, count := range counts {
		h.buckets = append(h.buckets, bucket{bound, count})
	}
	slices.SortFunc(h.buckets, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	return h
}

// Mean returns the values' mean, 0 where there are none.
func (h Histogram) Mean() float64 {
	if h.Count <= 0 {
		return 0
	}
	return h.Sum / h.Count
}

// Quantile returns an estimate of the value below which the fraction q of all lies: within the
// bucket that holds it, and as Prometheus' histogram_quantile does, in proportion. What lies
// above the last bound is said to be there. It is 0 where there are no values.
func (h Histogram) Quantile(q float64) float64 {
	if len(h.buckets) == 0 {
		return 0
	}
	rank := q * h.buckets[len(h.buckets)-1].count
	if rank <= 0 {
		return 0
	}
	i := slices.IndexFunc(h.buckets, func(b bucket) bool { return b.count >= rank })
	if i < 0 {
		return 0 // the counts are no numbers
	}
	var below bucket
	if i > 0 {
		below = h.buckets[i-1]
	}
	at := h.buckets[i]
	if math.IsInf(at.bound, 1) {
		return below.bound
	}
	return below.bound + (at.bound-below.bound)*(rank-below.count)/(at.count-below.count)
}

// label returns a label's value from the text behind a series' brace, "" where it isn't there.
func label(text, name string) string {
	for text != "" && text[0] != '}' {
		key, rest, ok := strings.Cut(text, "=")
		if !ok {
			return ""
		}
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return ""
		}
		if strings.TrimSpace(key) == name {
			value, _ := strconv.Unquote(quoted) // QuotedPrefix has said that it can be
			return value
		}
		text = strings.TrimLeft(rest[len(quoted):], ", ")
	}
	return ""
}
