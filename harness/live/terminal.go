package live

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"barrage/harness/report"
)

// terminalEvery is how often a terminal is drawn anew.
const terminalEvery = 500 * time.Millisecond

// terminal draws the run in a few lines, which it draws over again. It reads nothing from
// the terminal and sets no mode of it: Ctrl-C stays the harness' own, and however the
// process ends, there is nothing to restore.
type terminal struct {
	began    time.Time
	phases   []Phase
	progress *mpb.Progress
	bar      *mpb.Bar

	mu     sync.Mutex // held by the methods of View, and never by what draws: those wait for it
	closed bool
	scene  atomic.Pointer[scene]
}

// A scene is what is drawn. It never changes.
type scene struct {
	phase       Phase
	entered     time.Time
	what        string
	now, before *Sample // nil until there is one
}

// barWidth is how wide the bar is at most, in columns.
const barWidth = 60

// Terminal returns a view that draws on w, a terminal. phases are those that the run is
// going to have, in order.
func Terminal(w io.Writer, phases []Phase) View { return newTerminal(w, phases) }

// newTerminal takes options of mpb for the tests.
func newTerminal(w io.Writer, phases []Phase, options ...mpb.ContainerOption) *terminal {
	t := &terminal{began: time.Now(), phases: phases}
	t.scene.Store(&scene{entered: t.began})
	options = append([]mpb.ContainerOption{mpb.WithOutput(w), mpb.WithWidth(barWidth), mpb.WithRefreshRate(terminalEvery)}, options...)
	t.progress = mpb.New(options...)
	style := mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]")
	t.bar = t.progress.New(0, style,
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return t.label(t.scene.Load().phase.Name) })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return t.scene.Load().left(time.Now()) })),
		mpb.BarFillerTrim(),
		mpb.BarFillerMiddleware(func(base mpb.BarFiller) mpb.BarFiller {
			return mpb.BarFillerFunc(func(w io.Writer, stat decor.Statistics) error {
				stat.Total, stat.Current = 1000, int64(1000*t.scene.Load().done(time.Now()))
				return base.Fill(w, stat)
			})
		}),
		mpb.BarBtmExtender(
			t.row("phases", func(s *scene) string { return t.course(s.phase.Name) }),
			t.row("clients", (*scene).clients), t.row("deliveries", (*scene).deliveries),
			t.row("order", (*scene).order), t.row("cores", (*scene).cores)),
	)
	return t
}

func (t *terminal) label(name string) string { return fmt.Sprintf("%-11s", name) }

// row is a line below the bar, cut at the terminal's width.
func (t *terminal) row(name string, text func(*scene) string) mpb.BarFiller {
	return mpb.BarFillerFunc(func(w io.Writer, stat decor.Statistics) error {
		line := t.label(name) + text(t.scene.Load())
		_, err := fmt.Fprintln(w, line[:min(len(line), max(0, stat.AvailableWidth-1))])
		return err
	})
}

// course names all phases, the one under way in brackets.
func (t *terminal) course(now string) string {
	var b strings.Builder
	for _, p := range t.phases {
		if p.Name == now {
			fmt.Fprintf(&b, "[%s] ", p.Name)
		} else {
			fmt.Fprintf(&b, " %s  ", p.Name)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

func (t *terminal) Phase(name, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.leave()
	s := *t.scene.Load()
	s.phase, s.entered, s.what = find(t.phases, name), time.Now(), what
	t.scene.Store(&s)
}

// leave writes above the drawing what came of the phase that ends.
func (t *terminal) leave() {
	s := t.scene.Load()
	if s.phase.Name == "" {
		return
	}
	what := s.what
	if s.now != nil && s.now.At.After(s.entered) {
		what = summary(s.phase.Name, s.now, s.before)
	}
	t.write(s.phase.Name, what)
}

func (t *terminal) Sample(now *Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := *t.scene.Load()
	s.now, s.before = now, s.now
	t.scene.Store(&s)
}

func (t *terminal) Warn(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.write(t.scene.Load().phase.Name, "warning: "+text)
	}
}

// write puts a line above what is drawn. A terminal that is gone is no error of the run.
func (t *terminal) write(phase, what string) {
	_, _ = io.WriteString(t.progress, line(time.Since(t.began), phase, what))
}

func (t *terminal) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	t.leave()
	t.bar.Abort(true)
	t.progress.Wait()
}

// done is how much of the phase is over, 0 to 1.
func (s *scene) done(now time.Time) float64 {
	if s.phase.Name == Connect {
		if s.now == nil || s.now.Swarm.Clients == 0 {
			return 0
		}
		return float64(s.now.Swarm.Joined+s.now.Swarm.Failed) / float64(s.now.Swarm.Clients)
	}
	if s.phase.Length <= 0 {
		return 0
	}
	return min(now.Sub(s.entered).Seconds()/s.phase.Length.Seconds(), 1)
}

// left says how long the phase still takes.
func (s *scene) left(now time.Time) string {
	passed := now.Sub(s.entered)
	if done := s.done(now); s.phase.Name == Connect && done > 0 {
		return fmt.Sprintf("  about %s left", whole(time.Duration(float64(passed)*(1-done)/done)))
	}
	rest := s.phase.Length - passed
	switch {
	case s.phase.Length == 0:
		return ""
	case rest <= 0:
		return "  any moment"
	case s.phase.AtMost:
		return fmt.Sprintf("  at most %s left", whole(rest))
	case s.phase.About:
		return fmt.Sprintf("  about %s left", whole(rest))
	default:
		return fmt.Sprintf("  %s left", whole(rest))
	}
}

// whole rounds up to seconds.
func whole(d time.Duration) time.Duration { return (d + time.Second - 1).Truncate(time.Second) }

func (s *scene) clients() string {
	if s.now == nil {
		return "none yet"
	}
	p := &s.now.Swarm.Progress
	return fmt.Sprintf("%s of %s connected, %s failed, %s lost their connection",
		many(s.now.Clients()), many(p.Clients), many(p.Failed), many(p.ClosedEarly))
}

func (s *scene) deliveries() string {
	if s.now == nil {
		return "none yet"
	}
	text := fmt.Sprintf("%s/s", many(int64(s.now.perSecond(s.before, deliveries))))
	if p50, ok := s.now.latency(50); ok {
		p99, _ := s.now.latency(99)
		text += fmt.Sprintf("   p50 %.1f ms   p99 %.1f ms", p50, p99)
	}
	return text
}

func (s *scene) order() string {
	if s.now == nil {
		return ""
	}
	d := &s.now.Swarm.Disorder
	return fmt.Sprintf("%s missing, %s duplicate, %s reordered", many(d.Missing), many(d.Duplicate), many(d.Reordered))
}

// cores is the processors that each process keeps busy.
func (s *scene) cores() string {
	if s.now == nil {
		return ""
	}
	var list []string
	for _, p := range s.now.Processes {
		one := cpuOf(func(q Process) bool { return q.Name == p.Name })
		list = append(list, fmt.Sprintf("%s %.2f", p.Name, s.now.perSecond(s.before, one)))
	}
	return strings.Join(list, "  ") + fmt.Sprintf("; busiest swarm thread %.0f%%", s.now.busiest()*100)
}

func many(n int64) string { return report.Count.Format(float64(n)) }
