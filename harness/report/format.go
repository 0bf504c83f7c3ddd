package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// count writes n with commas: 1,234,567.
func count[T int | int64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// round writes v as a whole number with commas.
func round(v float64) string { return count(int64(math.Round(v))) }

// digits writes v with three significant digits, without an exponent.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case v == 0:
		return "0"
	case a >= 100:
		return round(v)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	default:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
}

// amount writes whole numbers as such, and others with three significant digits.
func amount(v float64) string {
	if v == math.Trunc(v) {
		return round(v)
	}
	return digits(v)
}

// many writes large rates: 9.87M, 123k.
func many(v float64) string {
	switch {
	case v >= 1e6:
		return digits(v/1e6) + "M"
	case v >= 1e5:
		return digits(v/1e3) + "k"
	default:
		return round(v)
	}
}

// span writes seconds in the unit that fits.
func span(s float64) string {
	switch a := math.Abs(s); {
	case s == 0:
		return "0"
	case a < 1e-6:
		return digits(s*1e9) + " ns"
	case a < 1e-3:
		return digits(s*1e6) + " us"
	case a < 1:
		return digits(s*1e3) + " ms"
	default:
		return digits(s) + " s"
	}
}

// size writes bytes in the unit that fits.
func size(b float64) string {
	switch a := math.Abs(b); {
	case a < 1<<10:
		return amount(b) + " B"
	case a < 1<<20:
		return digits(b/(1<<10)) + " KiB"
	case a < 1<<30:
		return digits(b/(1<<20)) + " MiB"
	default:
		return digits(b/(1<<30)) + " GiB"
	}
}

// sizeOf writes bytes, of which 0 means that they are not known.
func sizeOf(b int64) string {
	if b == 0 {
		return "-"
	}
	return size(float64(b))
}

// percent writes a fraction.
func percent(f float64) string { return fmt.Sprintf("%.0f%%", f*100) }

// Plural writes "1 room", "2,000 rooms".
func Plural[T int | int64](n T, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return count(n) + " " + what + "s"
}

// A Table is rows of text whose columns are right-aligned, but for the first.
type Table struct{ rows [][]string }

// Add adds a row; rows may be of different lengths.
func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

// Lines returns the rows as lines, each behind indent and without spaces at its end.
func (t *Table) Lines(indent string) string {
	var widths []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len(c))
		}
	}
	var lines strings.Builder
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-len(c))
			if i == 0 {
				line.WriteString(c + pad)
				continue
			}
			line.WriteString("  " + pad + c)
		}
		lines.WriteString(indent + strings.TrimRight(line.String(), " ") + "\n")
	}
	return lines.String()
}
