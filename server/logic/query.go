package logic

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/protocol"
)

// A query reads a request's parameters. The first one that is missing or malformed stays in
// err, which names it; what is read after that is of no use.
//
// Parameters stand in the URL alone: the body is the message, also when it is of the type
// application/x-www-form-urlencoded. What goim takes is taken, and some more that form
// encoders write:
//
//   - Parameters are divided by & or, as in the Go of goim's day, by ; and each is
//     percent-encoded, with + for a space. A % that begins no code stands for itself.
//   - A list is its parameter repeated, keys=a&keys=b, in any mix with keys[]=a and keys[0]=a
//     (in the order in which they stand). A comma divides only lists of numbers, mids=1,2:
//     keys and rooms may contain one.
//   - Of any other parameter the first counts. Unknown ones are ignored.
type query struct {
	args *protocol.Args
	err  error
}

// newQuery returns the parameters of a request, which must not be changed while they are read.
func newQuery(req *app.RequestContext) query {
	text := req.URI().QueryString()
	if bytes.IndexByte(text, ';') < 0 {
		return query{args: req.QueryArgs()}
	}
	var args protocol.Args
	args.ParseBytes(bytes.ReplaceAll(text, []byte{';'}, []byte{'&'}))
	return query{args: &args}
}

func (q *query) refuse(name, format string, args ...any) {
	if q.err == nil {
		q.err = fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...))
	}
}

// text returns a parameter that must be there and not be empty.
func (q *query) text(name string) string {
	value := string(q.args.Peek(name))
	if value == "" {
		q.refuse(name, "missing")
	}
	return value
}

// optionalText returns a parameter, "" when it is absent.
func (q *query) optionalText(name string) string { return string(q.args.Peek(name)) }

// texts returns the values of a list.
func (q *query) texts(name string) (texts []string) {
	q.args.VisitAll(func(key, value []byte) {
		if isList(string(key), name) {
			texts = append(texts, string(value))
		}
	})
	return texts
}

// isList says whether key is name, name[] or name[7].
func isList(key, name string) bool {
	rest, ok := strings.CutPrefix(key, name)
	if !ok || rest == "" {
		return ok
	}
	index, ok := strings.CutPrefix(rest, "[")
	index, closed := strings.CutSuffix(index, "]")
	return ok && closed && strings.Trim(index, "0123456789") == ""
}

// optionalInt32 returns a number, 0 when it is absent.
func (q *query) optionalInt32(name string) int32 {
	return int32(q.number(name, string(q.args.Peek(name)), 32))
}

// int32 returns a number that must be there. 0 is refused, as goim does: operation 0 is no
// push, and 0 rooms are no list.
func (q *query) int32(name string) int32 {
	text := q.text(name)
	if q.err != nil {
		return 0
	}
	n := q.number(name, text, 32)
	if n == 0 {
		q.refuse(name, "must not be 0")
	}
	return int32(n)
}

// int64s returns the numbers of a list.
func (q *query) int64s(name string) (numbers []int64) {
	for _, text := range q.texts(name) {
		for number := range strings.SplitSeq(text, ",") {
			numbers = append(numbers, q.number(name, strings.TrimSpace(number), 64))
		}
	}
	return numbers
}

// number reads text; empty text is 0, as in goim.
func (q *query) number(name, text string, bits int) int64 {
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, bits)
	if err != nil {
		q.refuse(name, "%.40q is not a whole number of %d bits", text, bits)
	}
	return n
}
