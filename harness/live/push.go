package live

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
)

// Job is the label job of metrics that are sent.
const Job = "barrage_harness"

// Destinations say where a run's metrics are sent to, for those whose Prometheus can't reach
// the harness. Empty ones get nothing.
type Destinations struct {
	Pushgateway string        // URL, without /metrics/job
	RemoteWrite string        // URL, with its path
	Every       time.Duration // between two sends, more than 0
}

// Labels tell a run's metrics from those of others, beside job.
type Labels struct {
	Instance string // the machine
	Run      string // the run
}

// sendTimeout bounds one send, and so how long a run waits at its end for a destination that
// doesn't answer.
const sendTimeout = 5 * time.Second

// A Sender sends a run's metrics. Each destination has a goroutine of its own, so that one
// that is slow holds up nothing.
type Sender struct {
	warn    func(text string)
	quit    chan struct{}
	sending sync.WaitGroup

	mu       sync.Mutex
	warnings []string // mu guards
}

// Send sends m to all destinations until Close. warn is called, by any goroutine, when a
// destination fails for the first time.
func Send(m *Metrics, to Destinations, labels Labels, warn func(text string)) *Sender {
	s := &Sender{warn: warn, quit: make(chan struct{})}
	gatherer := registry(m)
	if to.Pushgateway != "" {
		s.start("Pushgateway "+shown(to.Pushgateway), to.Every, pushTo(to.Pushgateway, labels, gatherer))
	}
	if to.RemoteWrite != "" {
		r, err := newRemote(to.RemoteWrite, labels, gatherer)
		if err != nil {
			s.failed(fmt.Sprintf("remote write to %s: %v", shown(to.RemoteWrite), err))
			return s
		}
		s.start("remote write to "+shown(to.RemoteWrite), to.Every, r.samples)
		s.start("remote write of native histograms to "+shown(to.RemoteWrite), to.Every, r.histograms)
	}
	return s
}

// pushTo returns what replaces the run's group in a Pushgateway.
func pushTo(at string, labels Labels, gatherer prometheus.Gatherer) func(context.Context) error {
	u, err := url.Parse(at)
	if err != nil {
		return func(context.Context) error { return errNoURL }
	}
	user := u.User
	u.User = nil // the library's errors hold the URL, and no error is to hold a password
	p := push.New(u.String(), Job).Grouping("instance", labels.Instance).Grouping("run", labels.Run).
		Gatherer(gatherer).Client(&http.Client{Timeout: sendTimeout})
	if user != nil {
		password, _ := user.Password()
		p.BasicAuth(user.Username(), password)
	}
	return p.PushContext
}

var errNoURL = errors.New("its URL can't be read")

// start calls send now and then, and once more at the end.
func (s *Sender) start(name string, every time.Duration, send func(context.Context) error) {
	s.sending.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		var tries, failures int
		var last error
		once := func() {
			ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
			defer cancel()
			tries++
			err := send(ctx)
			if err == nil {
				return
			}
			if failures++; failures == 1 {
				s.warn(fmt.Sprintf("metrics: %s: %s", name, oneLine(err)))
			}
			last = err
		}
		for {
			select {
			case <-tick.C:
				once()
				continue
			case <-s.quit:
			}
			break
		}
		once()
		if failures > 0 {
			s.note(fmt.Sprintf("metrics: %s: %d of %d sends failed, the last with: %s", name, failures, tries, oneLine(last)))
		}
	})
}

func (s *Sender) failed(text string) {
	s.warn("metrics: " + text)
	s.note("metrics: " + text)
}

func (s *Sender) note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warnings = append(s.warnings, text)
}

// Close sends the figures of the end and returns what went wrong, a line for each
// destination that failed. A nil Sender sends nothing.
func (s *Sender) Close() []string {
	if s == nil {
		return nil
	}
	close(s.quit)
	s.sending.Wait()
	return s.warnings
}

// oneLine is an error in which a server's answer may have brought line feeds along.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// shown is a URL without the password that it may hold.
func shown(at string) string {
	u, err := url.Parse(at)
	if err != nil {
		return "URL that can't be read"
	}
	return u.Redacted()
}
