package load

import (
	"fmt"
	"strconv"
)

// A RangeError says which argument of a constructor can't be, and what would be right.
type RangeError struct {
	Field    string // "rate", "steps.2.for"
	Value    string
	Accepted string
}

// Error returns it in one line.
func (e *RangeError) Error() string {
	return fmt.Sprintf("%s: %s is out of range; accepted: %s", e.Field, e.Value, e.Accepted)
}

func rangeError[T any](field string, value, lowest, highest T) *RangeError {
	return &RangeError{field, fmt.Sprint(value), fmt.Sprintf("%v to %v", lowest, highest)}
}

// checkRate returns an error where rate, in pushes a second, is not one from MinRate to
// MaxRate.
func checkRate(field string, rate float64) *RangeError {
	if rate >= MinRate && rate <= MaxRate { // NaN is not
		return nil
	}
	return rangeError(field, perSecond(rate), perSecond(MinRate), perSecond(MaxRate))
}

// perSecond is a rate as a scenario writes it.
type perSecond float64

func (r perSecond) String() string { return strconv.FormatFloat(float64(r), 'f', -1, 64) + "/s" }

// byteCount is a size as a scenario writes it.
type byteCount int

func (n byteCount) String() string { return strconv.Itoa(int(n)) + "B" }
