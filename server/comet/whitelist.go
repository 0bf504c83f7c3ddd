package comet

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"barrage/server/wire"

	"github.com/gobwas/ws"
)

// A whitelist is the members whose every frame is logged, and where to. It doesn't change:
// a new one takes its place.
type whitelist struct {
	mids map[int64]bool
	log  *slog.Logger
	file io.Closer // nil for the process's log
}

// openWhitelist opens the log of cfg's members. With no members there is nothing to open.
func (s *Server) openWhitelist(cfg WhitelistConfig) (*whitelist, error) {
	w := &whitelist{mids: make(map[int64]bool), log: s.log}
	for _, mid := range cfg.Whitelist {
		w.mids[mid] = true
	}
	if cfg.WhiteLog == "" || len(w.mids) == 0 {
		return w, nil
	}
	f, err := os.OpenFile(cfg.WhiteLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("whitelist.whiteLog: %w", err)
	}
	w.log, w.file = slog.New(s.aside.handler(slog.NewTextHandler(f, nil))), f
	return w, nil
}

func (w *whitelist) close() {
	if w.file != nil {
		w.file.Close()
	}
}

// maxWhiteBody bounds what is logged of a frame's body.
const maxWhiteBody = 4096

func (w *whitelist) frame(direction string, s *session, f wire.Frame) {
	body := f.Body
	if len(body) > maxWhiteBody {
		body = body[:maxWhiteBody]
	}
	w.log.Info(direction, "mid", s.mid, "key", s.key, "session", s.id(), "op", int(f.Op), "ver", int(f.Ver), "seq", int(f.Seq), "bytes", len(f.Body), "body", string(body))
}

// sent logs the frames in b, which a session was handed: whole ones back to back, behind the
// header of a WebSocket message where it is one. Control frames are not logged.
func (w *whitelist) sent(s *session, b []byte) {
	if s.websocket {
		n, op := messageStart(b)
		if n < 0 || n > len(b) || op != ws.OpBinary {
			return
		}
		b = b[n:]
	}
	w.frames(s, b)
}

// frames logs those of a batch, and those within its frames of operation 9.
func (w *whitelist) frames(s *session, batch wire.Batch) {
	for len(batch) > 0 {
		f, err := batch.Next()
		switch {
		case err != nil:
			return // a control frame stands behind the message
		case f.Op == wire.OpRaw:
			w.frames(s, f.Body)
		default:
			w.frame("out", s, f)
		}
	}
}

// messageStart returns the length of the WebSocket header at the start of b, which a server
// wrote, and its opcode.
func messageStart(b []byte) (n int, op ws.OpCode) {
	if len(b) < 2 {
		return -1, 0
	}
	return headerSize(b[1]), ws.OpCode(b[0] & 0x0f)
}

// watches says whether the member's frames are logged.
func (s *Server) watches(mid int64) bool { return s.white.Load().mids[mid] }

// setWhitelist makes w hold, for live sessions as well.
func (s *Server) setWhitelist(w *whitelist) {
	old := s.white.Swap(w)
	for _, sh := range s.shards {
		sh.mailbox.put(watchCommand{})
	}
	// What a shard is writing just now may still be lost; everything later is in the new one.
	s.aside.run(old.close)
}

// watchCommand marks the shard's sessions whose frames are logged.
type watchCommand struct{}

func (watchCommand) run(sh *shard) {
	for i := range sh.everyone.members {
		sh.watch(sh.everyone.members[i].session)
	}
}

// watch marks the session if its frames are logged.
func (sh *shard) watch(s *session) {
	watched := sh.server.watches(s.mid)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.watched = watched
}
