package agent

import (
	"fmt"
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"barrage/harness/ceiling"
	"barrage/harness/cluster"
	"barrage/harness/ledger"
	"barrage/harness/swarm"

	agentpb "barrage/harness/api/agent"
)

func encodeSnapshot(s *swarm.Snapshot) (*agentpb.Snapshot, error) {
	latency, err := ledger.EncodeHistogram(s.Latency)
	if err != nil {
		return nil, err
	}
	all, err := ledger.EncodeHistogram(s.AllLatency)
	if err != nil {
		return nil, err
	}
	p := &agentpb.Snapshot{
		Clients: s.Clients, Waiting: s.Waiting, Connecting: s.Connecting, Connected: s.Connected,
		Joined: s.Joined, Failed: s.Failed, ClosedEarly: s.ClosedEarly,
		LaggingClosed: s.LaggingClosed, Away: s.Away, Vanished: s.Vanished, Rejoined: s.Rejoined,
		Failures: encodeCauses(s.Failures), Closes: encodeCauses(s.Closes),
		LaggingCloses: encodeCauses(s.LaggingCloses), Retries: encodeCauses(s.Retries), RoomChanges: s.RoomChanges,
		Accepted: s.Accepted, Frames: s.Frames, Pushes: s.Pushes, Control: s.Control, Bytes: s.Bytes, Reads: s.Reads,
		Heartbeats: s.Heartbeats, HeldBack: s.HeldBack, Latency: latency, AllLatency: all,
		Duplicate: s.Disorder.Duplicate, Reordered: s.Disorder.Reordered, Missing: s.Disorder.Missing,
	}
	for _, w := range s.Where {
		p.Where = append(p.Where, &agentpb.ClientCount{Kind: uint32(w.Kind), State: w.State, Count: w.Count})
	}
	for _, t := range s.Threads {
		p.Threads = append(p.Threads, &agentpb.ThreadLoad{Clients: int64(t.Clients), Busy: t.Busy, Cpu: int64(t.CPU), Starved: t.Starved, ReadLag: int64(t.ReadLag)})
	}
	return p, nil
}

func decodeSnapshot(p *agentpb.Snapshot) (swarm.Snapshot, error) {
	s := swarm.Snapshot{
		Progress: swarm.Progress{
			Clients: p.GetClients(), Waiting: p.GetWaiting(), Connecting: p.GetConnecting(), Connected: p.GetConnected(),
			Joined: p.GetJoined(), Failed: p.GetFailed(), ClosedEarly: p.GetClosedEarly(),
			LaggingClosed: p.GetLaggingClosed(), Away: p.GetAway(), Vanished: p.GetVanished(), Rejoined: p.GetRejoined(),
		},
		RoomChanges: p.GetRoomChanges(),
		Disorder:    ledger.Disorder{Duplicate: p.GetDuplicate(), Reordered: p.GetReordered(), Missing: p.GetMissing()},
		Accepted:    p.GetAccepted(), Frames: p.GetFrames(), Pushes: p.GetPushes(), Control: p.GetControl(), Bytes: p.GetBytes(), Reads: p.GetReads(),
		Heartbeats: p.GetHeartbeats(), HeldBack: p.GetHeldBack(),
	}
	var err error
	if s.Latency, err = ledger.DecodeHistogram(p.GetLatency()); err != nil {
		return s, fmt.Errorf("latency: %w", err)
	}
	if s.AllLatency, err = ledger.DecodeHistogram(p.GetAllLatency()); err != nil {
		return s, fmt.Errorf("latency so far: %w", err)
	}
	for _, w := range p.GetWhere() {
		if w.Kind >= uint32(ledger.Kinds) {
			return s, fmt.Errorf("clients of kind %d, which is not known", w.Kind)
		}
		s.Where = append(s.Where, swarm.ClientCount{Kind: ledger.Kind(w.Kind), State: w.State, Count: w.Count})
	}
	for _, causes := range []struct {
		into *[]swarm.CauseCount
		from []*agentpb.CauseCount
	}{{&s.Failures, p.GetFailures()}, {&s.Closes, p.GetCloses()}, {&s.LaggingCloses, p.GetLaggingCloses()}, {&s.Retries, p.GetRetries()}} {
		if *causes.into, err = decodeCauses(causes.from); err != nil {
			return s, err
		}
	}
	for _, t := range p.GetThreads() {
		s.Threads = append(s.Threads, swarm.ThreadLoad{Clients: int(t.Clients), Busy: t.Busy, CPU: time.Duration(t.Cpu), Starved: t.Starved, ReadLag: time.Duration(t.ReadLag)})
	}
	return s, nil
}

func encodeCauses(list []swarm.CauseCount) (out []*agentpb.CauseCount) {
	for _, c := range list {
		out = append(out, &agentpb.CauseCount{Cause: uint32(c.Cause), Count: c.Count, Examples: c.Examples})
	}
	return out
}

func decodeCauses(list []*agentpb.CauseCount) (out []swarm.CauseCount, err error) {
	for _, p := range list {
		if p.Cause >= uint32(len(swarm.Causes())) {
			return nil, fmt.Errorf("cause %d is not known", p.Cause)
		}
		out = append(out, swarm.CauseCount{Cause: swarm.Cause(p.Cause), Count: p.Count, Examples: p.Examples})
	}
	return out, nil
}

func encodePlans(session string, plans []ledger.Plan) *agentpb.Plans {
	p := &agentpb.Plans{Session: session}
	for _, plan := range plans {
		p.Plans = append(p.Plans, &agentpb.Plan{Stream: uint32(plan.Stream), Pushed: plan.Pushed, Unknown: plan.Unknown})
	}
	return p
}

func decodePlans(p *agentpb.Plans) ([]ledger.Plan, error) {
	var plans []ledger.Plan
	for _, plan := range p.GetPlans() {
		if plan.Stream > math.MaxUint16 {
			return nil, fmt.Errorf("plan of stream %d: the number is over 65535", plan.Stream)
		}
		plans = append(plans, ledger.Plan{Stream: uint16(plan.Stream), Pushed: plan.Pushed, Unknown: plan.Unknown})
	}
	return plans, nil
}

// encodeReport is r for another process; number is what the swarm's i-th client is in the
// scenario.
func encodeReport(r *swarm.Report, number func(i int) int) (*agentpb.Report, error) {
	p := &agentpb.Report{BytesRead: r.Counted.Read, BytesKernel: r.Counted.Kernel, Uncounted: r.Counted.Uncounted}
	for _, l := range r.Losses {
		p.Losses = append(p.Losses, &agentpb.Loss{Client: int64(number(l.Client)), Stream: uint32(l.Stream), From: l.From, To: l.To})
	}
	var err error
	if p.Snapshot, err = encodeSnapshot(&r.Snapshot); err != nil {
		return nil, err
	}
	r.Ledger.Renumber(number)
	if p.Ledger, err = r.Ledger.MarshalBinary(); err != nil {
		return nil, err
	}
	if r.Lagging != nil {
		if p.Lagging, err = r.Lagging.MarshalBinary(); err != nil {
			return nil, err
		}
	}
	for _, h := range []struct {
		into *[]byte
		from *hdrhistogram.Histogram
	}{{&p.ReadLag, r.ReadLag}, {&p.ConnectTime, r.ConnectTime}, {&p.RejoinTime, r.RejoinTime}, {&p.StormTime, r.StormTime}} {
		if *h.into, err = ledger.EncodeHistogram(h.from); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func decodeReport(p *agentpb.Report) (*swarm.Report, error) {
	r := &swarm.Report{
		Ledger:  new(ledger.Report),
		Counted: swarm.ByteCount{Read: p.GetBytesRead(), Kernel: p.GetBytesKernel(), Uncounted: p.GetUncounted()},
	}
	var err error
	if r.Snapshot, err = decodeSnapshot(p.GetSnapshot()); err != nil {
		return nil, err
	}
	if err = r.Ledger.UnmarshalBinary(p.GetLedger()); err != nil {
		return nil, err
	}
	if len(p.GetLagging()) > 0 {
		r.Lagging = new(ledger.Report)
		if err = r.Lagging.UnmarshalBinary(p.GetLagging()); err != nil {
			return nil, fmt.Errorf("lagging clients: %w", err)
		}
	}
	for _, l := range p.GetLosses() {
		if l.Stream > math.MaxUint16 {
			return nil, fmt.Errorf("loss of stream %d: the number is over 65535", l.Stream)
		}
		r.Losses = append(r.Losses, swarm.ClientLoss{Client: int(l.Client), Stream: uint16(l.Stream), From: l.From, To: l.To})
	}
	for _, h := range []struct {
		name string
		into **hdrhistogram.Histogram
		from []byte
	}{
		{"read lag", &r.ReadLag, p.GetReadLag()}, {"connect time", &r.ConnectTime, p.GetConnectTime()},
		{"rejoin time", &r.RejoinTime, p.GetRejoinTime()}, {"storm time", &r.StormTime, p.GetStormTime()},
	} {
		if *h.into, err = ledger.DecodeHistogram(h.from); err != nil {
			return nil, fmt.Errorf("%s: %w", h.name, err)
		}
		if *h.into == nil {
			return nil, fmt.Errorf("%s: it is missing", h.name)
		}
	}
	return r, nil
}

func encodeUsage(u cluster.Usage) *agentpb.Usage {
	return &agentpb.Usage{User: int64(u.User), System: int64(u.System), Rss: u.RSS, Peak: u.Peak}
}

func decodeUsage(p *agentpb.Usage) cluster.Usage {
	return cluster.Usage{User: time.Duration(p.GetUser()), System: time.Duration(p.GetSystem()), RSS: p.GetRss(), Peak: p.GetPeak()}
}

func encodeLoad(l Load) *agentpb.Load {
	return &agentpb.Load{Busy: int64(l.Busy), Steal: int64(l.Steal), MemoryWait: int64(l.MemoryWait), Wall: int64(l.Wall), Usage: encodeUsage(l.Usage),
		Processes: int64(l.Processes), TcpShort: l.TCPShort, TcpDropped: l.TCPDropped, Packets: l.Packets, PacketsDropped: l.PacketsDropped, Hiccups: int64(l.Hiccups)}
}

func decodeLoad(p *agentpb.Load) Load {
	return Load{
		MachineLoad: MachineLoad{
			Busy: time.Duration(p.GetBusy()), Processes: time.Duration(p.GetProcesses()), Steal: time.Duration(p.GetSteal()), MemoryWait: time.Duration(p.GetMemoryWait()),
			Wall: time.Duration(p.GetWall()), TCPShort: p.GetTcpShort(), TCPDropped: p.GetTcpDropped(),
			Packets: p.GetPackets(), PacketsDropped: p.GetPacketsDropped(),
		},
		Usage: decodeUsage(p.GetUsage()), Hiccups: time.Duration(p.GetHiccups()),
	}
}

func encodeJob(j Job, build string) *agentpb.Job {
	p := &agentpb.Job{
		Protocol: Protocol, Build: build, File: j.File, Scenario: j.Scenario, Overrides: j.Overrides,
		Tcp: j.Targets.TCP, Ws: j.Targets.WS, TcpTls: j.Targets.TCPTLS, Wss: j.Targets.WSS, Authority: j.Authority, Part: uint32(j.Part), Parts: uint32(j.Parts),
	}
	if c := j.Ceiling; c != nil {
		p.Ceiling = &agentpb.Ceiling{Clients: int64(c.Clients), Sweeps: c.Sweeps, Flood: c.Flood}
	}
	return p
}

func decodeJob(p *agentpb.Job) Job {
	j := Job{
		File: p.GetFile(), Scenario: p.GetScenario(), Overrides: p.GetOverrides(),
		Targets:   swarm.Targets{TCP: p.GetTcp(), WS: p.GetWs(), TCPTLS: p.GetTcpTls(), WSS: p.GetWss()},
		Authority: p.GetAuthority(), Part: int(p.GetPart()), Parts: int(p.GetParts()),
	}
	if c := p.GetCeiling(); c != nil {
		j.Ceiling = &ceiling.Job{Clients: int(c.GetClients()), Sweeps: c.GetSweeps(), Flood: c.GetFlood(), Targets: j.Targets, Authority: j.Authority}
	}
	return j
}
