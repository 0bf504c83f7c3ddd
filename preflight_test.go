package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The mending commands that .ci/preflight names.
const (
	mendCompiler    = "sudo apt-get update && sudo apt-get install -y gcc libc6-dev"
	mendCgo         = "export CGO_ENABLED=1"
	mendDescriptors = "sudo prlimit --pid $$ --nofile=65536:65536"
)

// goThatSays is a shell script in place of go, which tells its version and whether cgo is on.
func goThatSays(version, cgo string) string {
	return fmt.Sprintf(`case "$2" in GOVERSION) echo %s ;; CGO_ENABLED) echo %s ;; CC) echo gcc ;; esac`, version, cgo)
}

// .ci/preflight names each thing that is missing, with what mends it, and nothing else.
func TestPreflight(t *testing.T) {
	script, err := filepath.Abs(".ci/preflight")
	if err != nil {
		t.Fatal(err)
	}
	tools := map[string]string{}
	for _, tool := range []string{"go", "gcc", "sh", "uname", "sed", "sort", "head", "mktemp", "rm"} {
		if tools[tool], err = exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	throughPath := func(tool string) string {
		return fmt.Sprintf("PATH='%s' exec '%s' \"$@\"", os.Getenv("PATH"), tools[tool])
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	wanted := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(mod))[1]
	mendGo := "curl -fsSL https://go.dev/dl/go" + wanted + ".0.linux-"
	noGo, noCompiler := "go "+wanted, "a C compiler with its library's headers (gcc)"
	anyGo, anyGCC := goThatSays("go"+wanted+".3", "1"), "exit 0"
	for _, c := range []struct {
		name    string
		goTool  string // its script; "" for none
		gcc     string // the same
		limit   string // of file descriptors; "" as it is
		missing []string
		mend    []string
	}{
		{name: "nothing is missing", goTool: throughPath("go"), gcc: throughPath("gcc")},
		{name: "a limit that is just enough", goTool: anyGo, gcc: anyGCC, limit: "100"},
		{name: "a later go", goTool: goThatSays("go1.100.1", "1"), gcc: anyGCC},
		{name: "no gcc", goTool: anyGo, missing: []string{noCompiler}, mend: []string{mendCompiler}},
		{name: "no gcc, for which the real go turns cgo off", goTool: `exec '` + tools["go"] + `' "$@"`,
			missing: []string{noCompiler}, mend: []string{mendCompiler}},
		{name: "gcc without headers", goTool: anyGo, gcc: "exit 1", missing: []string{noCompiler}, mend: []string{mendCompiler}},
		{name: "too few file descriptors", goTool: anyGo, gcc: anyGCC, limit: "99",
			missing: []string{"100 file descriptors (the limit is 99)"}, mend: []string{mendDescriptors}},
		{name: "no go", gcc: anyGCC, missing: []string{noGo}, mend: []string{mendGo}},
		{name: "an old go", goTool: goThatSays("go1.9.7", "1"), gcc: anyGCC,
			missing: []string{noGo + " (here is 1.9.7)"}, mend: []string{mendGo}},
		{name: "a go that doesn't know its version", goTool: goThatSays("", "1"), gcc: anyGCC,
			missing: []string{noGo + " (here is an older one)"}, mend: []string{mendGo}},
		{name: "cgo is off", goTool: goThatSays("go"+wanted+".3", "0"), gcc: anyGCC,
			missing: []string{"cgo, which is turned off (CGO_ENABLED=0)"}, mend: []string{mendCgo}},
		{name: "everything", limit: "99", missing: []string{noGo, noCompiler, "100 file descriptors (the limit is 99)"},
			mend: []string{mendGo, mendCompiler, mendDescriptors}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bin := t.TempDir()
			for tool, at := range tools {
				if tool == "go" || tool == "gcc" {
					continue
				}
				if err := os.Symlink(at, filepath.Join(bin, tool)); err != nil {
					t.Fatal(err)
				}
			}
			for tool, body := range map[string]string{"go": c.goTool, "gcc": c.gcc} {
				if body == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(bin, tool), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			line := `exec "$0" 100`
			if c.limit != "" {
				line = "ulimit -n " + c.limit + " && " + line
			}
			cmd := exec.Command(tools["sh"], "-c", line, script)
			cmd.Env = append(os.Environ(), "PATH="+bin, "GO=go", "GOENV=off", "CC=", "CGO_ENABLED=")
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); cmd.ProcessState == nil {
				t.Fatal(err)
			}
			status := exitGood
			if len(c.missing) > 0 {
				status = exitFailed
			}
			if got := cmd.ProcessState.ExitCode(); got != status || stdout.Len() > 0 {
				t.Errorf("exit status %d, want %d; stdout %q", got, status, stdout.String())
			}
			lines := strings.Split(stderr.String(), "\n") // the last one is empty
			if len(lines) != 2*len(c.missing)+1 {
				t.Fatalf("stderr is\n%s", stderr.String())
			}
			for i := range c.missing {
				if lines[2*i] != "missing: "+c.missing[i] || !strings.HasPrefix(lines[2*i+1], "    mend it: "+c.mend[i]) {
					t.Errorf("stderr is\n%s\nwant %q, mended by %q", stderr.String(), c.missing[i], c.mend[i])
				}
			}
		})
	}
}
