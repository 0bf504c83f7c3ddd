package ledger

import (
	"bytes"
	"encoding/hex"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/protobuf/proto"

	ledgerpb "barrage/harness/api/ledger"
)

// update rewrites the golden files: go test ./harness/ledger -update
var update = flag.Bool("update", false, "rewrite the golden files")

// randomReport is a report of clients that got most of what was theirs, by a seed.
func randomReport(t testing.TB, seed uint64, pushes uint32, clients int) *Report {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	streams, err := NewStreams([]Stream{{ID: 7, First: 5, Pushes: pushes, WarmUp: true}, {ID: 2, Pushes: pushes}, {ID: 900, Pushes: 3}})
	if err != nil {
		t.Fatal(err)
	}
	set, err := streams.Subscribe(2, 7)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBook(streams, clients, 2*clients)
	const epoch = 1_700_000_000_000_000_000
	for i := range clients {
		b.Add(set, Kind(i%Kinds))
		b.Join(i, nil)
		for _, s := range []Stream{streams.list[0], streams.list[1]} {
			for seq := s.First; seq < s.First+pushes; seq++ {
				for range []int{0, 1, 1, 1, 1, 1, 1, 1, 1, 2}[r.IntN(10)] {
					intended := int64(epoch + int64(seq)*1_000_000)
					b.Account(i, Stamp{Stream: s.ID, Seq: seq, Intended: intended}, intended+r.Int64N(40_000_000))
				}
			}
		}
	}
	b.Account(0, Stamp{Stream: 900, Seq: 1, Intended: epoch}, epoch+5) // not subscribed
	b.Account(0, Stamp{Stream: 60_000, Seq: 1, Intended: epoch}, epoch+5)
	b.BadBody()
	report, err := b.Report([]Plan{{Stream: 7, Pushed: pushes, Unknown: []uint32{6}}, {Stream: 2, Pushed: pushes - 1}})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// same compares two reports to the last bucket.
func same(a, b *Report) bool {
	for k := range a.Latency {
		if (a.Latency[k] == nil) != (b.Latency[k] == nil) || a.Latency[k] != nil && !slices.Equal(a.Latency[k].Export().Counts, b.Latency[k].Export().Counts) {
			return false
		}
	}
	return reflect.DeepEqual(a.Streams, b.Streams) && a.Strays == b.Strays && reflect.DeepEqual(a.receipts, b.receipts)
}

// A report that went through bytes is the same, and merges the same.
func TestReportThroughBytes(t *testing.T) {
	for _, c := range []struct {
		name    string
		clients int
	}{{"both kinds", 40}, {"one kind alone", 1}} {
		t.Run(c.name, func(t *testing.T) {
			whole, other := randomReport(t, 1, 30, c.clients), randomReport(t, 2, 30, c.clients)
			var back [2]Report
			for i, r := range []*Report{whole, other} {
				b, err := r.MarshalBinary()
				if err != nil {
					t.Fatal(err)
				}
				if err := back[i].UnmarshalBinary(b); err != nil {
					t.Fatal(err)
				}
				if !same(&back[i], r) {
					t.Errorf("report %d comes back as another: %v, %v", i, back[i].Total(), r.Total())
				}
			}
			if err := whole.Merge(other); err != nil {
				t.Fatal(err)
			}
			if err := back[0].Merge(&back[1]); err != nil {
				t.Fatal(err)
			}
			if !same(&back[0], whole) || back[0].Total() != whole.Total() || back[0].AllLatency().Max() != whole.AllLatency().Max() {
				t.Errorf("merged %v, %v", back[0].Total(), whole.Total())
			}
		})
	}
}

// The clients of one book, dealt out to several and put together again through bytes, are
// the same report, whatever their latencies were.
func TestPartsAreOneReport(t *testing.T) {
	const clients, pushes, parts = 50, 40, 3
	streams, err := NewStreams([]Stream{{ID: 1, Pushes: pushes}, {ID: 2, Pushes: pushes, WarmUp: true}})
	if err != nil {
		t.Fatal(err)
	}
	set, err := streams.Subscribe(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	books := make([]*Book, parts+1)
	for i := range books {
		books[i] = NewBook(streams, clients, 2*clients)
	}
	whole := books[parts]
	r := rand.New(rand.NewPCG(9, 9))
	const epoch = int64(1e18)
	now := epoch // arrivals come in the order of time
	for i := range clients {
		b := books[i%parts]
		kind := Kind(r.IntN(Kinds))
		for _, b := range []*Book{b, whole} {
			b.Join(b.Add(set, kind), nil)
		}
		for range 2 * pushes {
			s := Stamp{Stream: uint16(1 + r.IntN(2)), Seq: r.Uint32N(pushes)}
			s.Intended = epoch + int64(s.Seq)*1e6
			now += r.Int64N(int64(1) << (10 + r.IntN(16)))
			b.Account(i/parts, s, now)
			whole.Account(i, s, now)
		}
	}
	plans := []Plan{{Stream: 1, Pushed: pushes, Unknown: []uint32{1, 2}}, {Stream: 2, Pushed: pushes - 5}}
	var merged *Report
	for _, b := range books[:parts] {
		report, err := b.Report(plans)
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := report.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var part Report
		if err := part.UnmarshalBinary(encoded); err != nil {
			t.Fatal(err)
		}
		if merged == nil {
			merged = &part
		} else if err := merged.Merge(&part); err != nil {
			t.Fatal(err)
		}
	}
	want, err := whole.Report(plans)
	if err != nil {
		t.Fatal(err)
	}
	if !same(merged, want) || want.Total().Reordered == 0 || want.Total().Unexpected.Total() == 0 {
		t.Errorf("the parts are %v, the whole %v", merged.Total(), want.Total())
	}
}

// The encoding stays what it is: an agent and a coordinator of one version understand each
// other by it.
func TestReportGolden(t *testing.T) {
	b, err := randomReport(t, 3, 4, 3).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "report.hex")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(hex.Dump(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := []byte(hex.Dump(b)); !bytes.Equal(got, want) {
		t.Errorf("%s differs; look at it, and run go test ./harness/ledger -update if it is right. Got:\n%s", path, got)
	}
}

func TestReportThatIsNone(t *testing.T) {
	good := func() *ledgerpb.Report {
		return &ledgerpb.Report{
			Streams: []*ledgerpb.Stream{{Id: 1, Pushes: 1, Intended: []int64{5}, FirstReceipt: []uint32{1}, LastReceipt: []uint32{2},
				Counts: &ledgerpb.Counts{Expected: 1, Delivered: 1, Unexpected: make([]int64, strayReasons)}}},
			Strays: make([]int64, strayReasons), Latency: make([][]byte, Kinds),
		}
	}
	histogram := func(h *hdrhistogram.Histogram) []byte {
		b, err := EncodeHistogram(h)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name   string
		change func(*ledgerpb.Report)
		want   string
	}{
		{"good", func(*ledgerpb.Report) {}, ""},
		{"a number too large", func(r *ledgerpb.Report) { r.Streams[0].Id = 70_000 }, "stream 70000: the number is over 65535"},
		{"more pushes than figures", func(r *ledgerpb.Report) { r.Streams[0].Pushes = 4_000_000_000 }, "1, 1 and 1 figures of 4000000000 pushes"},
		{"receipts of other length", func(r *ledgerpb.Report) { r.Streams[0].LastReceipt = nil }, "1, 1 and 0 figures of 1 pushes"},
		{"no balance", func(r *ledgerpb.Report) { r.Streams[0].Counts.Lost = 1 }, "1 expected are not 1 delivered and 1 lost"},
		{"no counts", func(r *ledgerpb.Report) { r.Streams[0].Counts = nil }, "0 reasons for what was not expected"},
		{"other strays", func(r *ledgerpb.Report) { r.Strays = r.Strays[1:] }, "4 reasons for what was not expected, there are 5"},
		{"other kinds", func(r *ledgerpb.Report) { r.Latency = nil }, "latencies of 0 kinds"},
		{"no histogram", func(r *ledgerpb.Report) { r.Latency[1] = []byte("junk") }, "latency of websocket: decode a histogram"},
		{"another range", func(r *ledgerpb.Report) { r.Latency[0] = histogram(hdrhistogram.New(1, 1000, 3)) }, "it goes from 1 to 1000 with 3 digits"},
		{"a coarser one", func(r *ledgerpb.Report) { r.Latency[0] = histogram(NewLiveHistogram()) }, "2 digits, not 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := good()
			c.change(p)
			b, err := proto.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			r := Report{Strays: Strays{1}}
			err = r.UnmarshalBinary(b)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			if err != nil && r.Strays != (Strays{1}) {
				t.Error("the report was changed in spite of the error")
			}
		})
	}
}

// Whatever comes, the decoder doesn't panic, and what it takes encodes and merges.
func FuzzReport(f *testing.F) {
	for seed := range uint64(3) {
		b, err := randomReport(f, seed, 4, 1+int(seed)).MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again Report
		if r.UnmarshalBinary(b) != nil {
			return
		}
		encoded, err := r.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalBinary(encoded); err != nil || !same(&r, &again) {
			t.Fatalf("%v: %+v comes back as %+v", err, r, again)
		}
		_ = r.Merge(&again) // a count may run over, and then it says so
		_ = r.LastReceipt()
	})
}
