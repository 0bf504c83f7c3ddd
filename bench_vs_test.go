package main

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A commit that -vs names is built in a worktree of its own, of which nothing is left in the end.
func TestVariantOfACommit(t *testing.T) {
	t.Chdir(t.TempDir())
	git := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "-q")
	write("go.mod", "module small\n\ngo 1.26\n")
	write("main.go", "package main\n\nvar commit string\n\nfunc main() { print(commit) }\n")
	git("add", ".")
	git("commit", "-qm", "one that builds")
	good := git("rev-parse", "HEAD")
	write("main.go", "package main\n\nfunc main() { no }\n")
	git("commit", "-qam", "one that doesn't")

	v, cleanUp, err := otherVariant(t.Context(), "HEAD~1", &targetFlags{}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(v.Exe).CombinedOutput()
	if err != nil || string(said) != good || v.Commit != good {
		t.Errorf("the binary is of %q, the variant of %q, %v; want %s", said, v.Commit, err, good)
	}
	cleanUp()
	if _, err := os.Stat(v.Exe); !os.IsNotExist(err) {
		t.Errorf("the binary is still there: %v", err)
	}
	for ref, want := range map[string]string{"HEAD": "build it: ", "nothing": "nor a commit of a git repository here"} {
		_, cleanUp, err := otherVariant(t.Context(), ref, &targetFlags{}, io.Discard)
		cleanUp()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("-vs %s: %v, want %q", ref, err, want)
		}
	}
	if trees := git("worktree", "list"); strings.Count(trees, "\n") != 0 {
		t.Errorf("worktrees are left:\n%s", trees)
	}
}
