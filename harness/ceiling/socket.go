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
	rest []byte   // of a write that was taken in part
	tls  *secured // nil outside TLS
}

// A write holds the same frames once for each framing.
type write struct{ tcp, ws payload }

// A payload is bytes to send, and the file in memory that holds them too, for sendfile(2); 0 without one.
type payload struct {
	bytes []byte
	file  int32
}

const pushOp = 1000

func (w *write) build(stamp ledger.Stamp, frames, body int) {
	w.tcp.bytes = w.tcp.bytes[:0]
	for range frames {
		w.tcp.bytes = wire.AppendHeader(w.tcp.bytes, wire.Version, pushOp, 0, max(body, ledger.BodyMin))
		w.tcp.bytes = ledger.AppendBody(w.tcp.bytes, stamp, body)
		stamp.Seq++
	}
	w.ws.bytes = append(wire.AppendWSBatchHeader(w.ws.bytes[:0], len(w.tcp.bytes)), w.tcp.bytes...)
}

func (w *write) to(s *socket) *payload {
	if s.ws {
		return &w.ws
	}
	return &w.tcp
}

// share puts what was built into files of the calling thread's table of descriptors. What gets none is
// sent as it is.
func (w *write) share() {
	w.tcp.share()
	w.ws.share()
}

// unshare ends the files. Pages of theirs that a socket holds live on.
func (w *write) unshare() {
	w.tcp.unshare()
	w.ws.unshare()
}

func (p *payload) share() {
	fd, err := unix.MemfdCreate("barrage-ceiling", unix.MFD_CLOEXEC)
	if err != nil {
		return
	}
	if n, err := unix.Pwrite(fd, p.bytes, 0); err != nil || n < len(p.bytes) || fd == 0 {
		unix.Close(fd)
		return
	}
	p.file = int32(fd)
}

func (p *payload) unshare() {
	if p.file > 0 {
		unix.Close(int(p.file))
		p.file = 0
	}
}

type outcome uint8

const (
	sent    outcome = iota // taken; at most its rest waits in the socket
	wasFull                // nothing of it was taken
	broken                 // the peer is gone
)

func (s *socket) send(p *payload) outcome {
	if !s.sendRest() {
		return wasFull
	}
	var n int
	var errno unix.Errno
	if p.file > 0 && s.tls == nil {
		n, errno = fdtable.Sendfile(s.fd, p.file, len(p.bytes))
	} else {
		n, errno = s.write(p.bytes)
	}
	switch {
	case errno == unix.EAGAIN:
		return wasFull
	case errno != 0:
		return broken
	}
	if n < len(p.bytes) {
		s.rest = append(s.rest[:0], p.bytes[n:]...)
	}
	return sent
}

// sendRest says whether nothing is left of the last write.
func (s *socket) sendRest() bool {
	if len(s.rest) == 0 && !s.pending() {
		return true
	}
	n, errno := s.write(s.rest)
	if errno != 0 {
		return errno != unix.EAGAIN // to a peer that is gone nothing is left to send
	}
	s.rest = s.rest[n:]
	return len(s.rest) == 0 && !s.pending()
}

// pending says whether a part of a record waits.
func (s *socket) pending() bool { return s.tls != nil && len(s.tls.pending) > 0 }

// write sends what is taken at once of b, and returns how much that is.
func (s *socket) write(b []byte) (int, unix.Errno) {
	if s.tls == nil {
		return fdtable.Send(s.fd, b)
	}
	return s.tls.send(b)
}
