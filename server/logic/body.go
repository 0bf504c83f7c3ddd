package logic

import (
	"errors"
	"fmt"
	"io"

	"github.com/cloudwego/hertz/pkg/app"
)

// firstRead is the size of a body's buffer at first: a client has to send bytes for it to grow.
const firstRead = 4 << 10

var (
	errBodyTooLarge   = errors.New("too large")
	errBodyIncomplete = errors.New("incomplete")
)

// readBody returns a request's body of up to limit bytes. The error is errBodyTooLarge or
// errBodyIncomplete.
func readBody(ctx *app.RequestContext, limit int) ([]byte, error) {
	if !ctx.Request.IsBodyStream() {
		return nil, nil
	}
	length := ctx.Request.Header.ContentLength() // -1 for a chunked body
	if length > limit {
		return nil, errBodyTooLarge // hertz skips it after the answer
	}
	if length >= 0 {
		limit = length
	}
	stream := ctx.RequestBodyStream()
	body := make([]byte, 0, min(limit, firstRead))
	for {
		if len(body) == limit && length >= 0 {
			return body, nil
		}
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
		// Never ask hertz for more than the rest of this body: it would hand out the next request.
		room := body[len(body):cap(body)]
		if length >= 0 {
			room = room[:min(len(room), limit-len(body))]
		}
		n, err := stream.Read(room)
		body = body[:len(body)+n]
		switch {
		case length < 0 && len(body) > limit:
			return nil, skipBody(stream, body)
		case errors.Is(err, io.EOF) && (length < 0 || len(body) == length):
			return body, nil
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errBodyIncomplete, err)
		}
	}
}

// skipBody reads the rest of a chunked body, so that its client, which may read nothing
// before it has sent all, gets the answer. The request's deadline bounds it.
func skipBody(stream io.Reader, scratch []byte) error {
	scratch = scratch[:cap(scratch)]
	for {
		if _, err := stream.Read(scratch); err != nil {
			return errBodyTooLarge
		}
	}
}
