package swarm

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
	"barrage/server/fdtable"
)

// partial is a joined client in the middle of a frame.
type partial struct {
	progress
	tail [headMax - 1]byte
	kept uint8 // bytes in tail, or inOverflow
}

// inOverflow says that the tail is in thread.overflow: only a control frame that was cut
// can be longer than the head of a frame.
const inOverflow = math.MaxUint8

// take reads client i's socket once, at most limit bytes of it, takes in what came, and
// returns how much that was.
func (t *thread) take(i, limit int) int {
	c := &t.clients[i]
	into, kept := t.sealedBuf, 0
	if !c.kind.TLS() {
		kept = t.resume(c)
		into = t.buf[kept:]
	}
	n, errno := fdtable.Receive(c.fd, into[:min(limit, len(into))])
	var cause Cause
	var ended error
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return 0 // what resume loaded is still stored
	case errno == unix.ECONNRESET:
		cause, ended = ServerReset, errno
	case errno != 0:
		cause, ended = ReadFailed, fmt.Errorf("read: %w", errno)
	case n == 0:
		cause, ended = ServerClosed, errEOF
	}
	switch {
	case ended == nil:
	case c.state == securing:
		t.cutOff(i, cause, ended)
		return 0
	default:
		t.drop(i, cause, ended)
		return 0
	}
	t.tally.reads++
	t.tally.bytes += int64(n)
	if c.kind.TLS() {
		t.sealed(i, n)
	} else {
		t.input(i, kept, n)
	}
	return n
}

// input takes in n bytes behind the kept ones of t.buf, whose arrival is now, and says
// whether the client is still there.
func (t *thread) input(i, kept, n int) bool {
	c := &t.clients[i]
	arrival := ledger.Now() + t.cfg.ClockOffset.Load()
	in := t.buf[:kept+n]
	if c.state == upgrading && !t.upgraded(i, &in) {
		return c.state == upgrading
	}
	var behind ledger.Stamp // of the push before, if this read had one
	first, alike := true, !c.behaviour.Lags()
	for {
		read := in
		switch t.dec.next(&in) {
		case needMore:
			t.suspend(c, in)
			return true
		case gotFrame:
			t.frame(i, arrival)
			if c.fd < 0 {
				return false
			}
			if !t.dec.stamped || !isPush(t.dec.op) {
				first = true
				continue
			}
			if first && len(in) < (trainLeast-1)*(len(read)-len(in)) {
				alike = false // what follows is too little
			}
			if alike {
				t.again(i, read, &in, behind, first, arrival)
			}
			behind, first = t.dec.stamp, false
		case gotPing:
			if !t.send(i, wsPong, t.dec.ctl) {
				return false
			}
		case gotPong:
		case gotClose:
			t.drop(i, WebSocketClose, closeError(t.dec.ctl))
			return false
		case gotError:
			t.drop(i, ProtocolError, t.dec.fail)
			return false
		}
	}
}

// frame takes in the decoder's current frame.
func (t *thread) frame(i int, arrival int64) {
	t.tally.frames++
	if isPush(t.dec.op) {
		t.tally.pushes++
		c := &t.clients[i]
		book := t.bookOf(c)
		if t.dec.stamped {
			book.Account(int(c.account), t.dec.stamp, arrival)
		} else {
			book.BadBody()
		}
		return
	}
	t.tally.control++
	t.reply(i)
}

// resume loads the decoder with where client c stopped, puts the kept bytes at the start
// of buf and returns their number.
func (t *thread) resume(c *client) int {
	t.dec.ws = c.kind.WebSocket()
	switch {
	case c.state != joined:
		p := &t.pending[c.slot]
		t.dec.progress = p.progress
		return copy(t.buf, p.kept)
	case c.slot < 0:
		t.dec.progress = progress{}
		return 0
	}
	p := &t.partials[c.slot]
	t.dec.progress = p.progress
	if p.kept == inOverflow {
		return copy(t.buf, t.overflow[c.slot])
	}
	return copy(t.buf, p.tail[:p.kept])
}

// suspend stores the decoder's state and the rest of the input until c is readable again.
func (t *thread) suspend(c *client, rest []byte) {
	if c.state != joined {
		p := &t.pending[c.slot]
		p.progress = t.dec.progress
		p.kept = append(p.kept[:0], rest...)
		return
	}
	if d := &t.dec; len(rest) == 0 && d.skip == 0 && d.batch == 0 && d.message == 0 {
		t.freePartial(c)
		return
	}
	if c.slot < 0 {
		c.slot = t.takePartial()
	}
	p := &t.partials[c.slot]
	if p.kept == inOverflow {
		delete(t.overflow, c.slot)
	}
	p.progress = t.dec.progress
	if len(rest) <= len(p.tail) {
		p.kept = uint8(copy(p.tail[:], rest))
		return
	}
	p.kept = inOverflow
	t.overflow[c.slot] = append([]byte(nil), rest...)
}

// freePartial gives back the partial that c has, if any.
func (t *thread) freePartial(c *client) {
	if c.slot < 0 {
		return
	}
	if t.partials[c.slot].kept == inOverflow {
		delete(t.overflow, c.slot)
		t.partials[c.slot].kept = 0
	}
	t.freePartials = append(t.freePartials, c.slot)
	c.slot = -1
}

func (t *thread) takePartial() int32 {
	if n := len(t.freePartials); n > 0 {
		slot := t.freePartials[n-1]
		t.freePartials = t.freePartials[:n-1]
		return slot
	}
	t.partials = append(t.partials, partial{})
	return int32(len(t.partials) - 1)
}
