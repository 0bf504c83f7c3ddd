package logic

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

const roomPath = "/goim/push/room?operation=1000&type=live&room=1"

func TestBodies(t *testing.T) {
	const limit = 20_000
	c := startCluster(t, func(cfg *Config, _ *Deps) {
		cfg.HTTPServer.MaxBody = limit
		cfg.HTTPServer.ReadTimeout = 2 * time.Second
	})
	pattern := func(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef\n"), n/17+1)[:n] }
	tooLarge := fmt.Sprintf(`{"code":-400,"message":"body: larger than %d bytes (httpServer.maxBody)"}`, limit)
	var sent [][]byte
	// One connection for all: what one request leaves unread must not spoil the next.
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		name    string
		size    int
		chunked bool
		want    string
	}{
		{"empty", 0, false, success},
		{"one byte", 1, false, success},
		{"larger than hertz reads ahead", 9_000, false, success},
		{"as large as can be", limit, false, success},
		{"a byte too many", limit + 1, false, tooLarge},
		{"after one that was too large", 100, false, success},
		{"megabytes too many", 5 << 20, false, tooLarge},
		{"chunked", 9_000, true, success},
		{"chunked, as large as can be", limit, true, success},
		{"chunked, a byte too many", limit + 1, true, tooLarge},
		{"chunked, megabytes too many", 5 << 20, true, tooLarge},
		{"chunked and empty", 0, true, success},
	} {
		t.Run(test.name, func(t *testing.T) {
			body := pattern(test.size)
			var reader io.Reader = bytes.NewReader(body)
			if test.chunked {
				reader = io.MultiReader(reader) // hides the length
			}
			resp, err := client.Post("http://"+c.server.HTTPAddr().String()+roomPath, "multipart/form-data; boundary=x", reader)
			got, err := readAnswer(resp, err)
			if err != nil || got != test.want {
				t.Fatalf("got %s, %v, want %s", got, err, test.want)
			}
			if got == success {
				sent = append(sent, body)
			}
		})
	}
	for i, record := range c.records(t, len(sent)) {
		if !bytes.Equal(record.push.GetMsg(), sent[i]) {
			t.Errorf("body %d: %d bytes arrived differently from the %d sent", i, len(record.push.GetMsg()), len(sent[i]))
		}
	}
	if n := testutil.ToFloat64(c.server.metrics.refusals[bodyTooLarge]); n != 4 {
		t.Errorf("%v refusals for size are counted, not 4", n)
	}
}

// Two requests in one packet: the second must not become part of the first's body.
func TestPipelinedRequests(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) { cfg.HTTPServer.MaxBody = 10_000 })
	conn := c.dial(t)
	request := "POST " + roomPath + " HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
	long := strings.Repeat("x", 10_000)
	tooLong := long + "y"
	fmt.Fprintf(conn, request+request+request+request, 5, "first", len(long), long, len(tooLong), tooLong, 5, "third")
	reader := bufio.NewReader(conn)
	for _, want := range []string{success, success, `{"code":-400,"message":"body: larger than 10000 bytes (httpServer.maxBody)"}`, success} {
		if got, err := readAnswer(http.ReadResponse(reader, nil)); err != nil || got != want {
			t.Fatalf("got %s, %v, want %s", got, err, want)
		}
	}
	records := c.records(t, 3)
	for i, want := range []string{"first", long, "third"} {
		if got := string(records[i].push.GetMsg()); got != want {
			t.Errorf("record %d is %.20q, not %.20q", i, got, want)
		}
	}
}

// Requests that never end cost one connection each, for readTimeout.
func TestSlowRequestsAreCut(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) {
		cfg.HTTPServer.ReadTimeout, cfg.HTTPServer.IdleTimeout = 300*time.Millisecond, 5*time.Second
	})
	t.Run("a first request that comes late", func(t *testing.T) {
		conn := c.dial(t)
		time.Sleep(600 * time.Millisecond) // longer than readTimeout, which is from the first byte on
		io.WriteString(conn, "GET /goim/online/total HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		conn.SetReadDeadline(time.Now().Add(patience))
		if got, err := io.ReadAll(conn); err != nil || !strings.Contains(string(got), `{"code":0,`) {
			t.Fatalf("%s, %v", got, err)
		}
	})
	for _, test := range []struct{ name, request string }{
		{"the line", "POST /goim/pu"},
		{"the header", "POST " + roomPath + " HTTP/1.1\r\nHost: x\r\nX-Long: "},
		{"the body", "POST " + roomPath + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc"},
		{"a chunk", "POST " + roomPath + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc"},
		{"the body of the second request", "GET /goim/online/total HTTP/1.1\r\nHost: x\r\n\r\nPOST " + roomPath + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := testutil.ToFloat64(c.server.metrics.cuts[cutReading])
			conn := c.dial(t)
			io.WriteString(conn, test.request)
			conn.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Fatalf("the connection was not closed in good order: %v", err)
			}
			if n := testutil.ToFloat64(c.server.metrics.cuts[cutReading]) - before; n != 1 {
				t.Errorf("%v cuts are counted, not 1", n)
			}
		})
	}
	t.Run("nothing at all", func(t *testing.T) {
		conn := c.dial(t)
		conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("bytes that trickle", func(t *testing.T) {
		conn := c.dial(t)
		io.WriteString(conn, "POST "+roomPath+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
		for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if _, err := io.WriteString(conn, "a"); err != nil {
				return // cut, however alive it looked
			}
			if time.Since(start) > patience {
				t.Fatal("still open")
			}
		}
	})
	eventually(t, "connections are forgotten", func() error {
		if n := testutil.ToFloat64(c.server.metrics.conns); n != 0 {
			return fmt.Errorf("%v are open", n)
		}
		return nil
	})
	if got := c.post(t, roomPath, "x"); got != success {
		t.Error(got)
	}
}

// A client whose body stops gets an answer before it is cut: hertz' own for a short body,
// which it reads before the route is known, the API's for the rest.
func TestIncompleteBodyIsAnswered(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) { cfg.HTTPServer.ReadTimeout = 300 * time.Millisecond })
	head := "POST " + roomPath + " HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nabc"
	for _, test := range []struct {
		name, body string
		length     int
		want       string
	}{
		{"short", "abc", 10, ""},
		{"long", strings.Repeat("a", 9_000), 20_000, `{"code":-400,"message":"body: incomplete, or not here within 300ms (httpServer.readTimeout)"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := c.dial(t)
			fmt.Fprintf(conn, head+test.body, test.length)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.want == "" {
				if resp.StatusCode != http.StatusRequestTimeout {
					t.Errorf("status %s", resp.Status)
				}
				return
			}
			if got, err := readAnswer(resp, nil); err != nil || got != test.want {
				t.Errorf("got %s, %v, want %s", got, err, test.want)
			}
		})
	}
}

func (c *cluster) dial(t testing.TB) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", c.server.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
