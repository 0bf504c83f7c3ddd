package comet

import (
	"errors"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What of Linux' io_uring (include/uapi/linux/io_uring.h) a ring of sends needs.
const (
	uringSetup = 425 // system calls
	uringEnter = 426

	uringSend          = 26      // IORING_OP_SEND
	uringSingleIssuer  = 1 << 12 // IORING_SETUP_SINGLE_ISSUER
	uringDeferTaskrun  = 1 << 13 // IORING_SETUP_DEFER_TASKRUN
	uringGetEvents     = 1       // IORING_ENTER_GETEVENTS
	uringOffSQ         = 0
	uringOffCQ         = 0x8000000
	uringOffSQEs       = 0x10000000
	uringEntries       = 256
	uringSizeOfEntry   = 64
	uringSizeOfAnswer  = 16
	uringSizeOfPointer = 4
)

type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	resv                                                                   [3]uint32
	sq                                                                     struct {
		head, tail, mask, entries, flags, dropped, array, resv uint32
		addr                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, resv uint32
		addr                                                   uint64
	}
}

type uringEntry struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off, addr     uint64
	len, msgFlags uint32
	userData      uint64
	_             [24]byte
}

type uringAnswer struct {
	userData uint64
	res      int32
	flags    uint32
}

// A uring sends the same bytes on many sockets with one system call for up to uringEntries.
type uring struct {
	fd      int
	sq, cq  []byte
	entries []uringEntry
	answers []uringAnswer
	tail    *uint32 // of the submissions
	mask    uint32
	head    *uint32 // of the answers
	cqTail  *uint32
	cqMask  uint32
}

// newUring skips the benchmark where the kernel has no io_uring for us. The goroutine must
// be locked to its thread.
func newUring(b *testing.B) *uring {
	p := uringParams{flags: uringSingleIssuer | uringDeferTaskrun}
	fd, _, errno := syscall.Syscall(uringSetup, uringEntries, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		b.Skipf("io_uring_setup: %v", errno)
	}
	b.Cleanup(func() { unix.Close(int(fd)) })
	m := func(offset int64, size uint32) []byte {
		mem, err := unix.Mmap(int(fd), offset, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { unix.Munmap(mem) })
		return mem
	}
	r := &uring{fd: int(fd), sq: m(uringOffSQ, p.sq.array+p.sqEntries*uringSizeOfPointer), cq: m(uringOffCQ, p.cq.cqes+p.cqEntries*uringSizeOfAnswer)}
	entries := m(uringOffSQEs, p.sqEntries*uringSizeOfEntry)
	r.entries = unsafe.Slice((*uringEntry)(unsafe.Pointer(&entries[0])), p.sqEntries)
	r.answers = unsafe.Slice((*uringAnswer)(unsafe.Pointer(&r.cq[p.cq.cqes])), p.cqEntries)
	at := func(mem []byte, off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&mem[off])) }
	r.tail, r.mask = at(r.sq, p.sq.tail), *at(r.sq, p.sq.mask)
	r.head, r.cqTail, r.cqMask = at(r.cq, p.cq.head), at(r.cq, p.cq.tail), *at(r.cq, p.cq.mask)
	for i := range p.sqEntries { // each place of the ring points to the entry of its number
		*at(r.sq, p.sq.array+i*uringSizeOfPointer) = i
	}
	return r
}

// send sends data on each of the sockets, and fails where one did not take all of it.
func (r *uring) send(b *testing.B, fds []int, data []byte) {
	for len(fds) > 0 {
		n := min(len(fds), uringEntries)
		tail := *r.tail
		for i, fd := range fds[:n] {
			r.entries[(tail+uint32(i))&r.mask] = uringEntry{opcode: uringSend, fd: int32(fd), addr: uint64(uintptr(unsafe.Pointer(&data[0]))),
				len: uint32(len(data)), msgFlags: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL}
		}
		atomic.StoreUint32(r.tail, tail+uint32(n))
		if done, _, errno := syscall.Syscall6(uringEnter, uintptr(r.fd), uintptr(n), uintptr(n), uringGetEvents, 0, 0); errno != 0 || int(done) != n {
			b.Fatal(done, errno)
		}
		head := *r.head
		for ; head != atomic.LoadUint32(r.cqTail); head++ {
			if res := r.answers[head&r.cqMask].res; int(res) != len(data) {
				b.Fatalf("a send returned %d", res)
			}
			n--
		}
		atomic.StoreUint32(r.head, head)
		if n != 0 {
			b.Fatalf("%d sends were not answered", n)
		}
		fds = fds[min(len(fds), uringEntries):]
	}
}

// rawPairs returns the two ends of n connections that no poller knows.
func rawPairs(b *testing.B, n int) (fds, peers []int) {
	socket := func(fd int, err error) int {
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	l := socket(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	if err := errors.Join(unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(l, 128)); err != nil {
		b.Fatal(err)
	}
	addr, err := unix.Getsockname(l)
	if err != nil {
		b.Fatal(err)
	}
	for range n {
		peer := socket(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
		if err := unix.Connect(peer, addr); err != nil {
			b.Fatal(err)
		}
		fd, _, err := unix.Accept4(l, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		fds, peers = append(fds, socket(fd, err)), append(peers, peer)
	}
	return fds, peers
}

// readAll reads size bytes from each of the sockets.
func readAll(fds []int, size int, into []byte) {
	for _, fd := range fds {
		for got := 0; got < size; {
			n, _ := unix.Read(fd, into)
			got += max(n, 0)
		}
	}
}

// BenchmarkUring is the cost of a write to each of 2,000 sockets, by a system call for each
// and by one for 256, in turns.
func BenchmarkUring(b *testing.B) {
	fds, peers := rawPairs(b, 2000)
	into := make([]byte, 128<<10)
	for _, size := range []int{64, 4 << 10, 32 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			r, data := newUring(b), randomBytes(1, size)
			ways := []struct {
				name string
				took time.Duration
				send func()
			}{
				{"ns/uring", 0, func() { r.send(b, fds, data) }},
				{"ns/send", 0, func() {
					for _, fd := range fds {
						if n, err := (fdStream{fd}).send(data); n != size || err != nil {
							b.Fatal(n, err)
						}
					}
				}},
			}
			for b.Loop() {
				for i := range ways {
					began := time.Now()
					ways[i].send()
					ways[i].took += time.Since(began)
					readAll(peers, size, into)
				}
			}
			for _, way := range ways {
				b.ReportMetric(float64(way.took.Nanoseconds())/float64(b.N)/float64(len(fds)), way.name)
			}
		})
	}
}
