package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An authority signs certificates for tests.
type authority struct {
	dir  string
	file string // its own certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key, a.file, _ = a.issue(t, name)
	return a
}

// sign returns the files of a certificate for names, and of its key.
func (a *authority) sign(t *testing.T, names ...string) (cert, key string) {
	t.Helper()
	_, _, cert, key = a.issue(t, names...)
	return cert, key
}

// issue makes a certificate, which signs itself where the authority has none yet.
func (a *authority) issue(t *testing.T, names ...string) (cert *x509.Certificate, key *ecdsa.PrivateKey, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		}
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(a.dir, names[0]+".pem"), filepath.Join(a.dir, names[0]+".key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, certFile, keyFile
}

const (
	goodToken  = "0123456789abcdef"
	wrongToken = "0123456789abcdeF"
)

// Who may use an agent: those with the token, or with a certificate of the authority that
// it knows, and nobody else.
func TestWhoMayUseAnAgent(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	cert, key := ours.sign(t, "127.0.0.1")
	elsewhere, elsewhereKey := ours.sign(t, "10.1.2.3")
	clientCert, clientKey := ours.sign(t, "coordinator")
	strange, strangeKey := theirs.sign(t, "stranger")
	server := Security{Cert: cert, Key: key}
	withToken, mutual := server, server
	withToken.Token = goodToken
	mutual.CA = ours.file
	for _, c := range []struct {
		name        string
		agent       Security
		coordinator Security
		want        string // of the error; "" for none
	}{
		{"nothing, within a machine", Security{}, Security{}, ""},
		{"a token within a machine", Security{Token: goodToken, Insecure: true}, Security{Token: goodToken, Insecure: true}, ""},
		{"a wrong token", Security{Token: goodToken, Insecure: true}, Security{Token: wrongToken, Insecure: true}, "the token is missing or wrong"},
		{"no token", Security{Token: goodToken, Insecure: true}, Security{}, "the token is missing or wrong"},
		{"a token over TLS", withToken, Security{Token: goodToken, CA: ours.file}, ""},
		{"a wrong token over TLS", withToken, Security{Token: wrongToken, CA: ours.file}, "the token is missing or wrong"},
		{"a certificate instead of the token", withToken, Security{CA: ours.file, Cert: clientCert, Key: clientKey}, "the token is missing or wrong"},
		{"an agent that says it is another", Security{Cert: elsewhere, Key: elsewhereKey, Token: goodToken}, Security{Token: goodToken, CA: ours.file}, "certificate is valid for 10.1.2.3, not 127.0.0.1"},
		{"an agent of another authority", withToken, Security{Token: goodToken, CA: theirs.file}, "certificate signed by unknown authority"},
		{"mutual TLS", mutual, Security{CA: ours.file, Cert: clientCert, Key: clientKey}, ""},
		{"mutual TLS without a certificate", mutual, Security{CA: ours.file}, "how an agent refuses this side's certificate, or the lack of one"},
		{"mutual TLS with a stranger's", mutual, Security{CA: ours.file, Cert: strange, Key: strangeKey}, "how an agent refuses this side's certificate"},
		{"TLS that the coordinator doesn't speak", mutual, Security{}, "error reading server preface"},
	} {
		t.Run(c.name, func(t *testing.T) {
			comet := startFakeComet(t, faultyPlan)
			f, err := tryDial(t, comet, 3, FleetConfig{Security: c.coordinator}, startAgent(t, c.agent, 0))
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if err := errorsOf(f.Connect(testContext(t)), f.Close()); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Error(f.Close())
				t.Fatal("the coordinator was taken")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			if comet.open() > 0 {
				t.Error("clients connected in spite of it")
			}
		})
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// What is too little for where an agent listens, or a coordinator goes, is said before
// anything is sent.
func TestTooLittleSecurity(t *testing.T) {
	ours := newAuthority(t, "ours")
	cert, key := ours.sign(t, "127.0.0.1")
	for _, c := range []struct {
		name     string
		security Security
		addr     string
		server   string // of the server's error; "" for none
		client   string
	}{
		{"nothing on loopback", Security{}, "127.0.0.1:1", "", ""},
		{"nothing on loopback of IPv6", Security{}, "[::1]:1", "", ""},
		{"nothing elsewhere", Security{}, "10.0.0.7:1", "within others' reach", "it is on another machine"},
		{"every address", Security{}, "[::]:1", "within others' reach", "it is on another machine"},
		{"a token in the clear", Security{Token: goodToken}, "127.0.0.1:1", "a token goes over TLS alone", ""},
		{"a token in the clear elsewhere", Security{Token: goodToken, Insecure: true}, "10.0.0.7:1", "within others' reach", "it is on another machine"},
		{"TLS and nobody known", Security{Cert: cert, Key: key}, "10.0.0.7:1", "within others' reach", ""},
		{"TLS and a token", Security{Cert: cert, Key: key, Token: goodToken}, "10.0.0.7:1", "", ""},
		{"mutual TLS", Security{Cert: cert, Key: key, CA: ours.file}, "10.0.0.7:1", "", ""},
		{"an authority alone", Security{CA: ours.file}, "127.0.0.1:1", "give this side's -cert and -key too", ""},
		{"a key without its certificate", Security{Key: key}, "127.0.0.1:1", "belong together", "belong together"},
		{"a short token", Security{Token: "short", Insecure: true}, "127.0.0.1:1", "at least 16 are wanted", "at least 16 are wanted"},
		{"insecure without a token", Security{Insecure: true}, "127.0.0.1:1", "there is none", "there is none"},
		{"no such file", Security{Cert: "none.pem", Key: key}, "127.0.0.1:1", "read certificate none.pem", "read certificate none.pem"},
		{"no authority in the file", Security{Cert: cert, Key: key, CA: key}, "127.0.0.1:1", "has no PEM certificate", "has no PEM certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, err := net.ResolveTCPAddr("tcp", c.addr)
			if err != nil {
				t.Fatal(err)
			}
			_, asServer := c.security.serverOptions(addr)
			_, asClient := c.security.dialOptions(c.addr)
			for side, e := range map[string]struct {
				err  error
				want string
			}{"server": {asServer, c.server}, "client": {asClient, c.client}} {
				if (e.err == nil) != (e.want == "") || e.err != nil && !strings.Contains(e.err.Error(), e.want) {
					t.Errorf("%s: error is %v, want %q", side, e.err, e.want)
				}
			}
		})
	}
}
