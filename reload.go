package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"barrage/server/config"
)

// onReload has reload called with the newly loaded configuration when SIGHUP comes.
func onReload[C any](p *process, reload func(C) ([]string, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reload = func(cfg any) ([]string, error) {
		c, ok := cfg.(C)
		if !ok {
			return nil, fmt.Errorf("reload a %T", cfg)
		}
		return reload(c)
	}
}

// watchReload loads the configuration again whenever SIGHUP comes, until ctx ends. From then on, as long
// as the process lives, SIGHUP opens the log's file anew and does nothing else: it must not end a process
// that drains. holds is the configuration that holds; it is watchReload's from now on.
func watchReload[C any](ctx context.Context, p *process, holds *settings[C], load func() (*settings[C], error)) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		for range hup {
			if p.logFile != nil {
				if err := p.logFile.reopen(); err != nil {
					p.log.Error("the log's file can't be opened anew", "err", err)
				}
			}
			if ctx.Err() != nil {
				continue
			}
			loaded, err := load()
			if err == nil {
				err = config.Check(loaded)
			}
			if err != nil {
				p.log.Error("the configuration can't be loaded, nothing has changed", "err", err)
				continue
			}
			reloadWith(p, holds, loaded)
		}
	}()
}

// reloadWith takes over of loaded what can change while the process runs, notes it in holds,
// and says what can't.
func reloadWith[C any](p *process, holds, loaded *settings[C]) {
	p.mu.Lock()
	reload := p.reload
	p.mu.Unlock()
	var changed []string
	if reload != nil {
		var err error
		changed, err = reload(loaded.Role)
		// What it names stays different from what holds, and is found below.
		var later *config.RestartError
		if err != nil && !errors.As(err, &later) {
			p.log.Error("the configuration is not taken over", "err", err, "changed", strings.Join(changed, ", "))
			if err := config.Copy(holds, loaded, changed); err != nil {
				p.log.Error("what has changed is not noted", "err", err)
			}
			return
		}
	}
	p.setLog(loaded.Log, loaded.Debug)
	paths, err := config.Diff(holds, loaded)
	ofLog, others := config.Split(paths, liveLog)
	changed = append(changed, ofLog...)
	if err = errors.Join(err, config.Copy(holds, loaded, changed)); err != nil {
		p.log.Error("what has changed is not noted", "err", err)
	}
	others = slices.DeleteFunc(others, func(path string) bool { return slices.Contains(changed, path) })
	if len(others) > 0 {
		p.log.Warn("settings take effect at the next start", "settings", strings.Join(others, ", "))
	}
	p.log.Info("the configuration is loaded again", "changed", strings.Join(changed, ", "), "level", p.level.Level().String())
}
