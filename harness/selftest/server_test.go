package selftest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// dial connects a client by hand: frames as goim's documents have them.
func dial(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func send(t *testing.T, conn net.Conn, b ...byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("%v after % x", err, b)
	}
	return string(b)
}

func token(client int, room string) []byte {
	body := fmt.Sprintf(`{"mid":0,"key":"bench-%d","room_id":"%s","platform":"web","accepts":[1000]}`, client, room)
	return append([]byte{0, 0, 0, byte(16 + len(body)), 0, 16, 0, 1, 0, 0, 0, 7, 0, 0, 0, 5}, body...)
}

const authReply = "\x00\x00\x00\x10\x00\x10\x00\x01\x00\x00\x00\x08\x00\x00\x00\x05"

func joinTCP(t *testing.T, s *Server, client int, room string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, r := dial(t, s.TCP)
	send(t, conn, token(client, room)...)
	if got := receive(t, r, len(authReply)); got != authReply {
		t.Fatalf("auth reply % x", got)
	}
	return conn, r
}

// masked is a client's WebSocket message, masked with zeros and so readable.
func masked(opcode byte, payload []byte) []byte {
	head := []byte{0x80 | opcode, 0x80 | byte(len(payload))}
	if len(payload) > 125 {
		head = binary.BigEndian.AppendUint16([]byte{0x80 | opcode, 0x80 | 126}, uint16(len(payload)))
	}
	return slices.Concat(head, make([]byte, 4), payload)
}

func joinWS(t *testing.T, s *Server, client int, room string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, r := dial(t, s.WS)
	// The key and its answer are the example of RFC 6455 section 1.3.
	send(t, conn, []byte("GET /sub HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")...)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("upgrade: %+v, %v", resp, err)
	}
	send(t, conn, masked(2, token(client, room))...)
	if got := receive(t, r, 2+len(authReply)); got != "\x82\x10"+authReply {
		t.Fatalf("auth reply % x", got)
	}
	return conn, r
}

// start starts a server; stop ends it and returns what it did.
func start(t *testing.T, plan Plan) (s *Server, stop func() *Did) {
	t.Helper()
	s, err := StartServer(plan)
	if err != nil {
		t.Fatal(err)
	}
	return s, func() *Did {
		did, err := s.Stop()
		if err != nil {
			t.Error(err)
		}
		return did
	}
}

// pushTo pushes to room 1 and returns the answer.
func pushTo(t *testing.T, s *Server, seq uint32, intended time.Time) string {
	t.Helper()
	body := string(appendStamp(nil, 7, seq, intended.UnixNano())) + "rest"
	resp, err := http.Post("http://"+s.Push+"/goim/push/room?operation=1001&type=live&room=1", "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const pushLen = 16 + 16 + 4

func pushFrame(seq uint32, intended time.Time) string {
	return "\x00\x00\x00\x24\x00\x10\x00\x01\x00\x00\x03\xe9\x00\x00\x00\x00" + string(appendStamp(nil, 7, seq, intended.UnixNano())) + "rest"
}

// Clients of both transports get what the protocol says, byte for byte.
func TestServerSpeaksTheProtocol(t *testing.T) {
	s, stop := start(t, Plan{})
	tcp, fromTCP := joinTCP(t, s, 1, "live://1")
	_, fromWS := joinWS(t, s, 2, "live://1")
	_, elsewhere := joinTCP(t, s, 3, "live://2")

	heartbeat := "\x00\x00\x00\x10\x00\x10\x00\x01\x00\x00\x00\x02\x00\x00\x00\x09"
	send(t, tcp, []byte(heartbeat)...)
	if got := receive(t, fromTCP, 20); got != "\x00\x00\x00\x14\x00\x10\x00\x01\x00\x00\x00\x03\x00\x00\x00\x09\x00\x00\x00\x01" {
		t.Errorf("heartbeat reply % x", got)
	}
	at := time.Now()
	if got := pushTo(t, s, 0, at); got != `{"code":0,"message":""}` {
		t.Errorf("answer %s", got)
	}
	if got := receive(t, fromTCP, pushLen); got != pushFrame(0, at) {
		t.Errorf("push over TCP % x", got)
	}
	if got := receive(t, fromWS, 2+16+pushLen); got != "\x82\x34\x00\x00\x00\x34\x00\x10\x00\x01\x00\x00\x00\x09\x00\x00\x00\x00"+pushFrame(0, at) {
		t.Errorf("push over WebSocket % x", got)
	}
	if did := stop(); did.Clients != 3 || did.Pushes != 1 || did.Frames != 2 || did.Delivered() != 2 || did.Faults != [faults]int64{Deliver: 2} {
		t.Errorf("it did %+v", did)
	}
	if rest, err := io.ReadAll(elsewhere); err != nil || len(rest) > 0 {
		t.Errorf("a client of another room got % x, %v", rest, err)
	}
}

// Each fault, on the wire: what a client gets of pushes 0, 1 and 2 when it strikes push 1.
func TestServerFaults(t *testing.T) {
	at := time.Now()
	push := func(seq uint32) string { return pushFrame(seq, at) }
	bare := "\x00\x00\x00\x25\x00\x10\x00\x01\x00\x00\x03\xe8\x00\x00\x00\x00a body without a stamp"
	bare = "\x00\x00\x00" + string(rune(len(bare))) + bare[4:]
	alien := "\x00\x00\x00\x20\x00\x10\x00\x01\x00\x00\x03\xe8\x00\x00\x00\x00" + string(appendStamp(nil, alienStream, 1, at.UnixNano()))
	cases := []struct {
		name     string
		fault    Fault
		want     string
		stranger string // what a client of another room gets
	}{
		{"none", Deliver, push(0) + push(1) + push(2), ""},
		{"drop", Drop, push(0) + push(2), ""},
		{"double", Double, push(0) + push(1) + push(1) + push(2), ""},
		{"swap", Swap, push(0) + push(2) + push(1), ""},
		{"with a frame without a stamp", WithBare, push(0) + push(1) + bare + push(2), ""},
		{"with a stranger's push", WithAlien, push(0) + push(1) + alien + push(2), ""},
		{"astray", Astray, push(0) + push(1) + push(2), push(1)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, stop := start(t, Plan{
				Fault: func(client int, seq uint32) Fault {
					if client == 4 && seq == 1 {
						return c.fault
					}
					return Deliver
				},
				Refuse: func(seq uint32) bool { return seq == 2 },
			})
			_, in := joinTCP(t, s, 4, "live://1")
			_, stranger := joinTCP(t, s, 5, "live://2")
			for seq := range uint32(3) {
				want := `{"code":0,"message":""}`
				if seq == 2 {
					want = `{"code":-500,"message":""}`
				}
				if got := pushTo(t, s, seq, at); got != want {
					t.Errorf("answer to %d: %s", seq, got)
				}
			}
			if got := receive(t, in, len(c.want)); got != c.want {
				t.Errorf("got\n% x, want\n% x", got, c.want)
			}
			if got := receive(t, stranger, len(c.stranger)); got != c.stranger {
				t.Errorf("the stranger got % x", got)
			}
			did := stop()
			if did.Faults[c.fault] < 1 || did.Faults[Deliver]+did.Faults[c.fault] < 3 || did.Refused != 1 {
				t.Errorf("it did %+v", did)
			}
			for _, rest := range []io.Reader{in, stranger} {
				if more, err := io.ReadAll(rest); err != nil || len(more) > 0 {
					t.Errorf("more: % x, %v", more, err)
				}
			}
		})
	}
}

// A delay counts from the intended time, a stall holds back what falls into it, and what
// the server did is in its stamps. Early is never allowed, late is the machine's.
func TestServerDelays(t *testing.T) {
	const ms = time.Millisecond
	cases := []struct {
		name string
		plan Plan
		due  []time.Duration // of the pushes, from the first one's
		want []time.Duration // the least latency of each
	}{
		{"none", Plan{}, []time.Duration{0, 0}, []time.Duration{0, 0}},
		{"a delay", Plan{Delay: 80 * ms}, []time.Duration{0, 10 * ms}, []time.Duration{80 * ms, 80 * ms}},
		{"a stall of deliveries", Plan{Stall: Stall{From: 50 * ms, To: 250 * ms}}, []time.Duration{0, 100 * ms, 200 * ms, 300 * ms}, []time.Duration{0, 150 * ms, 50 * ms, 0}},
		{"a stall of everything", Plan{Stall: Stall{From: 50 * ms, To: 250 * ms, Answers: true}}, []time.Duration{0, 100 * ms, 110 * ms, 300 * ms}, []time.Duration{0, 150 * ms, 140 * ms, 0}},
		{"a delay into a stall", Plan{Delay: 60 * ms, Stall: Stall{From: 50 * ms, To: 250 * ms}}, []time.Duration{0}, []time.Duration{250 * ms}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, stop := start(t, c.plan)
			_, in := joinTCP(t, s, 1, "live://1")
			begin := time.Now()
			var answered []time.Duration
			for seq, due := range c.due {
				time.Sleep(time.Until(begin.Add(due))) // the schedule, not a wait for something
				pushTo(t, s, uint32(seq), begin.Add(due))
				answered = append(answered, time.Since(begin))
			}
			for seq, due := range c.due {
				got := receive(t, in, pushLen)
				if took := time.Since(begin.Add(due)); got != pushFrame(uint32(seq), begin.Add(due)) || took < c.want[seq] {
					t.Errorf("push %d came after %s, at least %s is planned: % x", seq, took, c.want[seq], got)
				}
			}
			if end := c.plan.Stall.To; c.plan.Stall.Answers && answered[1] < end {
				t.Errorf("push 1 was answered after %s, in the stall until %s", answered[1], end)
			}
			did := stop()
			slices.Sort(c.want)
			for i, l := range did.Latencies {
				if l < int64(c.want[i]) {
					t.Errorf("latencies by the stamps are %v, at least %v is planned", did.Latencies, c.want)
				}
			}
			if len(did.Latencies) != len(c.want) {
				t.Errorf("%d latencies of %d", len(did.Latencies), len(c.want))
			}
		})
	}
}

// A client in a storm has pings to answer again and again; the others have none.
func TestServerStorm(t *testing.T) {
	s, stop := start(t, Plan{Storm: 10, Stormed: 1})
	conn, in := joinWS(t, s, 0, "live://1")
	_, other := joinWS(t, s, 1, "live://1")
	for range 5 {
		if got := receive(t, in, 20); got != strings.Repeat("\x89\x00", 10) {
			t.Fatalf("pings % x", got)
		}
		for range 10 {
			send(t, conn, masked(0xA, nil)...)
		}
	}
	stop()
	if rest, err := io.ReadAll(other); err != nil || len(rest) > 0 {
		t.Errorf("the other client got % x, %v", rest, err)
	}
}

// What is no push of the harness' is refused, and makes the check fail.
func TestServerRefusesWhatItDoesNotKnow(t *testing.T) {
	s, err := StartServer(Plan{})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post("http://"+s.Push+"/goim/push/room?operation=1001&type=live&room=1", "text/plain", strings.NewReader("no stamp"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(text) != `{"code":-400,"message":""}` {
		t.Errorf("answer %s, %v", text, err)
	}
	if _, err := s.Stop(); err == nil || !strings.Contains(err.Error(), "8 bytes") {
		t.Errorf("it did not say so: %v", err)
	}
}
