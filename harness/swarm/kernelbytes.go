package swarm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A ByteCount holds what the swarm read against what the kernel says that it handed out,
// both at the same moment between two rounds of events. Where Uncounted is 0 the two are
// equal, or one of them is wrong.
type ByteCount struct {
	Read      int64 // bytes by the swarm's own count, HTTP answers of WebSocket upgrades included
	Kernel    int64 // by TCP_INFO's of all sockets, less what still waits in them
	Uncounted int64 // clients whose bytes are in Read alone: their connection was reset, or the kernel doesn't tell
}

func (b *ByteCount) add(o ByteCount) {
	b.Read += o.Read
	b.Kernel += o.Kernel
	b.Uncounted += o.Uncounted
}

// leave takes the kernel's count of a socket that is about to be closed, and goes with it.
func (b *ByteCount) leave(fd int32) {
	n, ok := handedOut(fd)
	if !ok {
		b.Uncounted++
		return
	}
	b.Kernel += n
}

// byteCount returns the counts of all clients, those that left included. It makes three
// system calls for each client that is there.
func (t *thread) byteCount() ByteCount {
	sum := t.left
	sum.Read = t.tally.bytes
	for i := range t.clients {
		if fd := t.clients[i].fd; fd >= 0 {
			sum.leave(fd)
		}
	}
	return sum
}

// States of a TCP socket, as TCP_INFO gives them (the kernel's tcp_states.h).
const (
	tcpTimeWait  = 6
	tcpClose     = 7
	tcpCloseWait = 8
	tcpLastAck   = 9
	tcpClosing   = 11
)

// receivedEnd is where TCP_INFO's count of received bytes ends; kernels before 4.1 give
// less.
const receivedEnd = unsafe.Offsetof(unix.TCPInfo{}.Bytes_received) + unsafe.Sizeof(unix.TCPInfo{}.Bytes_received)

// handedOut returns how many bytes of fd were read, by the kernel's account: what it
// received in order, without the peer's FIN, which it counts as a byte, and without what
// waits to be read. It is false where the kernel doesn't tell.
func handedOut(fd int32) (int64, bool) {
	const tries = 10 // what arrives between two calls makes them disagree
	for range tries {
		before, ok := tcpInfo(fd)
		if !ok {
			return 0, false
		}
		waiting, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		if err != nil && before.Bytes_received > 0 {
			return 0, false
		}
		after, ok := tcpInfo(fd)
		if !ok {
			return 0, false
		}
		if before.Bytes_received != after.Bytes_received || before.State != after.State {
			continue
		}
		n := int64(after.Bytes_received) - int64(waiting)
		switch after.State {
		case tcpClose:
			return 0, after.Bytes_received == 0 // after a reset, whether a FIN came before it is not known
		case tcpCloseWait, tcpLastAck, tcpClosing, tcpTimeWait:
			n--
		}
		return n, true
	}
	return 0, false
}

func tcpInfo(fd int32) (unix.TCPInfo, bool) {
	var info unix.TCPInfo
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	return info, errno == 0 && uintptr(size) >= receivedEnd
}
