package agent

import (
	"reflect"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/protobuf/proto"

	agentpb "barrage/harness/api/agent"
	"barrage/harness/ceiling"
	"barrage/harness/ledger"
	"barrage/harness/swarm"
)

// fill sets every field below v to a value of its own, so that one which is forgotten on
// the way, or mistaken for another, is seen. Histograms are set by hand.
func fill(v reflect.Value, next *int64) {
	*next++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), next)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), next)
		}
	case reflect.String:
		v.SetString(time.Duration(*next).String())
	case reflect.Float64:
		v.SetFloat(float64(*next) / 3)
	case reflect.Uint8:
		v.SetUint(uint64(*next) % uint64(ledger.Kinds))
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(uint64(*next))
	case reflect.Int, reflect.Int64:
		v.SetInt(*next)
	case reflect.Pointer: // a histogram, or what may be missing
		if v.Type() == reflect.TypeFor[*ceiling.Job]() {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), next)
		}
	default:
		panic("a kind of field that this test doesn't know: " + v.Kind().String())
	}
}

// through sends m over the wire, into out.
func through(t *testing.T, m, out proto.Message) {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
}

// Every field of a snapshot arrives: one that is added to swarm.Snapshot fails this test
// until encode.go has it.
func TestSnapshotThroughBytes(t *testing.T) {
	var s swarm.Snapshot
	n := int64(0)
	fill(reflect.ValueOf(&s).Elem(), &n)
	s.Latency, s.AllLatency = ledger.NewLiveHistogram(), ledger.NewLiveHistogram()
	_ = s.Latency.RecordValues(12_345_678, 9)
	_ = s.AllLatency.RecordValues(1_345_678, 10)
	p, err := encodeSnapshot(&s)
	if err != nil {
		t.Fatal(err)
	}
	var sent agentpb.Snapshot
	through(t, p, &sent)
	back, err := decodeSnapshot(&sent)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []struct{ back, sent *hdrhistogram.Histogram }{{back.Latency, s.Latency}, {back.AllLatency, s.AllLatency}} {
		if h.back.TotalCount() != h.sent.TotalCount() || h.back.Max() != h.sent.Max() {
			t.Errorf("latency %v, sent %v", h.back, h.sent)
		}
	}
	back.Latency, s.Latency, back.AllLatency, s.AllLatency = nil, nil, nil, nil
	if !reflect.DeepEqual(back, s) {
		t.Errorf("sent     %+v\nreceived %+v", s, back)
	}

	// And every one is in a sum.
	sum := newSnapshot()
	add(&sum, &s, "a")
	add(&sum, &s, "b")
	if sum.Progress.Clients != 2*s.Clients || len(sum.Threads) != 4 || len(sum.Where) != 2 || sum.Where[1].Count != 2*s.Where[1].Count || sum.Disorder.Missing != 2*s.Disorder.Missing || sum.Failures[0].Count != 2*s.Failures[0].Count {
		t.Errorf("sum %+v", sum)
	}
	for i := range reflect.TypeFor[swarm.Snapshot]().NumField() {
		f := reflect.TypeFor[swarm.Snapshot]().Field(i)
		got, one := reflect.ValueOf(sum).Field(i), reflect.ValueOf(s).Field(i)
		switch {
		case f.Type == reflect.TypeFor[swarm.Progress]():
			for k := range got.NumField() {
				if got.Field(k).Int() != 2*one.Field(k).Int() {
					t.Errorf("%s is not added up", f.Type.Field(k).Name)
				}
			}
		case f.Type.Kind() == reflect.Int64 && got.Int() != 2*one.Int():
			t.Errorf("%s is not added up", f.Name)
		}
	}
}

// The rest of a report arrives too, with the clients' numbers in the scenario, and is added
// up.
func TestReportThroughBytes(t *testing.T) {
	book := func() *ledger.Report {
		r, err := ledger.NewBook(testStreams(t), 0, 0).Report(testPlans)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	report := func(value int64) *swarm.Report {
		r := &swarm.Report{
			Snapshot: newSnapshot(), Ledger: book(), Lagging: book(),
			Counted: swarm.ByteCount{Read: value, Kernel: value + 1, Uncounted: value + 2},
			Losses:  []swarm.ClientLoss{{Client: 3, Stream: 4, From: 5, To: 6}},
			ReadLag: ledger.NewLiveHistogram(), ConnectTime: ledger.NewLiveHistogram(), RejoinTime: ledger.NewLiveHistogram(), StormTime: ledger.NewLiveHistogram(),
		}
		for i, h := range []*hdrhistogram.Histogram{r.ReadLag, r.ConnectTime, r.RejoinTime, r.StormTime} {
			_ = h.RecordValues(value*1e6, int64(i+1))
		}
		return r
	}
	sent := report(7)
	p, err := encodeReport(sent, func(i int) int { return 10*i + 1 })
	if err != nil {
		t.Fatal(err)
	}
	var arrived agentpb.Report
	through(t, p, &arrived)
	back, err := decodeReport(&arrived)
	if err != nil {
		t.Fatal(err)
	}
	if want := []swarm.ClientLoss{{Client: 31, Stream: 4, From: 5, To: 6}}; !reflect.DeepEqual(back.Losses, want) {
		t.Errorf("losses %+v", back.Losses)
	}
	if back.Counted != sent.Counted || back.Lagging == nil {
		t.Errorf("received %+v", back)
	}
	v := reflect.ValueOf(back).Elem()
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s is on no way: encode.go has to have it", v.Type().Field(i).Name)
		}
	}
	sum := report(9)
	if err := merge(sum, back, "a"); err != nil {
		t.Fatal(err)
	}
	if sum.Counted != (swarm.ByteCount{Read: 16, Kernel: 18, Uncounted: 20}) || len(sum.Losses) != 2 {
		t.Errorf("sum %+v", sum)
	}
	for i, h := range []*hdrhistogram.Histogram{sum.ReadLag, sum.ConnectTime, sum.RejoinTime, sum.StormTime} {
		if h.TotalCount() != int64(2*(i+1)) {
			t.Errorf("histogram %d has %d values", i, h.TotalCount())
		}
	}
}

// A job, a load and plans arrive with every field.
func TestOthersThroughBytes(t *testing.T) {
	var job Job
	var load Load
	var plans []ledger.Plan
	n := int64(0)
	for _, v := range []any{&job, &load, &plans} {
		fill(reflect.ValueOf(v).Elem(), &n)
	}
	plans[0].Stream, plans[1].Stream = 65535, 0
	job.Ceiling.Targets, job.Ceiling.Authority = job.Targets, job.Authority // which are sent once
	var sentJob agentpb.Job
	through(t, encodeJob(job, "build"), &sentJob)
	if got := decodeJob(&sentJob); !reflect.DeepEqual(got, job) || sentJob.Build != "build" || sentJob.Protocol != Protocol {
		t.Errorf("job %+v, sent %+v", got, job)
	}
	var sentLoad agentpb.Load
	through(t, encodeLoad(load), &sentLoad)
	if got := decodeLoad(&sentLoad); got != load {
		t.Errorf("load %+v, sent %+v", got, load)
	}
	var sentPlans agentpb.Plans
	through(t, encodePlans("session", plans), &sentPlans)
	if got, err := decodePlans(&sentPlans); err != nil || !reflect.DeepEqual(got, plans) || sentPlans.Session != "session" {
		t.Errorf("plans %+v, %v, sent %+v", got, err, plans)
	}
}

// What an agent could send and doesn't is refused.
func TestMessagesThatAreNone(t *testing.T) {
	if _, err := decodePlans(&agentpb.Plans{Plans: []*agentpb.Plan{{Stream: 70_000}}}); err == nil {
		t.Error("a stream that can't be was taken")
	}
	if _, err := decodeSnapshot(&agentpb.Snapshot{Closes: []*agentpb.CauseCount{{Cause: uint32(len(swarm.Causes()))}}}); err == nil {
		t.Error("a cause that can't be was taken")
	}
	if _, err := decodeSnapshot(&agentpb.Snapshot{Latency: []byte("x")}); err == nil {
		t.Error("a histogram that is none was taken")
	}
	if _, err := decodeReport(&agentpb.Report{}); err == nil {
		t.Error("an empty report was taken")
	}
}

// Whatever comes, the decoder doesn't panic.
func FuzzDecodeReport(f *testing.F) {
	r, err := ledger.NewBook(testStreams(f), 0, 0).Report(testPlans)
	if err != nil {
		f.Fatal(err)
	}
	p, err := encodeReport(&swarm.Report{
		Ledger: r, Lagging: r, Losses: []swarm.ClientLoss{{Client: 1, Stream: 2, From: 3, To: 4}},
		ReadLag: ledger.NewLiveHistogram(), ConnectTime: ledger.NewLiveHistogram(), RejoinTime: ledger.NewLiveHistogram(), StormTime: ledger.NewLiveHistogram(),
	}, func(i int) int { return i })
	if err != nil {
		f.Fatal(err)
	}
	b, err := proto.Marshal(p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		var p agentpb.Report
		if proto.Unmarshal(b, &p) != nil {
			return
		}
		if r, err := decodeReport(&p); err == nil {
			sum := newSnapshot()
			add(&sum, &r.Snapshot, "fuzz")
			_ = r.Ledger.Total()
		}
	})
}
