package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"barrage/harness"
	"barrage/harness/agent"
	"barrage/harness/ceiling"
	"barrage/harness/cluster"
	"barrage/harness/compare"
	"barrage/harness/live"
	"barrage/harness/report"
	"barrage/harness/scenario"
	"barrage/scenarios"
)

const benchUsage = `Run a scenario: start the processes, connect the clients, push, and say exactly what arrived.

usage: barrage bench [flags] SCENARIO

SCENARIO is a YAML file, or the name of one of scenarios/ (those that came with the binary
work anywhere). The result is printed, and written with the processes' logs to
RESULTS/<scenario>/<UTC time>/. With -runs the scenario is run several times, with -vs in turn
with another version; the runs then lie in folders below, and what they say is printed, and
written to series.txt and compare.html.

examples:
  barrage bench -explain room-10k
  barrage bench room-10k
  barrage bench -set cluster.comet.room.minInterval=50ms -set pushes.0.rate=200/s room-10k
  barrage bench -results /tmp/results -ceiling=false scenarios/smoke.yaml
  barrage bench -profile room-10k-flood
  barrage bench -target tcp=10.0.0.1:3101,ws=10.0.0.1:3102,push=10.0.0.2:3111 room-10k
  barrage bench -target tcp=10.0.0.1:3101,ws=10.0.0.1:3102,push=10.0.0.2:3111,metrics=10.0.0.1:3190,metrics=10.0.0.2:3191,metrics=10.0.0.2:3192 room-10k
  barrage bench -target tcp=10.0.0.1:3101,ws=10.0.0.1:3102,push=https://push.example.com -push-key-file key room-10k
  barrage bench -runs 6 -vs main~1 room-10k
  barrage bench -runs 6 -vs tcp=10.0.0.1:3101,ws=10.0.0.1:3102,push=10.0.0.2:3111 room-10k
  barrage bench -agents 10.0.0.7:3121,10.0.0.8:3121 -advertise 10.0.0.1 -ca ca.pem -token-file token room-100k
  barrage bench -selftest
  barrage bench -metrics 127.0.0.1:9464 room-10k

exit status: 0 the ledger balances and everything expected holds; 1 it does not, or a process
ended by itself; 2 usage or environment; 3 the run is invalid: the harness or the machine,
and not the server, may have made its figures, or an agent was lost; 130 interrupted. With
-selftest: 0 all is reported as planned; 1 something is not; 3 the machine is too busy to tell

flags:
`

// The exit statuses of bench.
const (
	benchGood        = 0
	benchFailed      = 1
	benchUsageError  = 2
	benchInvalid     = 3
	benchInterrupted = 130
)

// runBench is the subcommand bench: it runs a scenario and returns the exit status.
func runBench(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var overrides assignments
	flags := newFlags("bench", benchUsage, stdout)
	results := flags.String("results", "results", "`folder` for the results")
	withCeiling := flags.Bool("ceiling", true, "measure what the kernel allows after the run")
	runs := flags.Int("runs", 1, "run it `N` times, 1 to 100; with -vs N times for each side")
	vs := flags.String("vs", "", "hold it against another `version`: a git commit of the repository here, another binary, or a cluster that runs already, written as for -target")
	scale := flags.Float64("scale", 1, "make the scenario so many `times` as large: 0.1 has a tenth of its clients, members and rooms")
	profiles := flags.Bool("profile", false, "take CPU, memory and waiting profiles of all processes in the measured phase")
	var at targetFlags
	at.add(flags)
	metrics := flags.String("metrics", "", "serve the harness' own metrics at `HOST:PORT`/metrics while it runs, for Prometheus; port 0 is a free one")
	agents := flags.String("agents", "", "have the clients on `machines` where barrage agent runs: HOST:PORT,HOST:PORT")
	advertise := flags.String("advertise", "", "`IP` address of this machine on which the comets listen for the agents' clients")
	var secure securityFlags
	secure.add(flags, "this side's", "the agents'")
	source := flags.String("source", "", sourceHelp)
	explain := flags.Bool("explain", false, "say what the run would do, what it needs and how long it takes, and run nothing")
	schema := flags.Bool("schema", false, "print the JSON schema of scenarios, for an editor")
	self := flags.Bool("selftest", false, "check this binary's harness against a server that is faulty by plan, in under a minute, and run nothing else")
	list := flags.Bool("list", false, "list the scenarios that came with the binary")
	flags.Var(&overrides, "set", "set a `field=value` of the scenario; may be given several times")
	names, err := parseMixed(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return benchGood
	case err != nil:
		fmt.Fprintf(stderr, "barrage bench: %v\n", err)
		return benchUsageError
	case *list:
		return listScenarios(stdout, stderr)
	case *schema:
		if err := scenario.WriteSchema(stdout); err != nil {
			fmt.Fprintf(stderr, "barrage bench: %v\n", err)
			return benchUsageError
		}
		return benchGood
	case *self && len(names) > 0:
		fmt.Fprintf(stderr, "barrage bench: -selftest has scenarios of its own, and takes none: got %q\n", names)
		return benchUsageError
	case *self:
		return benchSelftest(ctx, stdout, stderr)
	case len(names) != 1:
		fmt.Fprintf(stderr, "barrage bench: one scenario is wanted, got %d; see barrage bench -h\n", len(names))
		return benchUsageError
	}
	if *runs < 1 || *runs > 100 {
		fmt.Fprintf(stderr, "barrage bench: -runs is %d, accepted is 1 to 100\n", *runs)
		return benchUsageError
	}
	s, err := scenario.Find(names[0], scenarios.Files, overrides)
	if err == nil && *scale != 1 {
		var more []string
		if more, err = s.Scale(*scale); err == nil {
			overrides = append(overrides, more...)
			s, err = scenario.Find(names[0], scenarios.Files, overrides)
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "barrage bench: %v\n", err)
		return benchUsageError
	}
	target, err := at.read(isTarget(*vs))
	if err != nil {
		fmt.Fprintf(stderr, "barrage bench: %v\n", err)
		return benchUsageError
	}
	if s.Capacity != nil && (*runs > 1 || *vs != "") {
		fmt.Fprintln(stderr, "barrage bench: the scenario looks for a capacity, by runs of its own; -runs and -vs don't go with it")
		return benchUsageError
	}
	fleet, err := agentFleet(*agents, *advertise, target, &secure)
	var sources []netip.Addr
	if err == nil {
		sources, err = parseSources(*source)
	}
	if err == nil && fleet != nil && len(sources) > 0 {
		err = errors.New("-source and -agents exclude each other: give it to barrage agent, on each machine its own")
	}
	if err != nil {
		fmt.Fprintf(stderr, "barrage bench: %v\n", err)
		return benchUsageError
	}
	if *explain {
		if err := harness.Explain(stdout, &harness.Options{Scenario: s, NoCeiling: !*withCeiling, Target: target, Agents: fleet, Advertise: *advertise}); err != nil {
			fmt.Fprintf(stderr, "barrage bench: %v\n", err)
			return benchUsageError
		}
		return benchGood
	}
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintf(stderr, "barrage bench: find this binary: %v\n", err)
		return benchUsageError
	}
	outward := *metrics != "" || target != nil || fleet != nil || *vs != ""
	if err := harness.EnterNetwork(s, exe, outward); err != nil {
		fmt.Fprintf(stderr, "barrage bench: %v\n", err)
		return benchUsageError
	}
	var server *live.Server
	if *metrics != "" {
		if server, err = live.Serve(*metrics); err != nil {
			fmt.Fprintf(stderr, "barrage bench: -metrics %s: %v; write it as HOST:PORT, e.g. 127.0.0.1:0 for a free port\n", *metrics, err)
			return benchUsageError
		}
		defer server.Close()
		fmt.Fprintf(stderr, "metrics are at %s\n", server.URL())
	}
	// The first signal ends the run in order; once it has come, the next one kills.
	ctx, stop := signal.NotifyContext(ctx, endSignals()...)
	defer stop()
	context.AfterFunc(ctx, stop)
	opt := harness.Options{
		Scenario: s, Overrides: overrides, Exe: exe, Self: exe, Results: *results, Commit: buildCommit(),
		Command: report.ShownAll(slices.Concat([]string{"barrage", "bench"}, args)), NoCeiling: !*withCeiling, Profile: *profiles, Target: target,
		Agents: fleet, Advertise: *advertise, Sources: sources,
		Progress: stderr, Terminal: isTerminal(stderr), Metrics: server,
	}
	var status int
	switch {
	case s.Capacity != nil:
		status, err = benchCapacity(ctx, opt, stdout)
	case *runs == 1 && *vs == "":
		status, err = benchOnce(ctx, opt, stdout)
	default:
		status, err = benchSeries(ctx, opt, *runs, *vs, &at, stdout)
	}
	var environment *harness.EnvironmentError
	var setup *harness.StartError
	var usage usageError
	switch {
	case err == nil:
		return status
	case errors.Is(err, harness.ErrInterrupted):
		fmt.Fprintf(stderr, "barrage bench: %v; all processes have ended\n", err)
		return benchInterrupted
	case errors.As(err, &environment), errors.As(err, &setup), errors.As(err, &usage), cannotWrite(err):
		fmt.Fprintf(stderr, "barrage bench: %v\n", err)
		return benchUsageError
	default:
		fmt.Fprintf(stderr, "barrage bench: %v\n", err)
		return benchFailed
	}
}

// cannotWrite reports whether err is about a file that could not be made or written.
func cannotWrite(err error) bool {
	var file *fs.PathError
	return errors.As(err, &file) && slices.Contains([]error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EROFS, syscall.EACCES}, file.Err)
}

// agentFleet reads the flags about agents; nil without any.
func agentFleet(addrs, advertise string, target *cluster.Target, secure *securityFlags) (*agent.FleetConfig, error) {
	switch {
	case addrs == "" && (secure.security != (agent.Security{}) || secure.tokenFile != ""):
		return nil, errors.New("-cert, -key, -ca, -token-file and -insecure are about agents, and none is named (-agents)")
	case advertise != "" && target != nil:
		return nil, errors.New("-advertise and -target exclude each other: a target listens where it does")
	case advertise != "" && net.ParseIP(advertise) == nil:
		return nil, fmt.Errorf("-advertise %q is no IP address", advertise)
	case addrs == "":
		return nil, nil
	}
	cfg := &agent.FleetConfig{Build: build()}
	for addr := range strings.SplitSeq(addrs, ",") {
		addr = strings.TrimSpace(addr)
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("-agents %q: write it as HOST:PORT,HOST:PORT", addr)
		}
		if slices.Contains(cfg.Addrs, addr) {
			return nil, fmt.Errorf("-agents: %s is there twice", addr)
		}
		cfg.Addrs = append(cfg.Addrs, addr)
	}
	var err error
	cfg.Security, err = secure.read()
	return cfg, err
}

// benchOnce runs a scenario, prints the result and returns the exit status.
func benchOnce(ctx context.Context, opt harness.Options, stdout io.Writer) (int, error) {
	result, runErr := harness.Run(ctx, opt)
	if result == nil {
		return 0, runErr
	}
	err := report.Text(stdout, result.Run, report.Style{Colour: isTerminal(stdout)})
	if runErr != nil { // it could not be written
		return 0, errors.Join(runErr, err)
	}
	if err == nil {
		_, err = fmt.Fprintf(stdout, "%s\n", result.Dir+"/run.json")
	}
	if err != nil {
		return 0, fmt.Errorf("print the result, which is in %s: %w", result.Dir, err)
	}
	return benchStatus(result.Run), nil
}

// benchCapacity looks for the highest rate that holds, prints the bracket and returns the
// exit status: good where there is a rate that holds.
func benchCapacity(ctx context.Context, opt harness.Options, stdout io.Writer) (int, error) {
	c, err := harness.Capacity(ctx, opt)
	if c == nil {
		return 0, err
	}
	if printErr := c.Text(stdout); printErr != nil {
		return 0, fmt.Errorf("print the result, which is in %s: %w", c.Dir, printErr)
	}
	if _, printErr := fmt.Fprintf(stdout, "%s/capacity.json\n", c.Dir); printErr != nil {
		return 0, fmt.Errorf("print the result, which is in %s: %w", c.Dir, printErr)
	}
	switch {
	case errors.Is(err, harness.ErrInterrupted):
		return benchInterrupted, nil
	case err != nil:
		return 0, err
	case c.Holds > 0:
		return benchGood, nil
	case c.Breaks > 0:
		return benchFailed, nil
	}
	return benchInvalid, nil
}

// benchSeries runs a scenario several times, prints what the runs say together and returns
// the worst run's exit status. An error comes behind what had been measured until then.
func benchSeries(ctx context.Context, opt harness.Options, runs int, vs string, at *targetFlags, stdout io.Writer) (int, error) {
	variants := []harness.Variant{{Name: "a", Exe: opt.Exe, Commit: opt.Commit, Target: opt.Target}}
	if vs != "" {
		other, cleanUp, err := otherVariant(ctx, vs, at, opt.Progress)
		if err != nil {
			return 0, usageError{err}
		}
		defer cleanUp()
		variants = append(variants, other)
	}
	series, seriesErr := harness.Series(ctx, opt, variants, runs)
	if series == nil {
		return 0, seriesErr
	}
	var sides []compare.Side
	status := benchGood
	for i, list := range series.Runs {
		if len(list) > 0 {
			sides = append(sides, compare.Side{Name: series.Dirs[i], Runs: list})
		}
		for _, r := range list {
			status = max(status, benchStatus(r))
		}
	}
	if len(sides) == 0 {
		return 0, seriesErr
	}
	// What an interrupted series measured is shown, too.
	return status, errors.Join(showSeries(opt, series.Dir, sides, stdout), seriesErr)
}

// showSeries writes what the runs of a series say together into its folder, and prints it.
func showSeries(opt harness.Options, dir string, sides []compare.Side, stdout io.Writer) error {
	shown, err := chosenFigures("", false, sides)
	if err != nil {
		return err
	}
	var c *compare.Comparison
	var text bytes.Buffer
	if len(sides) == 1 {
		c = compare.Alone(sides[0], shown)
		err = compare.Spread(&text, c)
	} else if c, err = compare.Of(sides, shown); err == nil {
		err = compare.Text(&text, c)
	}
	if err == nil {
		err = report.WriteFile(filepath.Join(dir, "series.txt"), text.Bytes())
	}
	page := filepath.Join(dir, defaultPage)
	if err == nil {
		err = writePage(page, c, opt.Command)
	}
	if err == nil {
		_, err = fmt.Fprintf(stdout, "%s%s\n", text.Bytes(), page)
	}
	return err
}

// benchStatus is the exit status that goes with a run's verdict.
func benchStatus(r *report.Run) int {
	switch r.Verdict.Status {
	case report.Good:
		return benchGood
	case report.CutShort:
		return benchInterrupted
	case report.Invalid:
		return benchInvalid
	default:
		return benchFailed
	}
}

func listScenarios(stdout, stderr io.Writer) int {
	files, err := fs.Glob(scenarios.Files, "*.yaml")
	if err != nil {
		fmt.Fprintf(stderr, "barrage bench: list scenarios: %v\n", err)
		return benchUsageError
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".yaml")
		s, err := scenario.Find(name, scenarios.Files, nil)
		if err != nil {
			fmt.Fprintf(stderr, "barrage bench: %v\n", err)
			return benchUsageError
		}
		fmt.Fprintf(stdout, "%-16s %s\n", name, s.Description)
	}
	return benchGood
}

// isTerminal says whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// runCeiling is the hidden subcommand ceiling: the sending side of a run's last part.
func runCeiling(args []string) int { return ceiling.Main(args) }

// endSignals are those that end a command in order: Ctrl-C, SIGTERM, and the hang-up of the terminal, unless
// that was to be ignored (nohup).
func endSignals() []os.Signal {
	list := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		list = append(list, syscall.SIGHUP)
	}
	return list
}
