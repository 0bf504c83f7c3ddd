// Package agent runs a scenario's clients on other machines. On each of them a Server has
// a swarm; a Fleet connects to the servers, gives each its part of the clients, and is to
// the run what a swarm of its own process would be: the ledgers and histograms of all parts
// are merged without loss, so that there is one result.
//
// What a machine adds is a clock of its own. The Fleet follows the offset of each agent's
// clock by exchanges of the time, has the agent correct every arrival by it, and says by
// how much a latency may still be off.
package agent

import (
	"errors"
	"time"

	"barrage/harness/ceiling"
	"barrage/harness/cluster"
	"barrage/harness/swarm"
)

// Protocol is the version of the service. It grows with every change of it.
const Protocol = 3

// A Job is what a coordinator asks of an agent.
type Job struct {
	File      string // the scenario's, for messages
	Scenario  string // its text
	Overrides []string
	Targets   swarm.Targets
	Authority []byte // PEM of what clients inside TLS trust; nil: what the agent's system does

	// Ceiling has the agent be the receiving side of the ceiling, with the scenario's transports and the job's
	// Targets and Authority; nil for the scenario's clients.
	Ceiling *ceiling.Job

	// The agent has the clients i with i % Parts == Part.
	Part, Parts int
}

// Work is a job made ready to be done.
type Work struct {
	Swarm  swarm.Config // without ClockOffset
	Starts []Start      // when which stream carries its first push, in any order
}

// A Start is the beginning of a stream.
type Start struct {
	Stream uint16
	After  time.Duration // from the schedule's start
}

// MachineLoad is what a whole machine has done so far, to tell a quiet one from one that was
// disturbed.
type MachineLoad struct {
	Busy       time.Duration // processor time of all tasks, without that of interrupts
	Processes  time.Duration // processor time of all processes that can be seen, with that of interrupts
	Steal      time.Duration // that the hypervisor gave to others
	MemoryWait time.Duration // in which some task waited for memory
	Wall       time.Duration // the clock of day, less the one that only goes forward
	TCPShort   int64         // times that TCP's memory (net.ipv4.tcp_mem) ran short in this network
	TCPDropped int64         // packets with data for which a socket got no memory
	// Packets that came in for this machine's sockets, by any network, loopback too, and of them
	// those that were dropped since a processor's queue of them (net.core.netdev_max_backlog) was
	// full. Both are modulo 2^32.
	Packets, PacketsDropped uint32
}

// Load is what a machine, and this process on it, have used by now.
type Load struct {
	MachineLoad
	Usage   cluster.Usage // of the process
	Hiccups time.Duration // in which it stood still
}

// ErrLost says that an agent ended, or can't be reached any more, before it was to.
var ErrLost = errors.New("the agent was lost")
