package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"barrage/harness/compare"
	"barrage/harness/report"
)

const compareUsage = `Hold stored runs against each other: what changed, and is it more than noise?

usage: barrage compare [flags] A B [C...]

A, B, ... are runs: a folder of results/, a folder of such folders, or several separated by
commas. The first is what the others are held against. The unit is the run: with four runs
of each side or more, differences are tested (Mann-Whitney, 95%).

examples:
  barrage compare results/room-10k/20261124T082959Z results/room-10k/20261124T091500Z
  barrage compare -all results/room-10k/20261124T082959Z/a results/room-10k/20261124T082959Z/b
  barrage compare -html /tmp/ab.html old new
  barrage compare -fail-on 'latency.p99 +10%' -fail-on 'server.deliveries_per_cpu_second -5%' old new

exit status: 0 compared, and no limit is broken; 1 a limit is broken; 2 usage, or a run can't
be read, or the page not written

The page compare.html says the same with the curves of all runs over each other: one file,
which needs no network.

flags:
`

// defaultPage is where a comparison's page is written, in the current folder.
const defaultPage = "compare.html"

// runCompare is the subcommand compare.
func runCompare(_ context.Context, args []string, stdout, stderr io.Writer) int {
	var limits assignments
	flags := newFlags("compare", compareUsage, stdout)
	all := flags.Bool("all", false, "show every figure, not the main ones alone")
	names := flags.String("figures", "", "show these `figures`, separated by commas")
	asJSON := flags.Bool("json", false, "write the comparison as JSON, and no page unless -html says where")
	html := flags.String("html", defaultPage, "`file` for the page; '' for none")
	flags.Var(&limits, "fail-on", "a `limit` such as 'latency.p99 +10%'; past it the exit status is 1; may be given several times")
	paths, err := parseMixed(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitGood
	case err != nil:
		fmt.Fprintf(stderr, "barrage compare: %v\n", err)
		return exitUsage
	}
	if *asJSON && !isSet(flags, "html") {
		*html = ""
	}
	c, broken, err := compareRuns(paths, limits, *names, *all)
	if err == nil {
		err = printComparison(stdout, c, *asJSON)
	}
	if err == nil && *html != "" {
		if err = writePage(*html, c, slices.Concat([]string{"barrage", "compare"}, args)); err == nil {
			fmt.Fprintf(stderr, "the page is in %s\n", *html)
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "barrage compare: %v\n", err)
		return exitUsage
	}
	for _, line := range broken {
		fmt.Fprintln(stderr, "barrage compare: "+line)
	}
	if len(broken) > 0 {
		return exitFailed
	}
	return exitGood
}

// compareRuns compares the runs at paths, and says which limits are broken.
func compareRuns(paths, limits []string, names string, all bool) (c *compare.Comparison, broken []string, err error) {
	if len(paths) < 2 {
		return nil, nil, fmt.Errorf("two sides or more are wanted, got %d; see barrage compare -h", len(paths))
	}
	var sides []compare.Side
	for _, path := range paths {
		s, err := compare.Load(path)
		if err != nil {
			return nil, nil, err
		}
		sides = append(sides, s)
	}
	shown, err := chosenFigures(names, all, sides)
	if err != nil {
		return nil, nil, err
	}
	if c, err = compare.Of(sides, shown); err != nil {
		return nil, nil, err
	}
	for _, text := range limits {
		l, err := compare.ParseLimit(text)
		if err != nil {
			return nil, nil, fmt.Errorf("-fail-on: %w", err)
		}
		limited, err := compare.Of(sides, []report.Figure{l.Figure})
		if err != nil {
			return nil, nil, err
		}
		broken = append(broken, l.Broken(limited)...)
	}
	return c, broken, nil
}

func printComparison(w io.Writer, c *compare.Comparison, asJSON bool) error {
	if asJSON {
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		return out.Encode(c.Summary())
	}
	return compare.Text(w, c)
}

// writePage writes a comparison's page to a file. command is what made it.
func writePage(path string, c *compare.Comparison, command []string) error {
	var b bytes.Buffer
	if err := compare.HTML(&b, c, command); err != nil {
		return err
	}
	return report.WriteFile(path, b.Bytes())
}

// chosenFigures returns the figures of the sides' runs to show.
func chosenFigures(names string, all bool, sides []compare.Side) ([]report.Figure, error) {
	var list []report.Figure
	if names != "" {
		for name := range strings.SplitSeq(names, ",") {
			f, ok := report.FindFigure(strings.TrimSpace(name))
			if !ok {
				return nil, fmt.Errorf("-figures: there is no figure %q; there are %s", name, strings.Join(report.FigureNames("NAME"), ", "))
			}
			list = append(list, f)
		}
		return list, nil
	}
	for _, f := range report.FiguresOf(compare.Runs(sides)...) {
		if all || f.Primary {
			list = append(list, f)
		}
	}
	return list, nil
}
