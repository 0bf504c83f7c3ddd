package profile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"runtime/pprof"
	"strconv"
	"time"
)

// Rates say how much of the waiting is recorded. Their zero records none.
type Rates struct {
	// MutexFraction records one in so many contentions, 0 none (runtime.SetMutexProfileFraction).
	MutexFraction int `json:"mutex_fraction"`
	// BlockNanoseconds records one waiting for each so many nanoseconds waited, 0 none
	// (runtime.SetBlockProfileRate).
	BlockNanoseconds int `json:"block_rate_ns"`
}

// DefaultRates cost well below one percent: every hundredth contention, and about one
// record a millisecond that some goroutine waits.
func DefaultRates() Rates { return Rates{MutexFraction: 100, BlockNanoseconds: 1_000_000} }

// ratesPath is where a process's rates are set, by PUT with Rates as JSON.
const ratesPath = "/profilerates"

// errNoRates is what setting the rates returns where a process does not offer it.
var errNoRates = errors.New("it does not serve PUT " + ratesPath)

// A source is where a process's profiles come from, in pprof's format.
type source interface {
	// cpu profiles the processor for d, of which whole seconds count.
	cpu(ctx context.Context, d time.Duration) ([]byte, error)
	// snapshot returns a named profile of runtime/pprof. The heap's is of the moment: the
	// garbage is collected first.
	snapshot(ctx context.Context, name string) ([]byte, error)
	setRates(ctx context.Context, r Rates) error
}

// remote is a process with net/http/pprof's pages.
type remote struct {
	client *http.Client
	addr   string // host:port
}

// snapshotTimeout bounds all but the time of a CPU profile itself: the heap of a million
// connections takes seconds to collect.
const snapshotTimeout = 60 * time.Second

// most bounds a profile's size.
const most = 256 << 20

func (r remote) cpu(ctx context.Context, d time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d+snapshotTimeout)
	defer cancel()
	return r.do(ctx, http.MethodGet, "/debug/pprof/profile", url.Values{"seconds": {strconv.Itoa(int(d / time.Second))}}, nil)
}

func (r remote) snapshot(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	query := url.Values{}
	if name == "heap" {
		query.Set("gc", "1")
	}
	return r.do(ctx, http.MethodGet, "/debug/pprof/"+name, query, nil)
}

func (r remote) setRates(ctx context.Context, rates Rates) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	body, err := json.Marshal(rates)
	if err != nil {
		return fmt.Errorf("encode rates: %w", err)
	}
	_, err = r.do(ctx, http.MethodPut, ratesPath, nil, body)
	var status *statusError
	if errors.As(err, &status) && (status.code == http.StatusNotFound || status.code == http.StatusMethodNotAllowed) {
		return errNoRates
	}
	return err
}

// A statusError is an answer that is not 2xx.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("answer %d %s: %s", e.code, http.StatusText(e.code), e.text)
}

func (r remote) do(ctx context.Context, method, path string, query url.Values, body []byte) ([]byte, error) {
	u := url.URL{Scheme: "http", Host: r.addr, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", u.String(), err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err // says method and URL
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", u.String(), err)
	case len(text) > most:
		return nil, fmt.Errorf("read %s: it is larger than %d MiB", u.String(), most>>20)
	case resp.StatusCode/100 != 2:
		return nil, fmt.Errorf("%s %s: %w", method, u.String(), &statusError{resp.StatusCode, string(text[:min(len(text), 200)])})
	}
	return text, nil
}

// own is this process.
type own struct{}

func (own) cpu(ctx context.Context, d time.Duration) ([]byte, error) {
	var b bytes.Buffer
	if err := pprof.StartCPUProfile(&b); err != nil {
		return nil, err
	}
	wait(ctx, d.Truncate(time.Second), nil)
	pprof.StopCPUProfile()
	return b.Bytes(), ctx.Err()
}

func (own) snapshot(_ context.Context, name string) ([]byte, error) {
	p := pprof.Lookup(name)
	if p == nil {
		return nil, fmt.Errorf("there is no profile %q", name)
	}
	if name == "heap" {
		runtime.GC()
	}
	var b bytes.Buffer
	err := p.WriteTo(&b, 0)
	return b.Bytes(), err
}

func (own) setRates(_ context.Context, r Rates) error {
	runtime.SetMutexProfileFraction(r.MutexFraction)
	runtime.SetBlockProfileRate(r.BlockNanoseconds)
	return nil
}

// wait waits for d, for done to be closed unless it is nil, or for ctx's end.
func wait(ctx context.Context, d time.Duration, done <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-done:
	}
}
