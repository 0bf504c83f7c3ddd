// Package ceiling measures what the kernel of this machine allows: a plain loop of send(2)
// over as many sockets as a run has clients, in a process of its own, with the swarm at the
// other end doing the same parsing and accounting as in the run.
package ceiling

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/harness/swarm"
	"barrage/server/wire"
)

// Config says what to measure.
type Config struct {
	Exe  string   // the binary whose subcommand runs Main; default: this one
	Args []string // what selects it; default: "ceiling"

	Clients    int     // connections; at most the limit of open files of one process
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

// Sweep is one frame to each client, alone: the time from the first send.
type Sweep struct {
	Threads           int
	Sweeps            int
	Median, P99, Max  time.Duration // to the last receipt
	SendMedian        time.Duration // to the end of the last send
	CPUSecondsPerSend float64       // of the sender
}

// Throughput is sweeps back to back.
type Throughput struct {
	Threads           int
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
	endStream // a sweep after each flood: each client has had the flood when it has this
)

const (
	warmUps     = 3
	fdReserve   = 64 // descriptors of the sending side that are no connections
	sweepExpiry = 30 * time.Second
)

func (c Config) fill() (Config, error) {
	if c.Clients < 1 || c.WSFraction < 0 || c.WSFraction > 1 {
		return c, fmt.Errorf("ceiling: %d clients, %g of them WebSocket: at least 1 is needed, and a fraction of 0 to 1", c.Clients, c.WSFraction)
	}
	if c.BodySize < ledger.BodyMin {
		return c, fmt.Errorf("ceiling: BodySize is %d bytes, must be at least %d", c.BodySize, ledger.BodyMin)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return c, fmt.Errorf("ceiling: read the limit of open files: %w", err)
	}
	if need := uint64(c.Clients) + fdReserve; need > limit.Max {
		return c, fmt.Errorf("ceiling: %d connections need %d open files in one process, the hard limit is %d: raise it with ulimit -Hn %d",
			c.Clients, need, limit.Max, need)
	}
	if c.Exe == "" {
		exe, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("ceiling: find this binary: %w", err)
		}
		c.Exe = exe
	}
	if c.Args == nil {
		c.Args = []string{"ceiling"}
	}
	if c.Sweeps == 0 {
		c.Sweeps = 20
	}
	if c.Pause == 0 {
		c.Pause = 50 * time.Millisecond
	}
	if c.Duration == 0 {
		c.Duration = 3 * time.Second
	}
	return c, nil
}

// measurement is one Run.
type measurement struct {
	cfg    Config
	child  *child
	swarm  *swarm.Swarm
	plans  [endStream + 1]ledger.Plan
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
	defer func() { err = errors.Join(err, c.stop()) }()
	m := &measurement{cfg: cfg, child: c}
	for i := range m.plans {
		m.plans[i].Stream = uint16(i)
	}
	if err := m.connect(ctx); err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, m.swarm.Close()) }()

	for range warmUps {
		if _, err := m.sweep(ctx, warmUpStream, 1); err != nil {
			return Result{}, err
		}
	}
	result = Result{Clients: cfg.Clients, Sweep: Sweep{Median: math.MaxInt64}}
	for stream, threads := range m.variants(sweepStream1, sweepStreamN) {
		s, err := m.sweeps(ctx, stream, threads)
		if err != nil {
			return Result{}, err
		}
		if s.Median < result.Sweep.Median {
			result.Sweep = s
		}
	}
	for stream, threads := range m.variants(floodStream1, floodStreamN) {
		t, err := m.flood(ctx, stream, threads)
		if err != nil {
			return Result{}, err
		}
		if t.SendsPerSecond > result.Throughput.SendsPerSecond {
			result.Throughput = t
		}
	}
	return result, m.balance(ctx)
}

// variants yields the streams to measure with their numbers of threads.
func (m *measurement) variants(one, all uint16) func(yield func(stream uint16, threads int) bool) {
	return func(yield func(uint16, int) bool) {
		n := runtime.NumCPU()
		if yield(one, 1) && n > 1 {
			yield(all, n)
		}
	}
}

func (m *measurement) connect(ctx context.Context) error {
	sweeps := uint32(m.cfg.Sweeps)
	streams, err := ledger.NewStreams([]ledger.Stream{
		{ID: warmUpStream, Pushes: warmUps, WarmUp: true},
		{ID: sweepStream1, Pushes: sweeps}, {ID: sweepStreamN, Pushes: sweeps},
		{ID: floodStream1}, {ID: floodStreamN},
		{ID: endStream, Pushes: 2},
	})
	if err != nil {
		return err
	}
	set, err := streams.Subscribe(warmUpStream, sweepStream1, sweepStreamN, floodStream1, floodStreamN, endStream)
	if err != nil {
		return err
	}
	ws := int(math.Round(float64(m.cfg.Clients) * m.cfg.WSFraction))
	m.swarm, err = swarm.New(swarm.Config{
		Targets: swarm.Targets{TCP: []string{m.child.hello.TCP}, WS: []string{m.child.hello.WS}},
		Streams: streams, Clients: m.cfg.Clients, Raw: true, Heartbeat: -1, ConnectRate: 50_000,
		Client: func(i int) swarm.Client {
			// The i-th is a WebSocket where the running share passes a whole number.
			kind := ledger.TCP
			if i*ws/m.cfg.Clients != (i+1)*ws/m.cfg.Clients {
				kind = ledger.WebSocket
			}
			return swarm.Client{Kind: kind, Subscription: set}
		},
	})
	if err != nil {
		return err
	}
	connecting, cancel := context.WithCancel(ctx)
	defer cancel()
	accepted := make(chan error, 1)
	go func() {
		_, err := m.child.do(ctx, command{Accept: &acceptCommand{TCP: m.cfg.Clients - ws, WS: ws}})
		if err != nil {
			cancel()
		}
		accepted <- err
	}()
	err = m.swarm.Connect(connecting)
	if p := m.swarm.Snapshot(); err == nil && p.Failed > 0 {
		err = fmt.Errorf("ceiling: %d of %d connections failed: %v", p.Failed, p.Clients, p.Failures)
	}
	if err != nil {
		m.child.kill() // it waits for connections that don't come
	}
	if err = errors.Join(err, <-accepted); err != nil {
		return errors.Join(err, m.swarm.Close())
	}
	return nil
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
	ctx, cancel := context.WithTimeout(ctx, sweepExpiry)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for m.swarm.Accepted() < m.owed {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("ceiling: %d of %d frames arrived: %w", m.swarm.Accepted(), m.owed, ctx.Err())
		}
	}
	return nil
}

func (m *measurement) sweeps(ctx context.Context, stream uint16, threads int) (Sweep, error) {
	s := Sweep{Threads: threads, Sweeps: m.cfg.Sweeps}
	var sending []time.Duration
	var cpu float64
	for range m.cfg.Sweeps {
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
	report, err := m.swarm.Finish(ctx, m.plans[:])
	if err != nil {
		return s, err
	}
	var receiving []time.Duration
	for _, receipt := range report.Ledger.Receipts(stream) {
		receiving = append(receiving, receipt.Last)
	}
	s.Median, s.P99, s.Max = quantile(receiving, 0.5), quantile(receiving, 0.99), quantile(receiving, 1)
	s.SendMedian = quantile(sending, 0.5)
	s.CPUSecondsPerSend = cpu / float64(m.cfg.Sweeps*m.cfg.Clients)
	return s, nil
}

func (m *measurement) flood(ctx context.Context, stream uint16, threads int) (Throughput, error) {
	frames := max(1, m.cfg.WriteSize/(wire.HeaderLen+m.cfg.BodySize))
	r, err := m.child.do(ctx, command{Flood: &floodCommand{
		Threads: threads, Stream: stream, Body: m.cfg.BodySize, Frames: frames, Clock: ledger.Now() - monotonic(), Nanos: int64(m.cfg.Duration),
	}})
	if err != nil {
		return Throughput{}, err
	}
	m.plans[stream].Pushed = uint32(r.Sweeps) * uint32(frames)
	m.owed += r.Sends * int64(frames)
	m.missed += r.Skipped * int64(frames)
	// Sent while the receivers may still be at the flood: it arrives right behind it.
	if _, err := m.sweep(ctx, endStream, threads); err != nil {
		return Throughput{}, err
	}
	report, err := m.swarm.Finish(ctx, m.plans[:])
	if err != nil {
		return Throughput{}, err
	}
	receipts := report.Ledger.Receipts(endStream)
	last := receipts[len(receipts)-1]
	drained := time.Duration(last.Intended-r.Ended) + last.Last
	elapsed := time.Duration(r.Ended - r.Began)
	sends := float64(max(r.Sends, 1))
	return Throughput{
		Threads:           threads,
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
	c, err := m.swarm.Count(ctx, m.plans[:])
	if err != nil {
		return err
	}
	want := ledger.Counts{Expected: m.owed + m.missed, Delivered: m.owed, Lost: m.missed}
	if c != want {
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
