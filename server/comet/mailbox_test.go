package comet

import (
	"context"
	"strings"
	"sync"
	"testing"

	cometpb "barrage/server/api/comet"
	"barrage/server/wire"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// While a shard's mailbox is full of pushes the next one waits, and clients come, move and go as
// ever. It goes on when the shard does, and one that was given up meanwhile reaches nobody.
func TestFullMailbox(t *testing.T) {
	const limit = 4096
	c := startComet(t, &fakeLogic{}, func(cfg *Config) {
		cfg.Room.MailboxBytes, cfg.Room.Shards = limit, 1
		cfg.Limit.DescriptorTables = min(tables, 1)
	})
	mailbox := c.shards[0].mailbox
	stays := c.login(t, false, `{"key":"stays","room_id":"live://1"}`)
	moves := c.login(t, true, `{"key":"moves","room_id":"live://1"}`)
	leaves := c.login(t, false, `{"key":"leaves","room_id":"live://1"}`)

	held, release := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	defer goOn()
	mailbox.put(testCommand(func(*shard) { close(held); <-release }))
	<-held
	// fits says whether n bytes more would be taken at once: none where somebody waits.
	fits := func(n int64) bool {
		ok := mailbox.bytes.TryAcquire(n)
		if ok {
			mailbox.bytes.Release(n)
		}
		return ok
	}
	push := func(body string) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := c.rpc.BroadcastRoom(context.Background(), &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(1000, body)})
			done <- err
		}()
		return done
	}
	large, small := strings.Repeat("1", limit-wire.HeaderLen-100), strings.Repeat("2", 200)
	first := push(large)
	eventually(t, "the first push is in the mailbox", func() bool { return !fits(limit) })
	if !fits(1) {
		t.Fatal("the first push waits, and there is space for it")
	}
	second := push(small)
	eventually(t, "the second push waits", func() bool { return !fits(1) })

	joins := c.login(t, true, `{"key":"joins","room_id":"live://1"}`)
	if tables == 0 { // else it is the shard that reads what its clients send
		moves.send(wire.Frame{Ver: 1, Op: wire.OpChangeRoom, Body: []byte("live://2")})
		eventually(t, "a client has moved", func() bool { return c.rooms.counts()["live://2"] == 1 })
		leaves.conn.Close()
		eventually(t, "a client has left", func() bool { return c.sessions.Load() == 3 })
	}
	ctx, giveUp := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() {
		p, _ := c.toRoom("live://1", pushFrame(1000, strings.Repeat("3", 200)), 1)
		given <- c.push(ctx, p, nil)
	}()
	giveUp()
	if err := <-given; status.Code(err) != codes.Canceled {
		t.Errorf("a push that its caller gave up: %v", err)
	}
	select {
	case err := <-second:
		t.Fatalf("the second push is answered, with %v, and the shard has done nothing", err)
	default:
	}

	goOn()
	if err := errorsOf(<-first, <-second, <-push("last")); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{large, small, "last"} {
		stays.wants(body)
	}
	for _, body := range []string{small, "last"} { // it came behind the first
		joins.wants(body)
	}
	if tables == 0 {
		moves.wants(large)
		if f := moves.read(); f.Op != wire.OpChangeRoomReply {
			t.Errorf("behind what was in the mailbox before it moved, the client got %+v", f)
		}
	}
	eventually(t, "the mailbox is empty", func() bool { return fits(limit) })
}
