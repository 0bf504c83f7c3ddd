package ceiling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// child is the running sending side.
type child struct {
	cmd   *exec.Cmd
	in    *json.Encoder
	out   *json.Decoder
	hello hello
	close func() error // its stdin
}

func startChild(ctx context.Context, cfg Config) (*child, error) {
	args := cfg.Args
	if cfg.Address != "" {
		args = append(slices.Clone(args), cfg.Address)
	}
	cmd := exec.CommandContext(ctx, cfg.Exe, args...)
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = 5 * time.Second
	// Of a group of its own, so that the run ends it, and not the terminal's Ctrl-C.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("ceiling: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("ceiling: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("ceiling: start %s: %w", cfg.Exe, err)
	}
	c := &child{cmd: cmd, in: json.NewEncoder(stdin), out: json.NewDecoder(stdout), close: stdin.Close}
	if err := c.out.Decode(&c.hello); err != nil {
		return nil, errors.Join(fmt.Errorf("ceiling: first words of the sender: %w", err), c.stop())
	}
	return c, nil
}

// do gives a command and waits for its reply. The end of ctx kills the child, and so ends
// the wait.
func (c *child) do(ctx context.Context, cmd command) (reply, error) {
	var r reply
	err := c.in.Encode(cmd)
	if err == nil {
		err = c.out.Decode(&r)
	}
	switch {
	case ctx.Err() != nil:
		return r, fmt.Errorf("ceiling: %w", context.Cause(ctx))
	case errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE):
		return r, errors.New("ceiling: the sending side has ended, or was killed")
	case err != nil:
		return r, fmt.Errorf("ceiling: talk to the sending side: %w", err)
	case r.Error != "":
		return r, fmt.Errorf("ceiling: sender: %s", r.Error)
	}
	return r, nil
}

func (c *child) kill() { _ = c.cmd.Process.Kill() }

// stop ends the child and waits for it.
func (c *child) stop() error {
	_ = c.close()
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		return nil // killed, by ctx or by us: why is said elsewhere
	}
	if err != nil {
		return fmt.Errorf("ceiling: sender: %w", err)
	}
	return nil
}
