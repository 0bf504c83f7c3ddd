package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"barrage/harness/cluster"
	"barrage/harness/ledger"
	"barrage/harness/swarm"
)

// FleetConfig is where the agents are, and how the coordinator goes to them.
type FleetConfig struct {
	Addrs    []string // host:port
	Security Security
	Build    string // version and commit of this binary, which the agents' must be too
	// Lost is called once for each agent that is lost, by any goroutine; nil for nobody.
	Lost func(name string, err error)
}

// A Fleet is the clients of a run on several agents: to the run it is what a swarm is. Its
// methods are safe for concurrent use.
//
// An agent that is lost is left out from then on: what the others have is still worth
// reading, and Members says what is missing.
type Fleet struct {
	cfg     FleetConfig
	members []*member
	streams *ledger.Streams

	ending  atomic.Bool        // an agent that goes now is not lost
	life    context.Context    // of the streams that the agents' sessions live by
	endLife context.CancelFunc // called when the agents have dropped their clients
	whole   context.Context    // ends with life, and with the first agent that is lost
	broken  context.CancelCauseFunc
	wg      sync.WaitGroup // of what reads the streams and follows the clocks
}

// Dial has each agent make its part of the job ready, and takes a first look at its clock.
// The error names the agent that can't be reached, refuses, or can't do its part; then
// nothing is left behind.
func Dial(ctx context.Context, cfg FleetConfig, job Job, streams *ledger.Streams) (*Fleet, error) {
	f := &Fleet{cfg: cfg, streams: streams}
	// The sessions outlive ctx, for their figures are read in spite of it.
	f.life, f.endLife = context.WithCancel(context.WithoutCancel(ctx))
	f.whole, f.broken = context.WithCancelCause(f.life)
	for _, addr := range cfg.Addrs {
		f.members = append(f.members, &member{name: addr, stop: func() {}})
	}
	job.Parts = len(f.members)
	errs := f.each(func(i int, m *member) error {
		part := job
		part.Part = i
		if err := m.dial(ctx, f, part); err != nil {
			return err
		}
		return m.synchronize(ctx, thorough)
	})
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for _, m := range f.members {
		f.wg.Go(func() { m.follow(f.whole) })
	}
	return f, nil
}

// each calls do for all agents at once, but those that are lost, and returns the errors,
// with the agents' names.
func (f *Fleet) each(do func(i int, m *member) error) []error {
	errs := make([]error, len(f.members))
	var wg sync.WaitGroup
	for i, m := range f.members {
		if m.lostError() != nil {
			continue
		}
		wg.Go(func() {
			if err := do(i, m); err != nil {
				errs[i] = fmt.Errorf("agent %s: %w", m.name, err)
			}
		})
	}
	wg.Wait()
	return errs
}

// call is each for calls of a run under way: an agent that doesn't answer any more is lost,
// which is no error here.
func (f *Fleet) call(ctx context.Context, do func(ctx context.Context, m *member) error) error {
	// Without ctx's deadline, which an agent could find passed before this side does, and
	// that would look like a loss.
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	errs := f.each(func(_ int, m *member) error {
		err := do(calls, m)
		if err == nil || ctx.Err() != nil || !isLoss(err) {
			return err
		}
		f.lose(m, fmt.Errorf("%w: %s", ErrLost, reason(err)))
		return nil
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}

// lose leaves m out from now on. Only the first reason counts.
func (f *Fleet) lose(m *member, err error) {
	if f.ending.Load() || !m.setLost(err) {
		return
	}
	m.stop()
	f.broken(fmt.Errorf("agent %s: %w", m.name, err))
	if f.cfg.Lost != nil {
		f.cfg.Lost(m.name, err)
	}
}

// WhileWhole returns a context that ends with ctx, and with the first agent that is lost:
// there is no use in going on with what can't be valid any more.
func (f *Fleet) WhileWhole(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(f.whole, func() { cancel(context.Cause(f.whole)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// Connect connects the clients, and returns when each of them has joined or failed.
func (f *Fleet) Connect(ctx context.Context) error {
	return f.call(ctx, func(ctx context.Context, m *member) error { return m.connect(ctx) })
}

// Synchronize takes a thorough look at the agents' clocks. It takes some 60 round trips.
func (f *Fleet) Synchronize(ctx context.Context) error {
	return f.call(ctx, func(ctx context.Context, m *member) error { return m.synchronize(ctx, thorough) })
}

// Schedule tells the agents when the first push is due, in ledger.Now's clock, and begins
// to hold their clocks' errors against the run.
func (f *Fleet) Schedule(ctx context.Context, start int64) error {
	return f.call(ctx, func(ctx context.Context, m *member) error {
		m.clock.forget()
		return m.schedule(ctx, start)
	})
}

// ChangeRooms lets the clients change rooms from now on, or stops them.
func (f *Fleet) ChangeRooms(ctx context.Context, on bool) error {
	return f.call(ctx, func(ctx context.Context, m *member) error { return m.changeRooms(ctx, on) })
}

// Storm takes the connections of a fraction of the clients of all agents at once, and
// returns when the last of them is back, or when ctx has ended, which is no error.
func (f *Fleet) Storm(ctx context.Context, fraction float64, reset bool) (swarm.StormReport, error) {
	within := time.Duration(0)
	if deadline, ok := ctx.Deadline(); ok {
		within = max(1, time.Until(deadline))
	}
	// At the deadline the agents still say what came of it; anything else ends the calls.
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cancel()
		}
	})()
	var mu sync.Mutex
	var out swarm.StormReport
	err := f.call(calls, func(ctx context.Context, m *member) error {
		r, err := m.storm(ctx, fraction, reset, within)
		mu.Lock()
		defer mu.Unlock()
		out.Clients += r.Clients
		out.Back += r.Back
		out.Took = max(out.Took, r.Took)
		return err
	})
	if ctx.Err() != nil {
		err = nil
	}
	return out, err
}

// Measure returns what each agent has used by now, by its name.
func (f *Fleet) Measure(ctx context.Context) (map[string]Load, error) {
	var mu sync.Mutex
	loads := make(map[string]Load)
	err := f.call(ctx, func(ctx context.Context, m *member) error {
		l, err := m.measure(ctx)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			loads[m.name] = l
		}
		return err
	})
	return loads, err
}

// Snapshot returns the figures as the agents last told them, each within the last second.
// It never waits for one.
func (f *Fleet) Snapshot() swarm.Snapshot {
	out := newSnapshot()
	for _, m := range f.members {
		s := m.lastSnapshot()
		add(&out, &s, m.name)
	}
	return out
}

// Usage returns what each agent's process had used then, by its name.
func (f *Fleet) Usage() map[string]cluster.Usage {
	all := make(map[string]cluster.Usage)
	for _, m := range f.members {
		m.mu.Lock()
		if m.lost == nil {
			all[m.name] = m.usage
		}
		m.mu.Unlock()
	}
	return all
}

// Drain waits until everything that plans owe has arrived at the agents that there are, and
// says whether it has before ctx ended.
func (f *Fleet) Drain(ctx context.Context, plans []ledger.Plan) (bool, error) {
	err := f.call(ctx, func(ctx context.Context, m *member) error { return m.drain(ctx, plans) })
	if ctx.Err() != nil {
		return false, nil
	}
	return err == nil, err
}

// Accepted returns how many pushes the clients have received for the first time.
func (f *Fleet) Accepted(ctx context.Context) (int64, error) {
	var sum atomic.Int64
	err := f.call(ctx, func(ctx context.Context, m *member) error {
		n, err := m.accepted(ctx)
		sum.Add(n)
		return err
	})
	return sum.Load(), err
}

// Finish returns the report over plans of all agents together. Of those that were lost it
// has the connections as they last told them, and nothing else.
func (f *Fleet) Finish(ctx context.Context, plans []ledger.Plan) (*swarm.Report, error) {
	none, err := ledger.NewBook(f.streams, 0, 0).Report(plans)
	if err != nil {
		return nil, err
	}
	out := &swarm.Report{
		Snapshot: newSnapshot(), Ledger: none,
		ReadLag: ledger.NewLiveHistogram(), ConnectTime: ledger.NewLiveHistogram(), RejoinTime: ledger.NewLiveHistogram(), StormTime: ledger.NewLiveHistogram(),
	}
	reports := make(map[*member]*swarm.Report)
	var mu sync.Mutex
	err = f.call(ctx, func(ctx context.Context, m *member) error {
		if err := m.synchronize(ctx, thorough); err != nil {
			return err
		}
		r, err := m.finish(ctx, plans)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			reports[m] = r
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, m := range f.members { // in this order, so that examples are
		r := reports[m]
		if r == nil {
			last := m.lastSnapshot()
			add(&out.Snapshot, &swarm.Snapshot{
				Progress: last.Progress, Failures: last.Failures, Closes: last.Closes, LaggingCloses: last.LaggingCloses, Retries: last.Retries, Where: last.Where,
			}, m.name)
			continue
		}
		m.setFinal(r)
		if err := merge(out, r, m.name); err != nil {
			return nil, fmt.Errorf("agent %s: %w", m.name, err)
		}
	}
	return out, nil
}

// merge adds r, the report of an agent, to sum.
func merge(sum, r *swarm.Report, name string) error {
	add(&sum.Snapshot, &r.Snapshot, name)
	return sum.Merge(r)
}

// Members returns what is known of each agent, in the order of their addresses.
func (f *Fleet) Members() []Member {
	list := make([]Member, len(f.members))
	for i, m := range f.members {
		list[i] = m.state()
	}
	return list
}

// Close has the agents drop their clients, and waits for that. An agent that was lost is no
// error here.
func (f *Fleet) Close() error {
	f.ending.Store(true)
	errs := f.each(func(_ int, m *member) error { return m.end() })
	f.endLife()
	for _, m := range f.members {
		m.hangUp()
	}
	f.wg.Wait()
	return errors.Join(errs...)
}

// newSnapshot is one to add others to.
func newSnapshot() swarm.Snapshot {
	return swarm.Snapshot{Latency: ledger.NewLiveHistogram(), AllLatency: ledger.NewLiveHistogram()}
}

// addWhere adds list to sum; both have the same kinds and states, or sum has none yet.
func addWhere(sum, list []swarm.ClientCount) []swarm.ClientCount {
	for _, w := range list {
		i := slices.IndexFunc(sum, func(e swarm.ClientCount) bool { return e.Kind == w.Kind && e.State == w.State })
		if i < 0 {
			sum = append(sum, w)
			continue
		}
		sum[i].Count += w.Count
	}
	return sum
}

// add adds s, the figures of an agent, to sum.
func add(sum, s *swarm.Snapshot, name string) {
	sum.Clients += s.Clients
	sum.Waiting += s.Waiting
	sum.Connecting += s.Connecting
	sum.Connected += s.Connected
	sum.Joined += s.Joined
	sum.Failed += s.Failed
	sum.ClosedEarly += s.ClosedEarly
	sum.LaggingClosed += s.LaggingClosed
	sum.Away += s.Away
	sum.Vanished += s.Vanished
	sum.Rejoined += s.Rejoined
	sum.Failures = addCauses(sum.Failures, s.Failures, name)
	sum.Closes = addCauses(sum.Closes, s.Closes, name)
	sum.LaggingCloses = addCauses(sum.LaggingCloses, s.LaggingCloses, name)
	sum.Retries = addCauses(sum.Retries, s.Retries, name)
	sum.RoomChanges += s.RoomChanges
	sum.Accepted += s.Accepted
	sum.Frames += s.Frames
	sum.Pushes += s.Pushes
	sum.Control += s.Control
	sum.Bytes += s.Bytes
	sum.Reads += s.Reads
	sum.Heartbeats += s.Heartbeats
	sum.HeldBack += s.HeldBack
	sum.Disorder.Add(s.Disorder)
	sum.Where = addWhere(sum.Where, s.Where)
	if s.Latency != nil {
		sum.Latency.Merge(s.Latency)
	}
	if s.AllLatency != nil {
		sum.AllLatency.Merge(s.AllLatency)
	}
	sum.Threads = append(sum.Threads, s.Threads...)
}

// addCauses adds list, of the agent name, to sum; its examples say so.
func addCauses(sum, list []swarm.CauseCount, name string) []swarm.CauseCount {
	named := slices.Clone(list)
	for i := range named {
		named[i].Examples = slices.Clone(named[i].Examples)
		for k := range named[i].Examples {
			named[i].Examples[k] = "agent " + name + ": " + named[i].Examples[k]
		}
	}
	return swarm.AddCauses(sum, named)
}
