package live

import (
	"time"

	"barrage/harness/cluster"
	"barrage/harness/ledger"
	"barrage/harness/pusher"
	"barrage/harness/swarm"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// sample is a run in its measured phase, seconds after its beginning.
func sample(seconds int) *Sample {
	at := began.Add(time.Duration(seconds) * time.Second)
	s := &Sample{
		At:      at,
		Pushes:  pusher.Counts{Intended: 40, Sent: 39, Acknowledged: 36, Failed: 2, Unknown: 1},
		PushLag: 2500 * time.Microsecond,
		Processes: []Process{
			{Name: "comet-1", Role: cluster.RoleComet, Usage: cluster.Usage{User: time.Duration(seconds) * 250 * time.Millisecond, RSS: 64 << 20}},
			{Name: "harness", Role: "harness", Usage: cluster.Usage{System: time.Duration(seconds) * 500 * time.Millisecond, RSS: 32 << 20}},
		},
		Swarm: swarm.Snapshot{
			Progress: swarm.Progress{Clients: 1200, Joined: 1100, Failed: 4, ClosedEarly: 1, Connecting: 96},
			Where: []swarm.ClientCount{
				{Kind: ledger.TCP, State: "joined", Count: 550}, {Kind: ledger.TCP, State: "failed", Count: 4},
				{Kind: ledger.WebSocket, State: "joined", Count: 549}, {Kind: ledger.WebSocket, State: "closed", Count: 1},
			},
			Failures: []swarm.CauseCount{{Cause: swarm.ConnectRefused, Count: 3}, {Cause: swarm.JoinTimeout, Count: 1}},
			Closes:   []swarm.CauseCount{{Cause: swarm.ServerReset, Count: 1}},
			Accepted: 1000 * int64(seconds), Disorder: ledger.Disorder{Duplicate: 5, Reordered: 6, Missing: 7},
			Frames: 1001 * int64(seconds), Reads: 500, Bytes: 1 << 20, Heartbeats: 60, HeldBack: 2,
			Latency: ledger.NewLiveHistogram(), AllLatency: ledger.NewLiveHistogram(),
			Threads: []swarm.ThreadLoad{{Clients: 600, Busy: 0.25, CPU: time.Second, ReadLag: time.Millisecond}, {Clients: 600, Busy: 0.5}},
		},
	}
	for ms := range int64(100) {
		_ = s.Swarm.Latency.RecordValue((ms + 1) * int64(time.Millisecond))
		_ = s.Swarm.AllLatency.RecordValues((ms+1)*int64(time.Millisecond), int64(seconds))
	}
	return s
}

// measuring returns the metrics of a run at sample s.
func measuring(s *Sample) *Metrics {
	m := NewMetrics(Info{Scenario: "smoke", Commit: "abc", Began: began})
	m.SetPhase(Measure)
	m.SetSample(s)
	return m
}
