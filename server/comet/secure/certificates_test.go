package secure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"barrage/server/comet/secure/securetest"
)

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

// As Kubernetes mounts secrets: the files are links through a link to a folder, which is
// changed to another folder.
func TestReloadThroughLinks(t *testing.T) {
	dir := t.TempDir()
	pools := make(map[string]*x509.CertPool)
	for _, v := range []string{"v1", "v2"} {
		if err := os.Mkdir(filepath.Join(dir, v), 0o700); err != nil {
			t.Fatal(err)
		}
		_, _, pools[v] = securetest.Pair(t, filepath.Join(dir, v), "tls", "127.0.0.1")
	}
	link := func(to, from string) {
		if err := errors.Join(os.Symlink(to, from+".new"), os.Rename(from+".new", from)); err != nil {
			t.Fatal(err)
		}
	}
	cert, key, folder := filepath.Join(dir, "tls.pem"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "..data")
	link("v1", folder)
	link("..data/tls.pem", cert)
	link("..data/tls.key", key)
	certs, err := NewCertificates(Files{[]string{cert}, []string{key}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	serial(t, certs, pools["v1"], "127.0.0.1")
	certs.reloadIfChanged()
	if n := testutil.ToFloat64(certs.reloads); n != 0 {
		t.Errorf("%v reloads without a change", n)
	}
	link("v2", folder)
	certs.reloadIfChanged()
	if n := testutil.ToFloat64(certs.reloads); n != 1 {
		t.Errorf("%v reloads after a change", n)
	}
	serial(t, certs, pools["v2"], "127.0.0.1")
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
