package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Metrics are the values of a process's /metrics at one moment, by their name with labels
// as written there: barrage_comet_closed_total{reason="peer"}.
type Metrics map[string]float64

// Sum returns the sum of the metric over all its labels.
func (m Metrics) Sum(name string) (sum float64) {
	for series, v := range m {
		if base, _, _ := strings.Cut(series, "{"); base == name {
			sum += v
		}
	}
	return sum
}

// By returns the metric's values by the value of its only label.
func (m Metrics) By(name string) map[string]float64 {
	out := map[string]float64{}
	for series, v := range m {
		base, labels, ok := strings.Cut(series, "{")
		if !ok || base != name {
			continue
		}
		_, value, _ := strings.Cut(strings.TrimSuffix(labels, "}"), "=")
		if s, err := strconv.Unquote(value); err == nil {
			out[s] = v
		}
	}
	return out
}

// Add adds o to m, series by series.
func (m Metrics) Add(o Metrics) {
	for series, v := range o {
		m[series] += v
	}
}

// Minus returns what m's series grew by since o.
func (m Metrics) Minus(o Metrics) Metrics {
	d := make(Metrics, len(m))
	for series, v := range m {
		d[series] = v - o[series]
	}
	return d
}

// parseMetrics reads Prometheus' text format, without its timestamps. Lines that are no sample
// are skipped.
func parseMetrics(r io.Reader) (Metrics, error) {
	m := Metrics{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		// A label's value may hold blanks and braces; what stands behind the labels can't.
		end := strings.LastIndexByte(line, '}') + 1
		if end == 0 {
			end = max(0, strings.IndexAny(line, " \t"))
		}
		sample := strings.Fields(line[end:])
		if len(sample) == 0 {
			continue
		}
		if v, err := strconv.ParseFloat(sample[0], 64); err == nil {
			m[line[:end]] = v
		}
	}
	return m, lines.Err()
}

// newAdminClient returns a client for admin pages. Each request has a connection of its
// own: they are rare, and none is left behind in a process whose descriptors are counted.
func newAdminClient() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
}

// Get returns the body of an admin page; the error holds the body of an answer other than
// 200.
func (p *Process) Get(ctx context.Context, path string) ([]byte, error) {
	return p.fetch(ctx, path, "http://"+p.Admin+path)
}

// fetch returns what a page holds; errors call it name.
func (p *Process) fetch(ctx context.Context, name, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", p.Name, name, err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", p.Name, name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", p.Name, name, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s says %d: %s", p.Name, name, resp.StatusCode, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// Metrics returns the process's metrics of this moment.
func (p *Process) Metrics(ctx context.Context) (Metrics, error) {
	urls := []string{"http://" + p.Admin + "/metrics"}
	if p.Profiled() {
		return p.memory(ctx)
	}
	if p.Remote() {
		urls = urls[:0]
		for _, page := range p.pages {
			urls = append(urls, page.URL)
		}
	}
	all := Metrics{}
	if !p.Remote() && p.Admin == "" {
		return all, nil // redis-server has none
	}
	for _, url := range urls {
		body, err := p.fetch(ctx, "metrics", url)
		if err != nil {
			return nil, err
		}
		m, err := parseMetrics(strings.NewReader(string(body)))
		if err != nil {
			return nil, fmt.Errorf("metrics of %s: %w", p.Name, err)
		}
		maps.Copy(all, m) // what two pages of one process show of it is the same
	}
	return all, nil
}

// Collect makes the process collect its garbage, so that its heap is what it needs.
func (p *Process) Collect(ctx context.Context) error {
	_, err := p.Get(ctx, "/debug/pprof/heap?gc=1")
	return err
}
