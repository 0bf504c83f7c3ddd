package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A Redis is what logic keeps its sessions in.
type Redis string

// The Redis servers.
const (
	EmbeddedRedis Redis = "embedded" // in the services process, in Go
	RedisServer   Redis = "server"   // redis-server, as found on the PATH
	AutoRedis     Redis = "auto"     // redis-server where there is one, and else the embedded one
)

// redisExe is the program of RedisServer.
const redisExe = "redis-server"

// Resolve returns which of the two others AutoRedis is here, and the version of redis-server
// where it is that. The error says that there is none.
func (r Redis) Resolve() (found Redis, version string, err error) {
	if r == EmbeddedRedis || r == "" {
		return EmbeddedRedis, "", nil
	}
	text, err := exec.Command(redisExe, "--version").Output()
	switch {
	case err == nil:
		// Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=...
		for _, field := range strings.Fields(string(text)) {
			if v, ok := strings.CutPrefix(field, "v="); ok {
				version = v
			}
		}
		return RedisServer, version, nil
	case r == AutoRedis:
		return EmbeddedRedis, "", nil
	}
	return "", "", fmt.Errorf("run %s --version: %w: install it (Debian: apt install redis-server), or set cluster.redis: embedded", redisExe, err)
}

// startRedis starts redis-server, with nothing written to disk, and returns its address once
// it answers.
func (c *Cluster) startRedis(ctx context.Context) (addr string, err error) {
	exe, err := exec.LookPath(redisExe)
	if err != nil {
		return "", fmt.Errorf("start redis: %w", err)
	}
	if addr, err = c.ports.Take(); err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("start redis: %w", err)
	}
	dir, err := filepath.Abs(c.cfg.Logs)
	if err != nil {
		return "", fmt.Errorf("start redis: %w", err)
	}
	p := &Process{Name: RoleRedis, Role: RoleRedis, client: newAdminClient()}
	args := []string{"--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", dir, "--maxclients", "10000"}
	if err := c.spawner.start(p, c.cfg.Logs, exe, args, nil, 0); err != nil {
		return "", err
	}
	c.own(p)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Ready)
	defer cancel()
	for {
		if err = ping(ctx, addr); err == nil {
			return addr, nil
		}
		select {
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return "", fmt.Errorf("wait for redis: %w", context.Cause(ctx))
			}
			return "", fmt.Errorf("redis is not ready after %s: %w (its log is %s)", c.cfg.Ready, err, p.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ping asks a Redis whether it is there (https://redis.io/docs/latest/commands/ping/).
func ping(ctx context.Context, addr string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if line != "+PONG\r\n" {
		return fmt.Errorf("it answers %q", line)
	}
	return nil
}
