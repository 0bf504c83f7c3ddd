package comet

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// TestWebSocketConformance runs the Autobahn cases of groups 1 to 7 and 10 against an echo
// server on comet's WebSocket code path. It needs kosoku (PyPI), in PATH or named by
// KOSOKU; .ci/run installs it.
func TestWebSocketConformance(t *testing.T) {
	kosoku := os.Getenv("KOSOKU")
	if kosoku == "" {
		path, err := exec.LookPath("kosoku")
		if err != nil {
			t.Skip("kosoku is not installed: python3 -m venv DIR && DIR/bin/pip install kosoku, then KOSOKU=DIR/bin/kosoku")
		}
		kosoku = path
	}
	c := startComet(t, &fakeLogic{profile: &wsProfile{path: "/", limit: 1 << 20, text: true, message: echo}}, func(cfg *Config) {
		cfg.Protocol.HandshakeTimeout = time.Minute
	})
	dir := t.TempDir()
	args := []string{"-m", "fuzzingclient", "-p", "8", "-o", dir}
	for _, group := range []string{"1", "2", "3", "4", "5", "6", "7", "10"} {
		args = append(args, "-i", group+".*")
	}
	cmd := exec.Command(kosoku, append(args, c.ws)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("kosoku: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index map[string]map[string]struct {
		Behavior      string `json:"behavior"`
		BehaviorClose string `json:"behaviorClose"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	cases := 0
	for _, agent := range index {
		for name, result := range agent {
			cases++
			good := func(s string) bool { return s == "OK" || s == "INFORMATIONAL" }
			if !good(result.Behavior) || !good(result.BehaviorClose) {
				t.Errorf("case %s: %s, close %s", name, result.Behavior, result.BehaviorClose)
			}
		}
	}
	t.Logf("%d cases", cases)
	if cases != 247 {
		t.Errorf("%d cases ran, want 247", cases)
	}
}

func echo(s *session, op ws.OpCode, payload []byte) error {
	var b bytes.Buffer
	if err := ws.WriteFrame(&b, ws.NewFrame(op, true, payload)); err != nil {
		return err
	}
	s.write(b.Bytes())
	return nil
}
