package cluster

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// A Target is a cluster that runs already, here or elsewhere: goim's or ours.
type Target struct {
	TCP    []string // host:port of comets for TCP clients
	WS     []string // and for WebSocket clients
	TCPTLS []string // the same inside TLS
	WSS    []string
	Push   string // host:port of logic's HTTP API, or its URL: http or https, and what comes before /goim
	// PushKey and PushRoots are set by Secure.
	PushKey   string         // what pushes are authorized with, "" for nothing; it is shown nowhere
	PushRoots *x509.CertPool // what the certificate of Push is checked against; nil: what the system trusts
	// Pages are the metrics of its processes, as far as they are given.
	Pages []Page
}

// Here returns the IP address of this machine at which the clients find the target; "" where one of their addresses is
// another machine's, or a name other than localhost.
func (t *Target) Here() string {
	own := map[string]bool{}
	addrs, _ := net.InterfaceAddrs() // without them only what is loopback is known to be here
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			own[n.IP.String()] = true
		}
	}
	at := ""
	for _, addr := range slices.Concat(t.TCP, t.WS, t.TCPTLS, t.WSS) {
		host, _, _ := net.SplitHostPort(addr) // ParseTarget has looked
		if host == "localhost" {
			host = "127.0.0.1"
		}
		ip := net.ParseIP(host)
		if ip == nil || !ip.IsLoopback() && !own[ip.String()] {
			return ""
		}
		at = cmp.Or(at, ip.String())
	}
	return at
}

// A Page is where a process of a target says what it does and uses.
type Page struct {
	Role string // as it was given, or ""
	URL  string
	// Profiles says that it is the folder of Go's profiles, /debug/pprof, and not metrics in
	// Prometheus' text format. Then the role is given.
	Profiles bool
}

// host returns the page's host and port.
func (p Page) host() string {
	u, err := url.Parse(p.URL)
	if err != nil {
		return p.URL // parsePage has refused it
	}
	return u.Host
}

const targetForm = "tcp=HOST:PORT,ws=HOST:PORT,push=[http[s]://]HOST:PORT,metrics=[ROLE@]HOST:PORT,pprof=ROLE@HOST:PORT"

// ParseTarget reads a target as "tcp=HOST:PORT,ws=HOST:PORT,push=HOST:PORT"; tcp, ws,
// tcp+tls and wss may be there several times, and must not all be left out. push may be a URL
// with http or https, with a path where a proxy has logic behind one. For each of its
// processes metrics=[ROLE@]HOST:PORT may be there, or metrics=[ROLE@]URL where the page is not
// /metrics; or, for one that has no metrics but Go's profiles in /debug/pprof,
// pprof=ROLE@HOST:PORT or a URL.
func ParseTarget(text string) (*Target, error) {
	var t Target
	for item := range strings.SplitSeq(text, ",") {
		name, addr, ok := strings.Cut(strings.TrimSpace(item), "=")
		if (name == "metrics" || name == "pprof") && ok {
			page, err := parsePage(addr, name == "pprof")
			if err != nil {
				return nil, fmt.Errorf("target %q: %w", item, err)
			}
			if slices.ContainsFunc(t.Pages, func(p Page) bool { return p.URL == page.URL }) {
				return nil, fmt.Errorf("target %q: it is there twice", item)
			}
			t.Pages = append(t.Pages, page)
			continue
		}
		if name == "push" && ok {
			if t.Push != "" {
				return nil, errors.New("target: push is there twice")
			}
			var err error
			if t.Push, err = parsePush(addr); err != nil {
				return nil, fmt.Errorf("target: push: %w", err)
			}
			continue
		}
		if !ok || !hostPort(addr) {
			return nil, fmt.Errorf("target %q: write it as %s", item, targetForm)
		}
		switch name {
		case "tcp":
			t.TCP = append(t.TCP, addr)
		case "ws":
			t.WS = append(t.WS, addr)
		case "tcp+tls":
			t.TCPTLS = append(t.TCPTLS, addr)
		case "wss":
			t.WSS = append(t.WSS, addr)
		default:
			return nil, fmt.Errorf("target %q: %q is none of tcp, ws, tcp+tls, wss, push, metrics, pprof", item, name)
		}
	}
	switch {
	case t.Push == "":
		return nil, errors.New("target: push is missing, the address of logic's HTTP API")
	case len(t.TCP)+len(t.WS)+len(t.TCPTLS)+len(t.WSS) == 0:
		return nil, errors.New("target: tcp, ws, tcp+tls and wss are all missing, one address of a comet is needed")
	}
	return &t, nil
}

// Secure sets how pushes reach logic: with a key or JSON web token in the header Authorization,
// "" for none, and over TLS with a certificate that roots have signed, nil for the system's.
func (t *Target) Secure(key string, roots *x509.CertPool) error {
	if strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("the push key is several lines, or has other control characters, which no request can send")
	}
	if roots != nil && !strings.HasPrefix(t.Push, "https://") {
		return fmt.Errorf("authorities are given for the certificate of push=%s, which has none without https://", t.Push)
	}
	t.PushKey, t.PushRoots = key, roots
	return nil
}

// parsePush returns text as Target.Push has it.
func parsePush(text string) (string, error) {
	if hostPort(text) {
		return text, nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("%q is none of HOST:PORT, http://HOST:PORT and https://HOST:PORT, the latter two with a path or without", text)
	case u.User != nil:
		return "", errors.New("a URL with a user or password would be written into the results; give the key in a file or the environment")
	case u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("%q has a query or a fragment; accepted is a path alone", text)
	}
	return u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

func parsePage(text string, profiles bool) (Page, error) {
	// A role has none of the signs that a URL with a user's name has before its @.
	role, at, found := strings.Cut(text, "@")
	if !found || strings.ContainsAny(role, ":/") {
		role, at = "", text
	} else if !slices.Contains(roles(), role) {
		return Page{}, fmt.Errorf("%q is none of the roles %s", role, strings.Join(roles(), ", "))
	}
	if profiles && role == "" {
		return Page{}, fmt.Errorf("its role is missing, which profiles don't tell: pprof=%s@%s", RoleComet, at)
	}
	if hostPort(at) {
		path := "/metrics"
		if profiles {
			path = "/debug/pprof"
		}
		return Page{role, "http://" + at + path, profiles}, nil
	}
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Page{}, fmt.Errorf("%q is neither HOST:PORT nor a URL with http or https", at)
	}
	return Page{role, strings.TrimSuffix(at, "/"), profiles}, nil
}

func hostPort(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	return err == nil && host != "" && port != "" && !strings.ContainsRune(addr, '/')
}
