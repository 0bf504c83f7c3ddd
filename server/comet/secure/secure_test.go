package secure

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"barrage/server/comet/secure/securetest"
)

// wait is how long a test waits for what must happen.
const wait = 10 * time.Second

// ends are both sides of a TLS connection over loopback.
type ends struct {
	server *Conn
	client *tls.Conn
	tcp    *net.TCPConn // the client's
}

// connect makes a connection, with small kernel buffers so that a slow reader is noticed
// soon.
func connect(t testing.TB, server *tls.Config, client *tls.Config) (ends, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	tcp := raw.(*net.TCPConn)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.TCPConn{tcp, accepted.(*net.TCPConn)} {
		c.SetReadBuffer(64 << 10)
		c.SetWriteBuffer(64 << 10)
	}
	conn, err := NewConn(accepted.(*net.TCPConn), server)
	if err != nil {
		t.Fatal(err)
	}
	e := ends{server: conn, client: tls.Client(tcp, client), tcp: tcp}
	t.Cleanup(func() { conn.Close(); tcp.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- e.client.HandshakeContext(ctx) }()
	err = conn.Handshake(ctx)
	return e, errors.Join(err, <-failed)
}

func certificates(t testing.TB) (*Certificates, *x509.CertPool) {
	t.Helper()
	cert, key, pool := securetest.Pair(t, t.TempDir(), "a", "127.0.0.1")
	c, err := NewCertificates(Files{[]string{cert}, []string{key}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return c, pool
}

func TestConversation(t *testing.T) {
	certs, pool := certificates(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			e, err := connect(t, certs.TLS("http/1.1"), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MaxVersion: version, NextProtos: []string{"h2", "http/1.1"}})
			if err != nil {
				t.Fatal(err)
			}
			if got := e.client.ConnectionState(); got.Version != version || got.NegotiatedProtocol != "http/1.1" {
				t.Errorf("%s, protocol %q", tls.VersionName(got.Version), got.NegotiatedProtocol)
			}
			go e.client.Write([]byte("hello"))
			b := make([]byte, 100)
			if n, err := e.server.Read(b); err != nil || string(b[:n]) != "hello" {
				t.Fatalf("server read %q, %v", b[:n], err)
			}
			if n, err := e.server.Send([]byte("world")); n != 5 || err != nil {
				t.Fatalf("sent %d, %v", n, err)
			}
			if n, err := e.client.Read(b); err != nil || string(b[:n]) != "world" {
				t.Fatalf("client read %q, %v", b[:n], err)
			}
			e.server.Shutdown()
			if n, err := e.client.Read(b); err != io.EOF {
				t.Errorf("client read %q, %v; want an orderly end", b[:n], err)
			}
			if _, err := e.server.Read(b); err == nil {
				t.Error("the server still reads")
			}
			if _, err := e.server.Send([]byte("late")); err == nil {
				t.Error("the server still sends")
			}
		})
	}
}

// A client that doesn't read makes Send take less and less, and nothing of what it took is
// lost, whether or not Send is called again.
func TestSlowReader(t *testing.T) {
	certs, pool := certificates(t)
	e, err := connect(t, certs.TLS(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 2<<20)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(data)
	taken := 0
	for {
		n, err := e.server.Send(data[taken:])
		if err != nil {
			t.Fatal(err)
		}
		taken += n
		if n == 0 {
			break
		}
	}
	if taken == 0 || taken == len(data) {
		t.Fatalf("took %d of %d bytes from a client that doesn't read", taken, len(data))
	}
	if again, err := e.server.Send(data[taken:]); again != 0 || err != nil {
		t.Fatalf("took %d bytes more, %v", again, err)
	}
	// Without another call, what was taken arrives.
	e.client.SetReadDeadline(time.Now().Add(wait))
	got := make([]byte, len(data))
	if _, err := io.ReadFull(e.client, got[:taken]); err != nil {
		t.Fatal(err)
	}
	// And the rest, with a reader that takes its time.
	from := taken
	var reading sync.WaitGroup
	reading.Go(func() {
		for at := from; at < len(data); {
			n, err := e.client.Read(got[at:min(len(got), at+5000)])
			if err != nil {
				t.Error(err)
				return
			}
			at += n
			runtime.Gosched()
		}
	})
	for deadline := time.Now().Add(wait); taken < len(data); {
		n, err := e.server.Send(data[taken:])
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("took %d of %d, %v", taken, len(data), err)
		}
		taken += n
		if n == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	reading.Wait()
	if !bytes.Equal(got, data) {
		t.Error("the bytes differ")
	}
}

// Ends at any time, while others send and read: nothing hangs, nothing panics.
func TestEndsAtAnyTime(t *testing.T) {
	certs, pool := certificates(t)
	for range 30 {
		e, err := connect(t, certs.TLS(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		all.Go(func() {
			b := make([]byte, 512)
			for {
				if _, err := e.server.Read(b); err != nil {
					e.server.Close()
					return
				}
			}
		})
		all.Go(func() {
			for {
				if _, err := e.server.Send(make([]byte, 3000)); err != nil {
					return
				}
				runtime.Gosched()
			}
		})
		all.Go(func() {
			for range 20 {
				if _, err := e.client.Write(make([]byte, 100)); err != nil {
					return
				}
			}
		})
		time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() {
			if rand.IntN(2) == 0 {
				e.server.Shutdown()
			} else {
				e.tcp.Close()
			}
		})
		all.Wait()
	}
}

func TestHandshakeThatNeverComes(t *testing.T) {
	certs, _ := certificates(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewConn(accepted.(*net.TCPConn), certs.TLS())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Send([]byte("too early")); n != 0 || err != nil {
		t.Errorf("before the handshake: took %d, %v", n, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := c.Handshake(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

func TestOldVersionIsRefused(t *testing.T) {
	certs, pool := certificates(t)
	_, err := connect(t, certs.TLS(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("error is %v", err)
	}
}

// serial is the certificate that a client that asks for name gets.
func serial(t testing.TB, certs *Certificates, pool *x509.CertPool, name string) string {
	t.Helper()
	e, err := connect(t, certs.TLS(), &tls.Config{RootCAs: pool, ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	return e.client.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// New files take the place of old ones for connections that begin from then on; those that
// can't be used don't.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	cert, key, pool := securetest.Pair(t, dir, "a", "127.0.0.1")
	certs, err := NewCertificates(Files{[]string{cert}, []string{key}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	old, err := connect(t, certs.TLS(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	first := serial(t, certs, pool, "127.0.0.1")
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { certs.Watch(ctx, time.Millisecond) })
	defer watching.Wait()
	defer cancel()

	if err := os.WriteFile(cert, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the failure is counted", func() bool { return testutil.ToFloat64(certs.failures) > 0 })
	if got := serial(t, certs, pool, "127.0.0.1"); got != first {
		t.Error("a broken file changed the certificate")
	}
	_, _, pool = securetest.Pair(t, dir, "a", "127.0.0.1")
	eventually(t, "it is read anew", func() bool { return testutil.ToFloat64(certs.reloads) > 0 })
	eventually(t, "new connections get it", func() bool {
		e, err := connect(t, certs.TLS(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
		return err == nil && e.client.ConnectionState().PeerCertificates[0].SerialNumber.String() != first
	})
	if n, err := old.server.Send([]byte("still here")); n != 10 || err != nil {
		t.Errorf("the old connection took %d, %v", n, err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(wait); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", wait, what)
		}
	}
}

func TestCertificateByName(t *testing.T) {
	dir := t.TempDir()
	certA, keyA, poolA := securetest.Pair(t, dir, "a", "a.example.com")
	certB, keyB, poolB := securetest.Pair(t, dir, "b", "b.example.com")
	certs, err := NewCertificates(Files{[]string{certA, certB}, []string{keyA, keyB}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if serial(t, certs, poolA, "a.example.com") == serial(t, certs, poolB, "b.example.com") {
		t.Error("both names get one certificate")
	}
}

func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	cert, key, _ := securetest.Pair(t, dir, "a", "a")
	_, otherKey, _ := securetest.Pair(t, dir, "b", "b")
	missing := filepath.Join(dir, "missing.pem")
	for _, c := range []struct {
		name  string
		files Files
		want  string
	}{
		{"none", Files{}, "0 certificate files"},
		{"no key", Files{[]string{cert}, nil}, "1 certificate files and 0 key files"},
		{"missing", Files{[]string{missing}, []string{key}}, missing},
		{"missing key", Files{[]string{cert}, []string{missing}}, missing},
		{"another's key", Files{[]string{cert}, []string{otherKey}}, otherKey},
		{"no PEM", Files{[]string{os.Args[0]}, []string{key}}, os.Args[0]},
	} {
		if _, err := NewCertificates(c.files, slog.New(slog.DiscardHandler), prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", c.name, err, c.want)
		}
	}
}

// BenchmarkMemory is what one idle connection takes, both ends and the goroutine that reads
// not counted.
func BenchmarkMemory(b *testing.B) {
	certs, pool := certificates(b)
	var before, after runtime.MemStats
	const n = 200
	for range b.N {
		var list []ends
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range n {
			e, err := connect(b, certs.TLS(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
			if err != nil {
				b.Fatal(err)
			}
			e.client = nil
			list = append(list, e)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/conn")
		for _, e := range list {
			e.server.Close()
			e.tcp.Close()
		}
	}
}
