package comet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cometpb "barrage/server/api/comet"
	"barrage/server/comet/secure/securetest"
	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// overTLS runs a test over both transports with TLS.
func overTLS(t *testing.T, run func(t *testing.T, tr transport)) {
	for _, websocket := range []bool{false, true} {
		tr := transport{websocket: websocket, tls: true}
		t.Run(transportNames[(&session{websocket: websocket, tls: true}).transport()], func(t *testing.T) { run(t, tr) })
	}
}

// A client that reads slowly gets everything, in order, since the room's log has room for it.
func TestTLSSlowReader(t *testing.T) {
	overTLS(t, func(t *testing.T, tr transport) {
		c := tr.start(t, &fakeLogic{}, func(cfg *Config) { cfg.TCP.SndBuf = 16 << 10 })
		cl := c.login(t, tr.websocket, `{"room_id":"live://1","key":"slow"}`)
		fast := c.login(t, tr.websocket, `{"room_id":"live://1","key":"fast"}`)
		const pushes, each = 60, 10
		pad := strings.Repeat("x", 1000)
		go func() {
			for i := range pushes {
				var bodies []string
				for k := range each {
					bodies = append(bodies, fmt.Sprintf("%d %s", i*each+k, pad))
				}
				if _, err := c.rpc.BroadcastRoom(context.Background(), &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(1000, bodies...)}); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		for _, cl := range []*client{fast, cl} {
			for i := range pushes * each {
				if want, f := fmt.Sprintf("%d %s", i, pad), cl.read(); string(f.Body) != want {
					t.Fatalf("frame %d is %.20q", i, f.Body)
				}
			}
		}
		if n := testutil.ToFloat64(c.metrics.eagain); n == 0 {
			t.Log("no window was ever full")
		}
	})
}

func TestTLSBadHandshakes(t *testing.T) {
	overTLS(t, func(t *testing.T, tr transport) {
		c := tr.start(t, &fakeLogic{}, func(cfg *Config) { cfg.Protocol.HandshakeTimeout = 100 * time.Millisecond })
		addr := c.tlsAddrs(tr.websocket)[0].String()
		for _, tc := range []struct {
			name   string
			talk   func(net.Conn)
			reason reason
		}{
			{"plain HTTP", func(conn net.Conn) { io.WriteString(conn, "GET /sub HTTP/1.1\r\nHost: h\r\n\r\n") }, reasonBadTLS},
			{"a goim frame", func(conn net.Conn) { conn.Write(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuth})) }, reasonBadTLS},
			{"nothing", func(net.Conn) {}, reasonAuthTimeout},
			{"TLS 1.1", func(conn net.Conn) {
				tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake()
			}, reasonBadTLS},
			{"no auth behind the handshake", func(conn net.Conn) {
				tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
			}, reasonAuthTimeout},
		} {
			t.Run(tc.name, func(t *testing.T) {
				before := testutil.ToFloat64(c.metrics.closed[tc.reason])
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(wait))
				tc.talk(conn)
				eventually(t, "the reason is counted", func() bool { return testutil.ToFloat64(c.metrics.closed[tc.reason]) == before+1 })
				if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
					t.Error("the connection stays open")
				}
			})
		}
		eventually(t, "nothing is left", func() bool { return c.open.Load() == 0 })
	})
}

func TestTLSLimits(t *testing.T) {
	overTLS(t, func(t *testing.T, tr transport) {
		c := tr.start(t, &fakeLogic{}, func(cfg *Config) { cfg.Limit.PerAddress = 1 })
		first := c.login(t, tr.websocket, `{"key":"a"}`)
		// The reset may come before the client knows that it is connected.
		if conn, err := net.Dial("tcp", c.tlsAddrs(tr.websocket)[0].String()); err == nil {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(wait))
			if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake(); err == nil {
				t.Error("a second connection of the address was taken")
			}
		}
		if n := testutil.ToFloat64(c.metrics.refused[refusedAddress]); n != 1 {
			t.Errorf("%v refusals", n)
		}
		if n := testutil.ToFloat64(c.metrics.sessions[(&session{websocket: tr.websocket, tls: true}).transport()]); n != 1 {
			t.Errorf("%v sessions over TLS are counted", n)
		}
		first.conn.Close()
		eventually(t, "the first has gone", func() bool { return c.open.Load() == 0 })
		c.login(t, tr.websocket, `{"key":"b"}`)
	})
}

// New certificates are taken over without a restart, and sessions stay.
func TestTLSCertificatesChange(t *testing.T) {
	overTLS(t, func(t *testing.T, tr transport) {
		c := tr.start(t, &fakeLogic{}, nil)
		old := c.login(t, tr.websocket, `{"key":"a","accepts":[1000]}`)
		dir := filepath.Dir(c.cfg.WebSocket.CertFile[0])
		_, _, trusted := securetest.Pair(t, dir, "comet", "127.0.0.1")
		if _, err := c.Reload(c.cfg); err != nil {
			t.Fatal(err)
		}
		c.trusted = trusted // alone: a login with the old certificate fails
		c.login(t, tr.websocket, `{"key":"b"}`)
		pushTo(t, c, "a", "still here")
		old.wants("still here")

		gone := c.cfg
		gone.WebSocket.PrivateFile = []string{filepath.Join(dir, "no such file")}
		if _, err := c.Reload(gone); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("error is %v", err)
		}
		c.login(t, tr.websocket, `{"key":"c"}`)
	})
}

// TCP clients may get certificates of their own.
func TestTLSCertificatesOfTCP(t *testing.T) {
	dir := t.TempDir()
	tcpCert, tcpKey, tcpTrusted := securetest.Pair(t, dir, "tcp", "127.0.0.1")
	c := transport{tls: true}.start(t, &fakeLogic{}, func(cfg *Config) {
		cfg.TCP.CertFile, cfg.TCP.PrivateFile = []string{tcpCert}, []string{tcpKey}
	})
	wsTrusted := c.trusted
	c.login(t, true, `{"key":"ws"}`)
	c.trusted = tcpTrusted
	c.login(t, false, `{"key":"tcp"}`)
	next := c.cfg
	next.TCP.CertFile, next.TCP.PrivateFile = nil, nil
	if changed, err := c.Reload(next); err != nil || !slices.Equal(changed, []string{"tcp.certFile", "tcp.privateFile"}) {
		t.Fatalf("changed %q, %v", changed, err)
	}
	c.trusted = wsTrusted
	c.login(t, false, `{"key":"tcp again"}`)
	// Of two that are to change, one can't: neither does.
	other, otherKey, _ := securetest.Pair(t, dir, "other", "127.0.0.1")
	next.TCP.CertFile, next.TCP.PrivateFile = []string{other}, []string{otherKey}
	next.WebSocket.PrivateFile = []string{dir}
	if _, err := c.Reload(next); err == nil || !strings.HasPrefix(err.Error(), "websocket.certFile, websocket.privateFile: ") {
		t.Errorf("error is %v", err)
	}
	c.login(t, false, `{"key":"tcp still"}`)
}

func TestTLSConfig(t *testing.T) {
	dir := t.TempDir()
	cert, key, _ := securetest.Pair(t, dir, "a", "a")
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no files", func(c *Config) { c.WebSocket.TLSOpen = true }, "websocket.certFile has 0 files and websocket.privateFile 0"},
		{"a key is missing", func(c *Config) { c.TCP.TLSOpen = true; c.WebSocket.CertFile = []string{cert} }, "websocket.certFile has 1 files and websocket.privateFile 0"},
		{"a key of TCP's own is missing", func(c *Config) {
			c.TCP.TLSOpen, c.TCP.CertFile, c.WebSocket.CertFile, c.WebSocket.PrivateFile = true, []string{cert}, []string{cert}, []string{key}
		}, "tcp.certFile has 1 files and tcp.privateFile 0"},
		{"TCP's own alone", func(c *Config) {
			c.TCP.TLSOpen, c.TCP.CertFile, c.TCP.PrivateFile = true, []string{cert}, []string{key}
		}, ""},
		{"no such file", func(c *Config) {
			c.TCP.TLSOpen, c.WebSocket.CertFile, c.WebSocket.PrivateFile = true, []string{cert}, []string{key + "x"}
		}, key + "x: no such file"},
		{"TLS alone", func(c *Config) {
			c.TCP.TLSOpen, c.WebSocket.CertFile, c.WebSocket.PrivateFile = true, []string{cert}, []string{key}
			c.TCP.Bind, c.WebSocket.Bind = nil, nil
		}, ""},
	} {
		cfg := DefaultConfig()
		tc.change(&cfg)
		_, err := New(cfg, Deps{Logic: &fakeLogic{}, Metrics: prometheus.NewRegistry()})
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}
