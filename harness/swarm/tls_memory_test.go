package swarm

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"barrage/harness/ledger"
	"barrage/server/comet/secure/securetest"
	"barrage/server/wire"
)

// tlsServerEnv has the folder of the certificate, in the process that is the TLS server of
// BenchmarkTLSClients: its memory must not be counted as the swarm's.
const tlsServerEnv = "BARRAGE_SWARM_TLS_SERVER"

// TestTLSServerProcess is that process, and no test: it answers auth frames until stdin ends.
func TestTLSServerProcess(t *testing.T) {
	dir := os.Getenv(tlsServerEnv)
	if dir == "" {
		t.Skip("is the server of BenchmarkTLSClients")
	}
	pair, err := tls.LoadX509KeyPair(dir+"/server.pem", dir+"/server.key")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("listening at %s\n", l.Addr())
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answerAuth(conn)
		}
	}()
	_, _ = os.Stdin.Read(make([]byte, 1))
}

func answerAuth(conn net.Conn) {
	in := bufio.NewReaderSize(conn, 512)
	for {
		f, err := readFrame(in)
		if err != nil {
			return
		}
		if f.Op == wire.OpAuth {
			if _, err := conn.Write(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuthReply, Seq: f.Seq})); err != nil {
				return
			}
		}
	}
}

// BenchmarkTLSClients connects 2,000 clients inside TLS and reports what each costs.
func BenchmarkTLSClients(b *testing.B) {
	const clients = 2000
	dir := b.TempDir()
	_, _, trusted := securetest.Pair(b, dir, "server", "127.0.0.1")
	server := exec.Command(os.Args[0], "-test.run=^TestTLSServerProcess$")
	server.Env = append(os.Environ(), tlsServerEnv+"="+dir)
	stdin, err := server.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	defer server.Wait()
	defer stdin.Close()
	addr := ""
	for lines := bufio.NewScanner(stdout); addr == "" && lines.Scan(); {
		addr, _ = strings.CutPrefix(lines.Text(), "listening at ")
	}
	for range b.N {
		rss, goInUse, took := tlsMemory(b, addr, clients, trusted)
		b.ReportMetric(rss, "B-resident/client")
		b.ReportMetric(goInUse, "B-go/client")
		b.ReportMetric(clients/took.Seconds(), "connects/s")
	}
}

func tlsMemory(b *testing.B, addr string, clients int, trusted *x509.CertPool) (rss, goInUse float64, took time.Duration) {
	small := newSwarm(b, Config{Streams: newStreams(b)}) // what the runtime makes once, it has made now
	if err := small.Close(); err != nil {
		b.Fatal(err)
	}
	rssBefore, goBefore := userMemory(b)
	streams := newStreams(b, ledger.Stream{ID: 1, Pushes: 1000})
	set := subscribe(b, streams, 1)
	swarm := newSwarm(b, Config{
		Targets: Targets{TCPTLS: []string{addr}}, Streams: streams, Clients: clients, TLS: &tls.Config{RootCAs: trusted},
		Client: everybody(ledger.TCPTLS, set, func(int) Behaviour { return WellBehaved }),
	})
	began := time.Now()
	if err := swarm.Connect(testContext(b)); err != nil {
		b.Fatal(err)
	}
	took = time.Since(began)
	if p := swarm.Snapshot(); p.Joined != int64(clients) {
		b.Fatalf("%d of %d joined: %v", p.Joined, clients, p.Failures)
	}
	rssAfter, goAfter := userMemory(b)
	return float64(rssAfter-rssBefore) / float64(clients), float64(goAfter-goBefore) / float64(clients), took
}
