package scenario

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseRate reads "10/s" or "90/min" into a rate a second.
func parseRate(s string) (float64, error) {
	num, unit, ok := strings.Cut(s, "/")
	per := map[string]float64{"s": 1, "min": 60}[strings.TrimSpace(unit)]
	v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if !ok || per == 0 || err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%q is not a rate; write it as 10/s or 90/min", s)
	}
	return v / per, nil
}

// parseSize reads "64B", "4KiB" or "1MiB" into bytes.
func parseSize(s string) (int, error) {
	for _, u := range []struct {
		suffix string
		bytes  int
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"B", 1}} {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.Atoi(strings.TrimSpace(num))
		if err == nil && v >= 0 && v <= math.MaxInt/u.bytes {
			return v * u.bytes, nil
		}
		break
	}
	return 0, fmt.Errorf("%q is not a size; write it as 64B, 4KiB or 1MiB", s)
}

// parseByteRate reads "512B/s" or "1KiB/s" into bytes a second.
func parseByteRate(s string) (int, error) {
	amount, ok := strings.CutSuffix(strings.TrimSpace(s), "/s")
	v, err := parseSize(strings.TrimSpace(amount))
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is no number of bytes a second; write it as 512B/s or 1KiB/s", s)
	}
	return v, nil
}

// parseDuration reads "20s", "1m30s" or "10ms".
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration; write it as 500ms, 20s or 1m30s", s)
	}
	return d, nil
}

// nearest returns the name that is at most a third of its letters away from s, or "".
func nearest(s string, names []string) string {
	best, bestD := "", math.MaxInt
	for _, n := range names {
		if d := distance(strings.ToLower(s), strings.ToLower(n)); d < bestD && d <= 1+len(n)/3 {
			best, bestD = n, d
		}
	}
	return best
}

// distance is the Levenshtein distance of a and b in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			above := row[j+1]
			row[j+1] = min(diagonal+cost, above+1, row[j]+1)
			diagonal = above
		}
	}
	return row[len(b)]
}
