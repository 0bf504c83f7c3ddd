package harness

import (
	"maps"
	"slices"

	"barrage/harness/cluster"
	"barrage/harness/report"
)

// target says what the run drove, and what is known of it.
func (r *run) target() *report.Target {
	t := r.opt.Target
	known := &report.Target{TCP: t.TCP, WebSocket: t.WS, TCPTLS: t.TCPTLS, WSS: t.WSS, Push: t.Push, Metrics: []string{}, Problems: []string{}}
	for _, page := range t.Pages {
		known.Metrics = append(known.Metrics, page.URL)
	}
	for _, name := range slices.Sorted(maps.Keys(r.unread)) {
		known.Problems = append(known.Problems, r.unread[name])
	}
	known.Server = true
	for _, role := range []string{cluster.RoleComet, cluster.RoleLogic, cluster.RoleJob} {
		list := r.cluster.Role(role)
		known.Server = known.Server && len(list) > 0 && !slices.ContainsFunc(list, func(p *cluster.Process) bool { return !r.knows(p) })
	}
	_, known.Comet = r.grew(cluster.RoleComet)[metricFrames]
	return known
}

// knows reports whether what p used in the measured phase is known.
func (r *run) knows(p *cluster.Process) bool {
	_, unread := r.unread[p.Name]
	_, begin := r.begin.usage[p.Name]
	_, end := r.end.usage[p.Name]
	return !unread && begin && end
}

// grew returns what the metrics of a role's processes grew by in the measured phase, and nil
// where they are not known of all of them.
func (r *run) grew(role string) cluster.Metrics {
	for _, p := range r.cluster.Role(role) {
		if _, unread := r.unread[p.Name]; unread {
			return nil
		}
	}
	return r.end.metrics[role].Minus(r.begin.metrics[role])
}
