package discovery

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// A node that takes connections and never answers is left for the next one.
func TestHangingNodeIsLeft(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // its backlog accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c := NewClient(Config{Nodes: []string{ln.Addr().String(), "127.0.0.1:1"}}, DefaultEnv(), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.call(ctx, http.MethodGet, "fetch", url.Values{}, nil); err == nil {
		t.Fatal("a node that never answers answered")
	}
	if n := c.node.Load(); n != 1 {
		t.Errorf("node %d is in use, want the next", n)
	}
}
