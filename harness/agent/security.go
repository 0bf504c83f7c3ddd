package agent

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Security is how an agent and its coordinator know each other: by certificates on both
// sides (mutual TLS), or by a token that both have, over TLS or within one machine.
// Without either they only talk within one machine.
type Security struct {
	Token    string // "" for none
	Cert     string // PEM file of this side's certificate
	Key      string // and of its key
	CA       string // PEM file of the authorities that sign the other side's certificate
	Insecure bool   // within one machine the token may go without TLS
}

// minToken is the least length of a token: a guess must not be one of few.
const minToken = 16

// Check says which fields don't go together.
func (s Security) Check() error {
	switch {
	case (s.Cert == "") != (s.Key == ""):
		return errors.New("a certificate (-cert) and its key (-key) belong together; one of them is missing")
	case s.Token != "" && len(s.Token) < minToken:
		return fmt.Errorf("the token has %d characters, at least %d are wanted", len(s.Token), minToken)
	case s.Insecure && s.Token == "":
		return errors.New("-insecure is about a token, and there is none")
	}
	return nil
}

// serverOptions returns what protects a server at addr, or an error where that is too
// little.
func (s Security) serverOptions(addr net.Addr) ([]grpc.ServerOption, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	switch {
	case s.Cert == "" && s.CA != "":
		return nil, errors.New("the coordinator's certificate (-ca) can only be asked for over TLS: give this side's -cert and -key too")
	case !IsLoopback(addr.String()) && (s.Cert == "" || s.CA == "" && s.Token == ""):
		return nil, fmt.Errorf("%s is within others' reach: give -cert, -key and -ca (mutual TLS), or -cert, -key and a token; without them an agent listens on loopback alone", addr)
	case s.Token != "" && s.Cert == "" && !s.Insecure:
		return nil, errors.New("a token goes over TLS alone: give -cert and -key, or -insecure within one machine")
	}
	opts := []grpc.ServerOption{grpc.ChainUnaryInterceptor(s.checkUnary), grpc.ChainStreamInterceptor(s.checkStream)}
	if s.Cert == "" {
		return opts, nil
	}
	if _, err := s.pair(); err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Read for each connection, so that a renewed one is taken.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.pair() },
	}
	if s.CA != "" {
		pool, err := s.authorities()
		if err != nil {
			return nil, err
		}
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, pool
	}
	return append(opts, grpc.Creds(credentials.NewTLS(cfg))), nil
}

// dialOptions returns how a coordinator goes to the agent at addr, or an error where it
// would go unprotected through a network.
func (s Security) dialOptions(addr string) ([]grpc.DialOption, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	overTLS := s.overTLS()
	if !overTLS && !IsLoopback(addr) {
		return nil, errors.New("it is on another machine: give -ca with -cert and -key (mutual TLS), or -ca and a token")
	}
	var opts []grpc.DialOption
	if s.Token != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(tokenCredentials{s.Token, overTLS}))
	}
	if !overTLS {
		return append(opts, grpc.WithTransportCredentials(insecure.NewCredentials())), nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if s.CA != "" {
		pool, err := s.authorities()
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = pool
	}
	if s.Cert != "" {
		pair, err := s.pair()
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{*pair}
	}
	return append(opts, grpc.WithTransportCredentials(credentials.NewTLS(cfg))), nil
}

// overTLS says whether a coordinator speaks TLS.
func (s Security) overTLS() bool { return s.CA != "" || s.Cert != "" || s.Token != "" && !s.Insecure }

func (s Security) pair() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s with key %s: %w", s.Cert, s.Key, err)
	}
	return &pair, nil
}

func (s Security) authorities() (*x509.CertPool, error) {
	text, err := os.ReadFile(s.CA)
	if err != nil {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read authorities: %s has no PEM certificate", s.CA)
	}
	return pool, nil
}

// IsLoopback says whether a host:port lies within this machine.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// tokenCredentials sends a token with every call.
type tokenCredentials struct {
	token  string
	secure bool
}

const (
	tokenHeader = "authorization"
	tokenScheme = "Bearer "
)

// GetRequestMetadata returns the token's header.
func (c tokenCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{tokenHeader: tokenScheme + c.token}, nil
}

// RequireTransportSecurity says whether the token may only go over TLS.
func (c tokenCredentials) RequireTransportSecurity() bool { return c.secure }

// authorize checks a call's token.
func (s Security) authorize(ctx context.Context) error {
	if s.Token == "" {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	sent := ""
	if values := md.Get(tokenHeader); len(values) == 1 {
		sent, _ = strings.CutPrefix(values[0], tokenScheme)
	}
	// Of equal length, so that the time tells nothing of the token's either.
	want, got := sha256.Sum256([]byte(s.Token)), sha256.Sum256([]byte(sent))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return status.Error(codes.Unauthenticated, "the token is missing or wrong: the agent and the coordinator need the same one")
	}
	return nil
}

func (s Security) checkUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := s.authorize(ctx); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (s Security) checkStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := s.authorize(stream.Context()); err != nil {
		return err
	}
	return next(srv, stream)
}
