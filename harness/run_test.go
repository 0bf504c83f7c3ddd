package harness

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"barrage/harness/report"
	"barrage/harness/scenario"
)

func TestVerdict(t *testing.T) {
	good := func() *report.Run {
		return &report.Run{
			Clients: report.Clients{Count: 10, Joined: 10},
			Pushes: report.Pushes{
				Measured: report.PushCounts{Intended: 5, Sent: 5, Acknowledged: 5},
				WarmUp:   report.PushCounts{Intended: 2, Sent: 2, Acknowledged: 2},
			},
			Deliveries: report.Deliveries{
				Measured: report.Counts{Expected: 50, Delivered: 50}, WarmUp: report.Counts{Expected: 20, Delivered: 20},
				CometFrames: 70, LedgerFrames: 70,
			},
		}
	}
	cases := []struct {
		name   string
		expect scenario.Expect
		change func(*report.Run)
		want   []string
	}{
		{"good", scenario.Expect{}, func(*report.Run) {}, nil},
		{"lost and accepted", scenario.Expect{Lost: 2}, func(r *report.Run) { r.Deliveries.Measured.Lost, r.Deliveries.Measured.Delivered = 2, 48 }, nil},
		{"one more lost", scenario.Expect{Lost: 2}, func(r *report.Run) {
			r.Deliveries.Measured.Lost, r.Deliveries.Measured.Delivered = 2, 48
			r.Deliveries.WarmUp.Lost, r.Deliveries.WarmUp.Delivered = 1, 19
		}, []string{"3 of 70 deliveries lost, at most 2 accepted"}},
		{"duplicate", scenario.Expect{}, func(r *report.Run) { r.Deliveries.Measured.Duplicate = 1 }, []string{"1 of 70 deliveries duplicate, at most 0 accepted"}},
		{"reordered", scenario.Expect{}, func(r *report.Run) { r.Deliveries.Measured.Reordered = 1 }, []string{"1 of 70 deliveries reordered, at most 0 accepted"}},
		{"out of balance", scenario.Expect{}, func(r *report.Run) { r.Deliveries.Measured.Delivered = 49 }, []string{"measured: the ledger does not balance: 50 expected, 49 delivered, 0 lost"}},
		{"not connected", scenario.Expect{}, func(r *report.Run) { r.Clients.Joined = 9 }, []string{"9 of 10 clients connected"}},
		{"closed", scenario.Expect{}, func(r *report.Run) { r.Clients.ClosedEarly = 1 }, []string{"1 clients lost their connection"}},
		{"not sent", scenario.Expect{}, func(r *report.Run) { r.Pushes.Measured.Sent, r.Pushes.Measured.Acknowledged = 4, 4 }, []string{"measured: 1 of 5 pushes were not sent"}},
		{"not acknowledged", scenario.Expect{}, func(r *report.Run) { r.Pushes.WarmUp.Acknowledged = 1 }, []string{"warm-up: 1 of 2 pushes were not acknowledged"}},
		{"unexpected", scenario.Expect{}, func(r *report.Run) {
			r.Deliveries.Measured.Unexpected = map[string]int64{"no_stamp": 3, "not_subscribed": 1}
		}, []string{"measured: 3 frames that nothing accounts for (no_stamp)", "measured: 1 frames that nothing accounts for (not_subscribed)"}},
		{"comet differs", scenario.Expect{}, func(r *report.Run) { r.Deliveries.CometFrames = 71 }, []string{"comet counts 71 frames handed out, the ledger 70 received"}},
		{"nothing measured", scenario.Expect{}, func(r *report.Run) { r.Deliveries.Measured = report.Counts{} }, []string{"nothing was to be delivered in the measured phase"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := good()
			c.change(r)
			v := verdict(r, c.expect)
			if !slices.Equal(v.Reasons, c.want) || (v.Status == report.Good) != (len(c.want) == 0) {
				t.Errorf("%s: %q, want %q", v.Status, v.Reasons, c.want)
			}
		})
	}
}

func TestPreflight(t *testing.T) {
	s := func(clients, comets int) *scenario.Scenario {
		return &scenario.Scenario{Clients: scenario.Clients{Count: clients}, Cluster: scenario.Cluster{Comets: comets}}
	}
	const gib = 1 << 30
	cases := []struct {
		name     string
		scenario *scenario.Scenario
		machine  machine
		comets   int
		problem  string
	}{
		{"fits", s(10_000, 1), machine{20_000, 8 * gib}, 1, ""},
		{"auto takes one", s(10_000, 0), machine{20_000, 8 * gib}, 1, ""},
		{"auto takes three", s(50_000, 0), machine{20_000, 8 * gib}, 3, ""},
		{"too few descriptors", s(10_000, 1), machine{1024, 8 * gib}, 0, "ulimit -Hn 10512 && ulimit -n 10512"},
		{"two comets are too few", s(10_000, 2), machine{4096, 8 * gib}, 0, "ulimit -n 5512"},
		{"none at all", s(10, 0), machine{64, 8 * gib}, 0, "the hard limit is 64"},
		{"too little memory", s(100_000, 0), machine{200_000, gib}, 0, "need about 3043 MiB of memory, 1024 MiB are available"},
		{"memory unknown", s(10, 1), machine{openFiles: 20_000}, 1, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			comets, err := preflight(c.scenario, c.machine)
			if c.problem == "" {
				if err != nil || comets != c.comets {
					t.Errorf("%d comets, %v", comets, err)
				}
				return
			}
			if e := new(EnvironmentError); !errors.As(err, &e) || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("error is %v, want %q in it", err, c.problem)
			}
		})
	}
}

func TestReadEnvironment(t *testing.T) {
	e := readEnvironment("abc")
	if e.CPU == "" || e.Cores < 1 || e.MemoryBytes < 1<<28 || e.Kernel == "" || e.OpenFilesHard == 0 || e.Commit != "abc" ||
		e.KernelSettings["net.ipv4.ip_local_port_range"] == "" {
		t.Errorf("%+v", e)
	}
}

func TestResultFoldersDoNotCollide(t *testing.T) {
	results := filepath.Join(t.TempDir(), "results")
	at := time.Date(2024, 11, 24, 7, 5, 3, 0, time.FixedZone("", 3600))
	for _, want := range []string{"20241124T060503Z", "20241124T060503Z-2", "20241124T060503Z-3"} {
		dir, err := makeResultDir(results, "smoke", at)
		if err != nil || dir != filepath.Join(results, "smoke", want) {
			t.Errorf("%s, %v", dir, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "logs")); err != nil {
			t.Error(err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := makeResultDir(file, "smoke", at); err == nil {
		t.Error("a file was taken for a folder")
	}
}

func TestProgress(t *testing.T) {
	var plain, terminal strings.Builder
	p := newProgress(&plain, false)
	p.phase("connect", "")
	p.tick("connect", "too soon")
	p.last = p.last.Add(-plainEvery)
	p.tick("connect", "5 of 10")
	p.end()
	if s := plain.String(); strings.Count(s, "\n") != 2 || strings.Contains(s, "too soon") || !strings.Contains(s, "5 of 10") || strings.Contains(s, "\x1b") {
		t.Errorf("%q", s)
	}
	p = newProgress(&terminal, true)
	p.phase("connect", "")
	p.tick("connect", "5 of 10")
	p.phase("measure", "")
	p.end()
	p.end()
	if s := terminal.String(); strings.Count(s, "\n") != 2 || strings.Count(s, "\r\x1b[K") != 3 {
		t.Errorf("%q", s)
	}
}
