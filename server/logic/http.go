package logic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/app/server"
	"github.com/cloudwego/hertz/pkg/network/standard"

	"barrage/server/logic/auth"
)

// Codes of answers. The HTTP status is always 200.
const (
	codeOK      = 0
	codeRequest = -400
	codeServer  = -500
)

const jsonType = "application/json; charset=utf-8"

// api is the push API.
type api struct {
	cfg     *HTTPServerConfig
	pusher  *pusher
	online  *online
	live    *atomic.Pointer[live]
	log     *slog.Logger
	metrics *metrics
}

// newHTTP returns a hertz server for the push API on l.
func newHTTP(a *api, l *listener) *server.Hertz {
	hertz := server.New(
		server.WithTransport(standard.NewTransporter),
		server.WithListener(l),
		server.WithReadTimeout(a.cfg.ReadTimeout),
		server.WithIdleTimeout(a.cfg.IdleTimeout),
		server.WithMaxHeaderBytes(maxHeader),
		// We bound bodies, so that one that is too large gets an answer of the API. With a
		// limit of its own hertz may also take the next request for a part of such a body.
		server.WithStreamBody(true),
		server.WithMaxRequestBodySize(math.MaxInt),
		server.WithDisablePreParseMultipartForm(true),
		server.WithExitWaitTime(shutdownWait),
		server.WithDisablePrintRoute(true),
	)
	hertz.Use(a.recover)
	hertz.NoRoute(noRoute)
	group := hertz.Group("/goim")
	push := group.Group("/push", a.authorize(func(*live) bool { return true }))
	push.POST("/keys", a.push(kindKeys, a.pushKeys))
	push.POST("/mids", a.push(kindMids, a.pushMids))
	push.POST("/room", a.push(kindRoom, a.pushRoom))
	push.POST("/all", a.push(kindAll, a.pushAll))
	read := group.Group("", a.authorize(func(l *live) bool { return l.auth.All() }))
	read.GET("/online/top", a.onlineTop)
	read.GET("/online/room", a.onlineRoom)
	read.GET("/online/total", a.onlineTotal)
	read.GET("/nodes/weighted", a.nodesWeighted)
	read.GET("/nodes/instances", a.nodesInstances)
	return hertz
}

// noRoute answers as goim does where there is no such route, or not with that method: with
// status 404 and a text.
func noRoute(_ context.Context, req *app.RequestContext) {
	req.String(http.StatusNotFound, "404 page not found")
}

// A pushRoute reads the parameters of a push and returns what does it. Doing it returns
// false when there was nobody to send to.
type pushRoute func(q *query) func(ctx context.Context, m message) (sent bool, err error)

// push returns the handler of a route: parameters first, then the body, then Kafka.
func (a *api) push(kind pushKind, route pushRoute) app.HandlerFunc {
	return func(ctx context.Context, req *app.RequestContext) {
		q := newQuery(req)
		send := route(&q)
		body, err := readBody(req, a.cfg.MaxBody)
		start := time.Now()
		result := pushOK
		switch {
		case q.err != nil:
			result = pushRefused
			a.refuse(req, badParameter, q.err.Error())
		case errors.Is(err, errBodyTooLarge):
			result = pushRefused
			a.refuse(req, bodyTooLarge, fmt.Sprintf("body: larger than %d bytes (httpServer.maxBody)", a.cfg.MaxBody))
		case err != nil:
			result = pushRefused
			req.SetConnectionClose()
			a.refuse(req, bodyIncomplete, fmt.Sprintf("body: incomplete, or not here within %v (httpServer.readTimeout)", a.cfg.ReadTimeout))
		default:
			a.metrics.arrived(string(req.Request.Header.Peek(headerStart)), start)
			sent, err := send(ctx, message{body, start})
			switch {
			case err != nil:
				result = pushFailed
				a.log.Debug("push failed", "kind", string(kind), "err", err)
				answer(req, codeServer, err.Error(), nil)
			case !sent:
				result = pushNobody
				answer(req, codeOK, "", nil)
			default:
				answer(req, codeOK, "", nil)
			}
		}
		a.metrics.pushed(kind, result, time.Since(start))
	}
}

func (a *api) pushKeys(q *query) func(ctx context.Context, m message) (bool, error) {
	operation, keys := q.optionalInt32("operation"), q.texts("keys")
	if len(keys) == 0 {
		q.refuse("keys", "missing")
	}
	return func(ctx context.Context, m message) (bool, error) {
		online, err := a.pusher.pushKeys(ctx, operation, keys, m)
		return online > 0, err
	}
}

// pushMids differs from pushKeys as in goim: without members it sends to nobody.
func (a *api) pushMids(q *query) func(ctx context.Context, m message) (bool, error) {
	operation, mids := q.optionalInt32("operation"), q.int64s("mids")
	return func(ctx context.Context, m message) (bool, error) {
		online, err := a.pusher.pushMids(ctx, operation, mids, m)
		return online > 0, err
	}
}

func (a *api) pushRoom(q *query) func(ctx context.Context, m message) (bool, error) {
	operation, room := q.int32("operation"), roomKey(q.text("type"), q.text("room"))
	return func(ctx context.Context, m message) (bool, error) {
		return true, a.pusher.pushRoom(ctx, operation, room, m)
	}
}

func (a *api) pushAll(q *query) func(ctx context.Context, m message) (bool, error) {
	operation, speed := q.int32("operation"), q.optionalInt32("speed")
	if speed < 0 {
		q.refuse("speed", "%d is negative", speed)
	}
	return func(ctx context.Context, m message) (bool, error) {
		return true, a.pusher.pushAll(ctx, operation, speed, m)
	}
}

func (a *api) onlineTop(_ context.Context, req *app.RequestContext) {
	q := newQuery(req)
	kind, limit := q.text("type"), q.int32("limit")
	if limit < 0 {
		q.refuse("limit", "%d is negative", limit)
	}
	if q.err != nil {
		a.refuse(req, badParameter, q.err.Error())
		return
	}
	answer(req, codeOK, "", a.online.top(kind, int(limit)))
}

func (a *api) onlineRoom(_ context.Context, req *app.RequestContext) {
	q := newQuery(req)
	kind, rooms := q.text("type"), q.texts("rooms")
	if len(rooms) == 0 {
		q.refuse("rooms", "missing")
	}
	if q.err != nil {
		a.refuse(req, badParameter, q.err.Error())
		return
	}
	answer(req, codeOK, "", a.online.counts(kind, rooms))
}

func (a *api) onlineTotal(_ context.Context, req *app.RequestContext) {
	answer(req, codeOK, "", a.online.total.Load())
}

func (a *api) nodesWeighted(_ context.Context, req *app.RequestContext) {
	q := newQuery(req)
	// Behind a proxy the client is who the proxy says. Whoever makes that up is told of the
	// nodes of another region, no more.
	answer(req, codeOK, "", a.live.Load().advice.For(q.optionalText("platform"), req.ClientIP()))
}

func (a *api) nodesInstances(_ context.Context, req *app.RequestContext) {
	answer(req, codeOK, "", a.live.Load().advice.Balancer.Instances())
}

// authorize lets a request on whose key is accepted, where one is asked for.
func (a *api) authorize(asked func(*live) bool) app.HandlerFunc {
	return func(ctx context.Context, req *app.RequestContext) {
		l := a.live.Load()
		if !asked(l) {
			req.Next(ctx)
			return
		}
		subject, err := l.auth.Check(string(req.Request.Header.Peek("Authorization")))
		if err != nil {
			a.log.Debug("request refused", "path", string(req.Path()), "addr", req.RemoteAddr().String(), "err", err)
			said := auth.ErrRefused // and not what exactly was wrong with a token
			if errors.Is(err, auth.ErrMissing) {
				said = auth.ErrMissing
			}
			req.SetConnectionClose() // the body is not read
			a.refuse(req, unauthorized, said.Error())
			req.Abort()
			return
		}
		if subject != "" {
			a.log.Debug("request accepted", "path", string(req.Path()), "subject", subject)
		}
		req.Next(ctx)
	}
}

// refuse answers a request that was wrong.
func (a *api) refuse(req *app.RequestContext, reason refusal, message string) {
	a.metrics.refusals[reason].Inc()
	answer(req, codeRequest, message, nil)
}

// recover answers a request whose handler panicked, and closes its connection.
func (a *api) recover(ctx context.Context, req *app.RequestContext) {
	defer func() {
		if reason := recover(); reason != nil {
			a.metrics.cuts[cutPanicked].Inc()
			a.log.Error("request panicked", "path", string(req.Path()), "err", reason, "stack", string(debug.Stack()))
			req.SetConnectionClose()
			answer(req, codeServer, "internal error", nil)
		}
	}()
	req.Next(ctx)
}

// answer writes goim's envelope; data is absent when nil.
func answer(req *app.RequestContext, code int, message string, data any) {
	envelope := struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Data    any    `json:"data,omitempty"`
	}{code, message, data}
	text, err := json.Marshal(envelope)
	if err != nil { // numbers, texts and maps of them can always be encoded
		text = []byte(`{"code":-500,"message":"the answer can't be encoded"}`)
	}
	req.SetStatusCode(http.StatusOK)
	req.Response.Header.SetContentType(jsonType)
	req.Response.SetBody(text)
}
