package logic

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/cloudwego/hertz/pkg/app"
)

func parsed(text string) query {
	req := app.NewContext(0)
	req.Request.SetRequestURI("/goim/push/keys?" + text)
	return newQuery(req)
}

// The forms in which lists come.
func TestLists(t *testing.T) {
	for _, test := range []struct {
		name, query string
		want        []string
	}{
		{"one", "keys=a", []string{"a"}},
		{"repeated", "keys=a&keys=b&keys=a", []string{"a", "b", "a"}},
		{"apart", "keys=a&operation=1000&keys=b", []string{"a", "b"}},
		{"as PHP writes them", "keys%5B0%5D=a&keys%5B1%5D=b", []string{"a", "b"}},
		{"as jQuery writes them", "keys[]=a&keys[]=b", []string{"a", "b"}},
		{"mixed", "keys=a&keys[]=b&keys[7]=c&keys=d", []string{"a", "b", "c", "d"}},
		{"semicolons, as goim's Go read them", "operation=1000;keys=a;keys=b", []string{"a", "b"}},
		{"a semicolon in a key, encoded", "keys=a%3Bb", []string{"a;b"}},
		{"a comma belongs to the key", "keys=a,b&keys=c%2Cd", []string{"a,b", "c,d"}},
		{"percent codes and plus signs", "keys=%E6%88%BF+%2B%26%3D%25%00", []string{"房 +&=%\x00"}},
		{"a percent sign alone", "keys=100%&keys=%zz&keys=%4", []string{"100%", "%zz", "%4"}},
		{"an equals sign in the value", "keys=a=b=", []string{"a=b="}},
		{"no value", "keys&keys=&&keys=a&", []string{"", "", "a"}},
		{"bytes that are no UTF-8", "keys=%ff%fe", []string{"\xff\xfe"}},
		{"other names", "key=a&keysx=b&keys[x]=c&keys[=d&keys]=e&KEYS=f&[]=g&keys[][]=h&keys[-1]=i", nil},
		{"none", "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := parsed(test.query)
			if got := q.texts("keys"); !slices.Equal(got, test.want) || q.err != nil {
				t.Errorf("%s: %q, %v; want %q", test.query, got, q.err, test.want)
			}
		})
	}
}

func TestNumbers(t *testing.T) {
	for _, test := range []struct {
		query string
		want  []int64
		err   string
	}{
		{"mids=1&mids=-2&mids=%2B3", []int64{1, -2, 3}, ""},
		{"mids=1,2&mids[]=3,+4", []int64{1, 2, 3, 4}, ""},
		{"mids=9223372036854775807", []int64{9223372036854775807}, ""},
		{"mids=", []int64{0}, ""},
		{"mids=1,", []int64{1, 0}, ""},
		{"mids=9223372036854775808", nil, `mids: "9223372036854775808" is not a whole number of 64 bits`},
		{"mids=1.5", nil, `mids: "1.5" is not a whole number of 64 bits`},
		{"mids=0x10", nil, `mids: "0x10" is not a whole number of 64 bits`},
		{"mids=1_000", nil, `mids: "1_000" is not a whole number of 64 bits`},
	} {
		q := parsed(test.query)
		got := q.int64s("mids")
		if q.err != nil {
			if q.err.Error() != test.err {
				t.Errorf("%s: %v, want %q", test.query, q.err, test.err)
			}
			continue
		}
		if test.err != "" || !slices.Equal(got, test.want) {
			t.Errorf("%s: %v; want %v, %q", test.query, got, test.want, test.err)
		}
	}
}

// Of a parameter that is no list the first counts, as in goim.
func TestFirstCounts(t *testing.T) {
	q := parsed("operation=5&operation=6&room=a&room=b")
	if n, room := q.int32("operation"), q.text("room"); n != 5 || room != "a" || q.err != nil {
		t.Errorf("%d, %q, %v", n, room, q.err)
	}
}

// FuzzQuery: lists hold what stands in the query, whatever that is, and numbers are numbers.
func FuzzQuery(f *testing.F) {
	for _, text := range []string{"keys=a&keys[]=b;keys[1]=c", "operation=%zz&mids=1,2,x", "&&=&;=;", "keys=%", "mids=99999999999999999999", "limit=-1&limit=2", "%6beys=a"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		q := parsed(text)
		keys := q.texts("keys")
		if n := strings.Count(strings.NewReplacer("&", ";").Replace(text), ";") + 1; len(keys) > n {
			t.Errorf("%q has %d keys of %d parameters", text, len(keys), n)
		}
		q.text("type")
		q.optionalInt32("speed")
		q.int64s("mids")
		if q.int32("operation") == 0 && q.err == nil {
			t.Errorf("%q: operation 0 is no error", text)
		}
	})
}

// What a form encoder sends: the parameters count, and the body goes out as it is.
func TestFormBodies(t *testing.T) {
	c := startCluster(t, nil)
	c.connect(t, "comet-1", `{"key":"a"}`)
	var want []string
	for _, test := range []struct{ kind, body string }{
		{"application/x-www-form-urlencoded", "keys=b&operation=7&msg=hello+%26+goodbye"},
		{"application/x-www-form-urlencoded; charset=utf-8", "{\"test\":1}"},
		{"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"keys\"\r\n\r\nb\r\n--x--\r\n"},
		{"application/json", `{"operation":7,"keys":["b"]}`},
		{"", "\x00\x01\xff"},
	} {
		req, err := http.NewRequest(http.MethodPost, "http://"+c.server.HTTPAddr().String()+"/goim/push/keys?operation=1000&keys[]=a", strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", test.kind)
		if got, err := readAnswer(http.DefaultClient.Do(req)); err != nil || got != success {
			t.Errorf("%s: %s, %v", test.kind, got, err)
		}
		want = append(want, test.body)
	}
	// A query alone doesn't become one from the body.
	resp, err := http.Post("http://"+c.server.HTTPAddr().String()+"/goim/push/room", "application/x-www-form-urlencoded", strings.NewReader("operation=1000&type=live&room=1"))
	if got, err := readAnswer(resp, err); err != nil || got != `{"code":-400,"message":"operation: missing"}` {
		t.Errorf("parameters in the body: %s, %v", got, err)
	}
	for i, r := range c.records(t, len(want)) {
		if string(r.push.Msg) != want[i] || r.push.Operation != 1000 || !slices.Equal(r.push.Keys, []string{"a"}) {
			t.Errorf("record %v, want body %q", r.push, want[i])
		}
	}
}

// curl asks before it sends a large body.
func TestExpectContinue(t *testing.T) {
	c := startCluster(t, nil)
	conn := c.dial(t)
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", roomPath)
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("%q, %v", line, err)
	}
	if line, err = reader.ReadString('\n'); err != nil || line != "\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	io.WriteString(conn, "large")
	if got, err := readAnswer(http.ReadResponse(reader, nil)); err != nil || got != success {
		t.Fatalf("%s, %v", got, err)
	}
	if got := string(c.records(t, 1)[0].push.Msg); got != "large" {
		t.Errorf("%q", got)
	}
}

// Where there is no route goim answers with status 404, also for another method.
func TestNoRoute(t *testing.T) {
	c := startCluster(t, nil)
	for _, test := range []struct{ method, path string }{
		{"GET", "/"}, {"GET", "/goim/push/room"}, {"PUT", "/goim/push/room"}, {"POST", "/goim/online/total"},
		{"POST", "/goim/push/everybody"}, {"GET", "/goim"}, {"POST", "/1/push/room"},
	} {
		req, err := http.NewRequest(test.method, "http://"+c.server.HTTPAddr().String()+test.path, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusNotFound || string(body) != "404 page not found" || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s %s: %s %q %q, %v", test.method, test.path, resp.Status, resp.Header.Get("Content-Type"), body, err)
		}
	}
}
