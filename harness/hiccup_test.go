package harness

import (
	"testing"
	"time"
)

func TestHiccupMeter(t *testing.T) {
	ms := func(n int64) int64 { return n * int64(time.Millisecond) }
	m := &hiccupMeter{last: ms(1000)}
	for _, step := range []struct {
		at   int64 // milliseconds
		want time.Duration
	}{
		{1020, 0},
		{1040, 0},
		{1109, 0}, // 49 ms late: any machine does that
		{1179, 50 * time.Millisecond},
		{1199, 50 * time.Millisecond},
		{2199, 1030 * time.Millisecond},
	} {
		if got := m.until(ms(step.at)); got != step.want {
			t.Errorf("until %d ms, before the meter wakes up: %v, want %v", step.at, got, step.want)
		}
		m.wake(ms(step.at))
		if got := m.until(ms(step.at)); got != step.want {
			t.Errorf("until %d ms: %v, want %v", step.at, got, step.want)
		}
	}
	if got := m.until(ms(2399)); got != 1210*time.Millisecond {
		t.Errorf("in the midst of a hiccup: %v", got)
	}
}
