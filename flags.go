package main

import (
	"flag"
	"fmt"
	"io"
	"strings"

	"barrage/server/config"
)

// newFlags makes the flags of a command whose help is usage with the flags behind it.
func newFlags(name, usage string, stdout io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stdout)
	flags.Usage = func() {
		fmt.Fprint(stdout, usage)
		flags.PrintDefaults()
	}
	return flags
}

// parseMixed parses flags that may stand before and behind the other arguments, which it
// returns. Errors are in the words that the roles have for theirs; with flag.ErrHelp the help
// was printed.
func parseMixed(flags *flag.FlagSet, args []string) (rest []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			return append(rest, args...), nil
		}
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			rest = append(rest, arg)
			continue
		}
		name, text, hasText := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		f := flags.Lookup(name)
		switch {
		case f == nil && (name == "h" || name == "help"):
			flags.Usage()
			return nil, flag.ErrHelp
		case f == nil:
			return nil, fmt.Errorf("unknown flag -%s%s (barrage %s -h lists them)", name, nearestFlag(flags, name), flags.Name())
		case hasText:
		case isBool(f):
			text = "true"
		case len(args) == 0:
			return nil, fmt.Errorf("flag -%s: a value is missing (%s)", name, meaning(f))
		default:
			text, args = args[0], args[1:]
		}
		if err := flags.Set(name, text); err != nil {
			return nil, fmt.Errorf("flag -%s: %w", name, badValue(f, text, err))
		}
	}
	return rest, nil
}

// nearestFlag is a half sentence with the flag that name is likely a slip for, "" without one.
func nearestFlag(flags *flag.FlagSet, name string) string {
	if len(name) < 3 {
		return "" // every other short flag is as near
	}
	var names []string
	flags.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	if near := config.Nearest(name, names); near != "" {
		return fmt.Sprintf("; did you mean -%s?", near)
	}
	return ""
}

// badValue says what a flag accepts that has refused text with err.
func badValue(f *flag.Flag, text string, err error) error {
	form := ""
	if getter, ok := f.Value.(flag.Getter); ok {
		switch getter.Get().(type) {
		case bool:
			form = "true or false"
		case int:
			form = "a whole number"
		case float64:
			form = "a number"
		}
	}
	if form == "" {
		return fmt.Errorf("%q: %w (%s)", text, err, meaning(f))
	}
	return fmt.Errorf("%q is not %s (%s)", text, form, meaning(f))
}

// meaning is what the help says of a flag.
func meaning(f *flag.Flag) string {
	_, text := flag.UnquoteUsage(f)
	return text
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// isSet says whether a flag was given.
func isSet(flags *flag.FlagSet, name string) (set bool) {
	flags.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// assignments is a flag that may be given several times.
type assignments []string

func (a *assignments) String() string { return strings.Join(*a, " ") }

// Set adds one.
func (a *assignments) Set(s string) error {
	*a = append(*a, s)
	return nil
}
