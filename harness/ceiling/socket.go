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

// pages are the files in memory that hold a write's bytes once for each framing, for sendfile(2).
type pages struct{ tcp, ws int32 }

// noPages has no files.
var noPages = pages{-1, -1}

// share puts the write into files of the calling thread's table of descriptors. Without one to be had it
// is sent as it is.
func (w *write) share() pages { return pages{inMemory(w.tcp), inMemory(w.ws)} }

func inMemory(b []byte) int32 {
	fd, err := unix.MemfdCreate("barrage-ceiling", unix.MFD_CLOEXEC)
	if err != nil {
		return -1
	}
	if n, err := unix.Pwrite(fd, b, 0); err != nil || n < len(b) {
		unix.Close(fd)
		return -1
	}
	return int32(fd)
}

// close ends the files. Pages that a socket holds live on.
func (p pages) close() {
	for _, fd := range []int32{p.tcp, p.ws} {
		if fd >= 0 {
			unix.Close(int(fd))
		}
	}
}

func (p pages) to(s *socket) int32 {
	if s.ws {
		return p.ws
	}
	return p.tcp
}

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

// send sends b, from the file that holds it too unless that is -1.
func (s *socket) send(b []byte, file int32) outcome {
	if !s.sendRest() {
		return wasFull
	}
	var n int
	var errno unix.Errno
	if file >= 0 {
		n, errno = fdtable.Sendfile(s.fd, file, len(b))
	} else {
		n, errno = fdtable.Send(s.fd, b)
	}
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
