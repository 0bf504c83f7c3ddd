package compare

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"barrage/harness/report"
)

// warnings says what makes a comparison of the sides doubtful.
func warnings(sides []Side) []string {
	var list []string
	names := callings(sides)
	for i, s := range sides {
		bad := map[string]int{}
		for _, r := range s.Runs {
			if r.Verdict.Status != report.Good {
				bad[r.Verdict.Status]++
			}
		}
		for _, status := range slices.Sorted(maps.Keys(bad)) {
			list = append(list, fmt.Sprintf("%d of %d runs of %s are %s", bad[status], len(s.Runs), names[i], report.StatusWord(status)))
		}
	}
	for _, a := range append(aspects(), settings(sides)) {
		if line := differ(sides, names, a); line != "" {
			list = append(list, line)
		}
	}
	return list
}

// An aspect is something that should be the same in all runs.
type aspect struct {
	name string
	of   func(*report.Run) string
}

// aspects are the environment and the question. The commit is left out: that it differs is
// often the reason to compare, and the table says it.
func aspects() []aspect {
	return []aspect{
		{"the scenario", func(r *report.Run) string { return r.Scenario.Name }},
		{"the scenario's text", func(r *report.Run) string { return r.Scenario.Text }},
		{"what -set changed", func(r *report.Run) string { return strings.Join(r.Scenario.Overrides, ", ") }},
		{"the processor", func(r *report.Run) string { return r.Environment.CPU }},
		{"cores", func(r *report.Run) string { return fmt.Sprint(r.Environment.Cores) }},
		{"memory", func(r *report.Run) string { return report.Bytes.Format(float64(r.Environment.MemoryBytes)) }},
		{"the kernel", func(r *report.Run) string { return r.Environment.Kernel }},
		{"the system", func(r *report.Run) string { return r.Environment.System }},
		{"the Go version", func(r *report.Run) string { return r.Environment.Go }},
		{"the broker", func(r *report.Run) string { return r.Environment.Broker }},
		{"the Redis", func(r *report.Run) string { return r.Environment.Redis }},
		{"the network", func(r *report.Run) string { return cmp.Or(r.Environment.Network, report.HostNetwork) }},
		{"the cluster", cluster},
		{"where the clients were", place},
		{"the agents' machines", agentMachines},
		{"the harness's processors", func(r *report.Run) string { return fmt.Sprint(r.Environment.HarnessProcs) }},
		{"what CPU a delivery is of", deliveries},
		{"the ceiling's sockets", ceiling},
		{"whether profiles were taken", func(r *report.Run) string { return map[bool]string{true: "yes", false: "no"}[profiled(r)] }},
		{"the limit of open files", func(r *report.Run) string { return fmt.Sprint(r.Environment.OpenFilesHard) }},
	}
}

// deliveries says by which a run divides the CPU time: early versions left out what the warm-up had left.
func deliveries(r *report.Run) string {
	if r.Server.Deliveries == 0 && r.Deliveries.Measured.Delivered > 0 {
		return "measured deliveries"
	}
	return "all deliveries of the measured phase"
}

// ceiling says whether the sockets of a run's ceiling were of the clients' transports: early versions had plain ones for those inside TLS.
func ceiling(r *report.Run) string {
	if r.CeilingWithoutTLS() {
		return "plain ones for clients inside TLS"
	}
	return "of the clients' transports"
}

// settings are the kernel's, without those that all runs have alike.
func settings(sides []Side) aspect {
	values := map[string]map[string]bool{}
	runs := Runs(sides)
	for _, r := range runs {
		for name := range r.Environment.KernelSettings {
			values[name] = map[string]bool{}
		}
	}
	for name := range values {
		for _, r := range runs {
			values[name][r.Environment.KernelSettings[name]] = true
		}
	}
	return aspect{"kernel settings", func(r *report.Run) string {
		var list []string
		for _, name := range slices.Sorted(maps.Keys(r.Environment.KernelSettings)) {
			if len(values[name]) > 1 {
				list = append(list, name+"="+r.Environment.KernelSettings[name])
			}
		}
		return strings.Join(list, ", ")
	}}
}

// longName is how long a side's name may be in a warning.
const longName = 40

// callings are what sides are called in warnings: their names, or their letters where a name
// is so long that one would read nothing else.
func callings(sides []Side) (names []string) {
	long := slices.ContainsFunc(sides, func(s Side) bool { return len(s.Name) > longName })
	for i, s := range sides {
		if long {
			names = append(names, letter(i))
		} else {
			names = append(names, s.Name)
		}
	}
	return names
}

// cluster is what a run drove.
func cluster(r *report.Run) string {
	t := r.Target
	if t == nil {
		return "the run's own"
	}
	return fmt.Sprintf("clients at %s, pushes at %s", strings.Join(slices.Concat(t.TCP, t.WebSocket, t.TCPTLS, t.WSS), ", "), t.Push)
}

// place is where a run's clients were.
func place(r *report.Run) string {
	if len(r.Agents) == 0 {
		return "the harness's process"
	}
	hosts := map[string]bool{}
	for _, a := range r.Agents {
		host, _, err := net.SplitHostPort(a.Name)
		if err != nil {
			host = a.Name
		}
		hosts[host] = true
	}
	return fmt.Sprintf("%s on %s", report.Plural(len(r.Agents), "agent"), report.Plural(len(hosts), "machine"))
}

// agentMachines are the kinds of machines that a run's agents had.
func agentMachines(r *report.Run) string {
	kinds := map[string]bool{}
	for i := range r.Agents {
		kinds[r.Agents[i].Environment.Machine()] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(kinds)), " and ")
}

// profiled says whether profiles were asked for, whose taking costs processor time.
func profiled(r *report.Run) bool { return r.Profiles.Taken > 0 || len(r.Profiles.Problems) > 0 }

// differ says in which way the runs differ in an aspect, or nothing. names are what the sides
// are called.
func differ(sides []Side, names []string, a aspect) string {
	whole, shown := map[string]bool{}, map[string]bool{}
	var parts []string
	for i, s := range sides {
		var own []string
		for _, r := range s.Runs {
			v := a.of(r)
			whole[v], shown[short(v)] = true, true
			if !slices.Contains(own, short(v)) {
				own = append(own, short(v))
			}
		}
		parts = append(parts, fmt.Sprintf("%s: %s", names[i], strings.Join(own, " and ")))
	}
	switch {
	case len(whole) == 1:
		return ""
	case len(shown) == 1: // in what is cut off
		return a.name + " differs"
	}
	return fmt.Sprintf("%s differs (%s)", a.name, strings.Join(parts, "; "))
}

// short keeps a value to one line of a report.
func short(v string) string {
	if v == "" {
		return "nothing"
	}
	if line, _, many := strings.Cut(v, "\n"); many {
		v = line + " ..."
	}
	if len(v) > 60 {
		v = v[:57] + "..."
	}
	return v
}
