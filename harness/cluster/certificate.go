package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificateLasts is how long the comets' certificate is valid: longer than a run.
const certificateLasts = 48 * time.Hour

// makeCertificate writes a self-signed certificate for ip with its key into dir, and returns
// their paths and the certificate as PEM. ECDSA P-256 is what live sites serve.
func makeCertificate(dir string, ip net.IP) (cert, key string, authority []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return "", "", nil, fmt.Errorf("make a certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "barrage bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(certificateLasts),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{ip},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return "", "", nil, fmt.Errorf("make a certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", nil, fmt.Errorf("make a key: %w", err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	cert, key = filepath.Join(dir, "comet.pem"), filepath.Join(dir, "comet.key")
	for _, f := range []struct {
		path string
		text []byte
	}{{cert, certPEM}, {key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}} {
		if err := os.WriteFile(f.path, f.text, 0o600); err != nil {
			return "", "", nil, fmt.Errorf("write the comets' certificate: %w", err)
		}
	}
	return cert, key, certPEM, nil
}
