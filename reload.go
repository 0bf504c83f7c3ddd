package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
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

// watchReload loads the configuration again whenever SIGHUP comes, until ctx ends.
func watchReload[C any](ctx context.Context, p *process, load func() (*settings[C], error)) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
			}
			if p.logFile != nil {
				if err := p.logFile.reopen(); err != nil {
					p.log.Error("the log's file can't be opened anew", "err", err)
				}
			}
			loaded, err := load()
			if err == nil {
				err = config.CheckAt("log", &loaded.Log)
			}
			if err != nil {
				p.log.Error("the configuration can't be loaded, nothing has changed", "err", err)
				continue
			}
			p.reloadWith(loaded.Role, loaded.Log, loaded.Debug)
		}
	}()
}

func (p *process) reloadWith(cfg any, log logConfig, debug bool) {
	p.mu.Lock()
	reload := p.reload
	p.mu.Unlock()
	var changed []string
	if reload != nil {
		var err error
		changed, err = reload(cfg)
		var later *config.RestartError
		switch {
		case errors.As(err, &later):
			p.log.Warn("settings take effect at the next start", "settings", strings.Join(later.Paths, ", "))
		case err != nil:
			p.log.Error("the configuration is not taken over, nothing has changed", "err", err)
			return
		}
	}
	before := p.level.Level()
	p.setLevel(log, debug)
	if p.level.Level() != before {
		changed = append(changed, "log.level")
	}
	p.log.Info("the configuration is loaded again", "changed", strings.Join(changed, ", "), "level", p.level.Level().String())
}
