package agent

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/harness/swarm"
)

// What two agents report together is what one swarm with all the clients reports: the same
// counts of every stream, and the same histogram.
func TestTwoAgentsAreOneSwarm(t *testing.T) {
	const clients = 61
	ctx := testContext(t)
	sent := framesOf(faultyPlan, clients)

	// run goes through a run as harness does.
	run := func(comet *fakeComet, s interface {
		Connect(context.Context) error
		Snapshot() swarm.Snapshot
		Finish(context.Context, []ledger.Plan) (*swarm.Report, error)
	}) *swarm.Report {
		t.Helper()
		if err := s.Connect(ctx); err != nil {
			t.Fatal(err)
		}
		close(comet.start)
		eventually(t, "all frames are read", func() bool { return s.Snapshot().Pushes >= sent })
		r, err := s.Finish(ctx, testPlans)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	comet := startFakeComet(t, faultyPlan)
	cfg, err := testClients(testStreams(t), comet.targets(), clients, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := swarm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	one := run(comet, alone)

	comet = startFakeComet(t, faultyPlan)
	fleet := dialFleet(t, comet, clients, FleetConfig{}, startAgent(t, Security{}, 0), startAgent(t, Security{}, 0))
	two := run(comet, fleet)

	if !reflect.DeepEqual(one.Ledger.Streams, two.Ledger.Streams) || one.Ledger.Strays != two.Ledger.Strays {
		t.Errorf("one swarm: %v\ntwo agents: %v", one.Ledger.Streams, two.Ledger.Streams)
	}
	if c := one.Ledger.Total(); c.Lost == 0 || c.Duplicate == 0 || c.Reordered == 0 || c.Unknown == 0 || one.Ledger.AllLatency().TotalCount() == 0 {
		t.Errorf("the plan has no faults: %v", c)
	}
	if a, b := one.Ledger.AllLatency().Export(), two.Ledger.AllLatency().Export(); !slices.Equal(a.Counts, b.Counts) {
		t.Errorf("histograms differ: %v and %v values", one.Ledger.AllLatency().TotalCount(), two.Ledger.AllLatency().TotalCount())
	}
	if one.Progress != two.Progress || one.Pushes != two.Pushes || one.Accepted != two.Accepted || len(two.Threads) != 4 ||
		two.ConnectTime.TotalCount() != clients || two.ReadLag.TotalCount() == 0 {
		t.Errorf("one swarm: %+v\ntwo agents: %+v", one.Snapshot, two.Snapshot)
	}
	if got := len(two.Ledger.Receipts(1)); got != len(one.Ledger.Receipts(1)) {
		t.Errorf("%d pushes arrived anywhere, %d at one swarm", got, len(one.Ledger.Receipts(1)))
	}
	for i, m := range fleet.Members() {
		if m.Lost != nil || m.Clients != int64(31-i) || m.Joined != m.Clients || m.Environment.CPU != "cpu of "+m.Name || m.Boot != "boot-"+m.Name ||
			m.ReadLag == nil || m.Clock.Error <= 0 || m.Clock.Offset.Abs() > m.Clock.Error {
			t.Errorf("member %+v", m)
		}
	}
	if err := fleet.Close(); err != nil {
		t.Fatal(err)
	}
	comet.closesOpen("the fleet is closed")
}

// An agent whose clock is ahead has its arrivals set back by as much, and the other way
// round.
func TestArrivalsAreCorrected(t *testing.T) {
	// The swarm's own clock is right, and only what the agent says of it is wrong: so the
	// correction is all that is in a latency.
	for _, skew := range []time.Duration{-20 * time.Second, 0, 20 * time.Second} {
		plan := func(int) (stamps []ledger.Stamp) {
			for seq := range uint32(pushes) {
				stamps = append(stamps, ledger.Stamp{Stream: 1, Seq: seq, Intended: ledger.Now() - int64(20*time.Second)})
			}
			return stamps
		}
		comet := startFakeComet(t, plan)
		f := dialFleet(t, comet, 3, FleetConfig{}, startAgent(t, Security{}, skew))
		ctx := testContext(t)
		if err := f.Connect(ctx); err != nil {
			t.Fatal(err)
		}
		if err := errorsOf(f.Synchronize(ctx), f.Schedule(ctx, ledger.Now())); err != nil {
			t.Fatal(err)
		}
		close(comet.start)
		if drained, err := f.Drain(ctx, []ledger.Plan{{Stream: 1, Pushed: pushes}}); !drained || err != nil {
			t.Fatalf("drained %v, %v", drained, err)
		}
		if n, err := f.Accepted(ctx); n != 3*pushes || err != nil {
			t.Errorf("%d pushes arrived, %v", n, err)
		}
		r, err := f.Finish(ctx, []ledger.Plan{{Stream: 1, Pushed: pushes}})
		if err != nil {
			t.Fatal(err)
		}
		clock := f.Members()[0].Clock
		low, high := 20*time.Second-skew-clock.Error, 20*time.Second-skew+clock.Error+testTimeout/4
		if h := r.Ledger.AllLatency(); time.Duration(h.Min())+50*time.Millisecond < low || time.Duration(h.Max()) > high {
			t.Errorf("skew %v: latencies from %v to %v, want from %v", skew, time.Duration(h.Min()), time.Duration(h.Max()), low)
		}
		if off := (clock.Offset - skew).Abs(); off > clock.Error {
			t.Errorf("skew %v: %+v", skew, clock)
		}
	}
}

// A storm takes clients of all agents, and says how many of them are back, whether all are
// or not.
func TestStormOverAgents(t *testing.T) {
	comet := startFakeComet(t, faultyPlan)
	f := dialFleet(t, comet, 20, FleetConfig{}, startAgent(t, Security{}, 0), startAgent(t, Security{}, 0))
	ctx := testContext(t)
	if err := f.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.ChangeRooms(ctx, true); err != nil {
		t.Fatal(err)
	}
	if r, err := f.Storm(ctx, 1, true); err != nil || r.Clients != 20 || r.Back != 20 || r.Took <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
	comet.l.Close()
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if r, err := f.Storm(short, 1, false); err != nil || r.Clients != 20 || r.Back != 0 || r.Took < 100*time.Millisecond {
		t.Errorf("nobody to come back to: %+v, %v", r, err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := f.Storm(gone, 1, false); err != nil {
		t.Errorf("an end on the way: %v", err)
	}
	for _, m := range f.Members() {
		if m.Lost != nil {
			t.Errorf("member %+v", m)
		}
	}
}

// A client that joins behind a stream's start is not held to what was before it, and the
// agent knows the start by the schedule.
func TestStreamsStartBySchedule(t *testing.T) {
	comet := startFakeComet(t, faultyPlan)
	agent := startAgent(t, Security{}, 7*time.Second)
	f := dialFleet(t, comet, 2, FleetConfig{}, agent)
	ctx := testContext(t)
	// Stream 2 started long ago, stream 1 starts in an hour.
	if err := f.Schedule(ctx, ledger.Now()+int64(time.Hour-time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := f.Schedule(ctx, ledger.Now()); err == nil || !strings.Contains(err.Error(), "scheduled already") {
		t.Errorf("scheduled twice: %v", err)
	}
	n, err := agent.session(f.members[0].session)
	if err != nil {
		t.Fatal(err)
	}
	other := &session{ctx: n.ctx, work: n.work}
	other.start(ledger.Now()-int64(time.Minute), ledger.Now) // returns when all are marked
	if err := f.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if c, err := n.swarm.Count(ctx, testPlans); err != nil || c.Expected != 0 {
		t.Errorf("late clients are owed %v, %v", c, err)
	}
}

// An agent that goes is named, ends what can't be valid any more, and leaves the others'
// part to be read.
func TestAgentThatIsLost(t *testing.T) {
	const clients = 20
	comet := startFakeComet(t, faultyPlan)
	stays, goes := startAgent(t, Security{}, 0), startAgent(t, Security{}, 0)
	lost := make(chan string, 4)
	f := dialFleet(t, comet, clients, FleetConfig{Lost: func(name string, err error) {
		if !errors.Is(err, ErrLost) {
			t.Errorf("lost by %v", err)
		}
		lost <- name
	}}, stays, goes)
	ctx := testContext(t)
	whole, cancel := f.WhileWhole(ctx)
	defer cancel()
	if err := f.Connect(whole); err != nil {
		t.Fatal(err)
	}
	if loads, err := f.Measure(ctx); err != nil || len(loads) != 2 || loads[goes.addr].Busy != time.Minute {
		t.Errorf("loads %v, %v", loads, err)
	}
	goes.stop()
	<-whole.Done()
	if cause := context.Cause(whole); !errors.Is(cause, ErrLost) || !strings.Contains(cause.Error(), goes.addr) {
		t.Errorf("ended by %v", cause)
	}
	if name := <-lost; name != goes.addr {
		t.Errorf("lost %s, not %s", name, goes.addr)
	}
	close(comet.start)
	eventually(t, "the frames of those who stay are read", func() bool { return f.Snapshot().Pushes > 0 })
	if loads, err := f.Measure(ctx); err != nil || len(loads) != 1 {
		t.Errorf("loads %v, %v", loads, err)
	}
	if drained, err := f.Drain(ctx, nil); !drained || err != nil {
		t.Errorf("drained %v, %v", drained, err)
	}
	r, err := f.Finish(ctx, testPlans)
	if err != nil {
		t.Fatal(err)
	}
	if r.Clients != clients || r.Ledger.Total().Expected != clients/2*(2*pushes-1) {
		t.Errorf("%+v, %v", r.Progress, r.Ledger.Total())
	}
	members := f.Members()
	if members[0].Lost != nil || members[1].Lost == nil || members[1].Joined != clients/2 {
		t.Errorf("members %+v", members)
	}
	if len(lost) > 0 {
		t.Errorf("lost a second time: %s", <-lost)
	}
}

// All agents gone is a report of nothing, and no crash.
func TestAllAgentsAreLost(t *testing.T) {
	comet := startFakeComet(t, faultyPlan)
	agent := startAgent(t, Security{}, 0)
	f := dialFleet(t, comet, 4, FleetConfig{}, agent)
	agent.stop()
	ctx := testContext(t)
	if err := f.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := f.Finish(ctx, testPlans)
	if err != nil || r.Ledger.Total().Expected != 0 || r.Clients != 4 || f.Members()[0].Lost == nil {
		t.Errorf("%+v, %v, %+v", r, err, f.Members())
	}
}

// A coordinator that goes away takes its clients with it, and makes room for the next.
func TestCoordinatorThatIsGone(t *testing.T) {
	comet := startFakeComet(t, faultyPlan)
	agent := startAgent(t, Security{}, 0)
	first, err := tryDial(t, comet, 10, FleetConfig{}, agent)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Connect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if comet.open() != 10 {
		t.Errorf("%d clients are connected", comet.open())
	}
	if _, err := tryDial(t, comet, 10, FleetConfig{}, agent); err == nil || !strings.Contains(err.Error(), "agent "+agent.addr+": it is at work for another coordinator") {
		t.Errorf("a second coordinator: %v", err)
	}
	first.members[0].hangUp() // as the end of its process would
	comet.closesOpen("the coordinator is gone")
	contains(t, agent.log.String(), "the coordinator is gone; its clients are dropped")
	second := dialFleet(t, comet, 10, FleetConfig{}, agent)
	if err := second.Connect(testContext(t)); err != nil || second.Snapshot().Clients != 10 {
		t.Errorf("%v, %+v", err, second.Snapshot())
	}
	if err := first.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if second.Members()[0].Lost != nil {
		t.Error("the first coordinator ended the second one's session")
	}
}

// What can't work is said by name before the run.
func TestJobsThatAreRefused(t *testing.T) {
	comet := startFakeComet(t, faultyPlan)
	agent := startAgent(t, Security{}, 0)
	if _, err := tryDial(t, comet, 5, FleetConfig{Build: "barrage other"}, agent); err == nil {
		t.Error("another version was taken")
	} else {
		contains(t, err.Error(), "agent "+agent.addr, "the agent is barrage test (protocol 3), the coordinator barrage other (protocol 3); install the same binary on both")
	}
	none := &testAgent{addr: "127.0.0.1:1"}
	if _, err := tryDial(t, comet, 5, FleetConfig{}, agent, none); err == nil {
		t.Error("an agent that isn't there was taken")
	} else {
		contains(t, err.Error(), "agent 127.0.0.1:1", "connection refused")
	}
	if _, err := Dial(testContext(t), FleetConfig{Addrs: []string{agent.addr}, Build: testBuild}, Job{File: "bad.yaml", Scenario: "?", Targets: comet.targets()}, testStreams(t)); err == nil {
		t.Error("a bad scenario was taken")
	} else {
		contains(t, err.Error(), "bad.yaml: ")
	}
	// Nothing is left of all that.
	dialFleet(t, comet, 5, FleetConfig{}, agent)
}

// Examples say which agent's they are, and no more are kept than of one swarm.
func TestCausesOfAllAgents(t *testing.T) {
	sum := addCauses(nil, []swarm.CauseCount{{Cause: swarm.ServerReset, Count: 9, Examples: []string{"client 1: reset", "client 2: reset"}}}, "a:1")
	sum = addCauses(sum, []swarm.CauseCount{
		{Cause: swarm.ConnectRefused, Count: 1, Examples: []string{"client 3: refused"}},
		{Cause: swarm.ServerReset, Count: 5, Examples: []string{"client 4: reset", "client 5: reset"}},
	}, "b:2")
	want := []swarm.CauseCount{
		{Cause: swarm.ConnectRefused, Count: 1, Examples: []string{"agent b:2: client 3: refused"}},
		{Cause: swarm.ServerReset, Count: 14, Examples: []string{"agent a:1: client 1: reset", "agent a:1: client 2: reset", "agent b:2: client 4: reset"}},
	}
	if !reflect.DeepEqual(sum, want) {
		t.Errorf("%+v", sum)
	}
}
