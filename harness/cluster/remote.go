package cluster

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// RoleUnknown is the role of a target's process that shows nothing by which to tell it.
const RoleUnknown = "server"

// roles are those that a process may have, in the order in which several are named.
func roles() []string { return []string{RoleLogic, RoleJob, RoleComet, RoleServices} }

// Connect returns the target as a cluster without processes of ours: nothing is started, and
// nothing is stopped. What its processes use is known where their metrics are; a page that
// can't be read now is an error.
func Connect(ctx context.Context, t *Target) (*Cluster, error) {
	c := &Cluster{
		Push: t.Push, PushKey: t.PushKey, PushRoots: t.PushRoots, TCP: t.TCP, WS: t.WS, TCPTLS: t.TCPTLS, WSS: t.WSS, stopped: true,
	}
	born := map[string]*Process{} // by the start of its process and its host
	for _, page := range t.Pages {
		p := &Process{pages: []Page{page}, client: newAdminClient(), Name: page.host()}
		m, err := p.Metrics(ctx)
		if err != nil {
			return nil, fmt.Errorf("target: %w", err)
		}
		found := rolesOf(page, m)
		// Several roles may be one process, as in barrage up, each with a page of its own.
		host, _, _ := net.SplitHostPort(page.host())
		key := fmt.Sprint(host, " ", m["process_start_time_seconds"])
		if one := born[key]; one != nil && m["process_start_time_seconds"] > 0 {
			one.pages, one.roles = append(one.pages, page), append(one.roles, found...)
			continue
		}
		p.roles = found
		born[key] = p
		c.processes = append(c.processes, p)
	}
	for _, p := range c.processes {
		p.Role = RoleUnknown
		if len(p.roles) > 0 {
			p.Role = ""
			for _, role := range roles() {
				if slices.Contains(p.roles, role) {
					p.Role = strings.TrimPrefix(p.Role+"+"+role, "+")
				}
			}
		}
		p.Name = p.Role + "@" + p.pages[0].host()
	}
	return c, nil
}

// rolesOf returns the role that a page was given with, or the roles that its metrics tell.
func rolesOf(page Page, m Metrics) (found []string) {
	if page.Role != "" {
		return []string{page.Role}
	}
	for _, role := range roles() {
		for series := range m {
			if strings.HasPrefix(series, "barrage_"+role+"_") {
				found = append(found, role)
				break
			}
		}
	}
	return found
}

// Remote reports whether p is a process of a target, of which only its metrics are known.
func (p *Process) Remote() bool { return len(p.pages) > 0 }

// Profiled reports whether p is a process of a target of which only its profiles are known.
func (p *Process) Profiled() bool { return p.Remote() && p.pages[0].Profiles }

// Here reports whether p runs on this machine for sure.
func (p *Process) Here() bool {
	if !p.Remote() {
		return true
	}
	host, _, _ := net.SplitHostPort(p.pages[0].host())
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// usageOf returns what a process has used by its own metrics, and false where they don't say.
// User and system time are not known apart.
func usageOf(m Metrics) (Usage, bool) {
	cpu, ok := m["process_cpu_seconds_total"]
	if !ok {
		return Usage{}, false
	}
	return Usage{System: time.Duration(cpu * float64(time.Second)), RSS: int64(m["process_resident_memory_bytes"])}, true
}
