package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// Set by the Makefile with -ldflags -X.
var (
	version = "dev"
	commit  = ""
)

func runVersion(_ context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		fmt.Fprintf(stderr, "barrage version: unexpected argument %q: it takes none\n", args[0])
		return exitUsage
	}
	built := buildCommit()
	if built == "" {
		built = "unknown"
	}
	fmt.Fprintf(stdout, "barrage %s, commit %s, %s %s/%s\n", version, built, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return exitGood
}

// buildCommit is the commit that the binary was built from, with -dirty when the tree had
// changes; "" when nobody said.
func buildCommit() string {
	if commit != "" {
		return commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + dirty
}
