package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"barrage/harness/certificate"
)

// makeCertificate writes a self-signed certificate for ip with its key into dir, and returns
// their paths and the certificate as PEM.
func makeCertificate(dir string, ip net.IP) (cert, key string, authority []byte, err error) {
	certPEM, keyPEM, err := certificate.SelfSigned(ip)
	if err != nil {
		return "", "", nil, err
	}
	cert, key = filepath.Join(dir, "comet.pem"), filepath.Join(dir, "comet.key")
	for _, f := range []struct {
		path string
		text []byte
	}{{cert, certPEM}, {key, keyPEM}} {
		if err := os.WriteFile(f.path, f.text, 0o600); err != nil {
			return "", "", nil, fmt.Errorf("write the comets' certificate: %w", err)
		}
	}
	return cert, key, certPEM, nil
}
