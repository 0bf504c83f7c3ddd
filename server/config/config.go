// Package config fills a struct from a TOML file, the environment and the command line,
// and says what is wrong with them in the user's words: every leaf of the struct is a
// TOML key, a flag and an environment variable at once.
//
//	type Config struct {
//		TCP struct {
//			Bind []string `toml:"bind" doc:"addresses to listen on"`
//		} `toml:"tcp"`
//	}
//
// gives the key bind in section [tcp], the flag -tcp.bind (or --tcp.bind) and the variable
// BARRAGE_TCP_BIND. The tags flag:"name" and env:"NAME" add names of their own. Precedence
// is flag, environment, file, default. Keys are matched without regard to case, as goim's
// are. Lists are written with commas in flags and variables, durations as "1s".
//
// A name that several leaves share sets all of them. The fields of an embedded struct, or
// of one tagged toml:",inline", belong to the struct around it.
package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// ErrHelp is what Load returns for -h and -help; print Usage then.
var ErrHelp = errors.New("help requested")

// ErrPrint is what Load returns for -print-config, once everything is loaded; Print then.
var ErrPrint = errors.New("the configuration is to be printed")

// printFlag is the flag that asks for the configuration.
const printFlag = "print-config"

// fileFlag names the flag of the TOML file, fileVariable its environment variable.
const (
	fileFlag     = "conf"
	fileVariable = "BARRAGE_CONF"
)

// foreignFlags are flags of the log libraries of goim and discovery that mean nothing here,
// and whether each stands without a value.
var foreignFlags = map[string]bool{
	"vmodule": false, "log_backtrace_at": false,
	"log.v": false, "log.module": false, "log.filter": false, "log.agent": false, "log.stdout": true, "log.noagent": true,
}

// Spec says what is to be loaded.
type Spec struct {
	Role string // the subcommand, for messages: "comet"
	Dst  any    // pointer to a struct that holds the defaults
	// Ignored are goim's keys (or whole sections) that mean nothing to us: one that is
	// there gets a warning instead of an error.
	Ignored []string
	// AsGoim says that the command line is one of goim's: from the first argument that is no
	// flag on (weight=10, say) it is passed over with a warning, as goim does without one.
	AsGoim bool
}

// Load fills spec.Dst from args (without the program's and the subcommand's names) and
// environ (as os.Environ returns it). Warnings are for the log. An error names the key,
// flag or variable, and what would be right; spec.Dst may be half filled then.
func Load(spec Spec, args []string, environ []string) (warnings []string, err error) {
	leaves, err := collect(spec.Dst)
	if err != nil {
		return nil, err
	}
	l := &loader{spec: spec, leaves: leaves, byPath: map[string]*leaf{}, byFlag: map[string][]*leaf{}}
	for _, lf := range leaves {
		l.byPath[strings.ToLower(lf.path)] = lf
		for _, name := range lf.flags() {
			l.byFlag[name] = append(l.byFlag[name], lf)
		}
	}
	given, file, err := l.parseFlags(args)
	if err != nil {
		return l.warnings, err
	}
	env := map[string]string{}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok && value != "" {
			env[name] = value
		}
	}
	if file == "" {
		file = env[fileVariable]
	}
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return l.warnings, fmt.Errorf("-%s: %w", fileFlag, err)
		}
		if err := l.readTOML(file, string(text)); err != nil {
			return l.warnings, err
		}
	}
	if err := l.readEnvironment(env); err != nil {
		return l.warnings, err
	}
	for _, g := range given {
		for _, lf := range l.byFlag[g.name] {
			if err := lf.setText(g.text); err != nil {
				return l.warnings, fmt.Errorf("flag -%s: %w", g.name, err)
			}
		}
	}
	if l.print {
		return l.warnings, ErrPrint
	}
	return l.warnings, nil
}

type loader struct {
	spec     Spec
	leaves   []*leaf
	byPath   map[string]*leaf // by the path in lower case
	byFlag   map[string][]*leaf
	print    bool // -print-config was given
	warnings []string
}

func (l *loader) warn(format string, args ...any) {
	l.warnings = append(l.warnings, fmt.Sprintf(format, args...))
}

// A flagValue is a flag as given.
type flagValue struct {
	name string
	text string
}

func (l *loader) parseFlags(args []string) (given []flagValue, file string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if !strings.HasPrefix(arg, "-") || arg == "-" || arg == "--" {
			bare := fmt.Sprintf("unexpected argument %q%s", arg, l.missesDash(arg))
			if l.spec.AsGoim {
				l.warn("%s: it and what follows it is passed over, as goim does", bare)
				return given, file, nil
			}
			return nil, "", fmt.Errorf("%s: barrage %s takes flags only (barrage %s -h lists them)", bare, l.spec.Role, l.spec.Role)
		}
		name, text, hasText := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if name == "h" || name == "help" {
			return nil, "", ErrHelp
		}
		var lf *leaf
		if leaves := l.byFlag[name]; len(leaves) > 0 {
			lf = leaves[0] // the others are of its kind
		}
		if name == printFlag && !hasText {
			l.print = true
			continue
		}
		alone, isForeign := foreignFlags[name]
		if lf == nil && !isForeign && name != fileFlag {
			return nil, "", fmt.Errorf("unknown flag -%s%s (barrage %s -h lists them)", name, suggest(name, "-", l.flagNames()), l.spec.Role)
		}
		if !hasText {
			switch {
			case lf != nil && lf.isBool(), lf == nil && alone:
				text = "true"
			case len(args) == 0:
				return nil, "", fmt.Errorf("flag -%s: a value is missing%s", name, lf.wanted())
			default:
				text, args = args[0], args[1:]
			}
		}
		switch {
		case lf != nil:
			given = append(given, flagValue{name, text})
		case name == fileFlag:
			file = text
		default:
			l.warn("flag -%s is one of goim's log and means nothing here", name)
		}
	}
	return given, file, nil
}

// missesDash says what was meant when arg is a flag but for its dash.
func (l *loader) missesDash(arg string) string {
	name, _, hasText := strings.Cut(arg, "=")
	if hasText && (l.byFlag[name] != nil || name == fileFlag) {
		return fmt.Sprintf(" (did you mean -%s?)", arg)
	}
	return ""
}

func (l *loader) flagNames() []string {
	names := []string{fileFlag, printFlag}
	for _, lf := range l.leaves {
		names = append(names, lf.flags()...)
	}
	return names
}

func (l *loader) readTOML(file, text string) error {
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		var syntax toml.ParseError
		if errors.As(err, &syntax) {
			return fmt.Errorf("%s: line %d: %s", file, syntax.Position.Line, syntax.Message)
		}
		return fmt.Errorf("%s: %w", file, err)
	}
	var errs []error
	l.readTable(file, "", tree, &errs)
	return errors.Join(errs...)
}

// readTable sets the leaves that table, which is at path, has values for.
func (l *loader) readTable(file, path string, table map[string]any, errs *[]error) {
	for _, key := range sortedKeys(table) {
		keyPath := key
		if path != "" {
			keyPath = path + "." + key
		}
		lower := strings.ToLower(keyPath)
		if lf := l.byPath[lower]; lf != nil {
			if err := lf.set(table[key]); err != nil {
				*errs = append(*errs, fmt.Errorf("%s: %s: %w", file, lf.path, err))
			}
			continue
		}
		sub, isTable := table[key].(map[string]any)
		switch {
		case isTable && l.isSection(lower):
			l.readTable(file, keyPath, sub, errs)
		case l.isIgnored(lower):
			l.warn("%s: %s is one of goim's settings and means nothing here", file, keyPath)
		case isTable && l.hasIgnoredInside(lower):
			l.readTable(file, keyPath, sub, errs)
		case l.isSection(lower):
			*errs = append(*errs, fmt.Errorf("%s: %s is a section: write [%s]", file, keyPath, keyPath))
		default:
			*errs = append(*errs, fmt.Errorf("%s: unknown key %s%s", file, keyPath, suggest(keyPath, "", l.names(isTable))))
		}
	}
}

func (l *loader) isSection(lower string) bool {
	for path := range l.byPath {
		if strings.HasPrefix(path, lower+".") {
			return true
		}
	}
	return false
}

func (l *loader) isIgnored(lower string) bool {
	return slices.ContainsFunc(l.spec.Ignored, func(path string) bool {
		path = strings.ToLower(path)
		return lower == path || strings.HasPrefix(lower, path+".")
	})
}

func (l *loader) hasIgnoredInside(lower string) bool {
	return slices.ContainsFunc(l.spec.Ignored, func(path string) bool {
		return strings.HasPrefix(strings.ToLower(path), lower+".")
	})
}

// names are the keys, or the sections, that a file may have.
func (l *loader) names(sections bool) []string {
	var names []string
	for _, lf := range l.leaves {
		if !sections {
			names = append(names, lf.path)
			continue
		}
		for at, r := range lf.path {
			if r == '.' && !slices.Contains(names, lf.path[:at]) {
				names = append(names, lf.path[:at])
			}
		}
	}
	return names
}

func (l *loader) readEnvironment(env map[string]string) error {
	known := map[string]bool{fileVariable: true}
	for _, lf := range l.leaves {
		known[lf.variable()] = true
		if text, ok := env[lf.variable()]; ok {
			if err := lf.setText(text); err != nil {
				return fmt.Errorf("environment %s: %w", lf.variable(), err)
			}
			continue
		}
		if text, ok := env[lf.env]; ok && lf.env != "" {
			// The name isn't ours alone (DEBUG, HOST): what doesn't fit is another program's.
			if err := lf.setText(text); err != nil {
				l.warn("environment %s is not used: %v", lf.env, err)
			}
		}
	}
	var ours []string
	for name := range known {
		ours = append(ours, name)
	}
	// The environment may be shared by several roles: only what looks like a slip is worth a word.
	for _, name := range sortedKeys(env) {
		if !strings.HasPrefix(name, "BARRAGE_") || known[name] {
			continue
		}
		if near, distance := nearest(name, ours); near != "" && distance <= 2 {
			l.warn("environment %s means nothing to barrage %s; did you mean %s?", name, l.spec.Role, near)
		}
	}
	return nil
}
