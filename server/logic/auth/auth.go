// Package auth says who may push: whoever has a bearer key from the configuration, or a JSON
// web token that one of its keys has signed.
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// Config is the section httpServer.auth of logic's file. With nothing in it everybody may
// push, as with goim.
type Config struct {
	Keys        []string `toml:"keys" secret:"yes" doc:"Bearer keys that may push, 16 characters at least. None of keys, keysFile, jwtSecretFile and jwtKeyFile: everybody may push."`
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

// GoString is String: the verb %#v shows no key either.
func (c Config) GoString() string { return c.String() }

// MarshalJSON is String: a log in JSON shows no key either.
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.String()) }

// Bounds of secrets and of what is sent.
const (
	minKey         = 16       // characters of a key
	minSecret      = 32       // bytes
	maxCredentials = 16 << 10 // bytes, all that is read of a request
)

// What is wrong with a request.
var (
	ErrMissing = errors.New("authorization: missing; send Authorization: Bearer KEY")
	ErrRefused = errors.New("authorization: the key or token is not accepted")
)

// A Checker knows who may push. It doesn't change.
type Checker struct {
	keys   [][sha256.Size]byte
	parser *jwt.Parser
	tokens methods
	all    bool
}

// New reads the files that cfg names. Its errors name the setting, and no secret.
func New(cfg Config) (*Checker, error) {
	c := &Checker{all: cfg.All, tokens: methods{}}
	if err := c.addKeys("keys", "key", cfg.Keys); err != nil {
		return nil, err
	}
	if cfg.KeysFile != "" {
		if err := c.readKeys(cfg.KeysFile); err != nil {
			return nil, err
		}
	}
	if cfg.JWTSecret != "" {
		if err := c.tokens.readSecret(cfg.JWTSecret); err != nil {
			return nil, fmt.Errorf("httpServer.auth.jwtSecretFile: %w", err)
		}
	}
	if cfg.JWTKey != "" {
		if err := c.tokens.readPublic(cfg.JWTKey); err != nil {
			return nil, fmt.Errorf("httpServer.auth.jwtKeyFile: %w", err)
		}
	}
	// Who sets one of these means that not everybody may do everything.
	for _, needs := range []struct {
		setting, what string
		useless       bool
	}{
		{"jwtAudience", "it needs jwtSecretFile or jwtKeyFile", cfg.JWTAudience != "" && len(c.tokens) == 0},
		{"jwtIssuer", "it needs jwtSecretFile or jwtKeyFile", cfg.JWTIssuer != "" && len(c.tokens) == 0},
		{"all", "it needs one of keys, keysFile, jwtSecretFile and jwtKeyFile", cfg.All && c.Open()},
	} {
		if needs.useless {
			return nil, fmt.Errorf("httpServer.auth.%s: %s", needs.setting, needs.what)
		}
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(c.tokens.names()), jwt.WithExpirationRequired()}
	if cfg.JWTAudience != "" {
		options = append(options, jwt.WithAudience(cfg.JWTAudience))
	}
	if cfg.JWTIssuer != "" {
		options = append(options, jwt.WithIssuer(cfg.JWTIssuer))
	}
	c.parser = jwt.NewParser(options...)
	return c, nil
}

// readKeys reads a file of keys.
func (c *Checker) readKeys(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("httpServer.auth.keysFile: %w", err)
	}
	var keys []string
	for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			keys = append(keys, line)
		}
	}
	if len(keys) == 0 {
		return fmt.Errorf("httpServer.auth.keysFile: %s has no key", file)
	}
	return c.addKeys("keysFile", file+", key", keys)
}

// addKeys takes keys from a setting. In an error a key is named by where it stands, since it
// is a secret although it is a bad one.
func (c *Checker) addKeys(setting, where string, keys []string) error {
	for i, key := range keys {
		if len(key) < minKey || len(key) > maxCredentials {
			return fmt.Errorf("httpServer.auth.%s: %s %d has %d characters, accepted are %d to %d", setting, where, i+1, len(key), minKey, maxCredentials)
		}
		if strings.TrimSpace(key) != key || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("httpServer.auth.%s: %s %d has space around it or control characters, which no request can send", setting, where, i+1)
		}
		if sum := sha256.Sum256([]byte(key)); !slices.Contains(c.keys, sum) {
			c.keys = append(c.keys, sum)
		}
	}
	return nil
}

// Open says that everybody may push.
func (c *Checker) Open() bool { return len(c.keys) == 0 && len(c.tokens) == 0 }

// All says that the routes that read ask for a key as well.
func (c *Checker) All() bool { return c.all }

// Check takes the value of the header Authorization and returns whose it is, for the log: a
// token's subject, or a few digits that tell keys apart. The error is ErrMissing or wraps
// ErrRefused, and has nothing of a secret in it.
func (c *Checker) Check(authorization string) (subject string, err error) {
	if c.Open() {
		return "", nil
	}
	scheme, credentials, ok := strings.Cut(strings.TrimSpace(authorization), " ")
	credentials = strings.TrimSpace(credentials)
	if !ok || !strings.EqualFold(scheme, "Bearer") || credentials == "" {
		return "", ErrMissing
	}
	if len(credentials) > maxCredentials {
		return "", ErrRefused
	}
	// Hashes have one length, and every key is compared, so that the time tells nothing.
	sum, found := sha256.Sum256([]byte(credentials)), 0
	for i := range c.keys {
		found |= subtle.ConstantTimeCompare(sum[:], c.keys[i][:])
	}
	if found == 1 {
		return "key " + hex.EncodeToString(sum[:3]), nil
	}
	if len(c.tokens) == 0 || strings.Count(credentials, ".") != 2 {
		return "", ErrRefused
	}
	token, err := c.parser.Parse(credentials, c.tokens.keyOf)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrRefused, err)
	}
	subject, err = token.Claims.GetSubject()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return subject, nil
}
