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
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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

// fill sends until the peer's window is full and returns what was taken.
func fill(t *testing.T, c *Conn) []byte {
	t.Helper()
	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{2}).Read(data)
	n, err := c.Send(data)
	if err != nil || n == len(data) {
		t.Fatalf("took %d of %d, %v", n, len(data), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.flushing {
		t.Fatal("no ciphertext waits")
	}
	return data[:n]
}

// What was taken before Shutdown still arrives, and then the orderly end.
func TestShutdownLosesNothing(t *testing.T) {
	certs, pool := certificates(t)
	e, err := connect(t, certs.TLS(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	taken := fill(t, e.server)
	e.server.Shutdown()
	e.server.Shutdown() // again is no harm
	if n, err := e.server.Send([]byte("late")); n != 0 || err == nil {
		t.Errorf("took %d more, %v", n, err)
	}
	if _, err := e.client.Write([]byte("nobody hears this")); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := e.server.Read(make([]byte, 100))
		ended <- err
	}()
	e.client.SetReadDeadline(time.Now().Add(wait))
	got, err := io.ReadAll(e.client)
	if err != nil || !bytes.Equal(got, taken) {
		t.Errorf("%d of %d bytes arrived, %v", len(got), len(taken), err)
	}
	if err := <-ended; err == nil {
		t.Error("the server read what came after its end")
	}
}

// A client that never reads is not waited for much longer than linger.
func TestShutdownOfOneThatNeverReads(t *testing.T) {
	t.Parallel()
	certs, pool := certificates(t)
	e, err := connect(t, certs.TLS(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, e.server)
	began := time.Now()
	e.server.Shutdown()
	if took := time.Since(began); took > linger/2 {
		t.Errorf("Shutdown took %v", took)
	}
	if _, err := e.server.Read(make([]byte, 100)); err == nil {
		t.Error("no end")
	}
	if took := time.Since(began); took > wait {
		t.Errorf("the end took %v", took)
	}
}

// Nothing is sent once the socket is closed, when its descriptor may be another's.
func TestSendAfterClose(t *testing.T) {
	certs, pool := certificates(t)
	for name, prepare := range map[string]func(*Conn){"idle": func(*Conn) {}, "window full": func(c *Conn) { fill(t, c) }} {
		t.Run(name, func(t *testing.T) {
			e, err := connect(t, certs.TLS(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
			if err != nil {
				t.Fatal(err)
			}
			prepare(e.server)
			if err := e.server.Close(); err != nil {
				t.Fatal(err)
			}
			if n, err := e.server.Send([]byte("late")); n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("took %d, %v", n, err)
			}
			e.server.Shutdown()
			eventually(t, "no goroutine waits", func() bool {
				e.server.mu.Lock()
				defer e.server.mu.Unlock()
				return !e.server.flushing && e.server.pending == nil
			})
		})
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
