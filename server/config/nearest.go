package config

import (
	"fmt"
	"strings"
)

// Nearest is the candidate that name is likely a slip for, "" when none is close.
func Nearest(name string, candidates []string) string {
	near, _ := nearest(name, candidates)
	return near
}

// suggest is a half sentence with the nearest of candidates, "" when none is close.
func suggest(name, prefix string, candidates []string) string {
	near, _ := nearest(name, candidates)
	if near == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s%s?", prefix, near)
}

// nearest compares without regard to case. A candidate whose last part is the whole name
// (addr for rpcServer.addr) is near too, if it is the only one.
func nearest(name string, candidates []string) (near string, distance int) {
	lower := strings.ToLower(name)
	limit := max(2, len(lower)/3)
	distance = limit + 1
	for _, candidate := range candidates {
		if d := editDistance(lower, strings.ToLower(candidate)); d < distance {
			near, distance = candidate, d
		}
	}
	if near != "" {
		return near, distance
	}
	for _, candidate := range candidates {
		if strings.HasSuffix(strings.ToLower(candidate), "."+lower) {
			if near != "" {
				return "", 0
			}
			near = candidate
		}
	}
	return near, limit
}

// editDistance counts the insertions, deletions and replacements from a to b, and swaps of
// two neighbours as one.
func editDistance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	before, last, row := rows[0], rows[1], rows[2]
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
