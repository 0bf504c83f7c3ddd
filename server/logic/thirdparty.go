package logic

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"

	"github.com/cloudwego/hertz/pkg/common/hlog"
	"github.com/redis/go-redis/v9"
)

// routeLogs makes hertz and go-redis, whose loggers are one a process, write to log at
// debug: what they have to say is counted or logged by us.
func routeLogs(log *slog.Logger) {
	hlog.SetOutput(lineLogger{log: log, library: "hertz"})
	redis.SetLogger(lineLogger{log: log, library: "go-redis"})
}

type lineLogger struct {
	log     *slog.Logger
	library string
}

// Write takes one line.
func (l lineLogger) Write(line []byte) (int, error) {
	l.log.Debug("library", "library", l.library, "text", string(bytes.TrimSpace(line)))
	return len(line), nil
}

// Printf takes one line.
func (l lineLogger) Printf(_ context.Context, format string, args ...any) {
	l.log.Debug("library", "library", l.library, "text", fmt.Sprintf(format, args...))
}
