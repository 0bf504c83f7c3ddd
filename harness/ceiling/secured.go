package ceiling

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"barrage/harness/certificate"
	"barrage/server/fdtable"
)

// maxPlaintext is what is encrypted at a time: a record (RFC 8446 section 5.1).
const maxPlaintext = 16 << 10

// handshakePatience is how long a handshake waits for its client's next words.
const handshakePatience = 20 * time.Second

// serverTLS returns what the sending side speaks TLS with at ip, as a comet does, and its certificate as PEM.
func serverTLS(ip net.IP) (*tls.Config, []byte, error) {
	cert, key, err := certificate.SelfSigned(ip)
	if err != nil {
		return nil, nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, nil, fmt.Errorf("use the certificate that was made: %w", err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true,
		DynamicRecordSizingDisabled: true, // small records at first only cost more sends
	}, cert, nil
}

// A secured is the sending side's end of TLS: crypto/tls over a socket of whichever table of descriptors.
// The handshake waits for the client, in the thread that took the connection. From then on nothing waits: what the
// socket doesn't take of a record is kept, and nothing more is encrypted until it has gone.
type secured struct {
	fd      int32
	conn    *tls.Conn
	inside  bool   // the handshake is over
	pending []byte // ciphertext that the kernel has not taken
}

// handshake waits until the client of a new connection is inside TLS.
func handshake(fd int32, cfg *tls.Config) (*secured, error) {
	s := &secured{fd: fd}
	s.conn = tls.Server(s, cfg)
	if err := s.conn.Handshake(); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	s.inside = true
	return s, nil
}

// send encrypts and sends what can be sent at once, and returns how much of b that was. EAGAIN says that an earlier
// record has not gone yet.
func (s *secured) send(b []byte) (n int, errno unix.Errno) {
	if errno := s.flush(); errno != 0 {
		return 0, errno
	}
	for n < len(b) && len(s.pending) == 0 {
		wrote, err := s.conn.Write(b[n:min(len(b), n+maxPlaintext)])
		n += wrote
		if err != nil {
			if errno := unix.Errno(0); errors.As(err, &errno) {
				return n, errno
			}
			return n, unix.EPIPE
		}
	}
	return n, 0
}

// flush sends what is left of the last record. EAGAIN says that the socket doesn't take all of it yet.
func (s *secured) flush() unix.Errno {
	if len(s.pending) == 0 {
		return 0
	}
	n, errno := fdtable.Send(s.fd, s.pending)
	if errno != 0 {
		return errno
	}
	if n < len(s.pending) {
		s.pending = append(s.pending[:0], s.pending[n:]...)
		return unix.EAGAIN
	}
	s.pending = s.pending[:0]
	return 0
}

// Read is net.Conn's, for a handshake.
func (s *secured) Read(b []byte) (int, error) {
	for {
		switch n, err := unix.Read(int(s.fd), b); {
		case err == unix.EAGAIN:
			if err := s.wait(unix.POLLIN, handshakePatience); err != nil {
				return 0, err
			}
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write is net.Conn's. In the handshake it waits until all of b is taken; behind it, what is not taken at once is kept.
func (s *secured) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		n, errno := fdtable.Send(s.fd, b[sent:])
		switch {
		case errno == 0:
			sent += n
		case errno == unix.EINTR:
		case errno != unix.EAGAIN:
			return sent, os.NewSyscallError("send", errno)
		case s.inside:
			s.pending = append(s.pending[:0], b[sent:]...)
			return len(b), nil
		default:
			if err := s.wait(unix.POLLOUT, handshakePatience); err != nil {
				return sent, err
			}
		}
	}
	return len(b), nil
}

// wait waits for the client.
func (s *secured) wait(events int16, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("the client says nothing for %v", patience)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: s.fd, Events: events}}, int(left/time.Millisecond)+1)
		switch {
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return os.NewSyscallError("poll", err)
		}
	}
}

// Close, LocalAddr, RemoteAddr and the deadlines are no concern of crypto/tls here.
func (s *secured) Close() error                     { return nil }
func (s *secured) LocalAddr() net.Addr              { return nil }
func (s *secured) RemoteAddr() net.Addr             { return nil }
func (s *secured) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (s *secured) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (s *secured) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
