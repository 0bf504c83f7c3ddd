package job

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"barrage/server/api/pushes"
)

// A link is the job's side of one comet: its lanes, and whether it is alive. A life begins
// when the comet appears or connects again, and ends when it is given up or leaves. The
// fleet begins and ends lives; the lanes deliver within them.
type link struct {
	host    string
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	died    func(*link, context.Context) // tells the fleet that in this life nothing but failures came back for comet.deadAfter

	lanes     []*lane // for rooms and keys, by hash
	broadcast *lane   // for broadcasts: one order, and paced ones don't hold up rooms
	rooms     *rooms  // nil: every room is sent

	ctx    context.Context // ends when the link is removed, or the job ends
	cancel context.CancelFunc
	work   sync.WaitGroup

	failing atomic.Int64  // by uptime, since when nothing but failures is known, 0 when nothing fails
	heard   atomic.Int64  // by uptime, the comet's last answer
	leaving atomic.Bool   // left discovery: what waits is tried once more
	took    atomic.Bool   // a call succeeded in the current life
	single  atomic.Bool   // it takes one batch a call, as goim's comets
	refused limitedLogger // one line a second at most

	mu     sync.Mutex
	addr   string
	client Comet
	end    context.CancelCauseFunc // of the current life
}

// The causes that end a life.
var (
	errDead = errors.New("comet was given up")
	errGone = errors.New("comet left")
)

func newLink(ctx context.Context, host, addr string, client Comet, cfg Config, log *slog.Logger, m *metrics) *link {
	k := &link{host: host, addr: addr, client: client, cfg: cfg, log: log.With("comet", host), metrics: m}
	k.ctx, k.cancel = context.WithCancel(ctx)
	for range cfg.Lane.Count {
		k.lanes = append(k.lanes, newLane(cfg.Lane))
	}
	k.broadcast = newLane(cfg.Lane)
	if cfg.Comet.SkipUnheldRooms {
		k.rooms = newRooms(cfg.Comet.RoomsInterval)
		k.work.Go(func() { k.askRooms() })
	}
	for _, l := range k.all() {
		k.work.Go(func() { k.serve(l) })
	}
	return k
}

// all returns every lane.
func (k *link) all() []*lane { return append(k.lanes[:len(k.lanes):len(k.lanes)], k.broadcast) }

// begin starts a life.
func (k *link) begin() {
	k.failing.Store(0)
	k.took.Store(false)
	k.single.Store(false)
	life, end := context.WithCancelCause(k.ctx)
	k.mu.Lock()
	k.end = end
	k.mu.Unlock()
	for _, l := range k.all() {
		l.open(life)
	}
}

// finish ends the life for cause, errDead or errGone. What waits is dropped and counted;
// what is in flight is cancelled, and dropped by its lane. It returns the records that
// waited.
func (k *link) finish(cause error) int {
	k.mu.Lock()
	end := k.end
	k.mu.Unlock()
	end(cause)
	n := 0
	for _, l := range k.all() {
		records := l.clear()
		n += len(records)
		k.metrics.drop(dropOf(cause), len(records))
		release(records...)
	}
	return n
}

// remove stops the lanes and closes the connection. What they hold stays held.
func (k *link) remove() {
	k.cancel()
	k.work.Wait()
	if err := k.comet().Close(); err != nil {
		k.log.Debug("close connection", "err", err)
	}
}

// move changes the address of the same comet. Calls in flight fail and are repeated there.
func (k *link) move(addr string, client Comet) {
	k.mu.Lock()
	old := k.client
	k.addr, k.client = addr, client
	k.mu.Unlock()
	k.single.Store(false)
	if err := old.Close(); err != nil {
		k.log.Debug("close connection", "err", err)
	}
}

func (k *link) comet() Comet {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.client
}

// address returns where the comet is called.
func (k *link) address() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.addr
}

// load returns the records and bytes that wait for the comet or are in flight.
func (k *link) load() (records, bytes int) {
	for _, l := range k.all() {
		n, b := l.load()
		records, bytes = records+n, bytes+b
	}
	return records, bytes
}

// add gives r to its lane and reports whether the lane took it. hash chooses the lane and
// is the same for all records of a target.
func (k *link) add(r *record, hash uint64) bool {
	if r.kind == kindBroadcast {
		return k.broadcast.add(r, 0)
	}
	l := k.lanes[hash%uint64(len(k.lanes))]
	if k.rooms == nil || r.kind != kindRoom {
		return l.add(r, 0)
	}
	question := k.rooms.question(r.room)
	ok := l.add(r, question)
	if question != 0 {
		k.rooms.ask()
	}
	return ok
}

// serve delivers what is added to l until the link is removed.
func (k *link) serve(l *lane) {
	for {
		if k.ctx.Err() != nil {
			return
		}
		c := l.take(!k.oneByOne(l))
		if c == nil {
			select {
			case <-l.wake:
			case <-k.ctx.Done():
			}
			continue
		}
		for _, b := range c.batches {
			b.encode()
		}
		// Once the comet has tried all of the call it may still wait for space in some rooms'
		// logs. The others go on meanwhile, and what comes for these rooms waits behind it.
		tried := make(chan struct{})
		k.work.Go(func() { k.deliver(l, c, sync.OnceFunc(func() { close(tried) })) })
		<-tried
	}
}

// oneByOne reports whether the batches of l need a call each.
func (k *link) oneByOne(l *lane) bool { return l == k.broadcast || k.single.Load() }

// deliver calls the comet until it took all of c, or what it didn't take is settled
// otherwise. It calls tried when the first answer has come, at the latest at its end.
func (k *link) deliver(l *lane, c *call, tried func()) {
	defer tried()
	defer l.end(c)
	var exhausted time.Time // since when the comet has had no resources for c
	wait := k.cfg.Comet.BackoffMin
	for len(c.batches) > 0 {
		start := time.Now()
		single := k.oneByOne(l)
		err := k.call(l, c, single, tried)
		k.metrics.rpcSeconds.Observe(time.Since(start).Seconds())
		if err == nil && len(c.batches) == 0 {
			return
		}
		if c.life.Err() != nil {
			k.bury(l, c)
			return
		}
		if err == nil {
			exhausted = time.Time{}
			continue
		}
		switch {
		case !single && status.Code(err) == codes.Unimplemented:
			// goim's comet: what several calls are needed for comes one by one from now on.
			k.single.Store(true)
			continue
		case outcomeOf(err) == refused:
			k.answered()
			k.drop(l, c, single, dropRefused, err)
			continue
		case outcomeOf(err) == exhaustedNow:
			k.answered()
			if exhausted.IsZero() {
				exhausted = start
			}
			if time.Since(exhausted) >= k.cfg.Comet.DeadAfter {
				k.drop(l, c, single, dropExhausted, err)
				exhausted = time.Time{}
				continue
			}
		case k.leaving.Load():
			k.drop(l, c, false, dropCometGone, err)
			return
		default:
			k.failure(c.life, start, err)
		}
		if k.giveBack(l, c); len(c.batches) == 0 {
			k.failing.Store(0) // nothing is being tried any more, so nothing fails
			return
		}
		if !sleep(c.life, jitter(wait)) {
			k.bury(l, c)
			return
		}
		wait = min(2*wait, k.cfg.Comet.BackoffMax)
		k.metrics.retries.Inc()
	}
}

// call calls the comet once, for all batches of c or for the first alone, and settles what
// it takes.
func (k *link) call(l *lane, c *call, single bool, tried func()) error {
	ctx, cancel := context.WithTimeout(c.life, k.cfg.Comet.RPCTimeout)
	defer cancel()
	if !single {
		return k.callForAll(ctx, l, c, tried)
	}
	b := c.batches[0]
	first := b.records[0]
	var err error
	switch b.target.kind {
	case kindRoom:
		err = k.comet().BroadcastRoom(ctx, first.room, b.frames)
	case kindPush:
		err = k.comet().PushMsg(ctx, first.keys, first.op, b.frames)
	default:
		err = k.comet().Broadcast(ctx, first.op, first.pace.on(k), b.frames)
	}
	if err == nil {
		k.metrics.callBatches.Observe(1)
		k.took.Store(true)
		k.answered()
		k.taken(l, b)
		c.batches = slices.Delete(c.batches, 0, 1)
	}
	return err
}

// callForAll hands over all batches of c. Those that the comet did not answer for stay in c.
func (k *link) callForAll(ctx context.Context, l *lane, c *call, tried func()) error {
	items := make([]*pushes.Item, len(c.batches))
	for i, b := range c.batches {
		first := b.records[0]
		items[i] = &pushes.Item{Frames: b.frames.Body, Accepted: b.frames.Accepted}
		if b.target.kind == kindRoom {
			items[i].Room = first.room
		} else {
			items[i].Keys, items[i].Op = first.keys, first.op
		}
	}
	// named takes the batch of an item out of c: nil where there is none, or it was named before.
	named := func(item int32) (b *batch) {
		if item >= 0 && int(item) < len(c.batches) {
			b, c.batches[item] = c.batches[item], nil
		}
		return b
	}
	err := k.comet().Push(ctx, items, func(reply *pushes.Reply) {
		k.took.Store(true)
		k.answered()
		for _, item := range reply.Taken {
			if b := named(item); b != nil {
				k.taken(l, b)
			}
		}
		for _, refusal := range reply.Refused {
			if b := named(refusal.Item); b != nil {
				k.refuse(l, b, dropRefused, errors.New(refusal.Reason))
			}
		}
		tried()
	})
	c.batches = slices.DeleteFunc(c.batches, func(b *batch) bool { return b == nil })
	if n := len(items) - len(c.batches); n > 0 {
		k.metrics.callBatches.Observe(float64(n))
	}
	if err == nil && len(c.batches) > 0 {
		return status.Errorf(codes.Internal, "the comet did not answer for %d of %d items", len(c.batches), len(items))
	}
	return err
}

// taken settles a batch that the comet has.
func (k *link) taken(l *lane, b *batch) {
	k.metrics.batches[b.target.kind].Inc()
	k.metrics.batchFrames.Observe(float64(len(b.records)))
	k.metrics.handedOver(b.records, time.Now())
	k.settle(l, b, true)
}

// settle ends a batch. If its records are not done they are left to the next owner of their
// partition.
func (k *link) settle(l *lane, b *batch, done bool) {
	// Released first: a lane that holds nothing, or a partition with nothing in flight,
	// means that the offsets are up to date.
	if done {
		release(b.records...)
	}
	l.finish(b)
}

// bury settles a call whose life ended: dropped with the comet, or left to the next job.
func (k *link) bury(l *lane, c *call) {
	cause := context.Cause(c.life)
	n := c.records()
	done := cause == errDead || cause == errGone
	if done {
		k.metrics.drop(dropOf(cause), n)
	} else {
		k.metrics.givenBack[backShutdown].Add(float64(n))
	}
	for _, b := range c.batches {
		k.settle(l, b, done)
	}
}

// giveBack settles the batches whose partitions went to another job.
func (k *link) giveBack(l *lane, c *call) {
	c.batches = slices.DeleteFunc(c.batches, func(b *batch) bool {
		if !b.revoked() {
			return false
		}
		k.metrics.givenBack[backRevoked].Add(float64(len(b.records)))
		k.settle(l, b, false)
		return true
	})
}

// drop settles what the comet will never take: the batch that was tried, where only one was, or all of
// the call.
func (k *link) drop(l *lane, c *call, single bool, reason dropReason, err error) {
	n := len(c.batches)
	if single {
		n = 1
	}
	for _, b := range c.batches[:n] {
		k.refuse(l, b, reason, err)
	}
	c.batches = slices.Delete(c.batches, 0, n)
}

// refuse counts, logs and settles a batch that the comet will never take.
func (k *link) refuse(l *lane, b *batch, reason dropReason, err error) {
	k.metrics.drop(reason, len(b.records))
	first := b.records[0]
	k.refused.warn(k.log, "comet did not take a batch: dropped", "reason", dropNames[reason], "type", b.target.kind.String(),
		"room", first.room, "partition", first.part.id, "offset", first.offset, "records", len(b.records), "err", err)
	k.settle(l, b, true)
}

// began is a second before the process did, so that uptime is never 0.
var began = time.Now().Add(-time.Second)

// uptime is the time since began in nanoseconds. Unlike the clock of day it makes no steps, which would be
// taken for a comet's silence.
func uptime(at time.Time) int64 { return int64(at.Sub(began)) }

// answered notes that the comet is there.
func (k *link) answered() {
	k.heard.Store(uptime(time.Now()))
	if k.failing.Load() == 0 {
		return
	}
	if since := k.failing.Swap(0); since != 0 {
		k.log.Info("comet answers again", "after", time.Duration(uptime(time.Now())-since))
	}
}

// failure notes that a call of the life that began at start failed, and gives the comet up
// when nothing else has happened for comet.deadAfter. A call that hung has failed all along,
// but not for longer than other lanes have had no answer.
func (k *link) failure(life context.Context, start time.Time, err error) {
	if k.failing.CompareAndSwap(0, max(uptime(start), k.heard.Load())) {
		k.log.Warn("comet does not answer, trying again", "err", err)
	}
	if since := k.failing.Load(); since != 0 && time.Duration(uptime(time.Now())-since) >= k.cfg.Comet.DeadAfter {
		k.died(k, life)
	}
}

// outcome is what a failed call means for its batch.
type outcome uint8

const (
	failed       outcome = iota // the comet is not reached: try again, it may be gone
	exhaustedNow                // the comet has no room now: try again for some time
	refused                     // the comet will never take it
)

func outcomeOf(err error) outcome {
	if errors.Is(err, context.DeadlineExceeded) {
		return failed
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled: // Canceled: the connection was closed on our side
		return failed
	case codes.ResourceExhausted:
		return exhaustedNow
	default:
		return refused
	}
}

func dropOf(cause error) dropReason {
	if cause == errDead {
		return dropCometDead
	}
	return dropCometGone
}

// jitter spreads d over 0.8 to 1.2 of itself.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// sleep waits for d and reports whether ctx still lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A limitedLogger passes on one line a second and says how many it kept back.
type limitedLogger struct {
	mu    sync.Mutex
	next  time.Time
	quiet int
}

func (l *limitedLogger) warn(log *slog.Logger, msg string, args ...any) {
	l.mu.Lock()
	now := time.Now()
	if now.Before(l.next) {
		l.quiet++
		l.mu.Unlock()
		return
	}
	quiet := l.quiet
	l.quiet, l.next = 0, now.Add(time.Second)
	l.mu.Unlock()
	if quiet > 0 {
		args = append(args, "similar", quiet)
	}
	log.Warn(msg, args...)
}
