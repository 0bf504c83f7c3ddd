package comet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	cometpb "barrage/server/api/comet"
	"barrage/server/wire"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// While pushes run to keys, rooms and all, sockets are closed and opened again all the
// time, so that the kernel hands the same descriptors out anew. Every frame names its
// addressee: no byte of one session may reach another, and no stream may break.
func TestNoByteReachesAnotherSession(t *testing.T) {
	everyTransport(t, func(t *testing.T, tr transport) {
		websocket := tr.websocket
		c := tr.start(t, &fakeLogic{}, nil)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		const slots = 16
		var keys [slots]atomic.Int64 // generation of the session in each slot
		var frames, lives atomic.Int64
		var clients, pushers sync.WaitGroup
		for slot := range slots {
			clients.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(slot), 7))
				for generation := int64(0); ctx.Err() == nil; generation++ {
					key, room := fmt.Sprintf("k%d.%d", slot, generation), fmt.Sprintf("live://%d.%d", slot, generation)
					cl, err := c.tryDial(t, websocket)
					if err != nil {
						if ctx.Err() == nil {
							t.Errorf("%s: %v", key, err)
						}
						return
					}
					token := fmt.Appendf(nil, `{"key":%q,"room_id":%q,"accepts":[%d]}`, key, room, 1000+slot)
					err = cl.trySend(wire.Frame{Ver: 1, Op: wire.OpAuth, Body: token})
					var f wire.Frame
					if err == nil {
						f, err = cl.tryRead()
					}
					if err != nil || f.Op != wire.OpAuthReply {
						if ctx.Err() == nil {
							t.Errorf("%s: auth reply is %+v, %v", key, f, err)
						}
						cl.conn.Close()
						return
					}
					keys[slot].Store(generation)
					for range rng.IntN(40) {
						f, err := cl.tryRead()
						if err != nil {
							if ctx.Err() == nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, net.ErrClosed) {
								t.Errorf("%s: stream broke: %v", key, err)
							}
							break
						}
						if f.Op == wire.OpDisconnectReply {
							continue // the comet ends
						}
						body := string(f.Body)
						if !strings.HasPrefix(body, key+" ") && body != fmt.Sprint("all ", 1000+slot) {
							t.Errorf("%s got a frame that is not its own: %q", key, body)
						}
						frames.Add(1)
					}
					if rng.IntN(2) == 0 {
						cl.reset()
					}
					cl.conn.Close()
					lives.Add(1)
				}
			})
		}
		for range 4 {
			pushers.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					slot := rand.IntN(slots)
					generation := keys[slot].Load()
					key, room := fmt.Sprintf("k%d.%d", slot, generation), fmt.Sprintf("live://%d.%d", slot, generation)
					var err error
					switch i % 3 {
					case 0:
						_, err = c.rpc.PushMsg(ctx, &cometpb.PushMsgReq{Keys: []string{key}, ProtoOp: int32(1000 + slot), Proto: raw(2000, key+" key")})
					case 1:
						_, err = c.rpc.BroadcastRoom(ctx, &cometpb.BroadcastRoomReq{RoomID: room, Proto: raw(2000, key+" room")})
					case 2:
						op := int32(1000 + slot)
						_, err = c.rpc.Broadcast(ctx, &cometpb.BroadcastReq{ProtoOp: op, Proto: raw(op, fmt.Sprint("all ", op))})
					}
					if err != nil && status.Code(err) != codes.DeadlineExceeded && ctx.Err() == nil {
						t.Errorf("push: %v", err)
					}
				}
			})
		}
		began := time.Now()
		eventually(t, "enough lives to mean anything", func() bool {
			return t.Failed() || time.Since(began) > time.Second && lives.Load() > 2*slots && frames.Load() > 20*slots
		})
		cancel()
		pushers.Wait()
		c.stop() // clients that still read see the end
		clients.Wait()
		t.Logf("%d frames in %d lives", frames.Load(), lives.Load())
	})
}

// BenchmarkSweep is the cost of one member in a sweep, over sessions that take all.
func BenchmarkSweep(b *testing.B) {
	for _, websocket := range []bool{false, true} {
		b.Run(fmt.Sprintf("websocket=%v", websocket), func(b *testing.B) {
			sh, now := newTestShard(b, nil)
			ref := sh.server.rooms.enter("live://1", sh)
			const members = 10_000
			for i := range members {
				s, _ := newFakeSession(sh.server, fmt.Sprint(i), websocket)
				s.out.stream = discardStream{}
				sh.mailbox.put(joinCommand{session: s, ref: ref})
			}
			sh.turn(*now)
			batch := pushFrame(1000, strings.Repeat("x", 64))
			accepted := []int64{now.UnixNano()}
			b.ReportAllocs()
			for b.Loop() {
				sh.putPush(pushCommand{kind: pushRoom, ref: ref, batch: batch, trace: newTrace(sh.metrics, accepted, 1)})
				for sh.turn(*now) {
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/members, "ns/member")
		})
	}
}

type discardStream struct{}

func (discardStream) send(b []byte) (int, error)      { return len(b), nil }
func (discardStream) sendChunk(c *chunk) (int, error) { return len(c.data), nil }
func (discardStream) shutdown()                       {}

// BenchmarkLogAppend is the cost of a 64-byte push in a room's log.
func BenchmarkLogAppend(b *testing.B) {
	l := frameLog{limit: 1 << 20}
	batch := pushFrame(1000, strings.Repeat("x", 64))
	b.ReportAllocs()
	for b.Loop() {
		l.append(0, batch)
		l.evict(l.head)
	}
}

// BenchmarkLogChunk is the cost of making a send of 100 frames from a log, which all
// members at the same offset share.
func BenchmarkLogChunk(b *testing.B) {
	for _, websocket := range []bool{false, true} {
		b.Run(fmt.Sprintf("websocket=%v", websocket), func(b *testing.B) {
			l := frameLog{limit: 1 << 20}
			for range 100 {
				l.append(0, pushFrame(1000, strings.Repeat("x", 64)))
			}
			b.ReportAllocs()
			for b.Loop() {
				if c := l.build(0, nil, websocket); c.frames != 100 {
					b.Fatal(c.frames)
				}
			}
		})
	}
}

// BenchmarkSend is the cost of one push to one session over a real socket, with the
// kernel's.
func BenchmarkSend(b *testing.B) {
	c := startComet(b, &fakeLogic{}, nil)
	cl := c.login(b, false, `{"key":"k","room_id":"live://1"}`)
	cl.conn.SetDeadline(time.Time{})
	go io.Copy(io.Discard, cl.conn)
	ctx := context.Background()
	batch := wire.Batch(pushFrame(1000, strings.Repeat("x", 64)))
	for b.Loop() {
		p, _ := c.toRoom("live://1", batch, 1)
		if err := c.push(ctx, p, nil); err != nil {
			b.Fatal(err)
		}
	}
}
