package console

import (
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"barrage/server/wire"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// A fakeComet takes WebSocket sessions that go as the path of the URL says:
//
//	/sub         auth is answered, and every request
//	/rejected    auth is answered with the farewell of that code, and so for any other
//	/drained     ... once: the session after it goes as /sub
//	/mute        nothing is answered
//	/junk        auth is answered, then come bytes that are no frame; the session after it goes as /sub
//
// A request of operation 4 has its body, a list of frames, sent back in one batch.
type fakeComet struct {
	*httptest.Server

	mu     sync.Mutex
	tokens []string // bodies of auth frames, mu guards
}

func newFakeComet(t *testing.T, page http.Handler) *fakeComet {
	t.Helper()
	f := &fakeComet{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			page.ServeHTTP(w, r)
			return
		}
		f.session(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeComet) session(w http.ResponseWriter, r *http.Request) {
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	defer conn.Close()
	send := func(frame wire.Frame) bool {
		frame.Ver = wire.Version
		return wsutil.WriteServerBinary(conn, wire.AppendFrame(nil, frame)) == nil
	}
	for {
		in, err := wsutil.ReadClientBinary(conn)
		if err != nil {
			return
		}
		frame, _, err := wire.Decode(in, wire.MaxClientBody)
		if err != nil {
			return
		}
		if strings.HasPrefix(r.URL.Path, "/mute") {
			continue
		}
		reply := wire.Frame{Op: frame.Op + 1, Seq: frame.Seq, Body: frame.Body}
		switch frame.Op {
		case wire.OpAuth:
			again := f.took(string(frame.Body)) > 1
			reply.Body = nil
			switch code := strings.TrimPrefix(r.URL.Path, "/"); {
			case code == "sub" || code != "rejected" && code != "replaced" && again:
			case code == "junk":
				send(reply)
				_ = wsutil.WriteServerBinary(conn, []byte("junk")) // the client may have left
				continue
			default:
				send(wire.Frame{Op: wire.OpDisconnectReply, Body: []byte(`{"code":"` + code + `"}`)})
				return
			}
		case wire.OpHeartbeat:
			reply.Body = binary.BigEndian.AppendUint32(nil, 42)
		case wire.OpSendMsg:
			reply.Op = frame.Op
			var texts []string
			if json.Unmarshal(frame.Body, &texts) == nil {
				var batch []byte
				for i, text := range texts {
					batch = wire.AppendFrame(batch, wire.Frame{Ver: wire.Version, Op: wire.Op(1000 + i), Body: []byte(text)})
				}
				send(wire.Frame{Op: wire.OpRaw, Body: batch})
			}
		}
		if !send(reply) {
			return
		}
	}
}

// took notes a token and returns how many there are.
func (f *fakeComet) took(token string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens = append(f.tokens, token)
	return len(f.tokens)
}

// forget returns the tokens so far and begins anew.
func (f *fakeComet) forget() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	tokens := f.tokens
	f.tokens = nil
	return tokens
}
