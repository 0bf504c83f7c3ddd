// Package auth says who may push: whoever has a bearer key from the configuration, or a JSON
// web token that one of its keys has signed.
package auth

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// Config is the section httpServer.auth of logic's file. With nothing in it everybody may
// push, as with goim.
type Config struct {
	Keys        []string `toml:"keys" doc:"Bearer keys that may push, 16 characters at least. None of keys, keysFile, jwtSecretFile and jwtKeyFile: everybody may push."`
	KeysFile    string   `toml:"keysFile" doc:"File of more such keys, one a line; lines that begin with # are comments."`
	JWTSecret   string   `toml:"jwtSecretFile" doc:"File with the secret of JSON web tokens signed with HS256, HS384 or HS512, 32 bytes at least."`
	JWTKey      string   `toml:"jwtKeyFile" doc:"PEM file with the public key of JSON web tokens signed with RS256, PS256, ES256 or EdDSA (and their larger forms)."`
	JWTAudience string   `toml:"jwtAudience" doc:"Audience that a token must have; empty: any."`
	JWTIssuer   string   `toml:"jwtIssuer" doc:"Issuer that a token must have; empty: any."`
	All         bool     `toml:"all" doc:"Whether the routes that read (online and nodes) ask for a key as well. Clients read nodes."`
}

// String shows none of the keys.
func (c Config) String() string {
	return fmt.Sprintf("auth with %d keys, keysFile %q, jwtSecretFile %q, jwtKeyFile %q", len(c.Keys), c.KeysFile, c.JWTSecret, c.JWTKey)
}

// Least lengths of secrets.
const (
	minKey    = 16
	minSecret = 32
)

// What is wrong with a request.
var (
	ErrMissing = errors.New("authorization: missing; send Authorization: Bearer KEY")
	ErrRefused = errors.New("authorization: the key or token is not accepted")
)

// A Checker knows who may push. It doesn't change.
type Checker struct {
	keys    [][sha256.Size]byte
	parser  *jwt.Parser
	secret  []byte           // nil: no such tokens
	public  crypto.PublicKey // nil: no such tokens
	all     bool
	methods []string
}

// New reads the files that cfg names. Its errors name the setting, and no secret.
func New(cfg Config) (*Checker, error) {
	c := &Checker{all: cfg.All}
	keys := cfg.Keys
	if cfg.KeysFile != "" {
		more, err := readKeys(cfg.KeysFile)
		if err != nil {
			return nil, err
		}
		keys = append(keys[:len(keys):len(keys)], more...)
	}
	for i, key := range keys {
		if len(key) < minKey {
			return nil, fmt.Errorf("httpServer.auth.keys: key %d has %d characters, %d at least are needed", i+1, len(key), minKey)
		}
		c.keys = append(c.keys, sha256.Sum256([]byte(key)))
	}
	if cfg.JWTSecret != "" {
		secret, err := os.ReadFile(cfg.JWTSecret)
		if err != nil {
			return nil, fmt.Errorf("httpServer.auth.jwtSecretFile: %w", err)
		}
		if secret = bytes.TrimSpace(secret); len(secret) < minSecret {
			return nil, fmt.Errorf("httpServer.auth.jwtSecretFile: %s has %d bytes, %d at least are needed", cfg.JWTSecret, len(secret), minSecret)
		}
		c.secret = secret
		c.methods = append(c.methods, "HS256", "HS384", "HS512")
	}
	if cfg.JWTKey != "" {
		if err := c.readPublic(cfg.JWTKey); err != nil {
			return nil, fmt.Errorf("httpServer.auth.jwtKeyFile: %w", err)
		}
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(c.methods), jwt.WithExpirationRequired()}
	if cfg.JWTAudience != "" {
		options = append(options, jwt.WithAudience(cfg.JWTAudience))
	}
	if cfg.JWTIssuer != "" {
		options = append(options, jwt.WithIssuer(cfg.JWTIssuer))
	}
	c.parser = jwt.NewParser(options...)
	return c, nil
}

func readKeys(file string) (keys []string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("httpServer.auth.keysFile: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); line != "" && line[0] != '#' {
			keys = append(keys, line)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("httpServer.auth.keysFile: %s has no key", file)
	}
	return keys, nil
}

// readPublic reads a public key and says which methods go with it: a token can't choose
// another kind of key for itself.
func (c *Checker) readPublic(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if key, err := jwt.ParseRSAPublicKeyFromPEM(text); err == nil {
		c.public = key
		c.methods = append(c.methods, "RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
		return nil
	}
	if key, err := jwt.ParseECPublicKeyFromPEM(text); err == nil {
		c.public = key
		c.methods = append(c.methods, "ES256", "ES384", "ES512")
		return nil
	}
	if key, err := jwt.ParseEdPublicKeyFromPEM(text); err == nil {
		c.public = key
		c.methods = append(c.methods, "EdDSA")
		return nil
	}
	return fmt.Errorf("%s: no RSA, ECDSA or Ed25519 public key in PEM", file)
}

// Open says that everybody may push.
func (c *Checker) Open() bool { return len(c.keys) == 0 && len(c.methods) == 0 }

// All says that the routes that read ask for a key as well.
func (c *Checker) All() bool { return c.all && !c.Open() }

// Check takes the value of the header Authorization and returns whose it is, for the log: a
// token's subject, or a few digits that tell keys apart. The error is ErrMissing or wraps
// ErrRefused.
func (c *Checker) Check(authorization string) (subject string, err error) {
	if c.Open() {
		return "", nil
	}
	scheme, credentials, ok := strings.Cut(strings.TrimSpace(authorization), " ")
	credentials = strings.TrimSpace(credentials)
	if !ok || !strings.EqualFold(scheme, "Bearer") || credentials == "" {
		return "", ErrMissing
	}
	// Hashes have one length, and every key is compared, so that the time tells nothing.
	sum, found := sha256.Sum256([]byte(credentials)), 0
	for i := range c.keys {
		found |= subtle.ConstantTimeCompare(sum[:], c.keys[i][:])
	}
	if found == 1 {
		return "key " + hex.EncodeToString(sum[:3]), nil
	}
	if len(c.methods) == 0 || strings.Count(credentials, ".") != 2 {
		return "", ErrRefused
	}
	token, err := c.parser.Parse(credentials, c.keyOf)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrRefused, err)
	}
	subject, err = token.Claims.GetSubject()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return subject, nil
}

// keyOf returns the key for a token's method, which is one of ours.
func (c *Checker) keyOf(token *jwt.Token) (any, error) {
	if _, symmetric := token.Method.(*jwt.SigningMethodHMAC); symmetric {
		return c.secret, nil
	}
	return c.public, nil
}
