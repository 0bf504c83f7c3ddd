package comet

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	cometpb "barrage/server/api/comet"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
)

// The sessions of a comet with tables are read in them, and nowhere else; a push reaches all.
func TestTablesShareSessions(t *testing.T) {
	const tables, sessions = 4, 300
	c := startComet(t, &fakeLogic{}, func(cfg *Config) { cfg.Limit.DescriptorTables = tables })
	var clients []*client
	for i := range sessions {
		clients = append(clients, c.login(t, i%2 == 1, fmt.Sprintf(`{"key":"k%d","room_id":"live://1","accepts":[1000]}`, i)))
	}
	var held []int
	for _, sh := range c.shards {
		onShard(sh, func(sh *shard) {
			n := 0
			for _, s := range sh.table.poller.sessions {
				if s != nil {
					n++
				}
			}
			held = append(held, n)
		})
	}
	slices.Sort(held)
	if want := []int{0, 0, sessions - sliceMembers, sliceMembers}; !slices.Equal(held, want) {
		t.Errorf("the tables hold %v, want %v", held, want)
	}
	if _, err := c.rpc.BroadcastRoom(context.Background(), &cometpb.BroadcastRoomReq{RoomID: "live://1", Proto: raw(1000, "x")}); err != nil {
		t.Fatal(err)
	}
	for _, cl := range clients {
		cl.wants("x")
	}
}

// Whoever rings finds the shard awake, or wakes it, however the two meet.
func TestBell(t *testing.T) {
	sh := &shard{mailbox: newMailbox(1), log: slog.New(slog.DiscardHandler)}
	tab, err := newTable(sh, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tab.close()
	tab.wait(time.Millisecond) // nobody rings
	sh.mailbox.rouse()
	tab.wait(time.Hour) // somebody has
	const rings = 20_000
	var rung atomic.Int64
	heard := make(chan int64)
	go func() {
		for seen := int64(0); seen < rings; {
			if n := rung.Load(); n > seen {
				seen = n
				heard <- n
				continue
			}
			tab.wait(time.Hour)
			tab.poll()
		}
	}()
	deadline := time.After(time.Minute)
	for n := int64(1); n <= rings; n++ {
		rung.Store(n)
		sh.mailbox.rouse()
		select {
		case <-heard:
		case <-deadline:
			t.Fatalf("ring %d of %d was not heard", n, rings)
		}
	}
}

// A session that comes to a full table is closed for that, and the next one that finds a place
// is served.
func TestTableIsFull(t *testing.T) {
	c := startComet(t, &fakeLogic{}, func(cfg *Config) { cfg.Limit.DescriptorTables = 1 })
	c.login(t, false, `{"key":"first"}`)
	var filling []int
	onShard(c.shards[0], func(sh *shard) {
		for {
			fd, err := unix.Dup(sh.table.poller.epfd)
			if err != nil {
				return
			}
			filling = append(filling, fd)
		}
	})
	full := c.login(t, false, `{"key":"second"}`)
	full.ended()
	eventually(t, "it is closed for the lack of a descriptor", func() bool {
		return testutil.ToFloat64(c.metrics.closed[reasonDescriptors]) == 1
	})
	onShard(c.shards[0], func(*shard) {
		for _, fd := range filling {
			unix.Close(fd)
		}
	})
	c.login(t, true, `{"key":"third","accepts":[1000]}`)
	eventually(t, "the refused session is forgotten", func() bool { return c.sessions.Load() == 2 })
}
