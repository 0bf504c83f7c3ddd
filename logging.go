package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// logConfig is where and how much is logged. The flags that goim's start scripts pass to its
// log library (glog) are settings here, and mean what they say there.
type logConfig struct {
	Level     slog.Level `toml:"level" doc:"Least level that is logged: debug, info, warn or error."`
	Format    string     `toml:"format" oneof:"text json" doc:"How a line is written."`
	Dir       string     `toml:"dir" flag:"log_dir" doc:"Folder for the log, a file with the role's name; it is made if it isn't there, and opened anew on SIGHUP. Empty: the log goes to stderr."`
	Threshold glogLevel  `toml:"stderrThreshold" flag:"stderrthreshold" doc:"With dir, the least level that goes to stderr as well: INFO, WARNING, ERROR, FATAL or 0 to 3."`
	ToStderr  bool       `toml:"toStderr" flag:"logtostderr" doc:"Whether the log goes to stderr and to no file, whatever dir is."`
	Also      bool       `toml:"alsoToStderr" flag:"alsologtostderr" doc:"Whether everything goes to stderr as well, with dir."`
	Verbosity int        `toml:"verbosity" flag:"v" range:"0..10" doc:"Above 0 the level is debug."`
}

// glogLevel is a level as glog names it.
type glogLevel slog.Level

var glogLevels = []struct {
	name  string
	level slog.Level
}{{"INFO", slog.LevelInfo}, {"WARNING", slog.LevelWarn}, {"ERROR", slog.LevelError}, {"FATAL", slog.LevelError + 4}}

// MarshalText returns glog's name of the level.
func (l glogLevel) MarshalText() ([]byte, error) {
	for _, g := range glogLevels {
		if glogLevel(g.level) == l {
			return []byte(g.name), nil
		}
	}
	return nil, fmt.Errorf("level %d has no name", l)
}

// UnmarshalText reads glog's name or number of a level.
func (l *glogLevel) UnmarshalText(text []byte) error {
	for i, g := range glogLevels {
		if strings.EqualFold(string(text), g.name) || string(text) == strconv.Itoa(i) {
			*l = glogLevel(g.level)
			return nil
		}
	}
	return fmt.Errorf("%q is none of INFO, WARNING, ERROR, FATAL", text)
}

// A logFile is a file that is appended to, and can be opened anew under its name.
type logFile struct {
	path string
	mu   sync.Mutex
	file *os.File // mu guards
}

func openLogFile(dir, name string) (*logFile, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("log.dir: %w", err)
	}
	l := &logFile{path: filepath.Join(dir, name+".log")}
	if err := l.reopen(); err != nil {
		return nil, fmt.Errorf("log.dir: %w", err)
	}
	return l, nil
}

// reopen goes on in a new file where the old one has been moved away.
func (l *logFile) reopen() error {
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.file
	l.file = f
	if old != nil {
		return old.Close()
	}
	return nil
}

// Write appends a line.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Write(b)
}

// openLog makes the process's log as cfg says.
func (p *process) openLog(cfg logConfig, debug bool) error {
	p.setLevel(cfg, debug)
	handler := func(w io.Writer, level slog.Leveler) slog.Handler {
		options := &slog.HandlerOptions{Level: level}
		if cfg.Format == "json" {
			return slog.NewJSONHandler(w, options)
		}
		return slog.NewTextHandler(w, options)
	}
	if cfg.Dir == "" || cfg.ToStderr {
		p.log = slog.New(handler(p.stderr, p.level))
		slog.SetDefault(p.log)
		return nil
	}
	file, err := openLogFile(cfg.Dir, p.name)
	if err != nil {
		return err
	}
	p.logFile = file
	var second slog.Leveler = atLeast{p.level, slog.Level(cfg.Threshold)}
	if cfg.Also {
		second = p.level
	}
	p.log = slog.New(twoHandlers{handler(file, p.level), handler(p.stderr, second)})
	slog.SetDefault(p.log)
	return nil
}

// setLevel makes the level what cfg says.
func (p *process) setLevel(cfg logConfig, debug bool) {
	p.level.Set(cfg.Level)
	if debug || cfg.Verbosity > 0 {
		p.level.Set(slog.LevelDebug)
	}
}

// atLeast is the higher one of two levels.
type atLeast struct {
	level slog.Leveler
	least slog.Level
}

// Level returns it.
func (a atLeast) Level() slog.Level { return max(a.level.Level(), a.least) }

// twoHandlers gives each record to two handlers.
type twoHandlers struct{ a, b slog.Handler }

// Enabled says whether one of them takes the level.
func (t twoHandlers) Enabled(ctx context.Context, level slog.Level) bool {
	return t.a.Enabled(ctx, level) || t.b.Enabled(ctx, level)
}

// Handle gives the record to those that take its level.
func (t twoHandlers) Handle(ctx context.Context, r slog.Record) error {
	var errs []error
	for _, h := range []slog.Handler{t.a, t.b} {
		if h.Enabled(ctx, r.Level) {
			errs = append(errs, h.Handle(ctx, r.Clone()))
		}
	}
	return errors.Join(errs...)
}

// WithAttrs adds attributes to both.
func (t twoHandlers) WithAttrs(attrs []slog.Attr) slog.Handler {
	return twoHandlers{t.a.WithAttrs(attrs), t.b.WithAttrs(attrs)}
}

// WithGroup opens a group in both.
func (t twoHandlers) WithGroup(name string) slog.Handler {
	return twoHandlers{t.a.WithGroup(name), t.b.WithGroup(name)}
}
