package comet

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"
	"unsafe"

	cometpb "barrage/server/api/comet"
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
func (c *testComet) bareLogin(b testing.TB, websocket bool, token string) int {
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

// Sessions that are idle, and have been busy, have no goroutine each and hold no buffer.
func TestIdleSessionsHoldNothing(t *testing.T) {
	c := startComet(t, &fakeLogic{forgets: true}, nil)
	each := min(500, (descriptorLimit()-reservedDescriptors)/5)
	login := func(n int, name string) {
		for i := range 2 * n {
			fd := c.bareLogin(t, i%2 == 1, fmt.Sprintf(`{"key":"%s-%d","room_id":"live://1000","accepts":[1000,1001]}`, name, i))
			t.Cleanup(func() { unix.Close(fd) })
		}
	}
	push := func() {
		t.Helper()
		if _, err := c.rpc.BroadcastRoom(t.Context(), &cometpb.BroadcastRoomReq{RoomID: "live://1000", Proto: raw(1000, "x")}); err != nil {
			t.Fatal(err)
		}
	}
	login(1, "first")
	push() // what is made once is there
	before := runtime.NumGoroutine()
	login(each, "idle")
	push()
	if n := c.sessions.Load(); n != int64(2+2*each) {
		t.Fatalf("%d sessions, want %d", n, 2+2*each)
	}
	const leeway = 10 // calls to logic that end just now
	eventually(t, "there are no more goroutines than with two sessions", func() bool { return runtime.NumGoroutine() <= before+leeway })
	eventually(t, "all sessions have the push, and nobody holds anything", func() bool {
		holding := 0
		for _, sh := range c.shards {
			onShard(sh, func(sh *shard) {
				for _, m := range sh.everyone.members {
					if m.session.holds() {
						holding++
					}
				}
				for _, r := range sh.rooms {
					holding += len(r.log.segments) + len(r.log.chunks)
				}
			})
		}
		return holding == 0
	})
}

// holds says whether the session has memory of its own beside what every session has.
func (s *session) holds() bool {
	s.inMu.Lock()
	defer s.inMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	input := s.in.partial != nil || s.in.receiver != nil
	if d := s.in.ws; d != nil {
		input = input || d.message != nil || d.control != nil || d.utf8 != nil || d.cookie != ""
	}
	return input || s.out.backlog != nil
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
