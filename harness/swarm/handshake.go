package swarm

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"barrage/harness/ledger"
	"barrage/server/wire"
)

// maxUpgrade is the longest answer to an upgrade, in bytes.
const maxUpgrade = 4096

// wsGUID is appended to a key before it is hashed (RFC 6455 section 1.3).
const wsGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// wsKey returns the Sec-WebSocket-Key of a client: its number and the swarm's seed, mixed,
// so that it need not be kept until the answer is there.
func wsKey(seed uint64, client int) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], ledger.Scatter(seed+uint64(client)))
	binary.BigEndian.PutUint64(b[8:], ledger.Scatter(seed^uint64(client)<<32))
	return base64.StdEncoding.EncodeToString(b[:])
}

// wsAccept returns the Sec-WebSocket-Accept that answers key (RFC 6455 section 4.2.2).
func wsAccept(key string) string {
	sum := sha1.Sum([]byte(key + wsGUID))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// appendUpgrade appends the request that opens a WebSocket.
func appendUpgrade(dst []byte, host, key string) []byte {
	return fmt.Appendf(dst, "GET /sub HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", host, key)
}

var (
	errUpgradeTooLong = fmt.Errorf("HTTP answer has no end within %d bytes", maxUpgrade)
	errNoUpgrade      = errors.New("HTTP answer is no WebSocket upgrade")
)

// parseUpgrade checks the answer to an upgrade. n is the number of bytes that it takes, or
// 0 when its end has not come yet.
func parseUpgrade(b []byte, accept string) (n int, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) >= maxUpgrade {
			return 0, errUpgradeTooLong
		}
		return 0, nil
	}
	lines := strings.Split(string(b[:end]), "\r\n")
	if !strings.HasPrefix(lines[0], "HTTP/1.1 101 ") && lines[0] != "HTTP/1.1 101" {
		return 0, fmt.Errorf("%w: status line %q", errNoUpgrade, short(lines[0]))
	}
	var upgrade, connection, accepted bool
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return 0, fmt.Errorf("%w: header line %q", errNoUpgrade, short(line))
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "upgrade":
			upgrade = strings.EqualFold(value, "websocket")
		case "connection":
			for token := range strings.SplitSeq(value, ",") {
				connection = connection || strings.EqualFold(strings.TrimSpace(token), "upgrade")
			}
		case "sec-websocket-accept":
			accepted = value == accept
		case "sec-websocket-extensions", "sec-websocket-protocol":
			return 0, fmt.Errorf("%w: %s was not offered: %q", errNoUpgrade, name, short(value))
		}
	}
	switch {
	case !upgrade:
		return 0, fmt.Errorf("%w: no Upgrade: websocket", errNoUpgrade)
	case !connection:
		return 0, fmt.Errorf("%w: no Connection: Upgrade", errNoUpgrade)
	case !accepted:
		return 0, fmt.Errorf("%w: wrong Sec-WebSocket-Accept", errNoUpgrade)
	}
	return end + 4, nil
}

func short(s string) string { return s[:min(len(s), 80)] }

// appendAuth appends the frame that logs c in, as goim's clients send it.
func appendAuth(dst []byte, c Client) []byte {
	platform := c.Platform
	if platform == "" {
		platform = "web"
	}
	body := []byte(`{"mid":`)
	body = strconv.AppendInt(body, c.Mid, 10)
	body = append(body, `,"key":`...)
	body = appendJSON(body, c.Key)
	body = append(body, `,"room_id":`...)
	body = appendJSON(body, c.Room)
	body = append(body, `,"platform":`...)
	body = appendJSON(body, platform)
	body = append(body, `,"accepts":[`...)
	for i, op := range c.Accepts {
		if i > 0 {
			body = append(body, ',')
		}
		body = strconv.AppendInt(body, int64(op), 10)
	}
	body = append(body, "]}"...)
	return wire.AppendFrame(dst, wire.Frame{Ver: wire.Version, Op: wire.OpAuth, Seq: 1, Body: body})
}

func appendJSON(dst []byte, s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return append(dst, `""`...) // a string always marshals
	}
	return append(dst, b...)
}

// appendClient appends what a client sends to carry payload: itself over TCP, and one
// masked, final frame with opcode over WebSocket (RFC 6455 section 5.2).
func appendClient(dst []byte, webSocket bool, opcode byte, payload []byte, mask uint32) []byte {
	if !webSocket {
		return append(dst, payload...)
	}
	dst = append(dst, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	dst = binary.BigEndian.AppendUint32(dst, mask)
	var key [4]byte
	binary.BigEndian.PutUint32(key[:], mask)
	for i, c := range payload {
		dst = append(dst, c^key[i&3])
	}
	return dst
}
