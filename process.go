package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"barrage/server/admin"
	"barrage/server/config"
)

// settings are what a process is configured with: its role's configuration at the top
// level, and what all roles have.
type settings[C any] struct {
	Role  C         `toml:",inline"`
	Log   logConfig `toml:"log"`
	Debug bool      `toml:"debug" flag:"debug" env:"DEBUG" doc:"Whether the log's level is debug, whatever log.level says."`
}

// newSettings has the defaults. What up has to say it says itself: its log is for trouble.
func newSettings[C any](name string, role C) settings[C] {
	s := settings[C]{Role: role, Log: logConfig{Level: slog.LevelInfo, Format: "text", Threshold: glogLevel(slog.LevelError)}}
	if name == "up" {
		s.Log.Level = slog.LevelWarn
	}
	return s
}

// A process is what every command that serves has.
type process struct {
	name   string
	log    *slog.Logger
	level  *slog.LevelVar
	stdout io.Writer
	stderr io.Writer

	threshold slog.LevelVar // least level that goes to stderr beside the file
	asJSON    atomic.Bool   // how the log's lines are written
	logFile   *logFile      // nil: the log goes to stderr

	mu     sync.Mutex
	reload func(cfg any) (changed []string, err error) // mu guards; nil: nothing to reload
}

// usageError is an error of the flags, the configuration or the environment.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// serve is a command that serves: it loads defaults' settings, calls body with what came
// out of it, until a signal comes, and turns body's error into an exit status.
func serve[C any](ctx context.Context, name string, defaults C, ignored, args []string, stdout, stderr io.Writer,
	body func(context.Context, *process, C) error) int {
	load := func() (*settings[C], []string, error) {
		loaded := newSettings(name, defaults)
		spec := config.Spec{Role: name, Dst: &loaded, Ignored: ignored, AsGoim: filepath.Base(os.Args[0]) == name}
		warnings, err := config.Load(spec, args, os.Environ())
		return &loaded, warnings, err
	}
	loaded, warnings, err := load()
	show := map[error]func(io.Writer, config.Spec) error{config.ErrHelp: config.Usage, config.ErrPrint: config.Print}
	if write := show[err]; write != nil {
		if err := write(stdout, config.Spec{Role: name, Dst: loaded}); err != nil {
			fmt.Fprintf(stderr, "barrage %s: %v\n", name, err)
			return exitFailed
		}
		return exitGood
	}
	p := &process{name: name, level: new(slog.LevelVar), stdout: stdout, stderr: stderr}
	if err == nil {
		err = config.Check(loaded)
	}
	if err == nil {
		err = p.openLog(loaded.Log, loaded.Debug)
	}
	if err != nil {
		return p.exit(usageError{err})
	}
	for _, w := range warnings {
		p.log.Warn(w)
	}
	role := loaded.Role // loaded itself is what holds, and changes
	// The first signal ends everything in order; the next one kills.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	watchReload(ctx, p, loaded, func() (*settings[C], error) {
		loaded, _, err := load()
		return loaded, err
	})
	return p.exit(body(ctx, p, role))
}

// exit says what went wrong, if something did, and returns the exit status.
func (p *process) exit(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitGood
	case errors.Is(err, syscall.EADDRINUSE):
		fmt.Fprintf(p.stderr, "barrage %s: %v: end what listens there, or set another address\n", p.name, err)
		return exitUsage
	case errors.As(err, &usage):
		fmt.Fprintf(p.stderr, "barrage %s: %v\n", p.name, err)
		return exitUsage
	default:
		fmt.Fprintf(p.stderr, "barrage %s: %v\n", p.name, err)
		return exitFailed
	}
}

// admin makes the admin page of a role in this process.
func (p *process) admin(cfg admin.Config, role string) *admin.Server {
	return admin.New(cfg, role, p.level, p.log.With("role", role))
}

// A part is something that runs in the process until it is stopped.
type part struct {
	name string
	run  func(context.Context) error
}

// runParts runs all parts until ctx ends or one ends by itself, and then stops them in their
// order, each when the one before has ended. It returns the errors of all.
func runParts(ctx context.Context, parts ...part) error {
	type running struct {
		cancel context.CancelFunc
		ended  chan error
	}
	first := make(chan struct{}, len(parts))
	all := make([]running, len(parts))
	for i, p := range parts {
		// Its own stop, not ctx: the order is kept when ctx ends.
		partCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		all[i] = running{cancel, make(chan error, 1)}
		go func() {
			err := p.run(partCtx)
			if partCtx.Err() == nil {
				if err == nil {
					err = errors.New("ended by itself")
				}
				err = fmt.Errorf("%s: %w", p.name, err)
			} else if err != nil {
				err = fmt.Errorf("stop %s: %w", p.name, err)
			}
			all[i].ended <- err
			first <- struct{}{}
		}()
	}
	select {
	case <-ctx.Done():
	case <-first:
	}
	var errs []error
	for i := range all {
		all[i].cancel()
		errs = append(errs, <-all[i].ended)
	}
	return errors.Join(errs...)
}
