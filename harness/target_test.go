package harness

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"barrage/harness/cluster"
	"barrage/harness/report"
)

// A comet of a target that can't be read any more takes its figures with it, and nothing else:
// no sum over the others passes for the whole.
func TestTargetThatIsGoneInBetween(t *testing.T) {
	page := func(start, role string) (url string, gone *atomic.Bool) {
		gone = new(atomic.Bool)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if gone.Load() {
				http.Error(w, "restarting", http.StatusServiceUnavailable)
				return
			}
			io.WriteString(w, "process_start_time_seconds "+start+"\nprocess_cpu_seconds_total 1\nbarrage_"+role+"_x 1\nbarrage_comet_frames_sent_total 7\n")
		}))
		t.Cleanup(s.Close)
		return s.URL, gone
	}
	target := &cluster.Target{Push: "a:1"}
	var gone *atomic.Bool
	for start, role := range map[string]string{"1": "comet", "2": "comet", "3": "logic", "4": "job"} {
		url, switched := page(start, role)
		if start == "2" {
			gone = switched
		}
		target.Pages = append(target.Pages, cluster.Page{URL: url})
	}
	for _, c := range []struct {
		name string
		gone [2]bool // at the two borders
		want report.Target
	}{
		{"all are there", [2]bool{false, false}, report.Target{Server: true, Comet: true}},
		{"gone in the end", [2]bool{false, true}, report.Target{}},
		{"there in the end", [2]bool{true, false}, report.Target{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			gone.Store(false)
			r := &run{opt: Options{Target: target}, unread: map[string]string{}}
			var err error
			if r.cluster, err = cluster.Connect(t.Context(), target); err != nil {
				t.Fatal(err)
			}
			for i, b := range []*border{&r.begin, &r.end} {
				gone.Store(c.gone[i])
				if *b, err = r.readBorder(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			r.final = map[string]cluster.Metrics{}
			for _, p := range r.cluster.Role(cluster.RoleComet) {
				r.final[p.Name] = cluster.Metrics{metricFrames: 7}
			}
			got := r.target()
			if got.Server != c.want.Server || got.Comet != c.want.Comet || len(got.Metrics) != 4 {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if c.want.Comet {
				if len(got.Problems) != 0 {
					t.Errorf("problems %q", got.Problems)
				}
				return
			}
			if len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "restarting") || len(r.grew(cluster.RoleComet)) != 0 {
				t.Errorf("problems %q, comets %v", got.Problems, r.grew(cluster.RoleComet))
			}
			known := 0
			for _, p := range r.cluster.Processes() {
				if r.knows(p) {
					known++
				}
			}
			if known != 3 {
				t.Errorf("%d processes are known, want 3", known)
			}
		})
	}
}
