package admin

import "github.com/prometheus/client_golang/prometheus"

// StageBuckets returns the buckets of histograms that tell how long a push took on a part of
// its way, in seconds: each a quarter wider than the one before, from 50 us to over a minute,
// so that a percentile read from them is off by a tenth or so.
func StageBuckets() []float64 { return prometheus.ExponentialBuckets(50e-6, 1.25, 65) }
