package harness_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// mayMount says whether this user may mount a file system where nobody else sees it.
func mayMount() bool {
	cmd := exec.Command("mount", "-t", "tmpfs", "tmpfs", "/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd.Run() == nil
}

// written finds the file that could not be written in an error.
var written = regexp.MustCompile(`barrage bench: write (\S+): .*no space left on device`)

// A disk that fills up: the error says so, and which file it was. Nothing is there under a name
// that says that it is whole, and nothing is left under any other.
func TestResultsOnAFullDisk(t *testing.T) {
	if !mayMount() {
		t.Skip("needs the right to mount a file system (root)")
	}
	for _, c := range []struct {
		name, size string // of the disk
		args       []string
	}{
		{"nothing fits", "4k", []string{"-profile"}},
		{"some files fit, and run.json is the last", "72k", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			kept := t.TempDir()
			script := `mount -t tmpfs -o size=` + c.size + ` tmpfs "$4" || exit 99; "$@"; status=$?; cp -a "$4/." ` + kept + ` || exit 98; exit $status`
			b := startBy(t, script, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, shortRun(c.args...)...)
			status := b.wait(t)
			named := written.FindStringSubmatch(b.stderr.String())
			if status != 2 || named == nil || !strings.Contains(b.stdout.String(), "Deliveries") {
				t.Fatalf("exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
			}
			err := filepath.WalkDir(kept, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || filepath.Base(filepath.Dir(path)) == "logs" {
					return err
				}
				name := filepath.Base(path)
				text, err := os.ReadFile(path)
				half := len(text) == 0 || strings.HasSuffix(name, ".html") && !bytes.HasSuffix(bytes.TrimSpace(text), []byte("</html>"))
				if half || name == "run.json" || name == filepath.Base(named[1]) || strings.HasPrefix(name, ".") {
					t.Errorf("%s is there, with %d bytes; %s", path, len(text), named[0])
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
