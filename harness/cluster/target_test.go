package cluster

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestParseTarget(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"tcp=a:1,push=b:2", "[a:1] [] b:2 []"},
		{"tcp=a:1, tcp=a:3, ws=[::1]:4, push=b:2", "[a:1 a:3] [[::1]:4] b:2 []"},
		{"ws=a:1,push=b:2,metrics=a:5,metrics=comet@[::1]:6", "[] [a:1] b:2 [{ http://a:5/metrics false} {comet http://[::1]:6/metrics false}]"},
		{"ws=a:1,push=b:2,metrics=job@https://u:p@a/x?y=1,metrics=http://u@a:7/m", "[] [a:1] b:2 [{job https://u:p@a/x?y=1 false} { http://u@a:7/m false}]"},
		{"ws=a:1,push=b:2,pprof=comet@a:5,pprof=logic@http://a:6/p/", "[] [a:1] b:2 [{comet http://a:5/debug/pprof true} {logic http://a:6/p true}]"},
		{"tcp=a:1,push=http://b:2", "[a:1] [] http://b:2 []"},
		{"tcp=a:1,push=https://b", "[a:1] [] https://b []"},
		{"tcp=a:1,push=https://[::1]:2/a%20b/c//", "[a:1] [] https://[::1]:2/a%20b/c []"},
		{"tcp=a:1,push=b", `target: push: "b" is none of HOST:PORT, http://HOST:PORT and https://HOST:PORT`},
		{"tcp=a:1,push=ftp://b:2", `"ftp://b:2" is none of HOST:PORT`},
		{"tcp=a:1,push=https://:2", `"https://:2" is none of HOST:PORT`},
		{"tcp=a:1,push=https://u:secret@b", "target: push: a URL with a user or password would be written into the results"},
		{"tcp=a:1,push=http://b:2/?key=1", "has a query or a fragment"},
		{"tcp=a:1", "push is missing"},
		{"push=a:1,metrics=a:2", "tcp, ws, tcp+tls and wss are all missing"},
		{"tcp=a:1,push=b:2,push=b:3", "push is there twice"},
		{"tcp=a:1,push=b:2,metrics=a:2,metrics=a:2", "it is there twice"},
		{"udp=a:1,push=b:2", `"udp" is none of tcp, ws, tcp+tls, wss, push, metrics, pprof`},
		{"tcp=a,push=b:2", "write it as tcp=HOST:PORT"},
		{"tcp=a:1,push=b:2,metrics=a", `"a" is neither HOST:PORT nor a URL`},
		{"tcp=a:1,push=b:2,metrics=a:5/metrics", "neither HOST:PORT nor a URL"},
		{"tcp=a:1,push=b:2,pprof=a:5", "its role is missing, which profiles don't tell: pprof=comet@a:5"},
		{"tcp=a:1,push=b:2,metrics=redis@a:5", `"redis" is none of the roles logic, job, comet, services`},
	} {
		target, err := ParseTarget(c.text)
		got := fmt.Sprint(err)
		if err == nil {
			got = strings.Join([]string{fmt.Sprint(target.TCP), fmt.Sprint(target.WS), target.Push, fmt.Sprint(target.Pages)}, " ")
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %s, want %s", c.text, got, c.want)
		}
	}
}

func TestSecure(t *testing.T) {
	roots := x509.NewCertPool()
	for _, c := range []struct {
		name, push, key string
		roots           *x509.CertPool
		want            string
	}{
		{"a key without TLS", "b:2", "k", nil, "<nil>"},
		{"TLS", "https://b", "k", roots, "<nil>"},
		{"a key of two lines", "b:2", "k\nHost: x", nil, "the push key is several lines"},
		{"authorities without TLS", "http://b:2", "", roots, "authorities are given for the certificate of push=http://b:2"},
	} {
		target := &Target{Push: c.push}
		err := target.Secure(c.key, c.roots)
		if !strings.Contains(fmt.Sprint(err), c.want) || err == nil && (target.PushKey != c.key || target.PushRoots != c.roots) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// serve shows metrics and returns their URL.
func serve(t *testing.T, text string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }))
	t.Cleanup(s.Close)
	return s.URL
}

// A target's processes are told apart by what their metrics say, and those of one process are
// counted once.
func TestConnect(t *testing.T) {
	process := func(start, cpu string) string {
		return "process_start_time_seconds " + start + "\nprocess_cpu_seconds_total " + cpu + "\nprocess_resident_memory_bytes 1048576 1700000000000\n"
	}
	target := &Target{Push: "a:1", TCP: []string{"a:2"}, Pages: []Page{
		{URL: serve(t, process("100.5", "3.25")+"barrage_comet_sessions{transport=\"tcp\"} 7\n")},
		{URL: serve(t, process("200.5", "1")+"barrage_comet_sessions{transport=\"tcp\"} 5\n")},
		{URL: serve(t, process("100.5", "3.25")+"barrage_logic_rooms 2\n")},
		{Role: RoleJob, URL: serve(t, process("300.5", "2"))},
		{URL: serve(t, "up 1\n")},
	}}
	c, err := Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	usage := c.Usage(t.Context())
	var got []string
	for _, p := range c.Processes() {
		if !p.Remote() || !p.Here() || !strings.HasPrefix(p.Name, p.Role+"@127.0.0.1:") {
			t.Errorf("process %s, role %s", p.Name, p.Role)
		}
		u, known := usage[p.Name]
		got = append(got, fmt.Sprint(p.Role, " ", u.CPU(), " ", u.RSS, " ", known))
	}
	want := "logic+comet 3.25s 1048576 true, comet 1s 1048576 true, job 2s 1048576 true, server 0s 0 false"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got %s, want %s", text, want)
	}
	sum := Metrics{}
	for _, p := range c.Role(RoleComet) {
		m, err := p.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sum.Add(m)
	}
	if n := sum.Sum("barrage_comet_sessions"); n != 12 || len(c.Role(RoleLogic)) != 1 || len(c.Role(RoleServices)) != 0 {
		t.Errorf("%g sessions on the comets, want 12", n)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

func TestConnectSaysWhatItCantRead(t *testing.T) {
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for url, want := range map[string]string{missing.URL: "metrics says 404", gone.URL: "connection refused"} {
		_, err := Connect(t.Context(), &Target{Pages: []Page{{URL: url}}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), strings.TrimPrefix(url, "http://")) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := Connect(ctx, &Target{Pages: []Page{{URL: missing.URL}}}); err == nil {
		t.Error("connected after the end of its context")
	}
}

func TestTargetIsHere(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"tcp=127.0.0.1:1,push=elsewhere:2", "127.0.0.1"},
		{"ws=localhost:1,wss=127.3.0.1:3,push=a:2", "127.0.0.1"},
		{"tcp+tls=[::1]:1,push=a:2", "::1"},
		{"tcp=127.0.0.1:1,ws=192.0.2.1:3,push=a:2", ""},
		{"tcp=comet-1:1,push=a:2", ""},
	} {
		target, err := ParseTarget(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := target.Here(); got != c.want {
			t.Errorf("%s is at %q, want %q", c.text, got, c.want)
		}
	}
}
