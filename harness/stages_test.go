package harness

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"barrage/harness/cluster"
	"barrage/harness/report"
)

// histogram is a metric of n values with a mean in milliseconds.
func histogram(name string, n, mean float64) cluster.Metrics {
	return cluster.Metrics{
		name + "_count": n, name + "_sum": n * mean / 1e3,
		name + `_bucket{le="0.001"}`: n / 2, name + `_bucket{le="1"}`: n, name + `_bucket{le="+Inf"}`: n,
	}
}

func together(list ...cluster.Metrics) cluster.Metrics {
	sum := cluster.Metrics{}
	for _, m := range list {
		sum.Add(m)
	}
	return sum
}

// Whatever is measured, the means of the stages on the way are the whole.
func TestStagesAddUp(t *testing.T) {
	ours := map[string]cluster.Metrics{
		cluster.RoleLogic: histogram(metricArrival, 100, 1),
		cluster.RoleJob:   together(histogram(metricRead, 100, 4), histogram(metricHandover, 200, 3)),
		cluster.RoleComet: together(histogram(metricAccepted, 200, 6), histogram(metricWritten, 200, 20)),
	}
	for _, c := range []struct {
		name    string
		metrics map[string]cluster.Metrics
		lastMS  float64
		want    []string // name and mean in milliseconds
		past    bool
	}{
		{"our processes, two comets", ours, 32, []string{"send 2", "request 1", "accept 6", "queue 4", "handover 3", "write 20", "receive 3", "ack 5"}, false},
		{"receivers that were quicker than comet's clock", ours, 28, []string{"send 2", "request 1", "accept 6", "queue 4", "handover 3", "write 20", "receive -1", "ack 5"}, false},
		{"goim, or a target that nothing is known of", nil, 32, []string{"send 2", "rest 30", "ack 5"}, false},
		{"comets alone", map[string]cluster.Metrics{cluster.RoleComet: ours[cluster.RoleComet]}, 32, []string{"send 2", "accept 6", "write 20", "rest 4", "ack 5"}, false},
		{"a logic that doesn't know the header", map[string]cluster.Metrics{cluster.RoleJob: ours[cluster.RoleJob], cluster.RoleComet: ours[cluster.RoleComet]}, 32,
			[]string{"send 2", "accept 6", "queue 4", "handover 3", "write 20", "rest 4", "ack 5"}, false},
		{"pushes straight into Kafka", map[string]cluster.Metrics{cluster.RoleJob: ours[cluster.RoleJob], cluster.RoleComet: ours[cluster.RoleComet]}, 32,
			[]string{"send 2", "accept 6", "queue 4", "handover 3", "write 20", "receive 4", "ack 5"}, true},
		{"pushes straight into comets that don't tell", nil, 32, []string{"send 2", "rest 30", "ack 5"}, true},
		{"some of the pushes through goim's logic", map[string]cluster.Metrics{
			cluster.RoleLogic: histogram(metricArrival, 50, 1), cluster.RoleComet: histogram(metricAccepted, 89, 6),
		}, 32, []string{"send 2", "rest 30", "ack 5"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			pushes := report.Pushes{Lag: report.Percentiles{Count: 100, Mean: 0.002}, Ack: report.Percentiles{Count: 100, Mean: 0.005}}
			list := stages(pushes, report.Percentiles{Count: 100, Mean: c.lastMS / 1e3}, c.metrics, c.past)
			var got []string
			sum := 0.0
			for _, s := range list {
				got = append(got, fmt.Sprintf("%s %.4g", s.Name, s.Mean*1e3))
				if s.Place == report.OnTheWay {
					sum += s.Mean
				}
				if !slices.Contains(report.StageNames(), s.Name) || s.What == "" || s.Source == "" || s.Difference != (s.P50 == 0 && s.Name != report.StageSend && s.Name != report.StageAck) {
					t.Errorf("stage %+v", s)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if math.Abs(sum-c.lastMS/1e3) > 1e-9 {
				t.Errorf("the means add up to %g s, want %g ms", sum, c.lastMS)
			}
		})
	}
	if list := stages(report.Pushes{}, report.Percentiles{}, ours, false); len(list) != 0 {
		t.Errorf("a run that pushed nothing: %+v", list)
	}
}
