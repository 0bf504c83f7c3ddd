package ceiling

import (
	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
)

// The sending side and Run exchange JSON, one value a line: the child first says hello,
// then answers each command with one reply. The end of its stdin ends it.

type hello struct {
	Addrs       [ledger.Kinds]string `json:"addrs"`       // where the clients of each transport connect
	Certificate []byte               `json:"certificate"` // PEM, of those inside TLS
}

// command has exactly one field set.
type command struct {
	Accept *acceptCommand `json:"accept,omitempty"`
	Sweep  *sweepCommand  `json:"sweep,omitempty"`
	Flood  *floodCommand  `json:"flood,omitempty"`
}

// acceptCommand waits for so many connections, of any transport. Its reply has no figures.
type acceptCommand struct {
	Connections int  `json:"connections"`
	Secure      bool `json:"secure"` // some are inside TLS
}

// sweepCommand sends one frame to each connection.
type sweepCommand struct {
	Threads int    `json:"threads"`
	Stream  uint16 `json:"stream"`
	Seq     uint32 `json:"seq"`
	Body    int    `json:"body"` // bytes
	Clock   int64  `json:"clock"`
}

// floodCommand sends sweep after sweep, each write of Frames frames.
type floodCommand struct {
	Threads int    `json:"threads"`
	Stream  uint16 `json:"stream"`
	Body    int    `json:"body"`
	Frames  int    `json:"frames"`
	Clock   int64  `json:"clock"`
	Nanos   int64  `json:"nanos"` // how long
	Least   int64  `json:"least"` // sweeps, however long they take
	Pages   bool   `json:"pages"` // by sendfile, of files in memory
}

// reply is the answer to a command. Times are nanoseconds of the harness' clock: that of
// CLOCK_MONOTONIC plus the command's Clock.
type reply struct {
	Error   string  `json:"error,omitempty"`
	Began   int64   `json:"began"`
	Ended   int64   `json:"ended"`
	Sends   int64   `json:"sends"`
	Skipped int64   `json:"skipped"` // flood: sockets that were full
	Sweeps  int64   `json:"sweeps"`
	Bytes   int64   `json:"bytes"`
	CPU     float64 `json:"cpu"` // seconds of the sending process
}

// monotonic returns CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share.
func monotonic() int64 {
	var t unix.Timespec
	// It can't fail with this clock and a valid pointer.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}
