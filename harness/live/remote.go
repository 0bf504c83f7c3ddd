package live

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/prompb"
)

// remoteWriter sends metrics with version 1 of Prometheus' remote write, which every
// receiver knows. Native histograms go in requests of their own: a receiver that doesn't
// take them refuses a request as a whole.
type remoteWriter struct {
	api    *remote.API
	labels []prompb.Label
	from   prometheus.Gatherer
}

func newRemote(at string, labels Labels, from prometheus.Gatherer) (*remoteWriter, error) {
	api, err := remote.NewAPI(at, remote.WithAPIPath(""), remote.WithAPIHTTPClient(&http.Client{Timeout: sendTimeout}),
		// What fails is followed by newer figures soon.
		remote.WithAPIBackoff(remote.BackoffConfig{Min: 100 * time.Millisecond, Max: time.Second, MaxRetries: 2}))
	if err != nil {
		return nil, err
	}
	return &remoteWriter{api: api, from: from, labels: []prompb.Label{
		{Name: "job", Value: Job}, {Name: "instance", Value: labels.Instance}, {Name: "run", Value: labels.Run},
	}}, nil
}

// samples sends all metrics, histograms in the classic form.
func (r *remoteWriter) samples(ctx context.Context) error { return r.send(ctx, r.classic) }

// histograms sends the histograms in the native form.
func (r *remoteWriter) histograms(ctx context.Context) error { return r.send(ctx, r.native) }

func (r *remoteWriter) send(ctx context.Context, convert func(name string, m *dto.Metric, at int64) []prompb.TimeSeries) error {
	families, err := r.from.Gather()
	if err != nil {
		return fmt.Errorf("gather: %w", err)
	}
	at := time.Now().UnixMilli()
	request := &prompb.WriteRequest{}
	for _, f := range families {
		for _, m := range f.Metric {
			request.Timeseries = append(request.Timeseries, convert(f.GetName(), m, at)...)
		}
	}
	if len(request.Timeseries) == 0 {
		return nil
	}
	_, err = r.api.Write(ctx, remote.WriteV1MessageType, request)
	return err
}

func (r *remoteWriter) classic(name string, m *dto.Metric, at int64) []prompb.TimeSeries {
	one := func(name string, v float64, extra ...prompb.Label) prompb.TimeSeries {
		return prompb.TimeSeries{Labels: r.series(name, m, extra...), Samples: []prompb.Sample{{Value: v, Timestamp: at}}}
	}
	switch h := m.Histogram; {
	case m.Counter != nil:
		return []prompb.TimeSeries{one(name, m.Counter.GetValue())}
	case m.Gauge != nil:
		return []prompb.TimeSeries{one(name, m.Gauge.GetValue())}
	case h != nil:
		count := float64(h.GetSampleCount())
		list := []prompb.TimeSeries{one(name+"_sum", h.GetSampleSum()), one(name+"_count", count)}
		for _, b := range h.Bucket {
			if !math.IsInf(b.GetUpperBound(), 1) {
				bound := strconv.FormatFloat(b.GetUpperBound(), 'g', -1, 64)
				list = append(list, one(name+"_bucket", float64(b.GetCumulativeCount()), prompb.Label{Name: "le", Value: bound}))
			}
		}
		return append(list, one(name+"_bucket", count, prompb.Label{Name: "le", Value: "+Inf"}))
	}
	return nil
}

func (r *remoteWriter) native(name string, m *dto.Metric, at int64) []prompb.TimeSeries {
	h := m.Histogram
	if h == nil || h.Schema == nil {
		return nil
	}
	out := prompb.Histogram{
		Count: &prompb.Histogram_CountInt{CountInt: h.GetSampleCount()}, Sum: h.GetSampleSum(), Schema: h.GetSchema(),
		ZeroThreshold: h.GetZeroThreshold(), ZeroCount: &prompb.Histogram_ZeroCountInt{ZeroCountInt: h.GetZeroCount()},
		PositiveDeltas: h.PositiveDelta, Timestamp: at,
	}
	for _, s := range h.PositiveSpan {
		out.PositiveSpans = append(out.PositiveSpans, prompb.BucketSpan{Offset: s.GetOffset(), Length: s.GetLength()})
	}
	return []prompb.TimeSeries{{Labels: r.series(name, m), Histograms: []prompb.Histogram{out}}}
}

// series returns the labels of a time series, sorted by name as the protocol wants them.
func (r *remoteWriter) series(name string, m *dto.Metric, extra ...prompb.Label) []prompb.Label {
	list := slices.Concat(r.labels, extra, []prompb.Label{{Name: "__name__", Value: name}})
	for _, l := range m.Label {
		list = append(list, prompb.Label{Name: l.GetName(), Value: l.GetValue()})
	}
	slices.SortFunc(list, func(a, b prompb.Label) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
