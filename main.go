// Barrage pushes messages to very many connections: one in, a million sockets out. This
// command is all of it: the processes of a cluster, all of them in one for a first look,
// and the harness that measures them.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"barrage/server/config"
)

// The exit statuses of every command; bench documents its own.
const (
	exitGood   = 0
	exitFailed = 1 // it could not go on
	exitUsage  = 2 // a flag, the configuration or the environment is wrong
)

// A command is a subcommand of barrage.
type command struct {
	name    string
	summary string // "" for one that is no user's business
	run     func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

func commands() []command {
	return []command{
		{"up", "everything in one process, with an embedded Kafka, Redis and discovery", runUp},
		{"comet", "holds client connections and fans pushes out to them", runComet},
		{"logic", "push API, sessions and online counts", runLogic},
		{"job", "carries pushes from Kafka to the comets", runJob},
		{"discovery", "a node of the service that the others find each other by", runDiscovery},
		{"services", "embedded Kafka, Redis and discovery as a process of their own", runServices},
		{"bench", "runs a scenario against a cluster and says exactly what arrived", runBench},
		{"agent", "runs a part of a scenario's clients on another machine than bench", runAgent},
		{"compare", "says what changed between stored runs, and whether it is more than noise", runCompare},
		{"profile", "says where processor time and memory go, and what changed between runs", runProfile},
		{"version", "says what was built", runVersion},
		{"ceiling", "", func(_ context.Context, args []string, _, _ io.Writer) int { return runCeiling(args) }},
	}
}

func main() {
	os.Exit(run(context.Background(), arguments(os.Args), os.Stdout, os.Stderr))
}

// arguments returns the command line behind the program's name. goim's processes are
// programs of their own: called by the name of one, as target/comet -conf=comet.toml, this
// one is it.
func arguments(line []string) []string {
	if len(line) == 0 {
		return nil
	}
	name, args := filepath.Base(line[0]), line[1:]
	switch name {
	case "comet", "logic", "job", "discovery":
		if len(args) == 0 || strings.HasPrefix(args[0], "-") {
			return append([]string{name}, args...)
		}
	}
	return args
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage())
		return exitUsage
	}
	name := args[0]
	if name == "help" || name == "-h" || name == "-help" || name == "--help" {
		fmt.Fprint(stdout, usage())
		return exitGood
	}
	var names []string
	for _, c := range commands() {
		if c.name == name {
			return c.run(ctx, args[1:], stdout, stderr)
		}
		if c.summary != "" {
			names = append(names, c.name)
		}
	}
	hint := ""
	if near := config.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("; did you mean barrage %s?", near)
	}
	fmt.Fprintf(stderr, "barrage: unknown command %q%s (barrage help lists them)\n", name, hint)
	return exitUsage
}

func usage() string {
	var b strings.Builder
	b.WriteString("Barrage pushes messages to very many connections.\n\nusage: barrage COMMAND [flags]\n\ncommands:\n")
	for _, c := range commands() {
		if c.summary != "" {
			fmt.Fprintf(&b, "  %-10s %s\n", c.name, c.summary)
		}
	}
	b.WriteString(`
examples:
  barrage up
  barrage comet -conf comet.toml -host comet-1 -discovery.nodes 10.0.0.1:7171,10.0.0.2:7171
  barrage bench room-10k

barrage COMMAND -h lists a command's flags; those of the processes are environment variables and
keys of the file given with -conf, too.

exit status: 0 good, 1 it could not go on, 2 a flag, the configuration or the environment
is wrong (a port that is taken, for example)
`)
	return b.String()
}
