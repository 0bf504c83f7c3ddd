// Package ceiling measures what the kernel of this machine allows: a plain loop of send(2)
// over as many sockets as a run has clients, with the swarm at the other end.
package ceiling

import (
	"context"
	"time"
)

// Config says what to measure.
type Config struct {
	Exe  string   // the binary whose subcommand runs Main; default: this one
	Args []string // what selects it; default: "ceiling"

	Clients    int     // connections; at most the limit of open files
	WSFraction float64 // of them with WebSocket framing, 0 to 1
	BodySize   int     // bytes of a push's body, at least ledger.BodyMin
	WriteSize  int     // bytes of a write in the throughput part; it holds as many whole frames as fit, and at least one

	Sweeps   int           // isolated sweeps; default 20
	Pause    time.Duration // between two of them; default 50 ms
	Duration time.Duration // of each throughput run; default 3 s
}

// A Result is the ceiling. Each part is that of the number of threads that did best.
type Result struct {
	Clients    int
	Sweep      Sweep
	Throughput Throughput
}

// Sweep is one frame to each client, alone: from the first send to the last receipt.
type Sweep struct {
	Threads           int
	Sweeps            int
	Median, P99, Max  time.Duration // to the last receipt
	SendMedian        time.Duration // to the end of the last send
	CPUSecondsPerSend float64
}

// Throughput is sweeps back to back.
type Throughput struct {
	Threads           int
	SendsPerSecond    float64
	BytesPerSend      float64 // mean
	FramesPerSend     int
	CPUSecondsPerSend float64 // of the sender
	Sends, Skipped    int64   // Skipped: the socket was full (EAGAIN), so it was left out of that sweep
	Elapsed           time.Duration
	Drained           time.Duration // from the last send to the last receipt
}

// Main is the sending side, run as a process of its own: the hidden subcommand "ceiling".
// It speaks JSON lines on stdin and stdout, and returns the exit status.
func Main(args []string) int { return 2 }

// Run starts the sending side, measures and stops it.
func Run(ctx context.Context, cfg Config) (Result, error) { return Result{}, nil }
