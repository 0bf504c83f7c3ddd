package comet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"barrage/server/wire"
)

// pair returns the descriptor of a connection's sending end, which does not block, and the
// other end.
func pair(t testing.TB, l net.Listener) (fd int, peer net.Conn) {
	t.Helper()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close(); conn.Close() })
	if err := peer.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(f uintptr) { fd = int(f) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd, peer
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// randomBytes are n bytes that seed decides.
func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	var s [32]byte
	s[0], s[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(s).Read(b)
	return b
}

// What a socket holds stays as it was when the file is emptied and filled anew.
func TestPagesOutliveTheirFile(t *testing.T) {
	fd, peer := pair(t, listen(t))
	p := pageFiles{least: 1, log: slog.New(slog.DiscardHandler)}
	var want []byte
	for i := range 40 {
		b := randomBytes(uint64(i), 1+i*97)
		f := p.hold(b)
		if f == nil || p.made != 1 {
			t.Fatalf("file %v of %d", f, p.made)
		}
		n, err := fdStream{fd}.sendChunk(&chunk{data: b, pages: f})
		if n != len(b) || err != nil {
			t.Fatalf("sent %d of %d, %v", n, len(b), err)
		}
		p.release(f)
		want = append(want, b...)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, equal: %v, %v", len(got), bytes.Equal(got, want), err)
	}
}

func TestPageFilesAreBounded(t *testing.T) {
	p := pageFiles{least: 10, log: slog.New(slog.DiscardHandler)}
	if f := p.hold(make([]byte, 9)); f != nil {
		t.Error("held what isn't worth it")
	}
	var held []*pageFile
	for range maxPageFiles {
		held = append(held, p.hold(make([]byte, 10)))
	}
	if f := p.hold(make([]byte, 10)); f != nil {
		t.Error("one more than the bound")
	}
	p.release(nil)
	p.release(held[3])
	if f := p.hold(make([]byte, 10)); f != held[3] {
		t.Errorf("got %v", f)
	}
	var none *pageFiles
	none.release(none.hold(make([]byte, 1<<20)))
}

// A peer that is gone is an error and not the process's end; a file that can't be sent is no
// reason to lose the session.
func TestSendfileFails(t *testing.T) {
	l := listen(t)
	p := pageFiles{least: 1, log: slog.New(slog.DiscardHandler)}
	c := &chunk{data: []byte("all"), pages: p.hold([]byte("all"))}
	fd, _ := pair(t, l)
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if _, err := (fdStream{fd}).sendChunk(c); err != syscall.EPIPE {
		t.Errorf("to a shut socket: %v", err)
	}
	dir, err := os.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	fd, peer := pair(t, l)
	c.pages = &pageFile{fd: int(dir.Fd())} // no file
	if n, err := (fdStream{fd}).sendChunk(c); n != 3 || err != nil {
		t.Errorf("sent %d, %v", n, err)
	}
	got := make([]byte, 3)
	if _, err := io.ReadFull(peer, got); err != nil || string(got) != "all" {
		t.Errorf("got %q, %v", got, err)
	}
}

// Clients that read at once and others that read only when everything has been pushed get the
// same: all of it, in order, also where a write was cut short and where others have got later
// chunks since.
func TestSharedChunks(t *testing.T) {
	both(t, func(t *testing.T, websocket bool) {
		c := startComet(t, &fakeLogic{}, func(cfg *Config) {
			cfg.Room.Shards, cfg.Room.SendfileBytes, cfg.Room.LogBytes = 1, 1, 256<<20
		})
		const pushes = 300
		body := func(i int) []byte { return randomBytes(uint64(i), 1+i*1237%30_000) }
		read := func(cl *client) error {
			for i := range pushes {
				f, err := cl.tryRead()
				if err != nil {
					return fmt.Errorf("frame %d: %w", i, err)
				}
				if !bytes.Equal(f.Body, body(i)) {
					return fmt.Errorf("frame %d is not what was pushed", i)
				}
			}
			return nil
		}
		var late []*client
		ended := make(chan error)
		clients := 3 * sharedUses
		for i := range clients {
			cl := c.login(t, websocket, fmt.Sprintf(`{"key":"k%d","room_id":"live://1"}`, i))
			cl.conn.SetDeadline(time.Now().Add(4 * wait))
			if i%2 == 0 {
				late = append(late, cl)
				continue
			}
			go func() { ended <- read(cl) }()
		}
		for i := range pushes {
			batch := wire.Batch(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 1000, Body: body(i)}))
			p, _ := c.toRoom("live://1", batch, 1)
			if err := c.push(context.Background(), p, nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, cl := range late {
			go func() { ended <- read(cl) }()
		}
		for range clients {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// BenchmarkFanOut is the cost of writing the same to each of 2,000 sockets and of reading it
// there, by send and by sendfile.
func BenchmarkFanOut(b *testing.B) {
	fds, peers := rawPairs(b, 2000)
	into := make([]byte, 128<<10)
	for _, size := range []int{64, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10} {
		for _, least := range []int{0, 1} {
			name := "send"
			if least > 0 {
				name = "sendfile"
			}
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				p := pageFiles{least: least, log: slog.New(slog.DiscardHandler)}
				data := randomBytes(1, size)
				var writing, reading time.Duration
				for b.Loop() {
					began := time.Now()
					c := &chunk{data: data, pages: p.hold(data)}
					for _, fd := range fds {
						if n, err := (fdStream{fd}).sendChunk(c); n != size || err != nil {
							b.Fatal(n, err)
						}
					}
					p.release(c.pages)
					writing += time.Since(began)
					began = time.Now()
					readAll(peers, size, into)
					reading += time.Since(began)
				}
				each := float64(b.N) * float64(len(fds))
				b.ReportMetric(float64(writing.Nanoseconds())/each, "ns/write")
				b.ReportMetric(float64(reading.Nanoseconds())/each, "ns/read")
			})
		}
	}
}
