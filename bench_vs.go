package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"barrage/harness"
)

// otherVariant returns what -vs names: a cluster that runs already, written as for -target; an
// executable file as it is; or a git commit of the repository that the working directory is in,
// built in a worktree of its own. cleanUp removes what was made for it.
func otherVariant(ctx context.Context, ref string, at *targetFlags, progress io.Writer) (v harness.Variant, cleanUp func(), err error) {
	cleanUp = func() {}
	if isTarget(ref) {
		target, err := at.parse(ref)
		if err != nil {
			return v, cleanUp, fmt.Errorf("-vs: %w", err)
		}
		return harness.Variant{Name: "b", Target: target}, cleanUp, nil
	}
	if info, err := os.Stat(ref); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		exe, err := filepath.Abs(ref)
		if err != nil {
			return v, cleanUp, fmt.Errorf("-vs %s: %w", ref, err)
		}
		return harness.Variant{Name: "b", Exe: exe, Commit: binaryCommit(ctx, exe)}, cleanUp, nil
	}
	commit, err := command1(ctx, "git", "rev-parse", "--verify", "--quiet", ref+"^{commit}")
	if err != nil {
		return v, cleanUp, fmt.Errorf("-vs %s: it is neither a cluster (tcp=HOST:PORT,...,push=HOST:PORT), an executable file nor a commit of a git repository here", ref)
	}
	dir, err := os.MkdirTemp("", "barrage-vs-")
	if err != nil {
		return v, cleanUp, fmt.Errorf("-vs %s: %w", ref, err)
	}
	tree := filepath.Join(dir, "tree")
	cleanUp = func() {
		// Whatever ctx is: nothing of ours stays in the user's repository.
		// Twice forced, since one whose making was cut short is locked.
		_ = exec.Command("git", "worktree", "remove", "--force", "--force", tree).Run()
		_ = os.RemoveAll(dir)
	}
	if _, err := command1(ctx, "git", "worktree", "add", "--quiet", "--detach", tree, commit); err != nil {
		cleanUp()
		return v, func() {}, fmt.Errorf("-vs %s: %w", ref, err)
	}
	fmt.Fprintf(progress, "building %s (%.12s)\n", ref, commit)
	exe := filepath.Join(dir, "barrage")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.commit="+commit, "-o", exe, ".")
	build.Dir = tree
	if out, err := build.CombinedOutput(); err != nil {
		cleanUp()
		return v, func() {}, fmt.Errorf("-vs %s: build it: %w\n%s", ref, err, out)
	}
	return harness.Variant{Name: "b", Exe: exe, Commit: commit}, cleanUp, nil
}

// isTarget reports whether what -vs names is a cluster: no commit's name that anyone gives has a =, nor
// a binary's.
func isTarget(ref string) bool { return strings.Contains(ref, "=") }

// command1 runs a command and returns what it printed, without the line's end.
func command1(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		why := err.Error()
		if exit, ok := err.(*exec.ExitError); ok && len(exit.Stderr) > 0 {
			why = strings.TrimSpace(string(exit.Stderr))
		}
		return "", fmt.Errorf("%s %s: %s", name, strings.Join(args, " "), why)
	}
	return strings.TrimSpace(string(out)), nil
}

// binaryCommit asks another barrage for its commit, "" when it doesn't say.
func binaryCommit(ctx context.Context, exe string) string {
	out, err := command1(ctx, exe, "version")
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(out, "commit ")
	commit, _, _ := strings.Cut(rest, ",")
	if !ok || commit == "unknown" {
		return ""
	}
	return commit
}
