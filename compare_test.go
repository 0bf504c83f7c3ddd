package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"barrage/harness/report"
)

// storedRun writes a run's result, and returns its folder.
func storedRun(t *testing.T, p99 float64) string {
	t.Helper()
	dir := t.TempDir()
	r := &report.Run{
		Schema: report.Schema, Scenario: report.Scenario{Name: "room-10k"}, Verdict: report.Verdict{Status: report.Good},
		Latency: report.Latency{All: report.Percentiles{Count: 1, P50: p99 / 2, P99: p99}},
	}
	if err := report.WriteJSON(filepath.Join(dir, "run.json"), r); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What compare writes where, and says of it.
func TestComparePage(t *testing.T) {
	a, b := storedRun(t, 0.1), storedRun(t, 0.2)
	elsewhere := filepath.Join(t.TempDir(), "ab.html")
	for _, c := range []struct {
		name   string
		args   []string
		page   string // "" for none
		status int
		stdout string
		stderr string
	}{
		{"in the current folder", nil, "compare.html", exitGood, "latency.p99", "the page is in compare.html\n"},
		{"elsewhere", []string{"-html", elsewhere}, elsewhere, exitGood, "latency.p99", "the page is in " + elsewhere + "\n"},
		{"nowhere", []string{"-html", ""}, "", exitGood, "latency.p99", ""},
		{"none beside JSON", []string{"-json"}, "", exitGood, `"judgement"`, ""},
		{"beside JSON where it is asked for", []string{"-json", "-html", "x.html"}, "x.html", exitGood, `"judgement"`, "the page is in x.html\n"},
		{"a limit is broken, and the page shows by how much", []string{"-fail-on", "latency.p99 +10%"}, "compare.html", exitFailed, "latency.p99",
			"the page is in compare.html\nbarrage compare: B: latency.p99 is +100.0% against A"},
		{"in a folder that there is not", []string{"-html", "none/x.html"}, "", exitUsage, "latency.p99", "barrage compare: write none/x.html"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			var stdout, stderr bytes.Buffer
			status := runCompare(t.Context(), append(c.args, a, b), &stdout, &stderr)
			if status != c.status || !strings.Contains(stdout.String(), c.stdout) || !strings.HasPrefix(stderr.String(), c.stderr) || c.stderr == "" && stderr.Len() > 0 {
				t.Errorf("exit status %d, want %d\n%s%s", status, c.status, stdout.String(), stderr.String())
			}
			if files, err := os.ReadDir("."); err != nil || c.page == "" && len(files) > 0 {
				t.Errorf("files %v, %v", files, err)
			}
			if c.page == "" {
				return
			}
			page, err := os.ReadFile(c.page)
			if err != nil || !strings.Contains(string(page), "B against A") || !strings.Contains(string(page), "barrage compare ") {
				t.Errorf("%v, %s", err, page)
			}
		})
	}
}
