package comet

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"barrage/server/wire"

	"golang.org/x/sys/unix"
)

// BenchmarkConnectionMemory is the heap and stack that a connected, idle session takes in
// comet, netpoll's part included. The clients are bare descriptors and take none.
func BenchmarkConnectionMemory(b *testing.B) {
	for _, websocket := range []bool{false, true} {
		b.Run(fmt.Sprintf("websocket=%v", websocket), func(b *testing.B) {
			const sessions = 8000
			c := startComet(b, &fakeLogic{forgets: true}, nil)
			var perSession float64
			for b.Loop() {
				fds := make([]int, 0, sessions)
				before := inUse()
				for i := range sessions {
					fds = append(fds, c.bareLogin(b, websocket, fmt.Sprintf(`{"key":"key-%d","room_id":"live://1000","accepts":[1000,1001]}`, i)))
				}
				perSession = (inUse() - before) / sessions
				for _, fd := range fds {
					unix.Close(fd)
				}
				eventually(b, "sessions are gone", func() bool { return c.open.Load() == 0 })
			}
			b.ReportMetric(perSession, "B/session")
		})
	}
}

// bareLogin connects and authenticates over a blocking descriptor.
func (c *testComet) bareLogin(b *testing.B, websocket bool, token string) int {
	b.Helper()
	addr := netip.MustParseAddrPort(c.tcp)
	if websocket {
		addr = netip.MustParseAddrPort(c.ws)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		b.Fatal(err)
	}
	ask := func(request []byte) {
		var reply [512]byte
		if _, err := unix.Write(fd, request); err != nil {
			b.Fatal(err)
		}
		if n, err := unix.Read(fd, reply[:]); n <= 0 {
			b.Fatalf("read a reply: %d, %v", n, err)
		}
	}
	auth := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuth, Body: []byte(token)})
	if websocket {
		ask([]byte("GET /sub HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
		auth = maskedFrame(0x82, auth)
	}
	ask(auth)
	return fd
}

// A session is as small as its size class allows, and a sweep of a room needs one line of the
// cache for it.
func TestSessionLayout(t *testing.T) {
	var s session
	if n := unsafe.Sizeof(s); n > 256 {
		t.Errorf("a session has %d bytes: with more than 256 it takes 288", n)
	}
	const line = 64
	first := unsafe.Offsetof(s.websocket) / line
	for name, at := range map[string]uintptr{
		"mu": unsafe.Offsetof(s.mu), "out": unsafe.Offsetof(s.out),
		"the end of out": unsafe.Offsetof(s.out) + unsafe.Sizeof(s.out) - 1,
	} {
		if at/line != first {
			t.Errorf("%s is at %d, in another cache line than websocket", name, at)
		}
	}
}

// The vectors that connections share are found where netpoll keeps them.
func TestBarrierIsShared(t *testing.T) {
	c := startComet(t, &fakeLogic{}, nil)
	for i := range 2 {
		c.login(t, false, fmt.Sprintf(`{"key":"k%d"}`, i))
	}
	if sharedBarrier.Load() == nil {
		t.Error("netpoll's connections have no field outputBarrier: each keeps 1.4 KB that is never used")
	}
}

// inUse is the heap and stack in use, once what a burst left behind is collected.
func inUse() float64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
		time.Sleep(time.Millisecond) // finalizers
	}
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse + m.StackInuse)
}
