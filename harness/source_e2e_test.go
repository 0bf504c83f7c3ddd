package harness_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// A door is a way to a comet that keeps where those who came through it came from.
type door struct {
	addr string

	mu   sync.Mutex
	from map[string]int // connections by IP address; mu guards it
}

// openDoor opens a door to the address to until the test ends.
func openDoor(t *testing.T, to string) *door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{addr: l.Addr().String(), from: map[string]int{}}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(in.RemoteAddr().String())
			d.mu.Lock()
			d.from[host]++
			d.mu.Unlock()
			wg.Go(func() {
				defer in.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					t.Error(err)
					return
				}
				wg.Go(func() {
					_, _ = io.Copy(out, in) // the client's end is this one's
					out.Close()
				})
				_, _ = io.Copy(in, out)
			})
		}
	})
	return d
}

// seen returns where connections came from since the last call.
func (d *door) seen() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	from := fmt.Sprint(d.from)
	clear(d.from)
	return from
}

// Clients connect from the addresses that bench or their agent was given, in turn, and from no
// other.
func TestSources(t *testing.T) {
	t.Setenv(tokenVariable, "a token of the tests")
	found, _ := startUp(t)
	tcp, ws := openDoor(t, found[2]), openDoor(t, found[3])
	first := startAgent(t, "-insecure", "-source", "127.3.0.1")
	second := startAgent(t, "-insecure", "-source", "127.3.0.2,127.3.0.3")
	args := []string{"-ceiling=false", "-target", "tcp=" + tcp.addr + ",ws=" + ws.addr + ",push=" + found[1], "-set", "phases={warmup: 0s, measure: 1s}"}
	for _, c := range []struct {
		name    string
		args    []string
		tcp, ws string
	}{
		{"the kernel's choice", nil, "map[127.0.0.1:100]", "map[127.0.0.1:100]"},
		{"given to bench", []string{"-source", "127.2.0.1,127.2.0.2,127.2.0.3,127.2.0.4"},
			"map[127.2.0.1:25 127.2.0.2:25 127.2.0.3:25 127.2.0.4:25]", "map[127.2.0.1:25 127.2.0.2:25 127.2.0.3:25 127.2.0.4:25]"},
		{"given to agents", []string{"-agents", first.addr + "," + second.addr, "-insecure"},
			"map[127.3.0.1:50 127.3.0.2:25 127.3.0.3:25]", "map[127.3.0.1:50 127.3.0.2:25 127.3.0.3:25]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, append(append(c.args, args...), "smoke")...)
			if status := b.wait(t); status != 0 {
				t.Fatalf("exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
			}
			if r := b.run(t); r.Clients.Joined != 200 {
				t.Errorf("%d clients joined", r.Clients.Joined)
			}
			if from := tcp.seen(); from != c.tcp {
				t.Errorf("TCP clients came from %s, want %s", from, c.tcp)
			}
			if from := ws.seen(); from != c.ws {
				t.Errorf("WebSocket clients came from %s, want %s", from, c.ws)
			}
		})
	}

	b := start(t, append([]string{"-source", "192.0.2.1"}, append(args, "smoke")...)...)
	if status := b.wait(t); status != 3 || !strings.Contains(b.stdout.String(), "bind to a source address: cannot assign requested address") {
		t.Errorf("an address that is not this machine's: exit status %d\n%s%s", status, b.stdout.String(), b.stderr)
	}
	if from := tcp.seen() + ws.seen(); from != "map[]map[]" {
		t.Errorf("clients came from %s", from)
	}
}
