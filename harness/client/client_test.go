package client

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"barrage/server/wire"
)

// golden compares b with testdata/name, a hex dump. UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	got := hex.Dump(b)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%swant\n%s", name, got, want)
	}
}

// All that a client sends, to the byte, and the same over every transport.
func TestGoldenBytes(t *testing.T) {
	over(t, func(t *testing.T, c *comet) {
		said := make(chan []byte, 10)
		go func() {
			p := c.accept()
			for {
				b, err := p.frame()
				if err != nil {
					close(said)
					return
				}
				said <- b
				f, _, err := wire.Decode(b, wire.MaxClientBody)
				if err != nil {
					t.Error(err)
				}
				p.answer(f)
			}
		}()
		cl, err := Dial(timeout(t), c.config())
		if err != nil {
			t.Fatal(err)
		}
		all := <-said // auth
		for _, step := range []struct {
			name string
			do   func() error
		}{
			{"the first heartbeat, which nobody asks for", func() error { return nil }},
			{"change room", func() error { return cl.ChangeRoom(timeout(t), "live://2000") }},
			{"leave", func() error { return cl.ChangeRoom(timeout(t), "") }},
			{"subscribe", func() error { return cl.Sub(timeout(t), 1002, 1000, 1003, 1002) }},
			{"unsubscribe", func() error { return cl.Unsub(timeout(t), 1000, 1003, 9999) }},
			{"send", func() error { return cl.Send(timeout(t), wire.OpSendMsg, []byte(`{"test":1}`)) }},
			{"send another operation", func() error { return cl.Send(timeout(t), 2000, nil) }},
		} {
			if err := step.do(); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			all = append(all, <-said...)
		}
		if err := cl.Close(); err != nil {
			t.Fatal(err)
		}
		if b, more := <-said; more {
			t.Errorf("more is said: %x", b)
		}
		golden(t, "conversation", all)
	})
}

// Pushes arrive singly and in order, whether they come alone or in batches, and replies don't
// stand among them.
func TestReceive(t *testing.T) {
	over(t, func(t *testing.T, c *comet) {
		cl, p := c.dial(c.config())
		go p.serve()
		p.push("1")
		p.push("2", "3", "")
		if err := cl.Send(timeout(t), 4, nil); err != nil {
			t.Fatal(err)
		}
		p.push("4")
		p.write(pushes("5", "6")) // several frames in one message
		b := pushes("7", "8")
		p.write(append(wire.AppendHeader(nil, 1, wire.OpRaw, 0, len(b)), b...)) // an op-9 frame, also over TCP
		p.send(wire.Frame{Ver: 1, Op: 5, Seq: 999})                             // a reply that nobody waits for
		p.push(strings.Repeat("x", 200_000))
		receives(t, cl, "1", "2", "3", "", "4", "5", "6", "7", "8", strings.Repeat("x", 200_000))
		if got := cl.Node(); got != c.addr() {
			t.Errorf("node is %q", got)
		}
	})
}

func TestHeartbeats(t *testing.T) {
	over(t, func(t *testing.T, c *comet) {
		cfg := c.config()
		cfg.Heartbeat = 10 * time.Millisecond
		cl, p := c.dial(cfg)
		p.online = 7
		go p.serve()
		eventually(t, "heartbeats go out by themselves", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.beats >= 5
		})
		if n, ok := cl.Online(); n != 7 || !ok {
			t.Errorf("online is %d, %v", n, ok)
		}
		p.mu.Lock()
		p.online = -8
		p.mu.Unlock()
		if n, err := cl.Heartbeat(timeout(t)); n != -8 || err != nil {
			t.Errorf("online is %d, %v", n, err)
		}
	})
}

func TestCookieIsSent(t *testing.T) {
	c := startComet(t, WebSocket)
	cfg := c.config()
	cfg.Header = http.Header{"Cookie": {"a=b"}}
	if _, p := c.dial(cfg); p.cookie != "a=b" {
		t.Errorf("cookie is %q", p.cookie)
	}
}

// After a cut the session begins with the room and the operations of now, and changes made
// meanwhile are in it.
func TestComesBackWithWhatItHas(t *testing.T) {
	over(t, func(t *testing.T, c *comet) {
		var mu sync.Mutex
		var events []string
		event := func(e string) { mu.Lock(); events = append(events, e); mu.Unlock() }
		cfg := c.config()
		cfg.OnConnect = func(node string) { event("up") }
		cfg.OnDisconnect = func(node string, err error) {
			if err == nil {
				t.Error("an end without a reason")
			}
			event("down")
		}
		cl, p := c.dial(cfg)
		changed := make(chan error, 1)
		go func() {
			changed <- errors.Join(cl.ChangeRoom(timeout(t), "live://2"), cl.Sub(timeout(t), 1002), cl.Unsub(timeout(t), 1000))
		}()
		p.wants(wire.OpChangeRoom, "live://2")
		p.wants(wire.OpSub, "1002")
		p.wants(wire.OpUnsub, "1000")
		if err := <-changed; err != nil {
			t.Fatal(err)
		}
		// A change whose reply never comes, since the connection ends, and one more.
		go func() { changed <- cl.ChangeRoom(timeout(t), "live://3") }()
		if f, err := p.read(); err != nil || f.Op != wire.OpChangeRoom {
			t.Fatalf("op %d, %v", f.Op, err)
		}
		go func() { changed <- cl.Sub(timeout(t), 1003) }()
		eventually(t, "both are wanted", func() bool {
			cl.mu.Lock()
			defer cl.mu.Unlock()
			return slices.Contains(cl.wanted.accepts, 1003)
		})
		p.close()

		p = c.accept()
		got := p.letIn()
		want := Token{Mid: 123, Key: "k", RoomID: "live://3", Platform: "web", Accepts: []int32{1001, 1002, 1003}}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the second session begins with %+v, want %+v", got, want)
		}
		for range 2 {
			if err := <-changed; err != nil {
				t.Error(err)
			}
		}
		p.push("again")
		receives(t, cl, "again")
		if err := cl.Close(); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(events, []string{"up", "down", "up", "down"}) {
			t.Errorf("events are %v", events)
		}
	})
}

// What changes between the auth frame and its reply is asked for behind it.
func TestChangeDuringAuth(t *testing.T) {
	c := startComet(t, TCP)
	cl, p := c.dial(c.config())
	p.close()
	p = c.accept()
	f, err := p.read()
	if err != nil || f.Op != wire.OpAuth {
		t.Fatalf("op %d, %v", f.Op, err)
	}
	changed := make(chan error, 1)
	go func() { changed <- cl.ChangeRoom(timeout(t), "live://2") }()
	eventually(t, "it is wanted", func() bool {
		cl.mu.Lock()
		defer cl.mu.Unlock()
		return cl.wanted.room == "live://2"
	})
	select {
	case err := <-changed:
		t.Fatalf("changed too early: %v", err)
	default:
	}
	p.answer(f)
	p.wants(wire.OpChangeRoom, "live://2")
	if err := <-changed; err != nil {
		t.Error(err)
	}
}

// A change whose caller gives up is made all the same.
func TestChangeWithoutItsCaller(t *testing.T) {
	c := startComet(t, TCP)
	cl, p := c.dial(c.config())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := cl.ChangeRoom(ctx, "live://2"); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	p.wants(wire.OpChangeRoom, "live://2")
	go p.serve()
	if err := cl.ChangeRoom(timeout(t), "live://2"); err != nil { // nothing is left to ask for
		t.Error(err)
	}
}

func TestChangesByMany(t *testing.T) {
	c := startComet(t, WebSocket)
	cl, p := c.dial(c.config())
	go p.serve()
	var all sync.WaitGroup
	for i := range int32(20) {
		all.Go(func() {
			err := errors.Join(cl.Sub(timeout(t), 2000+i), cl.ChangeRoom(timeout(t), fmt.Sprint("live://", i)),
				cl.Send(timeout(t), 4, nil), cl.Unsub(timeout(t), 2000+i))
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if !slices.Equal(cl.wanted.accepts, []int32{1000, 1001}) || len(cl.current.changes)+len(cl.current.replies) > 0 {
		t.Errorf("left are %v, %v, %v", cl.wanted.accepts, cl.current.changes, cl.current.replies)
	}
}

// What the server refuses to say about a message is not known, and it is not sent again.
func TestSendIsNeverTwice(t *testing.T) {
	c := startComet(t, TCP)
	cl, p := c.dial(c.config())
	sent := make(chan error, 1)
	go func() { sent <- cl.Send(timeout(t), 4, []byte("once")) }()
	if f, err := p.read(); err != nil || string(f.Body) != "once" {
		t.Fatalf("%q, %v", f.Body, err)
	}
	p.close()
	if err := <-sent; !errors.Is(err, ErrDisconnected) {
		t.Errorf("error is %v", err)
	}
	p = c.accept()
	p.letIn()
	go func() { sent <- cl.Send(timeout(t), 4, []byte("next")) }()
	p.wants(4, "next")
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestBadRequests(t *testing.T) {
	c := startComet(t, TCP)
	cl, _ := c.dial(c.config())
	var many []int32
	for i := range int32(2000) {
		many = append(many, i)
	}
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"a reserved operation", cl.Send(timeout(t), wire.OpChangeRoom, nil), "send operation 12: accepted are 4 and those above 17"},
		{"a negative one", cl.Send(timeout(t), -1, nil), "operation -1"},
		{"a long body", cl.Send(timeout(t), 4, make([]byte, 4097)), "body has 4097 bytes, accepted are 0 to 4096"},
		{"a long room", cl.ChangeRoom(timeout(t), strings.Repeat("r", 5000)), "accepted are at most 4096"},
		{"many operations", cl.Sub(timeout(t), many...), "accepted are at most 4096"},
	} {
		if tc.err == nil || !strings.Contains(tc.err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q in it", tc.name, tc.err, tc.want)
		}
	}
	if w := cl.wanted; w.version != 0 || w.room != "live://1000" {
		t.Errorf("the wish has changed to %+v", w)
	}
}

// Frames that come with the reply to auth, before it or behind it, are not lost.
func TestPushesAroundAuth(t *testing.T) {
	c := startComet(t, TCP)
	dialed := make(chan *Client, 1)
	go func() {
		cl, err := Dial(timeout(t), c.config())
		if err != nil {
			t.Error(err)
		}
		dialed <- cl
	}()
	p := c.accept()
	f, err := p.read()
	if err != nil {
		t.Fatal(err)
	}
	b := pushes("before")
	b = wire.AppendFrame(b, wire.Frame{Ver: 1, Op: wire.OpAuthReply, Seq: f.Seq})
	p.write(append(b, pushes("behind")...))
	cl := <-dialed
	defer cl.Close()
	receives(t, cl, "before", "behind")
}

func FuzzEach(f *testing.F) {
	batch := pushes("a", "", "b")
	f.Add(batch)
	f.Add(append(wire.AppendHeader(nil, 1, wire.OpRaw, 0, len(batch)), batch...))
	f.Add(append(wire.AppendHeader(nil, 1, wire.OpRaw, 0, 3), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got []wire.Frame
		err := each(wire.Batch(b), func(f wire.Frame) error {
			got = append(got, f)
			return nil
		})
		// A naive reading: frames, and in those of op 9 frames.
		var want []wire.Frame
		good := true
		for rest := bytes.Clone(b); len(rest) > 0 && good; {
			f, n, err := wire.Decode(rest, len(rest))
			if good = err == nil; !good {
				break
			}
			rest = rest[n:]
			if f.Op != wire.OpRaw {
				want = append(want, f)
				continue
			}
			for inner := f.Body; len(inner) > 0 && good; {
				f, n, err := wire.Decode(inner, len(inner))
				if good = err == nil; good {
					want, inner = append(want, f), inner[n:]
				}
			}
		}
		if good != (err == nil) || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v, %v; want %v, good %v", got, err, want, good)
		}
	})
}
