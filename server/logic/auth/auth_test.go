package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
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
	return write(t, "public.pem", pemOf(t, private))
}

func pemOf(t testing.TB, private crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// certificate writes a certificate of a key.
func certificate(t testing.TB, private crypto.Signer) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
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
	c := checker(t, Config{})
	if !c.Open() || c.All() {
		t.Error("without keys it is open")
	}
	if _, err := c.Check(""); err != nil {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	long := strings.Repeat("k", maxCredentials)
	c := checker(t, Config{Keys: []string{key, key, "another key that is longer"}, KeysFile: write(t, "keys", "\ufefffrom the file 000\r\n# comment\n\n from the file 123 \n"+long), All: true})
	if c.Open() || !c.All() {
		t.Error("with keys it is not open")
	}
	for header, want := range map[string]error{
		"Bearer " + key:                     nil,
		"bearer   " + key + " ":             nil,
		"Bearer another key that is longer": nil,
		"Bearer from the file 123":          nil,
		"Bearer from the file 000":          nil,
		"Bearer " + long:                    nil,
		"Bearer " + long + "k":              ErrRefused,
		"BEARER " + key:                     nil,
		"Bearer\t" + key:                    ErrMissing,
		"Bearer " + key + ", Bearer " + key: ErrRefused,
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

// keys of all kinds, made anew.
type private struct {
	rsa *rsa.PrivateKey
	ec  map[string]*ecdsa.PrivateKey // by curve
	ed  ed25519.PrivateKey
}

func newPrivate(t *testing.T) (p private) {
	t.Helper()
	var err error
	if p.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	p.ec = map[string]*ecdsa.PrivateKey{}
	for _, curve := range []elliptic.Curve{elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		if p.ec[curve.Params().Name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	if _, p.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTokens(t *testing.T) {
	keys := newPrivate(t)
	rsaPEM := public(t, keys.rsa)
	rsaText, _ := os.ReadFile(rsaPEM)
	both := write(t, "both.pem", string(rsaText)+"\n# the new one\n"+pemOf(t, keys.ec["P-384"]))
	hmac := Config{JWTSecret: write(t, "secret", secret+"\n")}
	hour := time.Now().Add(time.Hour).Unix()
	ago := time.Now().Add(-time.Hour).Unix()
	hs := func(claims jwt.MapClaims) string { return sign(t, jwt.SigningMethodHS256, []byte(secret), claims) }
	aud := Config{JWTSecret: hmac.JWTSecret, JWTAudience: "push"}
	iss := Config{JWTSecret: hmac.JWTSecret, JWTIssuer: "us"}
	for _, c := range []struct {
		name  string
		cfg   Config
		token string
		good  bool
	}{
		{"HS256", hmac, hs(nil), true},
		{"HS384", hmac, sign(t, jwt.SigningMethodHS384, []byte(secret), nil), true},
		{"HS512", hmac, sign(t, jwt.SigningMethodHS512, []byte(secret), nil), true},
		{"RS256", Config{JWTKey: rsaPEM}, sign(t, jwt.SigningMethodRS256, keys.rsa, nil), true},
		{"PS512", Config{JWTKey: rsaPEM}, sign(t, jwt.SigningMethodPS512, keys.rsa, nil), true},
		{"ES256", Config{JWTKey: public(t, keys.ec["P-256"])}, sign(t, jwt.SigningMethodES256, keys.ec["P-256"], nil), true},
		{"ES512", Config{JWTKey: public(t, keys.ec["P-521"])}, sign(t, jwt.SigningMethodES512, keys.ec["P-521"], nil), true},
		{"EdDSA", Config{JWTKey: public(t, keys.ed)}, sign(t, jwt.SigningMethodEdDSA, keys.ed, nil), true},
		{"a certificate", Config{JWTKey: certificate(t, keys.rsa)}, sign(t, jwt.SigningMethodRS256, keys.rsa, nil), true},
		{"secret and key, by the secret", Config{JWTSecret: hmac.JWTSecret, JWTKey: rsaPEM}, hs(nil), true},
		{"secret and key, by the key", Config{JWTSecret: hmac.JWTSecret, JWTKey: rsaPEM}, sign(t, jwt.SigningMethodRS256, keys.rsa, nil), true},
		{"two keys, by the first", Config{JWTKey: both}, sign(t, jwt.SigningMethodRS256, keys.rsa, nil), true},
		{"two keys, by the second", Config{JWTKey: both}, sign(t, jwt.SigningMethodES384, keys.ec["P-384"], nil), true},
		{"no signature", hmac, sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), false},
		{"no signature, spelt otherwise", hmac, "eyJhbGciOiJOb25lIn0." + strings.Split(hs(nil), ".")[1] + ".", false},
		{"the signature cut off", hmac, strings.Join(strings.Split(hs(nil), ".")[:2], ".") + ".", false},
		{"the signature of another token", hmac, strings.Join(strings.Split(hs(nil), ".")[:2], ".") + "." + strings.Split(hs(jwt.MapClaims{"exp": hour}), ".")[2], false},
		{"another secret", hmac, sign(t, jwt.SigningMethodHS256, []byte(secret+"x"), nil), false},
		{"a method without a key", hmac, sign(t, jwt.SigningMethodRS256, keys.rsa, nil), false},
		{"the public key as a secret", Config{JWTKey: rsaPEM}, sign(t, jwt.SigningMethodHS256, rsaText, nil), false},
		{"the public key as a secret, where there is one", Config{JWTSecret: hmac.JWTSecret, JWTKey: rsaPEM}, sign(t, jwt.SigningMethodHS256, rsaText, nil), false},
		{"a key of another curve", Config{JWTKey: both}, sign(t, jwt.SigningMethodES256, keys.ec["P-256"], nil), false},
		{"another key of the kind", Config{JWTKey: rsaPEM}, sign(t, jwt.SigningMethodRS256, newPrivate(t).rsa, nil), false},
		{"unknown and critical", hmac, critical(t), false},
		{"expired", hmac, hs(jwt.MapClaims{"exp": ago}), false},
		{"never expires", hmac, hs(jwt.MapClaims{"sub": "x"}), false},
		{"expires at a word", hmac, hs(jwt.MapClaims{"exp": "never"}), false},
		{"not yet", hmac, hs(jwt.MapClaims{"exp": hour, "nbf": hour}), false},
		{"for an hour already", hmac, hs(jwt.MapClaims{"exp": hour, "nbf": ago}), true},
		{"one of its audiences", aud, hs(jwt.MapClaims{"exp": hour, "aud": []string{"x", "push"}}), true},
		{"another audience", aud, hs(jwt.MapClaims{"exp": hour, "aud": "x"}), false},
		{"no audience", aud, hs(jwt.MapClaims{"exp": hour}), false},
		{"the issuer", iss, hs(jwt.MapClaims{"exp": hour, "iss": "us"}), true},
		{"another issuer", iss, hs(jwt.MapClaims{"exp": hour, "iss": "them"}), false},
		{"no issuer", iss, hs(jwt.MapClaims{"exp": hour}), false},
		{"a subject that is none", hmac, hs(jwt.MapClaims{"exp": hour, "sub": 5}), false},
		{"no claims", hmac, hs(jwt.MapClaims{}), false},
		{"garbage", hmac, "a.b.c", false},
		{"larger than all that is read", hmac, hs(jwt.MapClaims{"exp": hour, "x": strings.Repeat("x", maxCredentials)}), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			subject, err := checker(t, c.cfg).Check("Bearer " + c.token)
			if c.good != (err == nil) || err != nil && !errors.Is(err, ErrRefused) {
				t.Errorf("%v", err)
			}
			if err != nil && (subject != "" || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), c.token)) {
				t.Errorf("subject %q; %v", subject, err)
			}
		})
	}
	if subject, err := checker(t, hmac).Check("Bearer " + hs(nil)); subject != "pusher" {
		t.Errorf("subject %q, %v", subject, err)
	}
}

// critical is a good token but for its header crit.
func critical(t *testing.T) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix()})
	token.Header["crit"] = []string{"x"}
	text, err := token.SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestBadConfig(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	keys := newPrivate(t)
	der, err := x509.MarshalPKCS8PrivateKey(keys.ed)
	if err != nil {
		t.Fatal(err)
	}
	half := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	small := &rsa.PublicKey{N: new(big.Int).Rsh(keys.rsa.N, 1024), E: keys.rsa.E}
	smallPEM := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(small)}))
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Keys: []string{key, "short"}}, "httpServer.auth.keys: key 2 has 5 characters, accepted are 16 to 16384"},
		{Config{Keys: []string{key + "\n"}}, "httpServer.auth.keys: key 1 has space around it"},
		{Config{Keys: []string{"control\x00characters"}}, "httpServer.auth.keys: key 1 has space around it or control characters"},
		{Config{Keys: []string{key}, KeysFile: write(t, "keys", "# one\n"+key+"\nshort\n")}, "keys, key 2 has 5 characters"},
		{Config{All: true}, "httpServer.auth.all: it needs one of keys"},
		{Config{JWTIssuer: "us"}, "httpServer.auth.jwtIssuer: it needs jwtSecretFile or jwtKeyFile"},
		{Config{Keys: []string{key}, JWTAudience: "push"}, "httpServer.auth.jwtAudience: it needs"},
		{Config{JWTKey: write(t, "k", half)}, `k, part 1: "PRIVATE KEY" is no public key`},
		{Config{JWTKey: write(t, "k", pemOf(t, keys.ed)+half)}, `k, part 2: "PRIVATE KEY" is no public key`},
		{Config{JWTKey: write(t, "k", smallPEM)}, "an RSA key of 1024 bits, 2048 at least"},
		{Config{JWTKey: public(t, keys.ec["P-224"])}, "on the curve P-224, accepted are P-256"},
		{Config{JWTKey: write(t, "k", strings.Replace(pemOf(t, keys.rsa), "MII", "AAA", 1))}, "k, part 1: "},
		{Config{KeysFile: missing}, "httpServer.auth.keysFile"},
		{Config{KeysFile: write(t, "keys", "# none\n")}, "has no key"},
		{Config{JWTSecret: missing}, "httpServer.auth.jwtSecretFile"},
		{Config{JWTSecret: write(t, "s", "short\n")}, "has 5 bytes, 32 at least"},
		{Config{JWTKey: missing}, "httpServer.auth.jwtKeyFile"},
		{Config{JWTKey: write(t, "k", "no PEM")}, "no public key in PEM"},
	} {
		_, err := New(c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.cfg, err)
		} else if strings.Contains(err.Error(), key) {
			t.Errorf("%v shows a key", err)
		}
	}
}

// However a configuration is written out, for a person or a log, it shows no key.
func TestNothingShown(t *testing.T) {
	type outer struct{ Auth Config }
	cfg := outer{Config{Keys: []string{key}}}
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "auth", cfg.Auth, "outer", cfg)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "auth", cfg.Auth, "outer", cfg)
	all := fmt.Sprintf("%v %+v %#v %s", cfg, cfg, cfg, cfg) + fmt.Sprintf("%v %+v %#v %s", cfg.Auth, cfg.Auth, cfg.Auth, cfg.Auth) + string(text) + log.String()
	if strings.Contains(all, key) || strings.Count(all, "auth with 1 keys") != 13 {
		t.Errorf("%s", all)
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
