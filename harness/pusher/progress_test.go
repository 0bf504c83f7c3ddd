package pusher

import (
	"io"
	"net/http"
	"testing"
	"time"

	"barrage/harness/ledger"
)

// The counts while a schedule goes on add up to those of its end.
func TestProgressAddsUp(t *testing.T) {
	addr, _ := start(t, func(w http.ResponseWriter, r *http.Request, n int) {
		code := `{"code":0}`
		if n%4 == 0 {
			code = `{"code":-500}`
		}
		io.WriteString(w, code)
	})
	var p Progress
	begin := ledger.Now() - int64(200*time.Millisecond) // so that the first pushes are late
	cfg := through(addr, streams(2, 100, time.Second))
	cfg.Progress = &p
	r, err := Run(t.Context(), cfg, begin)
	if err != nil {
		t.Fatal(err)
	}
	want := r.Total(false)
	want.Intended = 0
	if got := p.Counts(); got != want || got.Sent != 100 || got.Failed != 25 {
		t.Errorf("%+v, want %+v", got, want)
	}
	if lag := p.Lag(); lag < 200*time.Millisecond {
		t.Errorf("%s late at most; the first push was 200 ms late", lag)
	}
	if lag := p.Lag(); lag != 0 {
		t.Errorf("%s late without a push", lag)
	}
}

func TestDue(t *testing.T) {
	list := []Stream{
		{Schedule: constant(10), Step: 1, Pushes: 10},
		{Schedule: constant(10), Step: 1, Start: time.Second, Pushes: 3},
		{Schedule: constant(10), Step: 1, Start: 2 * time.Second, Pushes: 1},
		{Schedule: constant(10), Step: 1},
	}
	for _, c := range []struct {
		at   time.Duration
		want int64
	}{{-time.Second, 0}, {0, 1}, {99 * time.Millisecond, 1}, {100 * time.Millisecond, 2}, {time.Second, 11}, {time.Hour, 14}} {
		if got := Due(list, c.at); got != c.want {
			t.Errorf("%s into the schedule %d pushes are due, want %d", c.at, got, c.want)
		}
	}
}
