package scenario

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

// A form is how the value of a field is written.
type form string

// The forms. The first six are mappings and lists, the others scalars.
const (
	formObject     form = "object"
	formList       form = "list"
	formSettings   form = "settings"   // configuration keys of a role to values
	formThresholds form = "thresholds" // names of figures to thresholds
	formNumbers    form = "numbers"    // a list of whole numbers
	formRanges     form = "ranges"     // a list of whole numbers and of ranges of them, 3-7

	formText     form = "text"
	formWhole    form = "whole number"
	formFraction form = "fraction"
	formRate     form = "rate"
	formSize     form = "size"
	formByteRate form = "bytes a second"
	formDuration form = "duration"
	formSwitch   form = "switch"
)

// A field is what one field of a scenario may hold. The table of all fields is what the
// reader checks against, and what the JSON schema and the reference are written from.
type field struct {
	path   string // clients.rooms.count; * stands for an element of a list
	form   form
	least  string   // the accepted range, in the field's own form; both empty where it has none
	most   string   // where the scenario itself bounds it further, the reader knows
	absent string   // what holds when it is not there; empty: nothing, zero
	needed bool     // it must be there, wherever the mapping around it is
	words  []string // accepted instead of a value of the form
	help   string   // what it is, one sentence or two
}

// fields is every field of a scenario, in the order in which the reference shows them.
var fields = []field{
	{path: "name", form: formText, needed: true, help: "Names the scenario and the folder of its results: small letters, digits, dots and dashes, 63 at most."},
	{path: "description", form: formText, help: "The question that the run answers, in a sentence."},

	{path: "cluster", form: formObject, help: "The processes under test. With -target it is not used."},
	{path: "cluster.comets", form: formWhole, least: "1", most: "256", absent: "1", words: []string{"auto"}, help: "How many comets; auto takes as many as the limit of open files needs, which is one where each has tables: auto."},
	{path: "cluster.tables", form: formWhole, least: "0", most: "1024", absent: "0", words: []string{"auto"}, help: "Tables of file descriptors in each comet (limit.descriptorTables): the limit of open files holds for each, so that a comet has more clients than that. auto takes as many as the clients need. 0 is the process's own, without limit.descriptorTables. Not for clients inside TLS."},
	{path: "cluster.redis", form: formText, absent: "embedded", words: []string{"embedded", "server", "auto"}, help: "Where logic keeps sessions: the embedded Redis of the services process; redis-server from the PATH; or that where it is installed and else the embedded one."},
	{path: "cluster.network", form: formText, absent: "auto", words: []string{"auto", "host", "own"}, help: "Which network the processes and the clients are in: the machine's (host); a network namespace of their own, where the kernel's table of connections is as large as they need (own, which takes root, and goes with neither agents nor metrics that others read or are sent); or that from 100,000 clients on where it can be had, and else the machine's."},
	{path: "cluster.comet", form: formSettings, help: "Settings of every comet over its defaults, by their keys (room.minInterval: 10ms)."},
	{path: "cluster.comet_runtime", form: formObject, help: "What Go's runtime of each comet may take: many comets on one machine get along better when each keeps to a part."},
	{path: "cluster.comet_runtime.procs", form: formWhole, least: "1", most: "1024", help: "Processors that it uses at a time (GOMAXPROCS). Without it, all; a comet with tables of descriptors then has one more, and a place for each table's thread."},
	{path: "cluster.comet_runtime.gc", form: formWhole, least: "5", most: "10000", help: "By how much of itself, in percent, the heap grows until the next collection (GOGC). Without it, comet's own, 50."},
	{path: "cluster.comet_runtime.memory", form: formSize, least: "16777216B", most: "1099511627776B", help: "Memory above which it collects more eagerly (GOMEMLIMIT). Without it there is no such bound."},
	{path: "cluster.comet_runtime.nice", form: formWhole, least: "0", most: "19", absent: "0", help: "How far the comets stand back (nice), once the clients are connected, behind logic, job, the broker, the pusher and the clients: where all are on a few processors, the former have next to nothing to do and must not wait for it, and what the clients don't read as fast as the comets write fills the kernel's memory."},
	{path: "cluster.comet_runtime.timer_slack", form: formDuration, least: "50us", most: "10ms", help: "How late the kernel may wake a thread of a comet that sleeps for a time (PR_SET_TIMERSLACK). Go's runtime has a thread in each process that sleeps for 20 us at a time; of fifty processes they take a tenth of two processors. Without it the kernel's, 50 us."},
	{path: "cluster.logic", form: formSettings, help: "Settings of logic."},
	{path: "cluster.job", form: formSettings, help: "Settings of job."},

	{path: "clients", form: formObject, needed: true, help: "The simulated clients."},
	{path: "clients.count", form: formWhole, least: "1", most: "10000000", needed: true, help: "Sockets."},
	{path: "clients.connect_rate", form: formRate, least: "1/s", most: "1000000/s", absent: "5000/s", help: "New connections a second at most; with connect_ramp, where the ramp ends."},
	{path: "clients.connect_ramp", form: formObject, help: "Lets the rate of new connections grow evenly up to connect_rate."},
	{path: "clients.connect_ramp.from", form: formRate, least: "1/s", most: "1000000/s", needed: true, help: "The rate at the start."},
	{path: "clients.connect_ramp.over", form: formDuration, least: "100ms", most: "1h0m0s", needed: true, help: "How long it takes to reach connect_rate."},
	{path: "clients.connect_pending", form: formWhole, least: "1", most: "1000000", absent: "128", help: "Connects and logins under way at a time, at most. As many as there are clients, with a high connect_rate, is all at once."},
	{path: "clients.heartbeat", form: formDuration, least: "1s", most: "1h0m0s", absent: "1m0s", help: "Between two heartbeats of a client."},
	{path: "clients.transport", form: formObject, help: "Fractions of the clients that add up to 1. Without it all are on TCP."},
	{path: "clients.transport.tcp", form: formFraction, least: "0", most: "1", absent: "0", help: "On TCP."},
	{path: "clients.transport.ws", form: formFraction, least: "0", most: "1", absent: "0", help: "On WebSocket."},
	{path: "clients.transport.tcp+tls", form: formFraction, least: "0", most: "1", absent: "0", help: "On TCP inside TLS."},
	{path: "clients.transport.wss", form: formFraction, least: "0", most: "1", absent: "0", help: "On WebSocket inside TLS."},
	{path: "clients.rooms", form: formObject, help: "The rooms that the clients are spread over. Without it they are in no room."},
	{path: "clients.rooms.count", form: formWhole, least: "1", most: "10000000", needed: true, help: "Rooms, at most as many as clients."},
	{path: "clients.rooms.type", form: formText, absent: "live", help: "The part of a room's key before \"://\": letters, digits, _ and -, 32 at most."},
	{path: "clients.rooms.zipf", form: formFraction, least: "0", most: "3", absent: "0", help: "The exponent of Zipf sizes: room n has 1/n^zipf as many clients as room 1, and at least one; 0 makes all rooms the same size."},
	{path: "clients.rooms.change", form: formDuration, least: "1s", most: "1h0m0s", help: "How often each client changes to the next room and, the next time, back. Without it nobody changes rooms."},
	{path: "clients.members", form: formWhole, least: "0", most: "10000000", absent: "0", help: "Distinct member ids that the clients are spread over, so that a member has several sessions; 0 for none."},
	{path: "clients.keys", form: formWhole, least: "0", most: "10000000", absent: "0", help: "Distinct keys that the clients are spread over, so that a key has several sessions (logic's session.maxPerKey must let it); 0 for one of its own for each client."},
	{path: "clients.accepts", form: formNumbers, least: "1000", most: "2147483647", help: "Operations that each client accepts."},
	{path: "clients.receive_buffer", form: formSize, least: "2048B", most: "16777216B", help: "SO_RCVBUF of the clients' sockets. Without it the kernel decides."},
	{path: "clients.slow", form: formObject, help: "Clients that read slowly. What they are sent is accounted apart: it is not lost when the server skips it."},
	{path: "clients.slow.fraction", form: formFraction, least: "0", most: "1", needed: true, help: "Of the clients."},
	{path: "clients.slow.rate", form: formByteRate, least: "1B/s", most: "1073741824B/s", needed: true, help: "Bytes that each of them reads a second."},
	{path: "clients.stalled", form: formObject, help: "Clients that stop to read once they have joined, and go on to send heartbeats."},
	{path: "clients.stalled.fraction", form: formFraction, least: "0", most: "1", needed: true, help: "Of the clients."},
	{path: "clients.churn", form: formObject, help: "Clients that leave after a drawn time and come back."},
	{path: "clients.churn.fraction", form: formFraction, least: "0", most: "1", needed: true, help: "Of the clients."},
	{path: "clients.churn.lives", form: formDuration, least: "100ms", most: "24h0m0s", needed: true, help: "How long they stay, in the mean: drawn from an exponential distribution."},
	{path: "clients.churn.away", form: formDuration, least: "0s", most: "24h0m0s", absent: "1s", help: "How long they are away, in the mean."},
	{path: "clients.half_open", form: formObject, help: "Clients that vanish after a drawn time without a word to the server: no FIN, no RST, and nothing is acknowledged any more."},
	{path: "clients.half_open.fraction", form: formFraction, least: "0", most: "1", needed: true, help: "Of the clients."},
	{path: "clients.half_open.lives", form: formDuration, least: "100ms", most: "24h0m0s", needed: true, help: "How long they stay, in the mean."},
	{path: "clients.storm", form: formObject, help: "A moment at which many clients lose their connection and all come back at once."},
	{path: "clients.storm.fraction", form: formFraction, least: "0", most: "1", absent: "1", help: "Of the clients that have none of the other behaviours."},
	{path: "clients.storm.at", form: formDuration, least: "0s", most: "24h0m0s", needed: true, help: "When, from the start of the measured phase."},
	{path: "clients.storm.reset", form: formSwitch, absent: "false", help: "They leave with a RST, as behind a proxy that died, and not with a FIN."},

	{path: "pushes", form: formList, needed: true, help: "Lines of pushes; each has receivers of one kind and its own rate. At least one."},
	{path: "pushes.*", form: formObject, help: "A line of pushes."},
	{path: "pushes.*.name", form: formText, help: "Names it in the report; without it the kind does."},
	{path: "pushes.*.kind", form: formText, needed: true, words: kindNames(), help: "How a push names its receivers."},
	{path: "pushes.*.operation", form: formWhole, least: "1000", most: "2147483647", needed: true, help: "The operation; lower ones are the protocol's own."},
	{path: "pushes.*.rate", form: formRate, least: "0.01/s", most: "100000/s", help: "Pushes a second, of the whole line. One of rate, ramp, burst, poisson and steps is needed."},
	{path: "pushes.*.ramp", form: formObject, help: "A rate that grows or falls evenly. The warm-up has the rate of the start."},
	{path: "pushes.*.ramp.from", form: formRate, least: "0/s", most: "100000/s", needed: true, help: "The rate at the start of the measured phase."},
	{path: "pushes.*.ramp.to", form: formRate, least: "0/s", most: "100000/s", needed: true, help: "The rate at the end; one of the two may be 0."},
	{path: "pushes.*.ramp.over", form: formDuration, least: "1ms", most: "24h0m0s", help: "How long it takes, the measured phase where it is not there; from then on the rate stays."},
	{path: "pushes.*.burst", form: formObject, help: "Several pushes at the same instant, again and again."},
	{path: "pushes.*.burst.pushes", form: formWhole, least: "1", most: "1000000", needed: true, help: "How many at a time."},
	{path: "pushes.*.burst.every", form: formDuration, least: "1ms", most: "24h0m0s", needed: true, help: "How often."},
	{path: "pushes.*.poisson", form: formRate, least: "0.01/s", most: "100000/s", help: "Pushes that come independently of each other, as those of many users do, at this rate in the mean."},
	{path: "pushes.*.steps", form: formList, help: "One rate after the other in the measured phase. The warm-up has the first."},
	{path: "pushes.*.steps.*", form: formObject, help: "A rate and how long it lasts; the last one goes on."},
	{path: "pushes.*.steps.*.rate", form: formRate, least: "0.01/s", most: "100000/s", needed: true, help: "Pushes a second."},
	{path: "pushes.*.steps.*.for", form: formDuration, least: "1ms", most: "24h0m0s", needed: true, help: "How long."},
	{path: "pushes.*.size", form: formSize, least: "16B", most: "1048576B", help: "Bytes of a body, of which 16 carry the stream, the sequence number and the intended time. A frame is 16 more. One of size and sizes is needed."},
	{path: "pushes.*.sizes", form: formObject, help: "Bodies of drawn sizes: with min and max all sizes between them alike, with mean and max many small and few large ones (exponential)."},
	{path: "pushes.*.sizes.min", form: formSize, least: "16B", most: "1048576B", help: "The smallest size."},
	{path: "pushes.*.sizes.mean", form: formSize, least: "16B", most: "1048576B", help: "The mean size, in the lower half of what is possible."},
	{path: "pushes.*.sizes.max", form: formSize, least: "16B", most: "1048576B", needed: true, help: "The largest size."},
	{path: "pushes.*.seed", form: formWhole, least: "0", most: "2147483647", absent: "1", help: "Of what is drawn: the same seed draws the same times and sizes."},
	{path: "pushes.*.via", form: formText, absent: "http", words: viaNames(), help: "The way in: the push API, as an application does it; or past logic, straight into Kafka; or past job too, straight into every comet. The latter two for kinds room and all."},
	{path: "pushes.*.senders", form: formWhole, least: "1", most: "1024", help: "Sequential senders to each room or group. Without it, by the rate: one for every 50 pushes a second or for every push of a burst, up to 64; one alone via kafka, which keeps the order of what is under way."},
	{path: "pushes.*.rooms", form: formRanges, least: "1", most: "10000000", absent: "all", words: []string{"all"}, help: "Kind room: the numbers of the rooms that take turns, [1, 3-7] for six of them."},
	{path: "pushes.*.targets", form: formWhole, least: "1", most: "1000", absent: "1", help: "Kinds keys and mids: how many a push names."},
	{path: "pushes.*.groups", form: formWhole, least: "1", most: "30000", absent: "1", help: "Kinds keys and mids: disjoint sets of targets that take turns."},
	{path: "pushes.*.speed", form: formWhole, least: "0", most: "2147483647", absent: "0", help: "Kind all: messages a second over the cluster; 0 sends at once."},

	{path: "mode", form: formText, words: []string{modeAuto, modeRun, modeCapacity}, absent: modeAuto, help: "run makes one run at the rates that the lines of pushes have, capacity looks for the highest rate that holds; auto does that where there is a capacity below."},
	{path: "capacity", form: formObject, help: "Looks for the highest rate at which everything expected still holds, by runs at one rate each: a bracket of a rate that holds and one that does not."},
	{path: "capacity.push", form: formText, help: "The name of the line of pushes whose rate is looked for; without it the first."},
	{path: "capacity.from", form: formRate, least: "0.01/s", most: "100000/s", needed: true, help: "The lowest rate that is tried, and the first."},
	{path: "capacity.to", form: formRate, least: "0.01/s", most: "100000/s", needed: true, help: "The highest."},
	{path: "capacity.precision", form: formFraction, least: "0.01", most: "1", absent: "0.1", help: "How far apart the ends of the bracket may lie, as a part of the lower one."},
	{path: "capacity.confirm", form: formWhole, least: "1", most: "20", absent: "3", help: "Runs that each end must have had, all with the same outcome."},
	{path: "capacity.trials", form: formWhole, least: "1", most: "200", absent: "30", help: "Runs in all, at most."},

	{path: "phases", form: formObject, needed: true, help: "How long the parts of the run take."},
	{path: "phases.warmup", form: formDuration, least: "0s", most: "1h0m0s", absent: "3s", help: "Pushes that count for loss and order, and not for latency."},
	{path: "phases.measure", form: formDuration, least: "1s", most: "24h0m0s", needed: true, help: "Pushes that count for everything."},
	{path: "phases.drain", form: formDuration, least: "1s", most: "1h0m0s", absent: "10s", help: "How long at most what is under way at the end is waited for."},

	{path: "expect", form: formThresholds, help: "Thresholds on figures, which make the verdict and the exit status. Of lost, duplicate and reordered 0 is expected where nothing is said."},

	{path: "valid", form: formObject, help: "Bounds past which the harness or the machine, and not the server, may have made the figures: the run is then invalid."},
	{path: "valid.swarm_busy", form: formFraction, least: "0.01", most: "1", absent: "0.95", help: "Busy fraction of the busiest swarm thread, in the mean of the measured phase."},
	{path: "valid.swarm_starved", form: formFraction, least: "0.01", most: "1", absent: "0.5", help: "The part of the measured phase in which the swarm thread that fared worst had work and no processor, in the mean."},
	{path: "valid.read_lag", form: formFraction, least: "0.001", most: "10", absent: "0.25", help: "The swarm's read lag, 99th percentile, as a part of the latency's."},
	{path: "valid.hiccups", form: formFraction, least: "0", most: "1", absent: "0.01", help: "The part of the measured phase in which the harness or an agent stood still, in gaps of 50 ms and more."},
	{path: "valid.pusher_lag", form: formDuration, least: "100µs", most: "1m0s", absent: "25ms", help: "How late pushes were sent, less the wait for the acknowledgement of earlier ones, 99th percentile."},
	{path: "valid.other_cpu", form: formFraction, least: "0", most: "1", absent: "0.1", help: "Processor time of processes that are no part of the run, of the machine's."},
	{path: "valid.steal", form: formFraction, least: "0", most: "1", absent: "0.05", help: "Processor time that the hypervisor gave to others, of the machine's."},
	{path: "valid.clock_error", form: formFraction, least: "0", most: "10", absent: "0.1", help: "By how much an agent's clock may put latencies wrong, of their median; 1 ms is always accepted."},
	{path: "valid.packets_dropped", form: formFraction, least: "0", most: "1", absent: "0.001", help: "Packets that the machine dropped since a processor's queue of them (net.core.netdev_max_backlog) was full, of all that came in."},
	{path: "valid.memory_wait", form: formFraction, least: "0", most: "1", absent: "0.05", help: "The part of the time in which some task waited for memory."},

	{path: "metrics", form: formObject, help: "Where the harness' own metrics are sent to while the run goes on. A failure is a warning in the result. One of the two is needed."},
	{path: "metrics.pushgateway", form: formText, help: "The URL of a Prometheus Pushgateway, without /metrics/job."},
	{path: "metrics.remote_write", form: formText, help: "The URL that takes Prometheus' remote write, with its path."},
	{path: "metrics.every", form: formDuration, least: "1s", most: "1h0m0s", absent: "10s", help: "Between two sends."},
}

var listIndex = regexp.MustCompile(`\.[0-9]+(\.|$)`)

// fieldAt returns the field of a path in a scenario (pushes.3.rate).
func fieldAt(path string) (field, bool) {
	general := listIndex.ReplaceAllString(path, ".*$1")
	for _, f := range fields {
		if f.path == general {
			return f, true
		}
	}
	return field{}, false
}

// below returns the fields right below path, "" for those at the top.
func below(path string) []field {
	prefix := path + "."
	if path == "" {
		prefix = ""
	}
	var list []field
	for _, f := range fields {
		if rest, ok := strings.CutPrefix(f.path, prefix); ok && rest != "" && !strings.Contains(rest, ".") {
			list = append(list, f)
		}
	}
	return list
}

// A bounded is a field's range and default as values.
type bounded[T cmp.Ordered] struct{ least, most, absent T }

// boundsOf reads the range of the field at path. A field that is not in the table, or that
// doesn't say its range in its own form, is a mistake of this package, which its test finds.
func boundsOf[T cmp.Ordered](path string, u unit[T]) (field, bounded[T]) {
	f, ok := fieldAt(path)
	var b bounded[T]
	for _, v := range []struct {
		text string
		to   *T
	}{{f.least, &b.least}, {f.most, &b.most}, {f.absent, &b.absent}} {
		if v.text == "" {
			continue
		}
		var err error
		if *v.to, err = u.parse(v.text); err != nil {
			ok = false
		}
	}
	if !ok {
		panic(fmt.Sprintf("scenario: the table of fields has no range of %s", path))
	}
	return f, b
}
