// Package report is the result of a run: one value, written as run.json and as text for a
// terminal. Everything that either shows is in the value, so a stored run can be shown
// again.
package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Schema is the version of run.json. It grows when a field changes its meaning or goes
// away; new fields leave it as it is.
const Schema = 1

// A Run is run.json. Times are seconds and sizes bytes unless a name says otherwise.
// "Measured" is the phase behind the warm-up, and what was pushed in it; where a rate is
// given over it, the time until its last delivery is part of it.
type Run struct {
	Schema   int       `json:"schema"`
	Scenario Scenario  `json:"scenario"`
	Started  time.Time `json:"started"` // UTC
	Ended    time.Time `json:"ended"`
	Command  []string  `json:"command"` // that made the run
	Verdict  Verdict   `json:"verdict"`

	Target      *Target     `json:"target,omitempty"` // absent when the cluster was the run's own
	Environment Environment `json:"environment"`
	Clients     Clients     `json:"clients"`
	Behaviour   *Behaviour  `json:"behaviour,omitempty"`
	Pushes      Pushes      `json:"pushes"`
	Deliveries  Deliveries  `json:"deliveries"`
	Latency     Latency     `json:"latency"`
	Stages      []Stage     `json:"stages"` // where a push's time went
	Fairness    *Fairness   `json:"fairness,omitempty"`
	Processes   []Process   `json:"processes"`
	Server      Server      `json:"server"`
	Comet       Comet       `json:"comet"`
	Job         *Job        `json:"job,omitempty"`     // absent where job's counters aren't known
	Ceiling     *Ceiling    `json:"ceiling,omitempty"` // absent when it was not measured
	// CeilingProblem is why the ceiling could not be measured where it was to be. What else was
	// measured is none the worse for it.
	CeilingProblem string      `json:"ceiling_problem,omitempty"`
	Swarm          Swarm       `json:"swarm"`
	Agents         []Agent     `json:"agents,omitempty"` // absent where the clients were in the harness's process
	Disturbance    Disturbance `json:"disturbance"`
	Memory         *Memory     `json:"memory,omitempty"` // absent from runs before it was read
	Timeline       []Second    `json:"timeline"`
	Profiles       Profiles    `json:"profiles"`
	Warnings       []string    `json:"warnings,omitempty"` // what went wrong beside the run; no figure is the worse for it
}

// Target is a cluster that ran already. Of its processes as much is known as their metrics say,
// and the environment is that of the harness.
type Target struct {
	TCP       []string `json:"tcp"`
	WebSocket []string `json:"websocket"`
	TCPTLS    []string `json:"tcp_tls,omitempty"`
	WSS       []string `json:"wss,omitempty"`
	Push      string   `json:"push"`
	Metrics   []string `json:"metrics"`  // the pages that were read
	Profiled  []string `json:"profiled"` // processes whose CPU time is by a profile of the measured phase, and whose RSS is not known
	Server    bool     `json:"server"`   // what comet, logic and job used is known
	Comet     bool     `json:"comet"`    // comet's own counters are
	Problems  []string `json:"problems"` // pages that could not be read: what they would have told is left out
}

// knowsServer reports whether it is known what comet, logic and job used.
func (r *Run) knowsServer() bool { return r.Target == nil || r.Target.Server }

// knowsComet reports whether comet's counters are known.
func (r *Run) knowsComet() bool { return r.Target == nil || r.Target.Comet }

// CeilingWithoutTLS says that the ceiling had plain sockets in the place of clients inside TLS,
// as that of early versions.
func (r *Run) CeilingWithoutTLS() bool {
	return r.Ceiling != nil && r.Ceiling.TLS == 0 && r.Clients.TCPTLS+r.Clients.WSS > 0
}

// Profiles says what lies in the folder profiles/ beside run.json.
type Profiles struct {
	Taken    int      `json:"taken"`    // files; 0 when none were asked for
	Problems []string `json:"problems"` // what is missing
}

// Scenario is what was to be done.
type Scenario struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	File        string   `json:"file"`
	Text        string   `json:"text"`      // the file, byte for byte
	Overrides   []string `json:"overrides"` // what -set changed
}

// The statuses of a verdict.
const (
	Good     = "good"      // the ledger balances and every expectation holds
	Failed   = "failed"    // one does not
	Invalid  = "invalid"   // the harness or the machine may have made the figures: they say nothing of the server
	CutShort = "cut_short" // the run was interrupted: the figures are of the part before
)

// StatusWord is a verdict's status as it is written for people: CUT SHORT.
func StatusWord(status string) string {
	return strings.ToUpper(strings.ReplaceAll(status, "_", " "))
}

// Verdict is whether the run was good, and if not every reason.
type Verdict struct {
	Status  string   `json:"status"`
	Doubts  []string `json:"doubts"`  // why it is invalid
	Reasons []string `json:"reasons"` // why it failed, or would have
	Checks  []Check  `json:"checks"`  // what the scenario expects
}

// What Environment.Network says.
const (
	HostNetwork = "host" // the machine's
	OwnNetwork  = "own"  // a network namespace of the run's
)

// Environment is the machine and the binary.
type Environment struct {
	CPU            string            `json:"cpu"`
	Cores          int               `json:"cores"`
	MemoryBytes    int64             `json:"memory_bytes"`
	Kernel         string            `json:"kernel"`
	System         string            `json:"system"`
	Go             string            `json:"go"`
	Commit         string            `json:"commit"` // "" where unknown; ends in -dirty for uncommitted changes
	OpenFilesSoft  uint64            `json:"open_files_soft"`
	OpenFilesHard  uint64            `json:"open_files_hard"`
	KernelSettings map[string]string `json:"kernel_settings"`   // sysctl name to value
	Broker         string            `json:"broker"`            // what stood in for Kafka
	Redis          string            `json:"redis"`             // what logic kept its sessions in
	Network        string            `json:"network,omitempty"` // "own": a network namespace of the run's; "" and "host": the machine's
	HarnessProcs   int               `json:"harness_gomaxprocs"`
}

// Machine names the processor, the cores and the memory.
func (e *Environment) Machine() string {
	return fmt.Sprintf("%s, %s, %s", e.CPU, Plural(e.Cores, "core"), size(float64(e.MemoryBytes)))
}

// Clients is who connected, and how fast.
type Clients struct {
	Count             int          `json:"count"`
	TCP               int          `json:"tcp"`
	WebSocket         int          `json:"websocket"`
	TCPTLS            int          `json:"tcp_tls"` // inside TLS
	WSS               int          `json:"wss"`
	Rooms             int          `json:"rooms"`
	Joined            int64        `json:"joined"`
	Failed            int64        `json:"failed"`
	ClosedEarly       int64        `json:"closed_early"` // joined, and then lost
	ConnectSeconds    float64      `json:"connect_seconds"`
	JoinedPerSecond   float64      `json:"joined_per_second"`
	WantedPerSecond   float64      `json:"wanted_per_second"`
	ConnectToJoined   Percentiles  `json:"connect_to_joined"`
	Failures          []CauseCount `json:"failures"`
	EarlyCloses       []CauseCount `json:"early_closes"`
	HeartbeatsSent    int64        `json:"heartbeats_sent"`
	ControlFramesRead int64        `json:"control_frames_read"`
}

// A CauseCount is how often something went wrong for one cause, with the first examples.
type CauseCount struct {
	Cause    string   `json:"cause"`
	Count    int64    `json:"count"`
	Examples []string `json:"examples"`
}

// Pushes is what the pusher did.
type Pushes struct {
	Measured PushCounts  `json:"measured"`
	WarmUp   PushCounts  `json:"warm_up"`
	Lines    []PushLine  `json:"lines"`
	Lag      Percentiles `json:"lag"` // intended time to the beginning of the request
	Own      Percentiles `json:"own"` // of Lag, what was no wait for the acknowledgement of a push before: the pusher's own
	Ack      Percentiles `json:"ack"` // beginning of the request to the acknowledgement
	Errors   []string    `json:"errors"`
}

// PushCounts is what became of pushes. Each that was sent is in one of the last three.
type PushCounts struct {
	Intended     int64 `json:"intended"`
	Sent         int64 `json:"sent"`
	Acknowledged int64 `json:"acknowledged"`
	Failed       int64 `json:"failed"`
	Unknown      int64 `json:"unknown"` // no answer
}

// A PushLine is one line of pushes of the scenario, measured.
type PushLine struct {
	Name       string     `json:"name"`
	Kind       string     `json:"kind"`
	Rate       float64    `json:"rate_per_second"` // in the mean
	Schedule   string     `json:"schedule"`
	BodyBytes  int        `json:"body_bytes"` // in the mean
	Bodies     string     `json:"bodies"`
	Via        string     `json:"via"`     // the way in: http, kafka, comet
	Streams    int        `json:"streams"` // sequential senders over all rooms or groups
	Pushes     PushCounts `json:"pushes"`
	Deliveries Counts     `json:"deliveries"`

	Latency Percentiles `json:"latency"` // to each client's receipt

	Lag Percentiles `json:"lag"` // as in Pushes
	Ack Percentiles `json:"ack"`

	Steps []PushStep `json:"steps,omitempty"` // of a line whose rate goes in steps
}

// A PushStep is a part of a line's measured pushes, at a rate of its own.
type PushStep struct {
	Rate       float64     `json:"rate_per_second"`
	Start      float64     `json:"start"`   // from the beginning of the measured phase
	Seconds    float64     `json:"seconds"` // how long pushes were due
	Pushes     PushCounts  `json:"pushes"`
	Deliveries Counts      `json:"deliveries"`
	Latency    Percentiles `json:"latency"` // to each client's receipt
}

// Counts are the ledger's figures. Expected is Delivered + Lost.
type Counts struct {
	Expected   int64            `json:"expected"`
	Delivered  int64            `json:"delivered"`
	Lost       int64            `json:"lost"`
	Duplicate  int64            `json:"duplicate"`
	Reordered  int64            `json:"reordered"`
	Unknown    int64            `json:"unknown"` // receipts of pushes of unknown fate: in no other figure
	Unexpected map[string]int64 `json:"unexpected"`
}

// Deliveries is what arrived.
type Deliveries struct {
	Measured  Counts  `json:"measured"`
	WarmUp    Counts  `json:"warm_up"`
	Seconds   float64 `json:"seconds"` // from the first measured push to the last measured receipt
	PerSecond float64 `json:"per_second"`
	Drained   bool    `json:"drained"`       // everything was there before the drain's end
	DrainTime float64 `json:"drain_seconds"` // from the schedule's end until then
	Bytes     int64   `json:"bytes"`         // that the swarm read over the whole run

	Losses []string `json:"losses"` // the first of them: who, and what
	// The kernel's own count of Bytes, from its sockets. Those of KernelUncounted clients,
	// whose connection was reset, are in Bytes alone.
	KernelBytes     int64 `json:"kernel_bytes"`
	KernelUncounted int64 `json:"kernel_uncounted"`
	// What comet wrote to clients by its own count. Replies to heartbeats that were under
	// way at the end are in it, and not yet in Bytes.
	CometBytes int64 `json:"comet_bytes"`

	// Comet's own count of frames over the whole run, to hold against the ledger's.
	// A target may have other clients, whose frames are in it; 0 where it isn't known.
	CometFrames  int64 `json:"comet_frames"`
	LedgerFrames int64 `json:"ledger_frames"`
}

// Latency is the time from a push's intended time on, of measured pushes.
type Latency struct {
	All       Percentiles `json:"all"` // to each client's receipt
	TCP       Percentiles `json:"tcp"`
	WebSocket Percentiles `json:"websocket"`
	TCPTLS    Percentiles `json:"tcp_tls"`
	WSS       Percentiles `json:"wss"`
	First     Percentiles `json:"first_receipt"` // to the first client's, a value a push
	Last      Percentiles `json:"last_receipt"`  // to the last client's, a value a push
	Spread    Percentiles `json:"spread"`        // from the first client's receipt to the last one's, a value a push
	Curve     []Point     `json:"curve"`         // the distribution of All
}

// Percentiles sum a histogram up, in seconds.
type Percentiles struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
}

// PercentilesOf returns the percentiles of a histogram of nanoseconds; nil has none.
func PercentilesOf(h *hdrhistogram.Histogram) Percentiles {
	if h == nil || h.TotalCount() == 0 {
		return Percentiles{}
	}
	at := func(q float64) float64 { return time.Duration(h.ValueAtQuantile(q)).Seconds() }
	return Percentiles{
		Count: h.TotalCount(), Mean: h.Mean() / 1e9,
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: time.Duration(h.Max()).Seconds(),
	}
}

// A Process is what one process used.
type Process struct {
	Name         string  `json:"name"`
	Role         string  `json:"role"`
	Server       bool    `json:"server"`         // counts for the server's figures: comet, logic, job
	CPUSeconds   float64 `json:"cpu_seconds"`    // measured
	UserSeconds  float64 `json:"user_seconds"`   // of it; 0 of a target's process, which doesn't say
	CPUTotal     float64 `json:"cpu_total"`      // since it started
	CoresUsed    float64 `json:"cores_used"`     // CPUSeconds by the time that they are over
	RSSBytes     int64   `json:"rss_bytes"`      // at the end
	RSSPeakBytes int64   `json:"rss_peak_bytes"` // ever; of a target's process, that was seen
	PSSBytes     int64   `json:"pss_bytes"`      // at the end; 0 of a target's process
	GoHeapBytes  int64   `json:"go_heap_bytes"`  // in use at the end
	Goroutines   int64   `json:"goroutines"`
	Descriptors  int64   `json:"open_descriptors"`
}

// Server is what comet, logic and job used together, measured. The broker, the registry
// and discovery are apart.
type Server struct {
	Seconds                  float64 `json:"seconds"`    // from the first measured push until everything had arrived
	Deliveries               int64   `json:"deliveries"` // that the CPU time was spent on: those that are measured, and what was left of the warm-up
	CPUSeconds               float64 `json:"cpu_seconds"`
	DeliveriesPerCPUSecond   float64 `json:"deliveries_per_cpu_second"`
	CPUSecondsPerMillion     float64 `json:"cpu_seconds_per_million_deliveries"`
	CometCPUSeconds          float64 `json:"comet_cpu_seconds"`
	CometDeliveriesPerCPUSec float64 `json:"comet_deliveries_per_cpu_second"`
	ServicesCPUSeconds       float64 `json:"services_cpu_seconds"`
	HarnessCPUSeconds        float64 `json:"harness_cpu_seconds"`
}

// Job is what job did not hand over in the measured phase, by its own counters.
type Job struct {
	GivenUp int64            `json:"given_up"` // times that it gave a comet up, having had no answer for comet.deadAfter
	Dropped map[string]int64 `json:"dropped"`  // records that a comet did not get, by reason and for each such comet
}

// Comet is what all comets did, measured, by their own counters.
type Comet struct {
	Tables int `json:"tables,omitempty"` // of file descriptors in each that clients are in; absent where they are in the process's

	// Memory per connection: what grew from the idle comet to all clients connected, after
	// a garbage collection at both ends, by the clients.
	UserBytesPerConnection float64 `json:"user_bytes_per_connection"` // Go's heap and stacks in use
	HeapBytesPerConnection float64 `json:"heap_bytes_per_connection"` // of it
	RSSBytesPerConnection  float64 `json:"rss_bytes_per_connection"`

	Frames         int64            `json:"frames"` // handed to sessions
	Writes         int64            `json:"writes"` // send calls that wrote
	WrittenBytes   int64            `json:"written_bytes"`
	EAGAIN         int64            `json:"eagain"`
	Skipped        map[string]int64 `json:"skipped"` // frames by reason
	Closed         map[string]int64 `json:"closed"`  // connections over the whole run by reason, before the clients leave
	FramesPerWrite float64          `json:"frames_per_write"`
	BytesPerWrite  float64          `json:"bytes_per_write"`

	// Sweeping is the time in which writes were made: the sweeps' own times added up over
	// all shards, by the shards, and at most the time that they are over.
	SweepingSeconds     float64 `json:"sweeping_seconds"`
	WritesPerSecond     float64 `json:"writes_per_second"`      // over Server.Seconds
	WritesPerBusySecond float64 `json:"writes_per_busy_second"` // over SweepingSeconds
	WritesPerCPUSecond  float64 `json:"writes_per_cpu_second"`
}

// Ceiling is what a plain loop of send(2) over as many sockets reaches on this machine,
// measured behind the run: after its cluster had stopped, or beside a target that has nothing
// to do. The clients of the loop are where the run's were.
type Ceiling struct {
	Clients int `json:"clients"`
	TLS     int `json:"tls,omitempty"` // of them inside TLS; early versions had plain sockets in their place

	// One frame to each client, alone: from the first send to the last receipt.
	SweepThreads int     `json:"sweep_threads"`
	Sweeps       int     `json:"sweeps"`
	SweepMedian  float64 `json:"sweep_median_seconds"`
	SweepP99     float64 `json:"sweep_p99_seconds"`
	SweepMax     float64 `json:"sweep_max_seconds"`

	// Sweeps back to back, with writes as large as comet's were in the mean.
	Threads           int     `json:"threads"`
	BytesPerSend      float64 `json:"bytes_per_send"`
	Sendfile          bool    `json:"sendfile,omitempty"` // large writes were quicker by sendfile, which copies nothing for each socket
	FramesPerSend     int     `json:"frames_per_send"`
	SendsPerSecond    float64 `json:"sends_per_second"`
	SendsPerCPUSecond float64 `json:"sends_per_cpu_second"`
	Skipped           int64   `json:"skipped"` // sends left out since the socket was full

	// What comet reached of it.
	WritesFraction    float64 `json:"writes_fraction"`     // Comet.WritesPerBusySecond by SendsPerSecond
	WritesCPUFraction float64 `json:"writes_cpu_fraction"` // Comet.WritesPerCPUSecond by SendsPerCPUSecond
	LatencyFactor     float64 `json:"latency_factor"`      // Latency.All.P99 by SweepMedian
}

// Swarm is how the simulated clients coped: what is saturated measures itself.
type Swarm struct {
	Threads  int         `json:"threads"`
	BusyMost float64     `json:"busy_most"` // the busiest thread's busiest second, as a fraction
	BusyMean float64     `json:"busy_mean"` // the busiest thread's seconds, mean over the measured phase
	Starved  float64     `json:"starved"`   // the same of the time in which a thread was ready to run and had no processor
	ReadLag  Percentiles `json:"read_lag"`  // from the kernel's answer to the last read of a round of events
	Hiccups  float64     `json:"hiccups"`   // the part of the measured phase in which the harness's own process stood still, in gaps of 50 ms and more
}

// Disturbance is what the machine did in the measured phase that was not the run's.
type Disturbance struct {
	OtherCPU    float64 `json:"other_cpu"`    // processor time of other processes, as a fraction of the machine's
	Steal       float64 `json:"steal"`        // what the hypervisor gave to others, as a fraction of the machine's
	MemoryWait  float64 `json:"memory_wait"`  // the part of the time in which some task waited for memory
	ClockStep   float64 `json:"clock_step"`   // seconds by which the clock of day jumped
	HasPressure bool    `json:"has_pressure"` // the kernel tells MemoryWait
	TCPShort    int64   `json:"tcp_short"`    // times that the kernel's memory for TCP ran short
	TCPDropped  int64   `json:"tcp_dropped"`  // packets with data that it dropped since a socket got no memory

	Packets        int64 `json:"packets"`         // that came in for this machine, loopback's too
	PacketsDropped int64 `json:"packets_dropped"` // of them, since a processor's queue (net.core.netdev_max_backlog) was full
}

// Memory is what the machine had in use, the kernel's share included.
type Memory struct {
	TotalBytes int64         `json:"total_bytes"`
	Before     MachineMemory `json:"before"` // the first of the run's processes
	Most       MachineMemory `json:"most"`   // each figure at its highest, from connect to drain, looked at every second
}

// Taken is how much more was in use at most than before the run.
func (m *Memory) Taken() int64 { return max(0, m.Most.UsedBytes-m.Before.UsedBytes) }

// line says it in a sentence, "" where it isn't known.
func (m *Memory) line() string {
	if m == nil {
		return ""
	}
	swap := "no swap in use"
	if n := m.Most.SwapBytes; n > 0 {
		swap = size(float64(n)) + " of swap in use"
	}
	return fmt.Sprintf("at most %s of %s in use, %s before the run; the kernel's objects %s and TCP's buffers %s at most; %s",
		size(float64(m.Most.UsedBytes)), size(float64(m.TotalBytes)), size(float64(m.Before.UsedBytes)),
		size(float64(m.Most.SlabBytes)), size(float64(m.Most.TCPBytes)), swap)
}

// MachineMemory is a machine's memory in use, by all programs and the kernel.
type MachineMemory struct {
	UsedBytes int64 `json:"used_bytes"` // all but what is available to programs (MemAvailable of proc_meminfo(5))
	SlabBytes int64 `json:"slab_bytes"` // of them the kernel's own objects, such as sockets
	TCPBytes  int64 `json:"tcp_bytes"`  // what TCP's buffers hold, by net.ipv4.tcp_mem's count
	SwapBytes int64 `json:"swap_bytes"` // beside them, on disk
}

// Max returns the higher of each of the figures.
func (m MachineMemory) Max(o MachineMemory) MachineMemory {
	return MachineMemory{
		UsedBytes: max(m.UsedBytes, o.UsedBytes), SlabBytes: max(m.SlabBytes, o.SlabBytes),
		TCPBytes: max(m.TCPBytes, o.TCPBytes), SwapBytes: max(m.SwapBytes, o.SwapBytes),
	}
}

// An Agent had a part of the clients, in a process of its own, which may be on a machine of
// its own.
type Agent struct {
	Name        string      `json:"name"` // host:port
	Lost        string      `json:"lost"` // why it did not do its part; "" where it did
	Clients     int64       `json:"clients"`
	Joined      int64       `json:"joined"`
	Threads     int         `json:"threads"`
	ReadLag     Percentiles `json:"read_lag"`
	Hiccups     float64     `json:"hiccups"` // the part of the measured phase in which it stood still, in gaps of 50 ms and more
	Clock       Clock       `json:"clock"`
	Environment Environment `json:"environment"`
	// Disturbance is absent where the machine is the harness's, whose own says it, and of an
	// agent that was lost.
	Disturbance *Disturbance `json:"disturbance,omitempty"`
}

// Clock is how an agent's clock stood to that of the harness. Arrivals are corrected by it.
type Clock struct {
	Offset float64 `json:"offset"` // seconds that it was ahead, at last
	Error  float64 `json:"error"`  // a latency is off by this much at most
	Drift  float64 `json:"drift"`  // seconds a second by which it went away
}

// A Second is the run at one moment, sampled about once a second.
type Second struct {
	At         float64            `json:"at"`    // seconds since the run's start
	Phase      string             `json:"phase"` // connect, warm-up, measure, drain
	Clients    int64              `json:"clients"`
	Deliveries int64              `json:"deliveries"` // so far
	P50        float64            `json:"p50"`        // of the last second
	P99        float64            `json:"p99"`
	CPUSeconds map[string]float64 `json:"cpu_seconds"` // by process, since it started
	RSSBytes   map[string]int64   `json:"rss_bytes"`
	SwarmBusy  float64            `json:"swarm_busy"`
	Starved    float64            `json:"swarm_starved"`
	Memory     *MachineMemory     `json:"memory,omitempty"` // absent from runs before it was read
	Sweeps     *Sweeps            `json:"sweeps,omitempty"` // absent with so many comets that asking each would cost them
	// Heat is how many latencies of the last second lie in each bucket of a heat map:
	// bucket i ends at 100 us x 10^(i/10).
	Heat []int64 `json:"heat,omitempty"`
}

// Fail adds a reason for which the run is not good. What is invalid stays so.
func (v *Verdict) Fail(reason string) {
	if v.Status != Invalid {
		v.Status = Failed
	}
	v.Reasons = append(v.Reasons, reason)
}

// Doubtful reports whether the figures may not be the server's. A run that was cut short can be that,
// too.
func (v *Verdict) Doubtful() bool { return v.Status == Invalid || len(v.Doubts) > 0 }

// Invalidate adds a reason for which the figures may not be the server's.
func (v *Verdict) Invalidate(reason string) {
	v.Status = Invalid
	v.Doubts = append(v.Doubts, reason)
}
