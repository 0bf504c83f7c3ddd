package comet

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"barrage/server/wire"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Compression is never negotiated, as a push is encoded once for all: a client that offers it is
// served without, and one that compresses all the same is closed.
func TestCompressionIsNotNegotiated(t *testing.T) {
	c := startComet(t, &fakeLogic{}, nil)
	for i, offer := range []string{
		"permessage-deflate",
		"permessage-deflate; client_max_window_bits; server_no_context_takeover",
		"x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=10",
	} {
		conn, err := net.DialTimeout("tcp", c.ws, wait)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(wait))
		fmt.Fprintf(conn, "GET /sub HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: %s\r\n\r\n", offer)
		cl := &client{t: t, conn: conn, r: bufio.NewReader(conn), websocket: true}
		answer, err := http.ReadResponse(cl.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := answer.Header.Values("Sec-WebSocket-Extensions"); answer.StatusCode != http.StatusSwitchingProtocols || len(got) > 0 {
			t.Fatalf("%s: the answer is %s with the extensions %q", offer, answer.Status, got)
		}
		cl.send(wire.Frame{Ver: 1, Op: wire.OpAuth, Body: fmt.Appendf(nil, `{"key":"k%d","accepts":[1000]}`, i)})
		if f := cl.read(); f.Op != wire.OpAuthReply {
			t.Fatalf("%s: auth reply is %+v", offer, f)
		}
		pushTo(t, c, fmt.Sprint("k", i), "plain")
		cl.wants("plain")
		const compressed = 0x40 // RSV1, RFC 7692 section 6
		cl.sendRaw(maskedFrame(0x82|compressed, []byte{1}))
		cl.ended()
		eventually(t, "the reason is counted", func() bool { return testutil.ToFloat64(c.metrics.closed[reasonBadWebSocket]) == float64(i+1) })
	}
}
