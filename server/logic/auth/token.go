package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

// methods are the keys that check tokens, by the method of signing that each key is good
// for. A token names its method itself, but can't make another key of a key by that.
type methods map[string][]jwt.VerificationKey

// minRSA is the length in bits that RFC 7518, section 3.3, asks of an RSA key.
const minRSA = 2048

// readSecret reads a secret, without space and line ends around it.
func (m methods) readSecret(file string) error {
	secret, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if secret = bytes.TrimSpace(secret); len(secret) < minSecret {
		return fmt.Errorf("%s has %d bytes, %d at least are needed", file, len(secret), minSecret)
	}
	m.add(secret, "HS256", "HS384", "HS512")
	return nil
}

// readPublic reads the public keys and certificates of a PEM file: while keys are changed
// tokens of the old and of the new one are good.
func (m methods) readPublic(file string) error {
	rest, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 1 {
				return fmt.Errorf("%s: no public key in PEM", file)
			}
			return nil
		}
		key, err := parsePublic(block)
		if err == nil {
			err = m.addPublic(key)
		}
		if err != nil {
			return fmt.Errorf("%s, part %d: %w", file, n, err)
		}
	}
}

func parsePublic(block *pem.Block) (any, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return certificate.PublicKey, nil
	}
	return nil, fmt.Errorf("%q is no public key", block.Type)
}

// addPublic adds a key for the methods that RFC 7518 and RFC 8037 have for its kind.
func (m methods) addPublic(key any) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSA {
			return fmt.Errorf("an RSA key of %d bits, %d at least are needed", key.N.BitLen(), minRSA)
		}
		m.add(key, "RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
	case *ecdsa.PublicKey:
		method := map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[key.Params().Name]
		if method == "" {
			return fmt.Errorf("an ECDSA key on the curve %s, accepted are P-256, P-384 and P-521", key.Params().Name)
		}
		m.add(key, method)
	case ed25519.PublicKey:
		m.add(key, "EdDSA")
	default:
		return fmt.Errorf("a %T, accepted are RSA, ECDSA and Ed25519 keys", key)
	}
	return nil
}

func (m methods) add(key jwt.VerificationKey, names ...string) {
	for _, name := range names {
		m[name] = append(m[name], key)
	}
}

func (m methods) names() []string { return slices.Sorted(maps.Keys(m)) }

// keyOf returns the keys for a token's method, which is one of ours.
func (m methods) keyOf(token *jwt.Token) (any, error) {
	if _, ok := token.Header["crit"]; ok { // RFC 7515, section 4.1.11
		return nil, errors.New("the header crit asks for what is unknown here")
	}
	return jwt.VerificationKeySet{Keys: m[token.Method.Alg()]}, nil
}
