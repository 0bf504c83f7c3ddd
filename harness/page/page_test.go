package page

import (
	"fmt"
	"strings"
	"testing"
)

func TestAxis(t *testing.T) {
	plain := func(v float64) string { return fmt.Sprint(v) }
	labels := func(a Axis) string {
		var list []string
		for _, tick := range a.Ticks {
			list = append(list, tick.Label)
		}
		return strings.Join(list, " ")
	}
	for _, c := range []struct {
		values []float64
		log    bool
		want   string
	}{
		{[]float64{0, 10}, false, "0 2 4 6 8 10"},
		{[]float64{3, 7.2}, false, "0 2 4 6"},
		{[]float64{0}, false, "0 0.2 0.4 0.6000000000000001 0.8 1"},
		{[]float64{0.003, 0.3}, true, "0.001 0.01 0.1 1"},
		{[]float64{1}, true, "1 10"},
	} {
		a := Axis{Log: c.log, Format: plain}
		a.fill(c.values)
		if got := labels(a); got != c.want {
			t.Errorf("%v: ticks %s, want %s", c.values, got, c.want)
		}
		for _, v := range c.values {
			if at := a.at(v); at < -1e-9 || at > 1+1e-9 {
				t.Errorf("%v of %v is at %v", v, c.values, at)
			}
		}
	}
}
