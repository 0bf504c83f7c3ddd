package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	p.setLog(cfg, debug)
	handler := func(w io.Writer, level slog.Leveler) slog.Handler {
		options := &slog.HandlerOptions{Level: level}
		return eitherForm{slog.NewTextHandler(w, options), slog.NewJSONHandler(w, options), &p.asJSON}
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
	p.log = slog.New(twoHandlers{handler(file, p.level), handler(p.stderr, atLeast{p.level, &p.threshold})})
	slog.SetDefault(p.log)
	return nil
}

// liveLog are the settings that setLog takes over.
var liveLog = []string{"debug", "log.level", "log.verbosity", "log.format", "log.stderrThreshold", "log.alsoToStderr"}

// setLog has the log do what cfg says, now and while it is written to.
func (p *process) setLog(cfg logConfig, debug bool) {
	level, threshold := cfg.Level, slog.Level(cfg.Threshold)
	if debug || cfg.Verbosity > 0 {
		level = slog.LevelDebug
	}
	if cfg.Also {
		threshold = math.MinInt
	}
	p.level.Set(level)
	p.threshold.Set(threshold)
	p.asJSON.Store(cfg.Format == "json")
}

// eitherForm writes a record in one of two forms.
type eitherForm struct {
	text, json slog.Handler
	asJSON     *atomic.Bool
}

// Enabled says whether the level is written.
func (e eitherForm) Enabled(ctx context.Context, level slog.Level) bool {
	return e.text.Enabled(ctx, level)
}

// Handle writes the record.
func (e eitherForm) Handle(ctx context.Context, r slog.Record) error {
	if e.asJSON.Load() {
		return e.json.Handle(ctx, r)
	}
	return e.text.Handle(ctx, r)
}

// WithAttrs adds attributes in both forms.
func (e eitherForm) WithAttrs(attrs []slog.Attr) slog.Handler {
	return eitherForm{e.text.WithAttrs(attrs), e.json.WithAttrs(attrs), e.asJSON}
}

// WithGroup opens a group in both forms.
func (e eitherForm) WithGroup(name string) slog.Handler {
	return eitherForm{e.text.WithGroup(name), e.json.WithGroup(name), e.asJSON}
}

// atLeast is the higher one of two levels.
type atLeast struct{ level, least slog.Leveler }

// Level returns it.
func (a atLeast) Level() slog.Level { return max(a.level.Level(), a.least.Level()) }

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
