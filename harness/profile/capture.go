package profile

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/pprof/profile"
)

// A Target is a process to be profiled.
type Target struct {
	Name string // of the process, as in run.json
	Addr string // host:port of its admin pages; "" is this process
}

// Config says what Capture takes.
type Config struct {
	Targets  []Target
	Dir      string        // that gets the files; made where it is missing
	Duration time.Duration // of the CPU profiles; whole seconds count, one at least
	Rates    Rates         // of mutex and block profiles while it goes on; zero: as the processes have them
	Labels   Labels
	// Start is when the CPU profiles begin; the zero value, and what has passed, is at
	// once. What allocations and waiting are counted from is read before.
	Start time.Time
	// Settled, where it is not nil, puts off the profiles of the end until it is closed.
	// They collect garbage, which would delay what is still under way.
	Settled <-chan struct{}
}

// Captured is what Capture has to say.
type Captured struct {
	Files    []string // written, by their paths
	Problems []string // what is missing, each a sentence that names the process
}

// Capture profiles all targets, together: processor time over the given seconds, what was
// allocated and waited for from before them until the end, and memory in use and goroutines
// at the end. Each profile is a file DIR/<process>.<kind>.pb.gz. Nothing that goes wrong
// ends it: what can't be had is left out and said. With ctx it ends early.
func Capture(ctx context.Context, cfg Config) Captured {
	c := &capturing{cfg: cfg}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		c.problem("", "make a folder for profiles", err)
		return c.out
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, t := range cfg.Targets {
		p := &process{name: t.Name, source: own{}, base: map[string]*profile.Profile{}}
		if t.Addr != "" {
			p.source = remote{client: client, addr: t.Addr}
		}
		c.processes = append(c.processes, p)
	}
	c.each(func(p *process) { c.setRates(ctx, p) })
	c.each(func(p *process) { c.readBase(ctx, p) })
	if !cfg.Start.IsZero() {
		wait(ctx, time.Until(cfg.Start), nil)
	}
	c.each(func(p *process) { c.takeCPU(ctx, p) })
	if cfg.Settled != nil {
		select {
		case <-ctx.Done():
		case <-cfg.Settled:
		}
	}
	c.each(func(p *process) { c.takeEnd(ctx, p) })
	if err := ctx.Err(); err != nil {
		// One sentence instead of one for each request that it ended.
		c.out.Problems = []string{"profiles were cut short: " + err.Error()}
	}
	c.each(func(p *process) { c.resetRates(ctx, p) })
	slices.Sort(c.out.Files)
	slices.Sort(c.out.Problems)
	return c.out
}

// capturing is one Capture under way.
type capturing struct {
	cfg       Config
	processes []*process

	mu  sync.Mutex
	out Captured // mu guards while each runs
}

// A process is a target under way; one goroutine at a time has it.
type process struct {
	name   string
	source source
	ours   bool // its rates are set by us
	base   map[string]*profile.Profile
	baseAt time.Time // when base was read
}

// each calls f for all processes at the same time and waits for all.
func (c *capturing) each(f func(*process)) {
	var all sync.WaitGroup
	for _, p := range c.processes {
		all.Go(func() { f(p) })
	}
	all.Wait()
}

func (c *capturing) problem(process, doing string, err error) {
	text := fmt.Sprintf("%s: %v", doing, err)
	if process != "" {
		text = process + ": " + text
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Problems = append(c.out.Problems, text)
}

func (c *capturing) setRates(ctx context.Context, p *process) {
	if c.cfg.Rates == (Rates{}) {
		return
	}
	if err := p.source.setRates(ctx, c.cfg.Rates); err != nil {
		c.problem(p.name, "record waiting for mutex and block profiles", err)
		return
	}
	p.ours = true
}

// resetRates turns the recording off again, also when ctx has ended.
func (c *capturing) resetRates(ctx context.Context, p *process) {
	if !p.ours {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := p.source.setRates(ctx, Rates{}); err != nil {
		c.problem(p.name, "stop to record waiting", err)
	}
}

// cumulative are the profiles that count since the process began.
func cumulative() []string { return []string{"heap", "mutex", "block"} }

// readBase reads what had been counted before.
func (c *capturing) readBase(ctx context.Context, p *process) {
	for _, name := range cumulative() {
		base, err := p.read(ctx, name)
		if err != nil {
			c.problem(p.name, "read the "+name+" profile before the measured phase", err)
			continue
		}
		p.base[name] = base
	}
	p.baseAt = time.Now()
}

func (p *process) read(ctx context.Context, name string) (*profile.Profile, error) {
	text, err := p.source.snapshot(ctx, name)
	if err != nil {
		return nil, err
	}
	return profile.ParseData(text)
}

func (c *capturing) takeCPU(ctx context.Context, p *process) {
	text, err := p.source.cpu(ctx, max(c.cfg.Duration, time.Second))
	if err != nil {
		c.problem(p.name, "take the cpu profile", err)
		return
	}
	taken, err := profile.ParseData(text)
	if err != nil {
		c.problem(p.name, "read the cpu profile", err)
		return
	}
	c.save(p, taken, CPU)
}

// takeEnd takes the profiles of the end, and what grew since the base.
func (c *capturing) takeEnd(ctx context.Context, p *process) {
	if ctx.Err() != nil {
		return
	}
	if taken, err := p.read(ctx, "goroutine"); err != nil {
		c.problem(p.name, "take the goroutine profile", err)
	} else {
		c.save(p, taken, Goroutine)
	}
	heap, err := p.read(ctx, "heap")
	if err != nil {
		c.problem(p.name, "take the heap profile", err)
	} else {
		// The file of memory in use is the one that the process wrote.
		c.save(p, heap.Copy(), Heap)
		c.saveGrowth(p, heap, "heap", Alloc, "alloc_objects", "alloc_space")
	}
	for _, k := range []Kind{Mutex, Block} {
		taken, err := p.read(ctx, string(k))
		if err != nil {
			c.problem(p.name, "take the "+string(k)+" profile", err)
			continue
		}
		if len(taken.Sample) == 0 && !p.ours {
			continue // it records none
		}
		c.saveGrowth(p, taken, string(k), k, "contentions", "delay")
	}
}

// saveGrowth saves what p's profile grew by since the base of that name.
func (c *capturing) saveGrowth(p *process, taken *profile.Profile, name string, k Kind, types ...string) {
	base := p.base[name]
	if base == nil {
		return // said when it was read
	}
	grown, err := minus(taken, base, types...)
	if err != nil {
		c.problem(p.name, "take the "+string(k)+" profile", err)
		return
	}
	grown.TimeNanos, grown.DurationNanos = p.baseAt.UnixNano(), int64(time.Since(p.baseAt))
	if p.ours {
		c.setPeriod(grown, k)
	}
	c.save(p, grown, k)
}

// setPeriod writes down how much of the waiting is recorded: the runtime has put it into
// the values, but how many events they stand for can't be told without.
func (c *capturing) setPeriod(p *profile.Profile, k Kind) {
	switch k {
	case Mutex:
		p.PeriodType = &profile.ValueType{Type: "contentions", Unit: "count"}
		p.Period = int64(c.cfg.Rates.MutexFraction)
	case Block:
		p.PeriodType = &profile.ValueType{Type: "delay", Unit: "nanoseconds"}
		p.Period = int64(c.cfg.Rates.BlockNanoseconds)
	}
}

func (c *capturing) save(p *process, taken *profile.Profile, k Kind) {
	path, err := save(taken, c.cfg.Dir, p.name, k, c.cfg.Labels)
	if err != nil {
		c.problem(p.name, "save the "+string(k)+" profile", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Files = append(c.out.Files, path)
}
