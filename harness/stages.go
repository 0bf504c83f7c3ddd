package harness

import (
	"slices"

	"barrage/harness/cluster"
	"barrage/harness/pusher"
	"barrage/harness/report"
	"barrage/harness/scenario"
)

// The histograms in which the server's processes tell how long pushes were under way.
const (
	metricArrival  = "barrage_logic_push_arrival_seconds"
	metricRead     = "barrage_job_read_seconds"
	metricHandover = "barrage_job_handover_seconds"
	metricAccepted = "barrage_comet_push_accepted_seconds"
	metricWritten  = "barrage_comet_push_written_seconds"
)

// stages says where a push's time went in the measured phase: by the pusher, by the histograms
// of the server's processes between the two borders, and by what they leave of the latency. A
// push that is under way at a border counts where it was measured.
func (r *run) stages(out *report.Run) []report.Stage {
	d := map[string]cluster.Metrics{}
	for role := range r.end.metrics {
		d[role] = r.grew(role)
	}
	past := !slices.ContainsFunc(r.opt.Scenario.Pushes, func(p scenario.Push) bool { return p.Via == pusher.ViaHTTP })
	return stages(out.Pushes, out.Latency.Last, d, past)
}

// stages is run.stages by what each role's metrics grew by. past says that no push goes through
// logic: what stands in for its acceptance is then that a push was sent.
func stages(pushes report.Pushes, last report.Percentiles, metrics map[string]cluster.Metrics, past bool) []report.Stage {
	if pushes.Lag.Count == 0 || last.Count == 0 {
		return []report.Stage{}
	}
	list := []report.Stage{stageOf(report.StageSend, "due to sent", report.OnTheWay, pushes.Lag, "harness")}
	left := last.Mean - pushes.Lag.Mean
	// told adds a stage of the server's and reports whether it is there: not if too many
	// pushes are missing for the rest to be told from the whole.
	told := func(name, what, place, role, metric string) bool {
		h := metrics[role].Histogram(metric)
		if h.Count < 0.9*float64(last.Count) {
			return false
		}
		list = append(list, report.Stage{
			Name: name, What: what, Place: place, Source: role + ", " + metric,
			Count: int64(h.Count), Mean: h.Mean(), P50: h.Quantile(0.5), P99: h.Quantile(0.99),
		})
		if place == report.OnTheWay {
			left -= h.Mean()
		}
		return true
	}
	request, from := past, "sent"
	if !past {
		request, from = told(report.StageRequest, "sent to accepted by logic", report.OnTheWay, cluster.RoleLogic, metricArrival), "accepted by logic"
	}
	accept := told(report.StageAccept, from+" to accepted by comet", report.OnTheWay, cluster.RoleComet, metricAccepted)
	if accept {
		told(report.StageQueue, "of it until job has read it", report.PartOfOne, cluster.RoleJob, metricRead)
		told(report.StageHandover, "from there until job has comet's answer", report.PartOfOne, cluster.RoleJob, metricHandover)
	}
	write := told(report.StageWrite, "accepted by comet to written", report.OnTheWay, cluster.RoleComet, metricWritten)

	rest := report.Stage{
		Name: report.StageReceive, What: "written to the last receipt", Place: report.OnTheWay,
		Count: last.Count, Mean: left, Source: "what the others leave", Difference: true,
	}
	switch {
	case request && accept && write:
	case request && !past || accept || write:
		rest.Name, rest.What = report.StageRest, "the rest, to the last receipt"
	default:
		rest.Name, rest.What = report.StageRest, "sent to the last receipt"
	}
	list = append(list, rest)
	if pushes.Ack.Count > 0 {
		list = append(list, stageOf(report.StageAck, "sent to acknowledged", report.Beside, pushes.Ack, "harness"))
	}
	return list
}

func stageOf(name, what, place string, p report.Percentiles, source string) report.Stage {
	return report.Stage{Name: name, What: what, Place: place, Count: p.Count, Mean: p.Mean, P50: p.P50, P99: p.P99, Source: source}
}
