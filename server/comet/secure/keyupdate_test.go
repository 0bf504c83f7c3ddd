package secure

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"os/exec"
	"reflect"
	"slices"
	"testing"
)

// A client that asks for new keys (RFC 8446 section 4.6.3) has the reader's goroutine write.
func TestKeyUpdate(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("needs openssl, whose client can ask for new keys")
	}
	certs, _ := certificates(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	client := exec.CommandContext(ctx, openssl, "s_client", "-tls1_3", "-quiet", "-no_ign_eof", "-connect", l.Addr().String())
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := client.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	defer client.Wait()
	defer client.Process.Kill()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewConn(accepted.(*net.TCPConn), certs.TLS())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Handshake(ctx); err != nil {
		t.Fatal(err)
	}
	before := trafficSecret(c)
	read, write, lines := make([]byte, 100), make([]byte, 5), bufio.NewScanner(said)
	for i := range 3 {
		if _, err := io.WriteString(in, "K\n"); err != nil { // a command for openssl
			t.Fatal(err)
		}
		for lines.Scan() && lines.Text() != "KEYUPDATE" {
		}
		if _, err := io.WriteString(in, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(read); err != nil || string(read[:n]) != "hello\n" {
			t.Fatalf("round %d: read %q, %v", i, read[:n], err)
		}
		if n, err := c.Send([]byte("world")); n != 5 || err != nil {
			t.Fatalf("round %d: sent %d, %v", i, n, err)
		}
		if _, err := io.ReadFull(out, write); err != nil || string(write) != "world" {
			t.Fatalf("round %d: openssl read %q, %v", i, write, err)
		}
		after := trafficSecret(c)
		if bytes.Equal(before, after) {
			t.Errorf("round %d: the keys are the same", i)
		}
		before = after
	}
}

// trafficSecret is the secret from which the keys of what c sends are made.
func trafficSecret(c *Conn) []byte {
	out := reflect.ValueOf(c.tls).Elem().FieldByName("out")
	return slices.Clone(out.FieldByName("trafficSecret").Bytes())
}
