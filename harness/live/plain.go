package live

import (
	"fmt"
	"io"
	"sync"
	"time"

	"barrage/harness/cluster"
)

// plainEvery is how often Plain shows a sample.
const plainEvery = 5 * time.Second

// plain is a line for each phase, and one every few seconds.
type plain struct {
	began time.Time

	mu     sync.Mutex // guards what follows
	w      io.Writer
	phase  string
	last   time.Time
	before *Sample
}

// Plain returns a view for what is no terminal: lines of text, each of which stays.
func Plain(w io.Writer) View { return &plain{w: w, began: time.Now()} }

func (p *plain) Phase(name, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase, p.last = name, time.Now()
	p.write(what)
}

func (p *plain) Sample(s *Sample) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.last) >= plainEvery {
		p.last = time.Now()
		p.write(summary(p.phase, s, p.before))
	}
	p.before = s
}

func (p *plain) Warn(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write("warning: " + text)
}

func (p *plain) Close() {}

// write writes a line. No run fails because of it.
func (p *plain) write(what string) { fmt.Fprint(p.w, line(time.Since(p.began), p.phase, what)) }

func line(at time.Duration, phase, what string) string {
	return fmt.Sprintf("%6.1fs  %-8s %s\n", at.Seconds(), phase, what)
}

// summary says in one line where a phase is.
func summary(phase string, s, before *Sample) string {
	if phase == Connect {
		return fmt.Sprintf("%d of %d clients, %d failed", s.Swarm.Joined, s.Swarm.Clients, s.Swarm.Failed)
	}
	latency := ""
	if p50, ok := s.latency(50); ok { // of measured pushes alone
		p99, _ := s.latency(99)
		latency = fmt.Sprintf(", p50 %.1f ms, p99 %.1f ms", p50, p99)
	}
	comet := cpuOf(func(p Process) bool { return p.Role == cluster.RoleComet })
	return fmt.Sprintf("%.0f deliveries/s%s; comet %.2f cores, busiest swarm thread %.0f%%",
		s.perSecond(before, deliveries), latency, s.perSecond(before, comet), s.busiest()*100)
}
