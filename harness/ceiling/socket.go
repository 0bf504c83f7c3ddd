package ceiling

import (
	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/fdtable"
	"barrage/server/wire"
)

// A socket is one connection.
type socket struct {
	fd   int32
	ws   bool
	rest []byte // of a write that the kernel took in part
}

// A write holds the same frames once for each framing.
type write struct{ tcp, ws []byte }

func (w *write) build(stamp ledger.Stamp, frames, body int) {
	w.tcp = w.tcp[:0]
	for range frames {
		w.tcp = wire.AppendHeader(w.tcp, wire.Version, pushOp, 0, max(body, ledger.BodyMin))
		w.tcp = ledger.AppendBody(w.tcp, stamp, body)
		stamp.Seq++
	}
	w.ws = append(wire.AppendWSBatchHeader(w.ws[:0], len(w.tcp)), w.tcp...)
}

const pushOp = 1000

func (w *write) to(s *socket) []byte {
	if s.ws {
		return w.ws
	}
	return w.tcp
}

type outcome uint8

const (
	sent    outcome = iota // taken; at most its rest waits in the socket
	wasFull                // nothing of it was taken
	broken                 // the peer is gone
)

func (s *socket) send(b []byte) outcome {
	if !s.sendRest() {
		return wasFull
	}
	n, errno := fdtable.Send(s.fd, b)
	switch {
	case errno == unix.EAGAIN:
		return wasFull
	case errno != 0:
		return broken
	}
	if n < len(b) {
		s.rest = append(s.rest[:0], b[n:]...)
	}
	return sent
}

// sendRest says whether nothing is left of the last write.
func (s *socket) sendRest() bool {
	if len(s.rest) == 0 {
		return true
	}
	n, errno := fdtable.Send(s.fd, s.rest)
	if errno != 0 {
		return errno != unix.EAGAIN // to a peer that is gone nothing is left to send
	}
	s.rest = s.rest[n:]
	return len(s.rest) == 0
}
