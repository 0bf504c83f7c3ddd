// Package ceiling measures what the kernel of this machine allows: a plain loop of send(2), or
// of sendfile(2) where a write is large and that is quicker, over as many sockets as a run has
// clients, in a process of its own, with a swarm at the other end doing the same parsing and
// accounting as in the run. Where clients are inside TLS, the loop encrypts for each of them, and
// most of what it measures is crypto/tls.
package ceiling

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"time"

	"barrage/harness/ledger"
	"barrage/harness/pusher/load"
	"barrage/harness/swarm"
	"barrage/server/wire"
)

// Config says what to measure.
type Config struct {
	Exe     string   // the binary whose subcommand runs Main; default: this one
	Args    []string // what selects it; default: "ceiling"
	Address string   // IP address where it listens; default: 127.0.0.1

	// Receive makes the receiving side; default: a swarm in this process.
	Receive func(context.Context, Job) (Receivers, error)

	Clients   int                     // connections; as many as there is memory for, whatever the limit of open files is
	Kind      func(i int) ledger.Kind // the i-th connection's transport; default: TCP
	BodySize  int                     // bytes of a push's body, at least ledger.BodyMin
	WriteSize int                     // bytes of a write in the throughput part; it holds as many whole frames as fit, and at least one. From 4 KiB on sendfile is tried for those outside TLS, too

	secure int // of Clients, those inside TLS; fill counts them

	Sweeps int           // isolated sweeps with each number of threads, at most; default 20
	Pause  time.Duration // between two of them; default 50 ms

	// Large sweeps are fewer, three at least, since a machine's speed changes from one minute to
	// the next: another begins within SweepFor (default 5 s) of the first, and a throughput run,
	// of three at least too, is over with the sweep in which Duration (default 3 s) ends. Where a
	// single sweep takes longer than SweepFor, one thread is not tried beside as many as there are
	// processors: to so many sockets, a send takes longer than a receipt. Where one takes longer
	// than Duration, the throughput is measured with the number of threads alone that was better
	// before, and large writes by sendfile alone.
	SweepFor, Duration time.Duration
}

// Receivers are the receiving side, as a swarm is.
type Receivers interface {
	Connect(context.Context) error
	Accepted(context.Context) (int64, error)                      // frames that were received for the first time, so far
	Finish(context.Context, []ledger.Plan) (*swarm.Report, error) // more than once
	Close() error
}

// local is a swarm as Receivers.
type local struct{ *swarm.Swarm }

func (l local) Accepted(context.Context) (int64, error) { return l.Swarm.Accepted(), nil }

// A Job is what the receiving side has to know, wherever its clients are.
type Job struct {
	Clients int
	Sweeps  uint32 // isolated ones with each number of threads, at most
	Flood   uint32 // frames to each client of sweeps back to back: about so many, at most

	Targets   swarm.Targets
	Authority []byte // PEM of what clients inside TLS trust
}

// Streams are those of the measurement.
func (j Job) Streams() (*ledger.Streams, error) {
	return ledger.NewStreams([]ledger.Stream{
		{ID: warmUpStream, Pushes: warmUps, WarmUp: true},
		{ID: sweepStream1, Pushes: j.Sweeps}, {ID: sweepStreamN, Pushes: j.Sweeps},
		{ID: floodStream1, Pushes: j.Flood}, {ID: floodStreamN, Pushes: j.Flood},
		{ID: pagesStream1, Pushes: j.Flood}, {ID: pagesStreamN, Pushes: j.Flood},
	})
}

// Swarm describes the part of the clients whose numbers are part modulo parts; kind returns the i-th one's transport.
func (j Job) Swarm(kind func(i int) ledger.Kind, part, parts int) (swarm.Config, error) {
	declared, err := j.Streams()
	if err != nil {
		return swarm.Config{}, err
	}
	set, err := declared.Subscribe(warmUpStream, sweepStream1, sweepStreamN, floodStream1, floodStreamN, pagesStream1, pagesStreamN)
	if err != nil {
		return swarm.Config{}, err
	}
	trusts := x509.NewCertPool()
	trusts.AppendCertsFromPEM(j.Authority)
	return swarm.Config{
		Targets: j.Targets, TLS: &tls.Config{RootCAs: trusts},
		Streams: declared, Clients: load.Part(j.Clients, part, parts), Raw: true, Heartbeat: -1, ConnectRate: max(1, connectRate/parts), InTurn: true,
		Client: func(i int) swarm.Client { return swarm.Client{Kind: kind(i*parts + part), Subscription: set} },
	}, nil
}

// A Result is the ceiling. Each part is that of the number of threads that did best.
type Result struct {
	Clients    int
	Secure     int // of them inside TLS
	Sweep      Sweep
	Throughput Throughput
}

// Sweep is one frame to each client, alone: the time from the first send.
type Sweep struct {
	Threads           int
	Sweeps            int
	Median, P99, Max  time.Duration // to the last receipt
	SendMedian        time.Duration // to the end of the last send
	CPUSecondsPerSend float64       // of the sender
}

// Throughput is sweeps back to back, so that what the clients read of one goes on beside the
// next.
type Throughput struct {
	Threads           int
	Sendfile          bool    // instead of send: what all get is not copied for each
	SendsPerSecond    float64 // until the last receipt, so that nothing is owed to buffers
	BytesPerSend      float64 // mean
	FramesPerSend     int
	CPUSecondsPerSend float64 // of the sender
	Sends, Skipped    int64   // Skipped: the socket was full (EAGAIN), so it was left out of that sweep
	Sweeps            int64
	Elapsed           time.Duration // of the sends
	Drained           time.Duration // from the last send to the last receipt
}

// The streams of a measurement.
const (
	warmUpStream = iota
	sweepStream1 // on one thread
	sweepStreamN // on as many as there are processors
	floodStream1
	floodStreamN
	pagesStream1 // by sendfile
	pagesStreamN
	streams // how many there are
)

const (
	defaultSweeps   = 20
	leastSweeps     = 3
	defaultSweepFor = 5 * time.Second
	defaultPause    = 50 * time.Millisecond
	defaultDuration = 3 * time.Second

	// What Takes goes by: a client's connection, its end included, and a send with its receipt; and what
	// TLS adds to each.
	connectTakes    = 40 * time.Microsecond
	sendTakes       = 10 * time.Microsecond
	tlsConnectTakes = time.Millisecond
	tlsSendTakes    = 5 * time.Microsecond

	sendTakesLeast = 3 * time.Microsecond
	connectRate    = 50_000  // a second
	mostKnown      = 100_000 // pushes of a flood, at 16 bytes for each thread of clients
)

const (
	leastPages  = 4 << 10
	warmUps     = 3
	fdReserve   = 64 // descriptors of a table of the sending side that are no connections
	sweepExpiry = 30 * time.Second
	settleEvery = 2 * time.Millisecond // what arrived is counted
)

func (c Config) fill() (Config, error) {
	if c.Clients < 1 {
		return c, fmt.Errorf("ceiling: Clients is %d, must be at least 1", c.Clients)
	}
	if c.Kind == nil {
		c.Kind = func(int) ledger.Kind { return ledger.TCP }
	}
	c.secure = 0
	for i := range c.Clients {
		if c.Kind(i).TLS() {
			c.secure++
		}
	}
	if c.BodySize < ledger.BodyMin {
		return c, fmt.Errorf("ceiling: BodySize is %d bytes, must be at least %d", c.BodySize, ledger.BodyMin)
	}
	if c.Exe == "" {
		exe, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("ceiling: find this binary: %w", err)
		}
		c.Exe = exe
	}
	if c.Receive == nil {
		c.Receive = func(_ context.Context, j Job) (Receivers, error) {
			cfg, err := j.Swarm(c.Kind, 0, 1)
			if err != nil {
				return nil, err
			}
			s, err := swarm.New(cfg)
			if err != nil {
				return nil, err
			}
			return local{s}, nil
		}
	}
	if c.Args == nil {
		c.Args = []string{"ceiling"}
	}
	c.Sweeps = cmp.Or(c.Sweeps, defaultSweeps)
	c.SweepFor = cmp.Or(c.SweepFor, defaultSweepFor)
	c.Pause = cmp.Or(c.Pause, defaultPause)
	c.Duration = cmp.Or(c.Duration, defaultDuration)
	return c, nil
}

// frames returns how many frames a write of a flood holds.
func (c Config) frames() int { return max(1, c.WriteSize/(wire.HeaderLen+c.BodySize)) }

// floodPushes returns about how many pushes a flood makes, at most: only those that were declared are
// known to a client that receives them as others did before, which takes it much less time.
func (c Config) floodPushes() uint32 {
	sweeps := max(leastSweeps, int(c.Duration/(time.Duration(c.Clients)*sendTakesLeast)))
	return uint32(min(sweeps*c.frames(), mostKnown))
}

// Takes returns about how long Run takes with so many clients, some of them inside TLS, and the
// defaults, on a small machine that has nothing else to do.
func Takes(clients, secure int) time.Duration {
	n, inside := time.Duration(clients), time.Duration(secure)
	sweep := n*sendTakes + inside*tlsSendTakes
	several := func(least, most time.Duration) time.Duration { // isolated ones
		return min(most*(sweep+defaultPause), max(least*sweep, defaultSweepFor+sweep/2))
	}
	takes := n*connectTakes + inside*tlsConnectTakes + several(1, warmUps)
	if sweep > defaultSweepFor {
		return takes + several(leastSweeps, defaultSweeps) + leastSweeps*sweep
	}
	return takes + 2*several(leastSweeps, defaultSweeps) + 2*(defaultDuration+sweep/2)
}

// measurement is one Run.
type measurement struct {
	cfg    Config
	child  *child
	to     Receivers
	plans  [streams]ledger.Plan
	owed   int64 // receipts so far
	missed int64 // frames that skipped sockets did not get
}

// Run starts the sending side, measures and stops it. The error says so when what arrived
// is not what was sent.
func Run(ctx context.Context, cfg Config) (result Result, err error) {
	if cfg, err = cfg.fill(); err != nil {
		return Result{}, err
	}
	c, err := startChild(ctx, cfg)
	if err != nil {
		return Result{}, err
	}
	m := &measurement{cfg: cfg, child: c}
	defer func() { err = errors.Join(err, m.close()) }()
	for i := range m.plans {
		m.plans[i].Stream = uint16(i)
	}
	if err := m.connect(ctx); err != nil {
		return Result{}, err
	}

	warm, err := m.sweeps(ctx, warmUpStream, runtime.NumCPU(), 1, warmUps)
	if err != nil {
		return Result{}, err
	}
	result = Result{Clients: cfg.Clients, Secure: cfg.secure, Sweep: Sweep{Median: math.MaxInt64}}
	for stream, threads := range m.variants(sweepStream1, sweepStreamN) {
		if threads == 1 && runtime.NumCPU() > 1 && warm.Median > cfg.SweepFor {
			continue // see Config.SweepFor
		}
		s, err := m.sweeps(ctx, stream, threads, min(leastSweeps, cfg.Sweeps), cfg.Sweeps)
		if err != nil {
			return Result{}, err
		}
		if s.Median < result.Sweep.Median {
			result.Sweep = s
		}
	}
	pages, several := cfg.WriteSize >= leastPages && cfg.secure < cfg.Clients, result.Sweep.Median <= cfg.Duration
	for _, way := range []struct {
		one, all uint16
		pages    bool
		use      bool
	}{
		// Where a sweep takes long, it is known that one with copies of so much takes longer.
		{floodStream1, floodStreamN, false, several || !pages},
		{pagesStream1, pagesStreamN, true, pages},
	} {
		for stream, threads := range m.variants(way.one, way.all) {
			// And which number of threads is better.
			if !way.use || !several && threads != result.Sweep.Threads {
				continue
			}
			t, err := m.flood(ctx, stream, threads, way.pages)
			if err != nil {
				return Result{}, err
			}
			if t.SendsPerSecond > result.Throughput.SendsPerSecond {
				result.Throughput = t
			}
		}
	}
	return result, m.balance(ctx)
}

// variants yields the streams to measure with their numbers of threads, the most first.
func (m *measurement) variants(one, all uint16) func(yield func(stream uint16, threads int) bool) {
	return func(yield func(uint16, int) bool) {
		if n := runtime.NumCPU(); n == 1 || yield(all, n) {
			yield(one, 1)
		}
	}
}

func (m *measurement) connect(ctx context.Context) error {
	hello := &m.child.hello
	job := Job{
		Clients: m.cfg.Clients, Sweeps: uint32(m.cfg.Sweeps), Flood: m.cfg.floodPushes(), Authority: hello.Certificate,
		Targets: swarm.Targets{
			TCP: hello.Addrs[ledger.TCP : ledger.TCP+1], WS: hello.Addrs[ledger.WebSocket : ledger.WebSocket+1],
			TCPTLS: hello.Addrs[ledger.TCPTLS : ledger.TCPTLS+1], WSS: hello.Addrs[ledger.WSS : ledger.WSS+1],
		},
	}
	var err error
	if m.to, err = m.cfg.Receive(ctx, job); err != nil {
		return fmt.Errorf("ceiling: make the receiving side: %w", err)
	}
	connecting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	accepted := make(chan error, 1)
	go func() {
		_, err := m.child.do(ctx, command{Accept: &acceptCommand{Connections: m.cfg.Clients, Secure: m.cfg.secure > 0}})
		if err != nil {
			cancel(err)
		}
		accepted <- err
	}()
	err = m.to.Connect(connecting)
	if err == nil {
		err = m.connected(connecting)
	}
	if err != nil {
		m.child.kill() // it waits for connections that don't come
		<-accepted
		if cause := context.Cause(connecting); cause != nil {
			return cause
		}
		return err
	}
	return <-accepted
}

// connected checks that all are there.
func (m *measurement) connected(ctx context.Context) error {
	r, err := m.to.Finish(ctx, m.plans[:])
	if err == nil && r.Joined != int64(m.cfg.Clients) {
		err = fmt.Errorf("ceiling: %d of %d connections were made: %v", r.Joined, m.cfg.Clients, r.Failures)
	}
	return err
}

// close ends both sides, the sending one first: see reset.
func (m *measurement) close() error {
	err := m.child.stop()
	if m.to != nil {
		err = errors.Join(err, m.to.Close())
	}
	return err
}

// sweep has one frame sent to each client, and waits until all have it.
func (m *measurement) sweep(ctx context.Context, stream uint16, threads int) (reply, error) {
	r, err := m.child.do(ctx, command{Sweep: &sweepCommand{
		Threads: threads, Stream: stream, Seq: m.plans[stream].Pushed, Body: m.cfg.BodySize, Clock: ledger.Now() - monotonic(),
	}})
	if err != nil {
		return r, err
	}
	m.plans[stream].Pushed++
	m.owed += r.Sends
	return r, m.settle(ctx)
}

// settle waits until everything that was sent has been received.
func (m *measurement) settle(ctx context.Context) error {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	arrived, since := int64(-1), time.Now()
	for {
		n, err := m.to.Accepted(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("ceiling: count what arrived: %w", err)
		case n >= m.owed:
			return nil
		case n > arrived:
			arrived, since = n, time.Now()
		case time.Since(since) > sweepExpiry:
			return fmt.Errorf("ceiling: %d of %d frames arrived, and then none in %s", n, m.owed, sweepExpiry)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("ceiling: %d of %d frames arrived: %w", arrived, m.owed, context.Cause(ctx))
		}
	}
}

// sweeps makes isolated sweeps: least, and as many more up to most as Config.SweepFor allows.
func (m *measurement) sweeps(ctx context.Context, stream uint16, threads, least, most int) (Sweep, error) {
	s := Sweep{Threads: threads}
	var sending []time.Duration
	var cpu float64
	for began := time.Now(); s.Sweeps < least || s.Sweeps < most && time.Since(began) < m.cfg.SweepFor; s.Sweeps++ {
		select {
		case <-time.After(m.cfg.Pause):
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
		r, err := m.sweep(ctx, stream, threads)
		if err != nil {
			return s, err
		}
		sending = append(sending, time.Duration(r.Ended-r.Began))
		cpu += r.CPU
	}
	report, err := m.to.Finish(ctx, m.plans[:])
	if err != nil {
		return s, err
	}
	var receiving []time.Duration
	for _, receipt := range report.Ledger.Receipts(stream) {
		receiving = append(receiving, receipt.Last)
	}
	s.Median, s.P99, s.Max = quantile(receiving, 0.5), quantile(receiving, 0.99), quantile(receiving, 1)
	s.SendMedian = quantile(sending, 0.5)
	s.CPUSecondsPerSend = cpu / (float64(s.Sweeps) * float64(m.cfg.Clients))
	return s, nil
}

// flood has sweeps sent back to back, and waits until all that was sent has arrived: as
// exactly as settle looks, which is little beside a flood's length.
func (m *measurement) flood(ctx context.Context, stream uint16, threads int, pages bool) (Throughput, error) {
	frames := m.cfg.frames()
	r, err := m.child.do(ctx, command{Flood: &floodCommand{
		Threads: threads, Stream: stream, Body: m.cfg.BodySize, Frames: frames, Clock: ledger.Now() - monotonic(), Nanos: int64(m.cfg.Duration),
		Least: int64(min(leastSweeps, m.cfg.Sweeps)), Pages: pages,
	}})
	if err != nil {
		return Throughput{}, err
	}
	m.plans[stream].Pushed = uint32(r.Sweeps) * uint32(frames)
	m.owed += r.Sends * int64(frames)
	m.missed += r.Skipped * int64(frames)
	if err := m.settle(ctx); err != nil {
		return Throughput{}, err
	}
	drained := time.Duration(ledger.Now() - r.Ended)
	elapsed := time.Duration(r.Ended - r.Began)
	sends := float64(max(r.Sends, 1))
	return Throughput{
		Threads:           threads,
		Sendfile:          pages,
		SendsPerSecond:    float64(r.Sends) / (elapsed + drained).Seconds(),
		BytesPerSend:      float64(r.Bytes) / sends,
		FramesPerSend:     frames,
		CPUSecondsPerSend: r.CPU / sends,
		Sends:             r.Sends,
		Skipped:           r.Skipped,
		Sweeps:            r.Sweeps,
		Elapsed:           elapsed,
		Drained:           drained,
	}, nil
}

// balance checks that each frame sent arrived once and in order, and no other is missing.
func (m *measurement) balance(ctx context.Context) error {
	r, err := m.to.Finish(ctx, m.plans[:])
	if err != nil {
		return err
	}
	want := ledger.Counts{Expected: m.owed + m.missed, Delivered: m.owed, Lost: m.missed}
	if c := r.Ledger.Total(); c != want {
		return fmt.Errorf("ceiling: the ledger doesn't balance: %v, but %d frames were sent and %d left out", c, m.owed, m.missed)
	}
	return nil
}

// quantile returns the smallest of list that q of it do not exceed.
func quantile(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}
