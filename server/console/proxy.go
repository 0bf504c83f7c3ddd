package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"time"
)

// Codes of goim's envelope for what logic had no part in.
const (
	codeRequest = -400
	codeServer  = -500
)

// Times for a request to logic; a push is answered when Kafka has it.
const (
	dialTimeout   = 2 * time.Second
	answerTimeout = 30 * time.Second
)

// handleAPI passes the push API's routes on to logic, and nothing else.
func (s *Server) handleAPI(mux *http.ServeMux) {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	proxy := &httputil.ReverseProxy{
		Rewrite: s.rewrite,
		Transport: &http.Transport{
			DialContext:           dialer.DialContext,
			ResponseHeaderTimeout: answerTimeout,
			IdleConnTimeout:       30 * time.Second, // less than logic's httpServer.idleTimeout
			MaxIdleConnsPerHost:   16,
			DisableCompression:    true,
		},
		ModifyResponse: s.answered,
		ErrorHandler:   s.unreachable,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	for _, route := range []string{
		"POST /goim/push/keys", "POST /goim/push/mids", "POST /goim/push/room", "POST /goim/push/all",
		"GET /goim/online/top", "GET /goim/online/room", "GET /goim/online/total",
		"GET /goim/nodes/weighted", "GET /goim/nodes/instances",
	} {
		mux.Handle(route, proxy)
	}
}

// rewrite aims a request at logic. Query, body and Authorization stay as they are; what
// browsers add for this page's origin stays here.
func (s *Server) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme = "http"
	r.Out.URL.Host = s.api()
	r.Out.URL.RawQuery = r.In.URL.RawQuery // also what doesn't parse: logic says what is wrong with it
	r.Out.Host = r.Out.URL.Host
	r.Out.Header.Del("Cookie")
	r.Out.Header.Del("Origin")
	r.Out.Header.Del("Referer")
	r.SetXForwarded() // logic proposes nodes by the client's address
}

func (s *Server) answered(*http.Response) error {
	s.metrics[passedOn].Inc()
	if s.apiAway.CompareAndSwap(true, false) {
		s.log.Info("the push API answers the demo page again", "api", s.api())
	}
	return nil
}

func (s *Server) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) { // the browser left: that says nothing of logic
		s.metrics[browserLeft].Inc()
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	s.metrics[apiUnreachable].Inc()
	if s.apiAway.CompareAndSwap(false, true) {
		s.log.Warn("the push API does not answer the demo page", "api", s.api(), "err", err)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // without the address, which is said already
	}
	writeEnvelope(w, http.StatusBadGateway, codeServer, fmt.Sprintf("the push API at %s does not answer: %v", s.api(), err))
}

// writeEnvelope answers as the push API does.
func writeEnvelope(w http.ResponseWriter, status, code int, message string) {
	text, err := json.Marshal(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{code, message})
	if err != nil { // a number and a text can always be encoded
		text = []byte(`{"code":-500,"message":"the answer can't be encoded"}`)
	}
	writeJSON(w, status, text)
}
