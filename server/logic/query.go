package logic

import (
	"fmt"
	"strconv"

	"github.com/cloudwego/hertz/pkg/protocol"
)

// A query reads a request's parameters. The first one that is missing or malformed stays in
// err, which names it; what is read after that is of no use.
type query struct {
	args *protocol.Args
	err  error
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

// texts returns the values of a parameter that may be repeated.
func (q *query) texts(name string) []string {
	values := q.args.PeekAll(name)
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = string(value)
	}
	return texts
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

// int64s returns the numbers of a parameter that may be repeated.
func (q *query) int64s(name string) []int64 {
	texts := q.texts(name)
	numbers := make([]int64, len(texts))
	for i, text := range texts {
		numbers[i] = q.number(name, text, 64)
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
