package harness

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"barrage/harness/cluster"
	"barrage/harness/ledger"
	"barrage/harness/pusher"
	"barrage/harness/report"
	"barrage/harness/scenario"
	"barrage/harness/swarm"
)

// startTakes is how long the processes take to start on a small machine: for telling a user
// what to expect.
const startTakes = 4 * time.Second

// Explain says in plain words what a run with opt will do, what it needs and has of this
// machine, and about how long it takes.
func Explain(w io.Writer, opt *Options) error {
	s, m := opt.Scenario, opt.machine()
	l, err := newLayout(s)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\n", s.Name, s.Description)
	comets, problem := opt.fits(m)
	if t := opt.Target; t != nil {
		fmt.Fprintf(&b, "It drives a cluster that runs already, and starts none: clients go to %s, pushes to %s.\n",
			listing(slices.Concat(t.TCP, t.WS, t.TCPTLS, t.WSS)), t.Push)
		if len(t.Pages) == 0 {
			b.WriteString("What the cluster uses is left out, as none of its metrics are named.\n")
		}
	} else if err := explainCluster(&b, s, comets); err != nil {
		return err
	}
	b.WriteString(explainNetwork(opt))
	b.WriteString(explainClients(s, l))
	fmt.Fprintf(&b, "\nFor %v, which count for loss and order and not for latency, and then for %v, which are measured, it pushes:\n", s.Phases.Warmup, s.Phases.Measure)
	deliveries := l.deliveries()
	total := int64(0)
	for i, p := range s.Pushes {
		fmt.Fprintf(&b, "  %s\n", explainPush(s, p, deliveries[i]))
		total += deliveries[i]
	}
	if len(s.Pushes) > 1 {
		fmt.Fprintf(&b, "  %s deliveries are measured in all\n", many(total))
	}
	fmt.Fprintf(&b, "Then it waits for what is under way, up to %v.\n", s.Phases.Drain)
	if opt.measuresCeiling() {
		over, allows := "sockets", "the kernel allows"
		if opt.Agents != nil {
			over, allows = "sockets to the agents", "the kernel and the network allow"
		}
		fmt.Fprintf(&b, "At the end a plain send loop over as many %s measures what %s, for about %v.\n", over, allows, ceilingTakes(s).Round(time.Second))
	}
	b.WriteString(explainMetrics(s.Metrics))
	b.WriteString("\nThe run is good when every delivery is accounted for, and:\n")
	for _, t := range s.Expect {
		f, _ := report.FindFigure(t.Figure)
		fmt.Fprintf(&b, "  %s %s %s (%s)\n", t.Figure, t.Relation, f.Unit.Format(t.Value), f.Help)
	}
	if opt.Target == nil {
		holder := "comet"
		if comets.tables > 0 {
			holder = "table"
		}
		fmt.Fprintf(&b, "\nIt needs about %d MiB of memory (%d are available) and %d open files in each %s (the limit is %d).\n",
			m.memoryNeeded(s)>>20, m.available>>20, comets.openFiles(s.Clients.Count), holder, m.openFiles)
	}
	takes := startTakes + s.Clients.Connect.Takes(s.Clients.Count) + s.Phases.Warmup + s.Phases.Measure
	if opt.measuresCeiling() {
		takes += ceilingTakes(s)
	}
	if c := s.Capacity; c != nil {
		fmt.Fprintf(&b, "\nIt looks for the highest rate of %s between %g and %g a second at which all of that holds, by up to %d such runs,\n"+
			"until two rates at most %.3g%% apart are found of which one held and the other did not %d times.\nOne run", s.Pushes[c.Push].Name, c.From, c.To, c.Trials, c.Precision*100, c.Confirm)
	} else {
		b.WriteString("It")
	}
	fmt.Fprintf(&b, " takes about %v, if the clients connect as fast as they are let.\n", takes.Round(time.Second))
	if problem != nil {
		fmt.Fprintf(&b, "\n%v\n", problem)
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// explainCluster says which processes are under test.
func explainCluster(b *strings.Builder, s *scenario.Scenario, f cometPlan) error {
	redis := "Redis and discovery"
	if found, version, err := cluster.Redis(s.Cluster.Redis).Resolve(); err != nil {
		return err
	} else if found == cluster.RedisServer {
		redis = "discovery, redis-server " + version
	}
	fmt.Fprintf(b, "It starts an embedded Kafka, %s, logic, job and %s as processes of their own.\n", redis, report.Plural(max(1, f.comets), "comet"))
	if f.tables > 0 {
		fmt.Fprintf(b, "  comet has its clients in %s of file descriptors\n", report.Plural(f.tables, "table"))
	}
	for _, role := range []struct {
		name     string
		settings []scenario.Setting
	}{{"comet", s.Cluster.Comet}, {"logic", s.Cluster.Logic}, {"job", s.Cluster.Job}} {
		for _, setting := range role.settings {
			fmt.Fprintf(b, "  %s has %s=%s\n", role.name, setting.Key, setting.Value)
		}
	}
	if env := s.Cluster.CometRuntime.Environment(); len(env) > 0 {
		fmt.Fprintf(b, "  comet runs with %s\n", strings.Join(env, " "))
	}
	if slack := s.Cluster.CometRuntime.TimerSlack; slack > 0 {
		fmt.Fprintf(b, "  comet's threads that sleep for a time may wake %v late\n", slack)
	}
	if nice := s.Cluster.CometRuntime.Nice; nice > 0 {
		fmt.Fprintf(b, "  comet stands back behind the others and the clients, once these are connected (nice %d)\n", nice)
	}
	return nil
}

// explainNetwork says where the clients are, and in which network.
func explainNetwork(opt *Options) string {
	s := opt.Scenario
	switch {
	case opt.Agents != nil:
		where := ""
		if opt.Target == nil && opt.Advertise != "" {
			where = fmt.Sprintf(" Comets listen for them on %s.", opt.Advertise)
		}
		return fmt.Sprintf("The clients are at %s (barrage agent), %d for each or one less; their clocks are held against this machine's.%s\n",
			listing(opt.Agents.Addrs), (s.Clients.Count+len(opt.Agents.Addrs)-1)/len(opt.Agents.Addrs), where)
	case opt.Target != nil:
		return ""
	case s.Cluster.Network == report.OwnNetwork:
		return "They and the clients are in a network namespace of their own, which takes root.\n"
	case s.Cluster.Network != report.HostNetwork && s.Clients.Count >= fewForOwnNetwork:
		return "They and the clients are in a network namespace of their own, if this user may make one.\n"
	}
	return ""
}

func explainClients(s *scenario.Scenario, l *layout) string {
	c := &s.Clients
	var b strings.Builder
	fmt.Fprintf(&b, "%s connect, %.0f a second at most", report.Plural(c.Count, "client"), c.Connect.Rate)
	if c.Connect.Over > 0 {
		fmt.Fprintf(&b, " and from %.0f on for the first %v", c.Connect.From, c.Connect.Over)
	}
	var transports []string
	for _, t := range []struct {
		kind ledger.Kind
		name string
	}{{ledger.TCP, "TCP"}, {ledger.WebSocket, "WebSocket"}, {ledger.TCPTLS, "TCP inside TLS"}, {ledger.WSS, "WebSocket inside TLS"}} {
		switch n := l.crowd.of(t.kind); n {
		case 0:
		case c.Count:
			transports = append(transports, "over "+t.name)
		default:
			transports = append(transports, fmt.Sprintf("%s over %s", many(int64(n)), t.name))
		}
	}
	b.WriteString(", " + listing(transports))
	switch {
	case c.Rooms.Count == 0:
		b.WriteString(", in no room")
	case c.Rooms.Count == 1:
		fmt.Fprintf(&b, ", all in the room %s", c.Rooms.Key(0))
	case c.Rooms.Zipf > 0:
		sizes := c.Rooms.Sizes(c.Count)
		fmt.Fprintf(&b, ", in %s rooms of very different sizes (Zipf's law: %s in %s, %s in the last)",
			many(int64(c.Rooms.Count)), many(int64(sizes[0])), c.Rooms.Key(0), many(int64(sizes[len(sizes)-1])))
	default:
		fmt.Fprintf(&b, ", spread evenly over %s rooms (%s ...)", many(int64(c.Rooms.Count)), c.Rooms.Key(0))
	}
	b.WriteString(".\n")
	if c.Rooms.Change > 0 {
		fmt.Fprintf(&b, "Each changes to the next room every %v, and the next time back.\n", c.Rooms.Change)
	}
	b.WriteString(explainBehaviours(c, l))
	if c.Keys < c.Count {
		fmt.Fprintf(&b, "They have %s.\n", report.Plural(c.Keys, "key"))
	}
	if c.Members > 0 {
		fmt.Fprintf(&b, "They are %s.\n", report.Plural(c.Members, "member"))
	}
	if len(c.Accepts) > 0 {
		fmt.Fprintf(&b, "Each accepts the operations %s, and sends a heartbeat every %v.\n", strings.Trim(fmt.Sprint(c.Accepts), "[]"), c.Heartbeat)
	} else {
		fmt.Fprintf(&b, "Each sends a heartbeat every %v.\n", c.Heartbeat)
	}
	return b.String()
}

// explainBehaviours says which clients misbehave.
func explainBehaviours(c *scenario.Clients, l *layout) string {
	var b strings.Builder
	for _, x := range []struct {
		behaviour swarm.Behaviour
		does      string
	}{
		{swarm.SlowReader, fmt.Sprintf("read %s bytes a second; what they get is accounted apart", many(int64(c.Slow.Rate)))},
		{swarm.Stalled, "stop to read once they have joined; what they don't get is accounted apart"},
		{swarm.Churning, fmt.Sprintf("leave after %v in the mean and come back %v later", c.Churn.Lives, c.Churn.Away)},
		{swarm.HalfOpen, fmt.Sprintf("vanish without a word after %v in the mean", c.HalfOpen.Lives)},
	} {
		if n := l.crowd.behaving(x.behaviour); n > 0 {
			fmt.Fprintf(&b, "%s of them %s.\n", many(int64(n)), x.does)
		}
	}
	if s := c.Storm; s.Fraction > 0 {
		how := "close"
		if s.Reset {
			how = "reset"
		}
		fmt.Fprintf(&b, "%.3g%% of the well-behaved ones %s their connections %v after the start of the measured phase, and all come back at once.\n", s.Fraction*100, how, s.At)
	}
	return b.String()
}

// listing joins words: "a, b and c".
func listing(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

func explainMetrics(m scenario.Metrics) string {
	var to []string
	if m.Pushgateway != "" {
		to = append(to, "a Pushgateway")
	}
	if m.RemoteWrite != "" {
		to = append(to, "remote write")
	}
	if len(to) == 0 {
		return ""
	}
	return fmt.Sprintf("All the while its metrics are sent to %s, every %v.\n", strings.Join(to, " and to "), m.Every)
}

// explainPush says what a line pushes; deliveries is how many its measured pushes make.
func explainPush(s *scenario.Scenario, p scenario.Push, deliveries int64) string {
	to := "to everybody who accepts operation " + fmt.Sprint(p.Operation)
	switch p.Kind {
	case pusher.KindRoom:
		to = "to the room"
		if n := len(p.Rooms); n == s.Clients.Rooms.Count && n > 1 {
			to = fmt.Sprintf("to the %s rooms in turn", many(int64(n)))
		} else if n > 1 {
			to = fmt.Sprintf("to %s of the rooms in turn", many(int64(n)))
		}
	case pusher.KindKeys:
		to = fmt.Sprintf("to %s at a time, %s in turn", report.Plural(p.Targets, "key"), report.Plural(p.Groups, "group"))
	case pusher.KindMids:
		to = fmt.Sprintf("to %s at a time, %s in turn", report.Plural(p.Targets, "member"), report.Plural(p.Groups, "group"))
	}
	if p.Speed > 0 {
		to += fmt.Sprintf(", at %d a second over the cluster", p.Speed)
	}
	if p.Via != pusher.ViaHTTP {
		to += fmt.Sprintf(", straight into %s", map[pusher.Via]string{pusher.ViaKafka: "Kafka", pusher.ViaComet: "the comets"}[p.Via])
	}
	return fmt.Sprintf("%s: %s %s %s, by %s: %s deliveries are measured",
		p.Name, p.Schedule, p.Sizes, to, report.Plural(p.Streams(), "sequential sender"), many(deliveries))
}

// deliveries returns how many deliveries the measured pushes of each line make.
func (l *layout) deliveries() []int64 {
	pushes := make(map[uint16]int64)
	for _, p := range l.pushes {
		if !p.WarmUp {
			pushes[p.ID] = int64(p.Pushes)
		}
	}
	receivers := make(map[string]int64)
	var key []byte
	for i := range l.scenario.Clients.Count {
		if l.crowd.behaviour(i).Lags() {
			continue
		}
		key = l.position(key[:0], i, l.crowd.room(i))
		receivers[string(key)]++
	}
	out := make([]int64, len(l.scenario.Pushes))
	for position, clients := range receivers {
		for _, id := range l.receivers[position].IDs() {
			out[l.pushes[id].Line] += clients * pushes[id]
		}
	}
	return out
}

// many writes n with commas.
func many(n int64) string { return report.Count.Format(float64(n)) }
