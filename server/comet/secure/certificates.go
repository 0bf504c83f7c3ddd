package secure

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Files are the PEM files of certificates and their keys, in pairs by their order. A
// certificate's file has the intermediate ones behind it.
type Files struct {
	Certificates []string
	Keys         []string
}

// Certificates are a server's certificates, read again when their files change.
type Certificates struct {
	log      *slog.Logger
	reloads  prometheus.Counter
	failures prometheus.Counter

	mu    sync.Mutex
	files Files             // mu guards
	pairs []tls.Certificate // mu guards; never changed in place
	seen  []stamp           // mu guards; the files when pairs were read
}

// NewCertificates reads files. The error names the file at fault. Reloads are counted in reg.
func NewCertificates(files Files, log *slog.Logger, reg prometheus.Registerer) (*Certificates, error) {
	reloads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "barrage_comet_certificate_reloads_total", Help: "Times that changed certificate files were read, by result."}, []string{"result"})
	reg.MustRegister(reloads)
	c := &Certificates{log: log, reloads: reloads.WithLabelValues("ok"), failures: reloads.WithLabelValues("failed")}
	return c, c.Use(files)
}

// Use reads other files, for connections that begin from now on. On an error the old ones
// stay.
func (c *Certificates) Use(files Files) error {
	if len(files.Certificates) == 0 || len(files.Certificates) != len(files.Keys) {
		return fmt.Errorf("%d certificate files and %d key files; they belong in pairs, at least one", len(files.Certificates), len(files.Keys))
	}
	seen := stampsOf(files) // before they are read: what changes meanwhile is seen next time
	var pairs []tls.Certificate
	for i, file := range files.Certificates {
		for _, name := range []string{file, files.Keys[i]} {
			if _, err := os.ReadFile(name); err != nil {
				return fmt.Errorf("read certificates: %w", err)
			}
		}
		pair, err := tls.LoadX509KeyPair(file, files.Keys[i])
		if err != nil {
			return fmt.Errorf("read certificate %s with key %s: %w", file, files.Keys[i], err)
		}
		pairs = append(pairs, pair)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files, c.pairs, c.seen = files, pairs, seen
	return nil
}

// Watch reads the files again when they change, looking every so often until ctx ends.
// Files that can't be used leave the certificates as they are, with a line in the log.
func (c *Certificates) Watch(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.reloadIfChanged()
		}
	}
}

func (c *Certificates) reloadIfChanged() {
	c.mu.Lock()
	files, seen := c.files, c.seen
	c.mu.Unlock()
	now := stampsOf(files)
	if slices.Equal(now, seen) {
		return
	}
	if err := c.Use(files); err != nil {
		c.failures.Inc()
		c.log.Error("the changed certificate files can't be used; the old certificates stay", "err", err)
		c.mu.Lock()
		c.seen = now // said once
		c.mu.Unlock()
		return
	}
	c.reloads.Inc()
	c.log.Info("certificates are read anew", "files", files.Certificates)
}

// TLS returns what connections begin with: TLS 1.2 and up, the given application protocols
// (ALPN) and no others, and the certificate that fits the name that the client asks for.
func (c *Certificates) TLS(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		NextProtos:                  protocols,
		GetCertificate:              c.pick,
		DynamicRecordSizingDisabled: true, // a frame is of use when it is whole; small records only cost more sends
	}
}

// pick returns the first certificate that the client can use, or the first of all.
func (c *Certificates) pick(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	pairs := c.pairs
	c.mu.Unlock()
	if len(pairs) == 0 {
		return nil, errors.New("no certificate")
	}
	for i := range pairs {
		if hello.SupportsCertificate(&pairs[i]) == nil {
			return &pairs[i], nil
		}
	}
	return &pairs[0], nil
}

// A stamp tells whether a file, or what a link leads to, is another one than before.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

func stampsOf(files Files) []stamp {
	var list []stamp
	for _, name := range slices.Concat(files.Certificates, files.Keys) {
		info, err := os.Stat(name)
		if err != nil {
			list = append(list, stamp{})
			continue
		}
		s := stamp{modified: info.ModTime(), size: info.Size()}
		if sys, ok := info.Sys().(*syscall.Stat_t); ok {
			s.inode = sys.Ino
		}
		list = append(list, s)
	}
	return list
}
