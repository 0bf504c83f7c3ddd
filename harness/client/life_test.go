package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"barrage/server/wire"
)

// A server that ends a session says why, and the client ends with it or comes back.
func TestDismissals(t *testing.T) {
	for _, tc := range []struct {
		code     string
		comeBack bool
		final    error // nil where the client comes back
	}{
		{"replaced", false, ErrReplaced},
		{"rejected", false, ErrRejected},
		{"replaced", true, nil},
		{"rejected", true, nil},
		{"drained", false, nil},
		{"something new", false, nil},
	} {
		t.Run(fmt.Sprint(tc.code, tc.comeBack), func(t *testing.T) {
			over(t, func(t *testing.T, c *comet) {
				cfg := c.config()
				cfg.ComeBack = tc.comeBack
				cl, p := c.dial(cfg)
				p.push("last words")
				p.dismiss(tc.code)
				receives(t, cl, "last words")
				if tc.final == nil {
					p := c.accept()
					p.letIn()
					p.push("again")
					receives(t, cl, "again")
					return
				}
				if _, err := cl.Receive(timeout(t)); !errors.Is(err, tc.final) {
					t.Errorf("error is %v", err)
				}
				select {
				case <-cl.Ended():
				case <-time.After(wait):
					t.Fatal("it has not ended")
				}
				if err := cl.ChangeRoom(timeout(t), "live://2"); !errors.Is(err, tc.final) {
					t.Errorf("error is %v", err)
				}
				if err := cl.Send(timeout(t), 4, nil); !errors.Is(err, tc.final) {
					t.Errorf("error is %v", err)
				}
				if cl.Node() != "" {
					t.Errorf("still at %s", cl.Node())
				}
			})
		})
	}
}

// Rejected at auth, Dial doesn't try again.
func TestRejectedAtAuth(t *testing.T) {
	over(t, func(t *testing.T, c *comet) {
		failed := make(chan error, 1)
		go func() {
			_, err := Dial(timeout(t), c.config())
			failed <- err
		}()
		p := c.accept()
		if _, err := p.read(); err != nil {
			t.Fatal(err)
		}
		p.dismiss("rejected")
		if err := <-failed; !errors.Is(err, ErrRejected) {
			t.Errorf("error is %v", err)
		}
	})
}

// Drained by one node, the client goes to another at once.
func TestDrainedToAnotherNode(t *testing.T) {
	first, second := startComet(t, TCP), startComet(t, TCP)
	cfg := first.config()
	cfg.Nodes = Fixed{first.addr(), second.addr()}
	cfg.Backoff = Backoff{BaseDelay: time.Hour, MaxDelay: time.Hour, Factor: 1}
	cl, p := first.dial(cfg)
	p.dismiss("drained")
	p = second.accept()
	p.letIn()
	p.dismiss("drained")
	first.accept().letIn()
	eventually(t, "it is back", func() bool { return cl.Node() == first.addr() })
}

// Of nodes advised together the next is tried at once, and after them there is a pause.
func TestNodesThatAreDown(t *testing.T) {
	down := startComet(t, TCP)
	down.ln.Close()
	up := startComet(t, TCP)
	cfg := up.config()
	cfg.Nodes = Fixed{down.addr(), down.addr(), up.addr()}
	cfg.Backoff = Backoff{BaseDelay: time.Hour, MaxDelay: time.Hour, Factor: 1}
	cl, _ := up.dial(cfg)
	if cl.Node() != up.addr() {
		t.Errorf("node is %s", cl.Node())
	}
	cfg.Nodes = Fixed{down.addr()}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, cfg)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(fmt.Sprint(err), "connect to "+down.addr()) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error is %v", err)
	}
}

// Attempts that fail in any of their steps are made again.
func TestAttemptsThatFail(t *testing.T) {
	over(t, func(t *testing.T, c *comet) {
		t.Parallel() // most of it is waiting
		cfg := c.config()
		cfg.ConnectTimeout = 500 * time.Millisecond
		dialed := make(chan *Client, 1)
		go func() {
			cl, err := Dial(timeout(t), cfg)
			if err != nil {
				t.Error(err)
			}
			dialed <- cl
		}()
		conn, err := c.ln.Accept() // cut at once
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if conn, err = c.ln.Accept(); err != nil { // no word
			t.Fatal(err)
		}
		io.Copy(io.Discard, conn) // until the client's patience ends
		conn.Close()
		p := c.accept() // a bad token: cut behind auth
		if _, err := p.read(); err != nil {
			t.Fatal(err)
		}
		p.close()
		p = c.accept() // auth is not answered
		if _, err := p.read(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.read(); err == nil {
			t.Error("more than auth is said")
		}
		p.close()
		p = c.accept() // what comes is no frame
		if _, err := p.read(); err != nil {
			t.Fatal(err)
		}
		p.write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		c.accept().letIn()
		(<-dialed).Close()
	})
}

// A full queue stops reading, which the server feels, and nothing is lost; how long it
// takes is no reason to take the server for dead.
func TestBackPressure(t *testing.T) {
	over(t, func(t *testing.T, c *comet) {
		t.Parallel() // most of it is waiting
		cfg := c.config()
		cfg.Queue, cfg.Heartbeat, cfg.Timeout = 1, 20*time.Millisecond, time.Second
		cfg.OnDisconnect = func(_ string, err error) { t.Log(err) }
		cl, p := c.dial(cfg)
		const n = 500
		pad := strings.Repeat("x", 10_000)
		written := make(chan struct{})
		go func() {
			defer close(written)
			for i := range n {
				p.push(fmt.Sprint(i, pad))
			}
			p.serve()
		}()
		select {
		case <-written:
			t.Fatal("the server felt nothing")
		case <-time.After(cfg.Heartbeat + cfg.Timeout + time.Second/2): // longer than a silence may be
		}
		for i := range n {
			f, err := cl.Receive(timeout(t))
			if err != nil || string(f.Body) != fmt.Sprint(i, pad) {
				t.Fatalf("frame %d is %.10q, %v", i, f.Body, err)
			}
		}
	})
}

// A server that doesn't answer heartbeats is dead.
func TestSilentServer(t *testing.T) {
	over(t, func(t *testing.T, c *comet) {
		t.Parallel() // most of it is waiting
		cfg := c.config()
		cfg.Heartbeat, cfg.Timeout = 10*time.Millisecond, 500*time.Millisecond
		down := make(chan error, 1)
		cfg.OnDisconnect = func(_ string, err error) {
			select {
			case down <- err:
			default:
			}
		}
		_, p := c.dial(cfg)
		p.mute = true
		p.serve()
		var timedOut net.Error
		if err := <-down; !errors.As(err, &timedOut) || !timedOut.Timeout() {
			t.Errorf("error is %v", err)
		}
		p = c.accept()
		p.letIn()
		go p.serve()
		select {
		case err := <-down:
			t.Errorf("one that answers is taken for dead: %v", err)
		case <-time.After(2 * cfg.Timeout):
		}
	})
}

// dialSmall makes connections with a small buffer, which is full soon.
func dialSmall(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return conn, conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
}

func TestClose(t *testing.T) {
	for name, prepare := range map[string]func(*Client, *peer){
		"idle": func(*Client, *peer) {},
		"the queue is full": func(_ *Client, p *peer) {
			for range 10 {
				p.push("1", "2", "3")
			}
		},
		"the server doesn't read": func(cl *Client, p *peer) {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			var all sync.WaitGroup
			for range 200 { // more than the buffers below take
				all.Go(func() { _ = cl.Send(ctx, 4, make([]byte, 4096)) })
			}
			all.Wait()
		},
		"between attempts": func(cl *Client, p *peer) {
			p.close()
			eventually(t, "it is down", func() bool { return cl.Node() == "" })
		},
	} {
		t.Run(name, func(t *testing.T) {
			over(t, func(t *testing.T, c *comet) {
				cfg := c.config()
				cfg.Queue, cfg.Dial = 2, dialSmall
				cfg.Backoff.BaseDelay, cfg.Backoff.MaxDelay = time.Hour, time.Hour
				cl, p := c.dial(cfg)
				prepare(cl, p)
				waiting := make(chan error, 1)
				go func() { waiting <- cl.ChangeRoom(timeout(t), "live://2") }()
				began := time.Now()
				if err := cl.Close(); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > wait/2 {
					t.Errorf("it took %v", took)
				}
				if err := <-waiting; !errors.Is(err, ErrClosed) {
					t.Errorf("who waits hears %v", err)
				}
				for i := 0; ; i++ {
					_, err := cl.Receive(timeout(t))
					if err == nil && i < 2 {
						continue
					}
					if !errors.Is(err, ErrClosed) {
						t.Errorf("receive %d: %v", i, err)
					}
					break
				}
				if err := cl.Close(); err != nil {
					t.Error(err)
				}
				eventually(t, "no goroutine is left", func() bool { return ours() == 0 })
			})
		})
	}
}

// The server hears of an orderly end, behind all that was sent.
func TestOrderlyEnd(t *testing.T) {
	over(t, func(t *testing.T, c *comet) {
		cl, p := c.dial(c.config())
		heard := make(chan error, 1)
		go func() {
			f, err := p.read()
			if err == nil && string(f.Body) == "last" {
				p.answer(f)
				_, err = p.read()
			}
			heard <- err
		}()
		if err := cl.Send(timeout(t), 4, []byte("last")); err != nil {
			t.Fatal(err)
		}
		cl.Close()
		if err := <-heard; err != io.EOF {
			t.Errorf("the server hears %v", err)
		}
	})
}

func TestReceiveGivesUp(t *testing.T) {
	c := startComet(t, TCP)
	cl, p := c.dial(c.config())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := cl.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if err := cl.Send(ctx, 4, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	p.push("later")
	receives(t, cl, "later")
}

func TestDialChecksItsConfig(t *testing.T) {
	good := Config{Nodes: Fixed{"127.0.0.1:1"}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for _, tc := range []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"no nodes", func(c *Config) { c.Nodes = nil }, "Nodes is nil"},
		{"transport", func(c *Config) { c.Transport = "udp" }, `Transport is "udp", accepted are tcp, ws, tcp+tls and wss`},
		{"heartbeat", func(c *Config) { c.Heartbeat = -1 }, "Heartbeat is -1ns"},
		{"timeout", func(c *Config) { c.Timeout = -1 }, "Timeout is -1ns"},
		{"connect timeout", func(c *Config) { c.ConnectTimeout = -1 }, "ConnectTimeout is -1ns"},
		{"queue", func(c *Config) { c.Queue = -1 }, "Queue is -1, accepted is 1 and more"},
		{"frame", func(c *Config) { c.MaxFrame = 15 }, "MaxFrame is 15, accepted is 16 to"},
		{"base delay", func(c *Config) { c.Backoff = Backoff{MaxDelay: 1} }, "BaseDelay is 0s"},
		{"max delay", func(c *Config) { c.Backoff = Backoff{BaseDelay: 2, MaxDelay: 1, Factor: 1} }, "MaxDelay is 1ns"},
		{"factor", func(c *Config) { c.Backoff = Backoff{BaseDelay: 1, MaxDelay: 1, Factor: 0.5} }, "Factor is 0.5"},
		{"jitter", func(c *Config) { c.Backoff = Backoff{BaseDelay: 1, MaxDelay: 1, Factor: 1, Jitter: -1} }, "Jitter is -1"},
		{"token", func(c *Config) { c.Token.Platform = strings.Repeat("p", wire.MaxClientBody) }, "accepted are at most 4096"},
	} {
		cfg := good
		tc.edit(&cfg)
		if _, err := Dial(timeout(t), cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q in it", tc.name, err, tc.want)
		}
	}
}
