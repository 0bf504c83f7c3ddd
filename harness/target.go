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
	known := &report.Target{TCP: t.TCP, WebSocket: t.WS, TCPTLS: t.TCPTLS, WSS: t.WSS, Push: t.Push, Metrics: []string{}, Profiled: []string{}, Problems: []string{}}
	for _, page := range t.Pages {
		known.Metrics = append(known.Metrics, report.Shown(page.URL))
	}
	for _, name := range slices.Sorted(maps.Keys(r.unread)) {
		known.Problems = append(known.Problems, r.unread[name])
	}
	known.Server = true
	for _, role := range []string{cluster.RoleComet, cluster.RoleLogic, cluster.RoleJob} {
		list := r.cluster.Role(role)
		known.Server = known.Server && len(list) > 0 && !slices.ContainsFunc(list, func(p *cluster.Process) bool { return !r.knows(p) })
	}
	known.Comet = len(r.grew(cluster.RoleComet)) > 0
	for _, p := range r.cluster.Processes() {
		if p.Profiled() {
			known.Profiled = append(known.Profiled, p.Name)
		}
	}
	for _, p := range r.cluster.Role(cluster.RoleComet) {
		_, counts := r.final[p.Name][metricFrames]
		known.Comet = known.Comet && counts
	}
	return known
}

// knows reports whether what p used in the measured phase is known.
func (r *run) knows(p *cluster.Process) bool {
	_, unread := r.unread[p.Name]
	_, begin := r.begin.usage[p.Name]
	_, end := r.end.usage[p.Name]
	_, profiled := r.profiled[p.Name]
	return !unread && (begin && end || profiled)
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
