package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"barrage/harness/profile"
	"barrage/harness/report"
)

const profileUsage = `Where processor time, memory and waiting go, per delivery, and what changed between runs.

usage: barrage profile top [flags] RUN
       barrage profile diff [flags] A B
       barrage profile flame [flags] RUN [B]

top lists the dearest functions of a run. diff lists those that cost more or less in B than
in A, by more than noise. flame draws a run, or how B differs from A, as a flame graph: one
HTML file that needs no network.

RUN, A and B are folders of results with profiles, folders of such folders, or several
separated by commas; more of each side come with -a and -b. With one run of a side noise
can't be told from change, and diff says so; two of each are the least that can, and four
or more are better.

examples:
  barrage profile top -kind alloc -process comet results/room-10k/20261124T082959Z
  barrage profile diff results/room-10k/20261124T082959Z/a results/room-10k/20261124T082959Z/b
  barrage profile diff -a results/x/1 -a results/x/3 -b results/x/2 -b results/x/4
  barrage profile flame -o flame.html results/room-10k/20261124T082959Z

exit status: 0 done, 1 the page can't be written, 2 usage, or a run can't be read

flags:
`

// profileOptions are the flags of profile and what stands beside them.
type profileOptions struct {
	verb    string
	process string
	kind    profile.Kind
	order   profile.Order
	rows    int
	asJSON  bool
	out     string
	a, b    []string // paths of each side's runs
}

// runProfile is the subcommand profile.
func runProfile(_ context.Context, args []string, stdout, stderr io.Writer) int {
	opt, err := parseProfile(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitGood
	case err != nil:
		fmt.Fprintf(stderr, "barrage profile: %v\n", err)
		return exitUsage
	}
	if err := opt.run(stdout); err != nil {
		fmt.Fprintf(stderr, "barrage profile %s: %v\n", opt.verb, err)
		var write *profileWriteError
		if errors.As(err, &write) {
			return exitFailed
		}
		return exitUsage
	}
	return exitGood
}

func parseProfile(args []string, stdout io.Writer) (*profileOptions, error) {
	var a, b assignments
	opt := &profileOptions{}
	flags := newFlags("profile", profileUsage, stdout)
	flags.StringVar(&opt.process, "process", profile.ServerProcesses, "a `process` such as comet-1, a role such as comet, server for comet, logic and job together, or all")
	kind := flags.String("kind", string(profile.CPU), "the `kind` of profile: cpu, heap, alloc, mutex, block or goroutine")
	order := flags.String("sort", string(profile.ByFlat), "the `order` of functions: flat by what they cost themselves, cum with what they call")
	flags.IntVar(&opt.rows, "n", 30, "show so many functions, 0 for all")
	flags.BoolVar(&opt.asJSON, "json", false, "write JSON")
	flags.StringVar(&opt.out, "o", "", "write the flame graph into this `file`; - is the standard output (default flame-KIND.html)")
	flags.Var(&a, "a", "a further `run` of side A; may be given several times")
	flags.Var(&b, "b", "a further `run` of side B; may be given several times")
	rest, err := parseMixed(flags, args)
	if err != nil {
		return nil, err
	}
	if opt.kind, err = profile.ParseKind(*kind); err != nil {
		return nil, fmt.Errorf("-kind: %w", err)
	}
	if opt.order, err = profile.ParseOrder(*order); err != nil {
		return nil, fmt.Errorf("-sort: %w", err)
	}
	if opt.rows < 0 {
		return nil, fmt.Errorf("-n is %d, accepted is 0 or more", opt.rows)
	}
	verbs := []string{"top", "diff", "flame"}
	if len(rest) == 0 || !slices.Contains(verbs, rest[0]) {
		return nil, fmt.Errorf("one of %s is wanted first; see barrage profile -h", strings.Join(verbs, ", "))
	}
	opt.verb, rest = rest[0], rest[1:]
	if len(rest) > 2 {
		return nil, fmt.Errorf("%s: two sides at most are wanted, got %d; several runs of a side come with -a and -b", opt.verb, len(rest))
	}
	if len(rest) > 0 {
		opt.a = append(opt.a, rest[0])
	}
	if len(rest) > 1 {
		opt.b = append(opt.b, rest[1])
	}
	opt.a, opt.b = append(opt.a, a...), append(opt.b, b...)
	return opt, opt.check()
}

// check says what doesn't go together.
func (opt *profileOptions) check() error {
	switch {
	case len(opt.a) == 0:
		return fmt.Errorf("%s: a run is wanted; see barrage profile -h", opt.verb)
	case opt.verb == "diff" && len(opt.b) == 0:
		return errors.New("diff: two sides are wanted, got one; see barrage profile -h")
	case opt.verb == "top" && len(opt.b) > 0:
		return errors.New("top: one side is wanted; barrage profile diff compares two")
	case opt.verb != "flame" && opt.out != "":
		return fmt.Errorf("%s: -o is for flame; this is written to the standard output", opt.verb)
	case opt.verb == "flame" && opt.asJSON:
		return errors.New("flame: -json is for top and diff")
	}
	return nil
}

func (opt *profileOptions) run(stdout io.Writer) error {
	a, err := opt.side(opt.a)
	if err != nil {
		return err
	}
	var b *profile.Side
	if len(opt.b) > 0 {
		if b, err = opt.side(opt.b); err != nil {
			return err
		}
	}
	switch opt.verb {
	case "top":
		t := profile.Top(a, opt.order)
		if opt.asJSON {
			return t.WriteJSON(stdout, opt.rows)
		}
		return t.WriteText(stdout, opt.rows)
	case "diff":
		d := profile.Compare(a, b, opt.order)
		if opt.asJSON {
			return d.WriteJSON(stdout, opt.rows)
		}
		return d.WriteText(stdout, opt.rows)
	}
	return opt.flame(stdout, a, b)
}

func (opt *profileOptions) side(paths []string) (*profile.Side, error) {
	var runs []*profile.Run
	given := map[string]bool{}
	for _, path := range paths {
		list, err := profile.Load(path)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			// It would pass for a repeat that agrees.
			dir := filepath.Clean(r.Dir)
			if given[dir] {
				return nil, fmt.Errorf("the run %s is given twice for one side", dir)
			}
			given[dir] = true
		}
		runs = append(runs, list...)
	}
	return profile.NewSide(strings.Join(paths, ","), runs, opt.process, opt.kind)
}

// A profileWriteError says that the page could not be written.
type profileWriteError struct{ err error }

func (e *profileWriteError) Error() string { return e.err.Error() }

func (e *profileWriteError) Unwrap() error { return e.err }

func (opt *profileOptions) flame(stdout io.Writer, a, b *profile.Side) error {
	var page bytes.Buffer
	if err := profile.WriteFlame(&page, a, b); err != nil {
		return err
	}
	path := opt.out
	switch path {
	case "-":
		if _, err := stdout.Write(page.Bytes()); err != nil {
			return &profileWriteError{fmt.Errorf("write the flame graph: %w", err)}
		}
		return nil
	case "":
		path = "flame-" + string(opt.kind) + ".html"
	}
	if err := report.WriteFile(path, page.Bytes()); err != nil {
		return &profileWriteError{err}
	}
	fmt.Fprintf(stdout, "%s\n", path)
	return nil
}
