package swarm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/fdtable"
	"barrage/server/wire"
)

// A Swarm is the simulated clients of one process. Its methods are safe for concurrent use.
type Swarm struct {
	threads []*thread
	addrs   addresses
	closed  sync.Once
}

// New starts the swarm's threads. No client connects before Connect. It raises GOMAXPROCS
// so that the threads don't take the processors of the goroutines beside them; Close puts
// it back.
func New(cfg Config) (*Swarm, error) {
	cfg, err := cfg.fill()
	if err != nil {
		return nil, err
	}
	s := &Swarm{}
	if s.addrs, err = resolve(cfg); err != nil {
		return nil, err
	}
	if err := s.makeThreads(cfg); err != nil {
		s.closeWakeups()
		return nil, err
	}
	keep, err := fdtable.Shared()
	if err != nil {
		s.closeWakeups()
		return nil, err
	}
	if cfg.Threads > runtime.NumCPU() {
		fdtable.CalmMonitor()
	}
	changeProcs(cfg.Threads)
	for _, t := range s.threads {
		fdtable.Go(keep, t.run)
	}
	return s, nil
}

// makeThreads deals the clients out to the threads, in runs.
func (s *Swarm) makeThreads(cfg Config) error {
	keySeed := rand.Uint64()
	perThread := cfg.perThread()
	relay := &relay{abreast: cfg.abreast}
	var cells, accounts [2][]int // by lags, and thread
	for lags := range cells {
		cells[lags], accounts[lags] = make([]int, cfg.Threads), make([]int, cfg.Threads)
	}
	for i := range cfg.Clients {
		if c := cfg.Client(i); c.Subscription != nil {
			lags := 0
			if c.Behaviour.Lags() {
				lags = 1
			}
			cells[lags][cfg.threadOf(i)] += c.Subscription.Len()
			accounts[lags][cfg.threadOf(i)]++
		}
	}
	for n := range cfg.Threads {
		wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return fmt.Errorf("swarm: make a wakeup: %w", err)
		}
		t := &thread{
			number: n, cfg: cfg, addrs: s.addrs.clone(), keySeed: keySeed, random: rand.Uint64(),
			clients:     make([]client, 0, perThread),
			book:        ledger.NewBook(cfg.Streams, accounts[0][n], cells[0][n]),
			links:       make(map[int32]*link),
			wakeFD:      wake,
			wakeup:      wakeup{fd: wake},
			events:      make([]unix.EpollEvent, maxEvents),
			buf:         make([]byte, cfg.ReadBuffer),
			overflow:    make(map[int32][]byte),
			relay:       relay,
			heartbeat:   wire.AppendFrame(nil, wire.Frame{Ver: wire.Version, Op: wire.OpHeartbeat}),
			lag:         ledger.NewLiveHistogram(),
			connectTime: ledger.NewLiveHistogram(),
			rejoinTime:  ledger.NewLiveHistogram(),
			stormTime:   ledger.NewLiveHistogram(),
			cmds:        make(chan func(), 16),
			settled:     make(chan struct{}),
			ended:       make(chan struct{}),
		}
		if accounts[1][n] > 0 {
			t.lagging = ledger.NewBook(cfg.Streams, accounts[1][n], cells[1][n])
		}
		if cfg.TLS != nil {
			t.sealedBuf = make([]byte, cfg.ReadBuffer)
		}
		t.trains = newTrains(t.book)
		s.threads = append(s.threads, t)
	}
	relay.threads = s.threads
	for i := range cfg.Clients {
		c := cfg.Client(i)
		if int(c.Kind) >= ledger.Kinds || len(s.addrs.targets[c.Kind]) == 0 {
			return fmt.Errorf("swarm: client %d is of kind %s, which has no target", i, c.Kind)
		}
		switch {
		case c.Subscription == nil:
			return fmt.Errorf("swarm: client %d has no subscription", i)
		case c.Kind.TLS() && cfg.TLS == nil:
			return fmt.Errorf("swarm: client %d is of kind %s, and TLS is missing", i, c.Kind)
		case c.Behaviour >= behaviours:
			return fmt.Errorf("swarm: client %d has the behaviour %d, which there is not", i, c.Behaviour)
		}
		t := s.threads[cfg.threadOf(i)]
		own := client{
			fd: -1, slot: -1, kind: c.Kind, behaviour: c.Behaviour,
			target: uint16(cfg.targetOf(i, len(s.addrs.targets[c.Kind]))),
		}
		own.account = int32(t.bookOf(&own).Add(c.Subscription, c.Kind))
		t.clients = append(t.clients, own)
	}
	for _, t := range s.threads {
		for i := range t.clients {
			t.shared.where[t.clients[i].kind][waiting].Add(1)
		}
	}
	return nil
}

// Connect connects the clients at the configured rate, and returns when each of them has
// joined or failed. Failed ones are no error: see Snapshot. The error is that of ctx, or of
// a thread that can't work.
func (s *Swarm) Connect(ctx context.Context) error {
	for _, t := range s.threads {
		t.open.Store(true)
		t.wakeup.signal()
	}
	for _, t := range s.threads {
		select {
		case <-t.settled:
		case <-t.ended:
			return t.endError()
		case <-ctx.Done():
			p := s.Snapshot().Progress
			return fmt.Errorf("connect %d clients (%d joined, %d failed): %w", p.Clients, p.Joined, p.Failed, context.Cause(ctx))
		}
	}
	return nil
}

// Snapshot returns the figures of this moment. It never waits for a thread.
func (s *Swarm) Snapshot() Snapshot {
	out := Snapshot{Latency: ledger.NewLiveHistogram(), AllLatency: ledger.NewLiveHistogram()}
	var where [ledger.Kinds][states]int64
	for _, t := range s.threads {
		sh := &t.shared
		out.Clients += int64(len(t.clients))
		out.Connecting += sh.connecting.Load()
		out.Connected += sh.connected.Load()
		out.Joined += sh.joined.Load()
		out.Failed += t.failures.total()
		out.ClosedEarly += t.closes.total()
		out.LaggingClosed += t.laggingCloses.total()
		out.Away += sh.away.Load()
		out.Rejoined += sh.rejoined.Load()
		out.Failures = AddCauses(out.Failures, t.failures.list())
		out.Closes = AddCauses(out.Closes, t.closes.list())
		out.LaggingCloses = AddCauses(out.LaggingCloses, t.laggingCloses.list())
		out.Retries = AddCauses(out.Retries, t.retries.list())
		out.RoomChanges += sh.roomChanges.Load()
		out.Accepted += sh.accepted.Load()
		out.Frames += sh.frames.Load()
		out.Pushes += sh.pushes.Load()
		out.Control += sh.control.Load()
		out.Bytes += sh.bytes.Load()
		out.Reads += sh.reads.Load()
		out.Heartbeats += sh.heartbeats.Load()
		out.HeldBack += sh.heldBack.Load()
		out.Disorder.Add(ledger.Disorder{Duplicate: sh.duplicate.Load(), Reordered: sh.reordered.Load(), Missing: sh.missing.Load()})
		for kind := range where {
			for s := range where[kind] {
				where[kind][s] += sh.where[kind][s].Load()
			}
		}
		t.book.LastSecond(out.Latency)
		t.book.UntilNow(out.AllLatency)
		out.Threads = append(out.Threads, ThreadLoad{
			Clients: len(t.clients),
			Busy:    math.Float64frombits(sh.busy.Load()),
			Starved: math.Float64frombits(sh.starved.Load()),
			CPU:     time.Duration(sh.cpu.Load()),
			ReadLag: time.Duration(sh.lag.Load()),
		})
	}
	for kind := range where {
		out.Waiting += where[kind][waiting]
		out.Vanished += where[kind][vanished]
		for s, n := range where[kind] {
			out.Where = append(out.Where, ClientCount{Kind: ledger.Kind(kind), State: state(s).String(), Count: n})
		}
	}
	return out
}

// Accepted returns the number of pushes that clients received for the first time: a cheap
// part of Snapshot, for polling.
func (s *Swarm) Accepted() (n int64) {
	for _, t := range s.threads {
		n += t.shared.accepted.Load()
	}
	return n
}

// Count returns what arrived of plans so far, exactly. The threads count between two
// rounds of events.
func (s *Swarm) Count(ctx context.Context, plans []ledger.Plan) (ledger.Counts, error) {
	var total ledger.Counts
	for _, t := range s.threads {
		var counts ledger.Counts
		var failed error
		if err := t.do(ctx, func() { counts, failed = t.book.Count(plans) }); err != nil {
			return ledger.Counts{}, fmt.Errorf("count receipts: %w", err)
		}
		if failed != nil {
			return ledger.Counts{}, failed
		}
		total.Add(counts)
	}
	return total, nil
}

// drainPoll is how often Drain counts.
const drainPoll = 50 * time.Millisecond

// Drain waits until everything that plans owe has arrived, and says whether it has before
// ctx ended.
func (s *Swarm) Drain(ctx context.Context, plans []ledger.Plan) (bool, error) {
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for {
		counts, err := s.Count(ctx, plans)
		switch {
		case err != nil && ctx.Err() != nil:
			return false, nil
		case err != nil:
			return false, err
		case counts.Lost == 0:
			return true, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, nil
		}
	}
}

// Finish returns the report over plans. The swarm goes on, so it may be called again.
func (s *Swarm) Finish(ctx context.Context, plans []ledger.Plan) (*Report, error) {
	r := newReport()
	for _, t := range s.threads {
		part := newReport()
		var failed error
		err := t.do(ctx, func() {
			part.Counted = t.byteCount()
			numbers := t.numbers()
			if part.Ledger, failed = t.book.Report(plans); failed == nil {
				part.Ledger.Renumber(func(account int) int { return numbers[account] })
			}
			if failed == nil && t.lagging != nil {
				part.Lagging, failed = t.lagging.Report(plans)
			}
			if failed == nil {
				part.Losses, failed = t.losses(plans, numbers)
			}
			part.ReadLag.Merge(t.lag)
			part.ConnectTime.Merge(t.connectTime)
			part.RejoinTime.Merge(t.rejoinTime)
			part.StormTime.Merge(t.stormTime)
			t.book.Rotate() // or the snapshot below lacked up to a second of latencies
		})
		if err == nil {
			err = failed
		}
		if err != nil {
			return nil, fmt.Errorf("report of swarm thread %d: %w", t.number, err)
		}
		if err := r.Merge(part); err != nil {
			return nil, err
		}
	}
	r.Snapshot = s.Snapshot()
	return r, nil
}

// ChangeRooms lets the clients change rooms from now on, by Behaviours.RoomChange, or stops
// them.
func (s *Swarm) ChangeRooms(ctx context.Context, on bool) error {
	for _, t := range s.threads {
		err := t.do(ctx, func() {
			t.rooms = rota{}
			if on {
				t.rooms = rota{period: t.cfg.Behaviours.RoomChange, from: ledger.Now()}
			}
		})
		if err != nil {
			return fmt.Errorf("let clients change rooms: %w", err)
		}
	}
	return nil
}

// Close ends all threads, and with them their connections, and waits for them. It returns
// what went wrong in a thread, if anything did.
func (s *Swarm) Close() error {
	var errs []error
	for _, t := range s.threads {
		t.stopping.Store(true)
		t.wakeup.signal()
	}
	for _, t := range s.threads {
		<-t.ended
		if t.err != nil {
			errs = append(errs, t.err)
		}
	}
	s.closeWakeups()
	s.closed.Do(func() { changeProcs(-len(s.threads)) })
	return errors.Join(errs...)
}

func (s *Swarm) closeWakeups() {
	for _, t := range s.threads {
		t.wakeup.close()
	}
}

// do runs f on the thread and waits for it. When it returns an error, f may still run: what it
// writes is not to be read then.
func (t *thread) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case t.cmds <- func() { f(); close(done) }:
	case <-t.ended:
		return t.endError()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	t.wakeup.signal()
	select {
	case <-done:
		return nil
	case <-t.ended:
		return t.endError()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wakeup makes epoll_wait of a thread return. It is an eventfd that the process's table
// holds for as long as the thread's does, under the same number.
type wakeup struct {
	mu sync.Mutex
	fd int // -1 once closed; mu guards it, so that a number taken by another file is never written to
}

func (w *wakeup) signal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return
	}
	_ = fdtable.Signal(w.fd)
}

func (w *wakeup) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		_ = unix.Close(w.fd)
		w.fd = -1
	}
}

var errClosed = errors.New("swarm is closed")

func (t *thread) endError() error {
	if t.err != nil {
		return t.err
	}
	return errClosed
}
