package ceiling

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside returns the two ends of a TLS connection: the sending side's socket, whose kernel takes little at a time, and the client's.
func inside(t *testing.T) (*socket, *tls.Conn) {
	t.Helper()
	cfg, authority, err := serverTLS(net.IPv4(127, 0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ends[0]) })
	if err := unix.SetsockoptInt(ends[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil { // the least
		t.Fatal(err)
	}
	if err := unix.SetNonblock(ends[0], true); err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(ends[1]), "client")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	trusts := x509.NewCertPool()
	trusts.AppendCertsFromPEM(authority)
	client := tls.Client(conn, &tls.Config{RootCAs: trusts, ServerName: "127.0.0.1"})
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }()
	s := &socket{fd: int32(ends[0])}
	if s.tls, err = handshake(s.fd, cfg); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return s, client
}

// Writes of several records to a socket that takes a part of one at a time arrive whole and in order, and none is
// taken while another waits.
func TestSecuredInPieces(t *testing.T) {
	s, client := inside(t)
	var want []byte
	var p payload
	read := make(chan []byte, 1)
	const size, writes = 50_000, 20
	go func() {
		b := make([]byte, size*writes)
		n, _ := io.ReadFull(client, b)
		read <- b[:n]
	}()
	full := 0
	for i := range writes {
		p.bytes = bytes.Repeat([]byte{byte(i + 1)}, size)
		want = append(want, p.bytes...)
		for {
			o := s.send(&p)
			if o == sent {
				break
			}
			if o != wasFull {
				t.Fatalf("write %d: outcome %d", i, o)
			}
			full++
		}
	}
	for !s.sendRest() {
		full++
	}
	if got := <-read; !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived, want %d, or others", len(got), len(want))
	}
	if full == 0 {
		t.Error("the socket was never full")
	}
}

// A client that is gone is that, with something of a record left and without.
func TestSecuredToNobody(t *testing.T) {
	for _, left := range []bool{false, true} {
		s, client := inside(t)
		p := payload{bytes: make([]byte, 100_000)}
		if left {
			if o := s.send(&p); o != sent || !s.pending() {
				t.Fatalf("outcome %d, something left: %v", o, s.pending())
			}
		}
		if err := client.NetConn().Close(); err != nil {
			t.Fatal(err)
		}
		if !s.sendRest() {
			t.Error("something is left to send")
		}
		if o := s.send(&p); o != broken {
			t.Errorf("outcome %d, something left: %v", o, left)
		}
	}
}

// A client that says nothing is not waited for without end.
func TestSecuredSilence(t *testing.T) {
	s := secured{}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	s.fd = int32(ends[0])
	if err := s.wait(unix.POLLIN, time.Millisecond); err == nil {
		t.Error("it came back without an error")
	}
}
