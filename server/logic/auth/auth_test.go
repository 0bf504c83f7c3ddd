package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	key    = "0123456789abcdef"
	secret = "a secret of more than thirty-two bytes"
)

func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// public writes the public half of a key as PEM.
func public(t testing.TB, private crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "public.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
}

func sign(t testing.TB, method jwt.SigningMethod, with any, claims jwt.MapClaims) string {
	t.Helper()
	if claims == nil {
		claims = jwt.MapClaims{"sub": "pusher", "exp": time.Now().Add(time.Hour).Unix()}
	}
	text, err := jwt.NewWithClaims(method, claims).SignedString(with)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func checker(t testing.TB, cfg Config) *Checker {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOpen(t *testing.T) {
	c := checker(t, Config{All: true})
	if !c.Open() || c.All() {
		t.Error("without keys it is open")
	}
	if _, err := c.Check(""); err != nil {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	c := checker(t, Config{Keys: []string{key, "another key that is longer"}, KeysFile: write(t, "keys", "# comment\n\n from the file 123 \n"), All: true})
	if c.Open() || !c.All() {
		t.Error("with keys it is not open")
	}
	for header, want := range map[string]error{
		"Bearer " + key:                     nil,
		"bearer   " + key + " ":             nil,
		"Bearer another key that is longer": nil,
		"Bearer from the file 123":          nil,
		"":                                  ErrMissing,
		"Bearer":                            ErrMissing,
		"Bearer ":                           ErrMissing,
		"Basic " + key:                      ErrMissing,
		key:                                 ErrMissing,
		"Bearer " + key + "x":               ErrRefused,
		"Bearer " + key[1:]:                 ErrRefused,
		"Bearer # comment":                  ErrRefused,
		"Bearer a.b.c":                      ErrRefused,
	} {
		subject, err := c.Check(header)
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%q: %v, want %v", header, err, want)
		}
		if err == nil && (!strings.HasPrefix(subject, "key ") || strings.Contains(subject, key)) {
			t.Errorf("subject is %q", subject)
		}
	}
}

func TestTokens(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaPEM := public(t, rsaKey)
	rsaText, _ := os.ReadFile(rsaPEM)
	hmac := Config{JWTSecret: write(t, "secret", secret+"\n")}
	hour := time.Now().Add(time.Hour).Unix()
	for _, c := range []struct {
		name  string
		cfg   Config
		token string
		good  bool
	}{
		{"HS256", hmac, sign(t, jwt.SigningMethodHS256, []byte(secret), nil), true},
		{"HS512", hmac, sign(t, jwt.SigningMethodHS512, []byte(secret), nil), true},
		{"RS256", Config{JWTKey: rsaPEM}, sign(t, jwt.SigningMethodRS256, rsaKey, nil), true},
		{"ES256", Config{JWTKey: public(t, ecKey)}, sign(t, jwt.SigningMethodES256, ecKey, nil), true},
		{"EdDSA", Config{JWTKey: public(t, edKey)}, sign(t, jwt.SigningMethodEdDSA, edKey, nil), true},
		{"secret and key", Config{JWTSecret: hmac.JWTSecret, JWTKey: rsaPEM}, sign(t, jwt.SigningMethodHS256, []byte(secret), nil), true},
		{"no signature", hmac, sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), false},
		{"another secret", hmac, sign(t, jwt.SigningMethodHS256, []byte(secret+"x"), nil), false},
		{"the public key as a secret", Config{JWTKey: rsaPEM}, sign(t, jwt.SigningMethodHS256, rsaText, nil), false},
		{"the public key as a secret, where there is one", Config{JWTSecret: hmac.JWTSecret, JWTKey: rsaPEM}, sign(t, jwt.SigningMethodHS256, rsaText, nil), false},
		{"expired", hmac, sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": time.Now().Add(-time.Hour).Unix()}), false},
		{"never expires", hmac, sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": "x"}), false},
		{"not yet", hmac, sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": hour, "nbf": hour}), false},
		{"audience", Config{JWTSecret: hmac.JWTSecret, JWTAudience: "push"}, sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": hour, "aud": []string{"x", "push"}}), true},
		{"another audience", Config{JWTSecret: hmac.JWTSecret, JWTAudience: "push"}, sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": hour, "aud": "x"}), false},
		{"another issuer", Config{JWTSecret: hmac.JWTSecret, JWTIssuer: "us"}, sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": hour, "iss": "them"}), false},
		{"a subject that is none", hmac, sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": hour, "sub": 5}), false},
		{"garbage", hmac, "a.b.c", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := checker(t, c.cfg).Check("Bearer " + c.token)
			if c.good != (err == nil) || err != nil && !errors.Is(err, ErrRefused) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestBadConfig(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Keys: []string{key, "short"}}, "httpServer.auth.keys: key 2 has 5 characters, 16 at least"},
		{Config{KeysFile: missing}, "httpServer.auth.keysFile"},
		{Config{KeysFile: write(t, "keys", "# none\n")}, "has no key"},
		{Config{JWTSecret: missing}, "httpServer.auth.jwtSecretFile"},
		{Config{JWTSecret: write(t, "s", "short\n")}, "has 5 bytes, 32 at least"},
		{Config{JWTKey: missing}, "httpServer.auth.jwtKeyFile"},
		{Config{JWTKey: write(t, "k", "no PEM")}, "no RSA, ECDSA or Ed25519 public key"},
	} {
		_, err := New(c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.cfg, err)
		}
	}
	if s := fmt.Sprintf("%v %+v", Config{Keys: []string{key}}, Config{Keys: []string{key}}); strings.Contains(s, key) {
		t.Errorf("a key is shown: %s", s)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("Bearer " + key)
	f.Add("Bearer a.b.c")
	f.Add("Bearer eyJhbGciOiJub25lIn0.e30.")
	f.Add("")
	c := checker(f, Config{Keys: []string{key}, JWTSecret: write(f, "secret", secret)})
	f.Fuzz(func(t *testing.T, header string) {
		_, err := c.Check(header)
		if err == nil && !strings.Contains(header, key) {
			t.Errorf("%q was let in", header)
		}
	})
}
