package console

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// guard stands before every handler. It refuses what another web page may have sent: a
// request by a foreign name (a page's name that was made to point here, DNS rebinding) and
// a POST that doesn't say that it comes from this page. And it tells the browser what this
// page may do.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := hostName(r.Host)
		if !s.knows(host) {
			s.metrics[foreignHost].Inc()
			s.log.Debug("request by a foreign name refused", "host", r.Host, "client", r.RemoteAddr)
			refuse(w, fmt.Sprintf("this page is not known as %q: open it by address or as localhost, or list the name in the setting hosts", host))
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead && !sameOrigin(r) {
			s.metrics[foreignOrigin].Inc()
			s.log.Debug("request from another origin refused", "origin", r.Header.Get("Origin"), "client", r.RemoteAddr)
			refuse(w, "only this page itself may push through it; programs use the push API's own address")
			return
		}
		secure(w.Header(), s.webSocket(host))
		next.ServeHTTP(w, r)
	})
}

func (s *Server) knows(host string) bool {
	host = strings.ToLower(host)
	return s.hosts[host] || strings.HasSuffix(host, ".localhost") && isHost(host) || net.ParseIP(host) != nil
}

// sameOrigin says whether a browser vouches that the request comes from a page of this
// very host and port. Sec-Fetch-Site is not sent over plain HTTP from another machine,
// where the Origin must do.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && origin.Host != "" && strings.EqualFold(origin.Host, r.Host)
}

// secure sets the headers that bound what the page can do. webSocket is the URL it
// connects to; "" when that is not known before the page asks.
func secure(h http.Header, webSocket string) {
	sockets := "ws: wss:"
	if u, err := url.Parse(webSocket); err == nil && u.Host != "" {
		sockets = u.Scheme + "://" + u.Host
	}
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
		"connect-src 'self' "+sockets+"; form-action 'none'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

func refuse(w http.ResponseWriter, message string) {
	writeEnvelope(w, http.StatusForbidden, codeRequest, message)
}

// hostName is a Host header without its port, and without the brackets of an IPv6 address.
func hostName(hostPort string) string {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}
