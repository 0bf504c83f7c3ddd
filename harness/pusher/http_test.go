package pusher

import (
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"barrage/harness/ledger"
)

// The address may be a URL: TLS is spoken, paths go behind the URL's, and a key goes with every push.
func TestHowThePushAPIIsReached(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{} // requests by what they were
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		seen[fmt.Sprintf("%s %s %q tls=%v %d %v", r.Host, r.URL.Path, r.Header["Authorization"], r.TLS != nil, len(body), err)]++
		io.WriteString(w, `{"code":0}`)
	})
	plain, secure := httptest.NewServer(handler), httptest.NewUnstartedServer(handler)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it would have a line for each refused handshake
	secure.StartTLS()
	defer plain.Close()
	defer secure.Close()
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	plainAt, secureAt := strings.TrimPrefix(plain.URL, "http://"), strings.TrimPrefix(secure.URL, "https://")
	for _, c := range []struct {
		name   string
		way    HTTP
		want   string // of every request
		failed string // why none came, "" where all did
	}{
		{"host and port", HTTP{Addr: plainAt}, plainAt + ` /goim/push/room [] tls=false 64 <nil>`, ""},
		{"a key", HTTP{Addr: plainAt, Key: "k/e+y="}, plainAt + ` /goim/push/room ["Bearer k/e+y="] tls=false 64 <nil>`, ""},
		{"a path", HTTP{Addr: plain.URL + "/a%20b"}, plainAt + ` /a b/goim/push/room [] tls=false 64 <nil>`, ""},
		{"TLS", HTTP{Addr: secure.URL + "/chat", Key: "k", Roots: roots}, secureAt + ` /chat/goim/push/room ["Bearer k"] tls=true 64 <nil>`, ""},
		{"TLS that the system doesn't trust", HTTP{Addr: secure.URL}, "", "certificate signed by unknown authority"},
		{"TLS with somebody who doesn't speak it", HTTP{Addr: "https://" + plainAt}, "", "first record does not look like a TLS handshake"},
	} {
		t.Run(c.name, func(t *testing.T) {
			clear(seen)
			c.way.Timeout = time.Minute
			r, err := Run(t.Context(), Config{Ways: map[Via]Way{ViaHTTP: c.way}, Streams: streams(2, 100, 100*time.Millisecond)}, ledger.Now())
			if err != nil {
				t.Fatal(err)
			}
			got := r.Total(false)
			if c.failed != "" {
				if got.Failed != 10 || len(r.Errors) == 0 || !strings.Contains(r.Errors[0], "not sent: ") || !strings.Contains(r.Errors[0], c.failed) {
					t.Errorf("%+v, errors %q, want %q", got, r.Errors, c.failed)
				}
				return
			}
			if got.Acknowledged != 10 || len(seen) != 1 || seen[c.want] != 10 {
				t.Errorf("%+v, errors %q, seen %v, want %s", got, r.Errors, seen, c.want)
			}
		})
	}
}

// A server that takes connections and never says a word of TLS holds its own lane up, each time
// for the time-out, and the lane beside it not at all.
func TestAHandshakeThatNeverEnds(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	addr, f := start(t, nil)
	list := streams(2, 100, 200*time.Millisecond)
	list[1].Via = ViaKafka // which is here a name for the other server
	r, err := Run(t.Context(), Config{Streams: list, Ways: map[Via]Way{
		ViaHTTP:  HTTP{Addr: addr, Timeout: time.Minute},
		ViaKafka: HTTP{Addr: "https://" + silent.Addr().String(), Timeout: 50 * time.Millisecond},
	}}, ledger.Now())
	if err != nil {
		t.Fatal(err)
	}
	if good, bad := r.Streams[0], r.Streams[1]; good.Acknowledged != 10 || len(f.stamps[0]) != 10 || bad.Failed != 10 {
		t.Errorf("good %+v, bad %+v, errors %q", good.Counts, bad.Counts, r.Errors)
	}
}
