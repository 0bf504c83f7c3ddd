package secure

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// BenchmarkMemory is the heap and stack of one idle connection with the goroutine that reads
// from it. The clients are bare descriptors by then and take none.
func BenchmarkMemory(b *testing.B) {
	certs, pool := certificates(b)
	cfg := certs.TLS()
	const n = 500
	inUse := func() float64 {
		for range 5 { // empties pools, and halves a stack each time
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc + m.StackInuse)
	}
	for b.Loop() {
		before := inUse()
		var servers []*Conn
		var clients []int
		var reading sync.WaitGroup
		for range n {
			server, client := idle(b, cfg, pool, &reading)
			servers, clients = append(servers, server), append(clients, client)
		}
		b.ReportMetric((inUse()-before)/n, "B/conn")
		for i := range servers {
			servers[i].Close()
			syscall.Close(clients[i])
		}
		reading.Wait()
	}
}

// idle makes a connection that a goroutine reads, with the client's end as a descriptor.
func idle(b *testing.B, cfg *tls.Config, pool *x509.CertPool, reading *sync.WaitGroup) (*Conn, int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	accepted, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	c, err := NewConn(accepted.(*net.TCPConn), cfg)
	if err != nil {
		b.Fatal(err)
	}
	ready := make(chan error, 1)
	reading.Go(func() {
		ready <- c.Handshake(b.Context())
		buf := make([]byte, 512)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	})
	if err := tls.Client(client, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}).Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-ready; err != nil {
		b.Fatal(err)
	}
	raw, err := client.(*net.TCPConn).SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	fd := -1
	control := raw.Control(func(from uintptr) { fd, err = syscall.Dup(int(from)) })
	if err := errors.Join(control, err); err != nil {
		b.Fatal(err)
	}
	return c, fd
}
