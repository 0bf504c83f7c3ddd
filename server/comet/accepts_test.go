package comet

import (
	"fmt"
	"testing"

	"barrage/server/wire"
)

// Sessions that accept the same operations share one set, in whatever order these were given.
func TestAcceptSetsAreShared(t *testing.T) {
	sh, now := newTestShard(t, nil)
	join := func(ops ...wire.Op) *session {
		s, _ := newFakeSession(sh.server, fmt.Sprint("k", sh.server.numbers.Load()), false)
		sh.mailbox.put(joinCommand{session: s, ops: ops})
		sh.turn(*now)
		return s
	}
	first := join(1000, 1001)
	all := []*session{first, join(1001, 1000), join(1001, 1000, 1001, 1000), join(1000)}
	for _, s := range all[:3] {
		if s.accepts != first.accepts {
			t.Errorf("%s has a set of its own, with %v", s.key, s.accepts.ops)
		}
	}
	if all[3].accepts == first.accepts || first.accepts.refs != 3 || len(sh.accepts.sets) != 2 {
		t.Errorf("%d sets, the shared one for %d sessions, want 2 and 3", len(sh.accepts.sets), first.accepts.refs)
	}
	sh.mailbox.put(subCommand{session: all[3], ops: []wire.Op{1001}})
	sh.turn(*now)
	if all[3].accepts != first.accepts || first.accepts.refs != 4 || len(sh.accepts.sets) != 1 {
		t.Errorf("%d sets, the shared one for %d sessions, want 1 and 4", len(sh.accepts.sets), first.accepts.refs)
	}
	for _, s := range all {
		s.gone()
	}
	sh.turn(*now)
	if len(sh.accepts.sets) != 0 {
		t.Errorf("%d sets are left behind", len(sh.accepts.sets))
	}
}

// A chunkStream notes the chunks that it is to send.
type chunkStream struct {
	fakeStream
	chunks []*chunk
}

func (c *chunkStream) sendChunk(ch *chunk) (int, error) {
	c.chunks = append(c.chunks, ch)
	return c.fakeStream.sendChunk(ch)
}

// One chunk serves all members of a room on a transport, and all sessions with the same set of
// operations; over TCP its bytes are the log's own.
func TestOneChunkServesAll(t *testing.T) {
	const members = 300
	sh, now := newTestShard(t, nil)
	ref := sh.server.rooms.enter("live://1", sh)
	var outs [2][]*chunkStream // by transport
	for i := range 2 * members {
		s, _ := newFakeSession(sh.server, fmt.Sprint("k", i), i%2 == 1)
		out := &chunkStream{fakeStream: fakeStream{room: unlimited}}
		s.out.stream = out
		outs[i%2] = append(outs[i%2], out)
		ops := []wire.Op{1000, 1001}
		if i%3 == 0 {
			ops = []wire.Op{1001, 1000}
		}
		sh.mailbox.put(joinCommand{session: s, ref: ref, ops: ops})
	}
	sh.turn(*now)
	for name, push := range map[string]struct {
		command pushCommand
		log     *frameLog
	}{
		"a room's":      {pushCommand{kind: pushRoom, ref: ref, batch: pushFrame(1000, "x")}, &sh.rooms[ref].log},
		"a broadcast's": {pushCommand{kind: pushAll, op: 1001, batch: pushFrame(1001, "y")}, &sh.everyone.log},
	} {
		sh.putPush(push.command)
		sh.commands()
		segment := push.log.segments[0]
		settle(sh, now)
		for i, list := range outs {
			first := list[0].chunks[0]
			for _, out := range list {
				if len(out.chunks) != 1 || out.chunks[0] != first {
					t.Fatalf("%s: a member on %s got %d chunks, or another one", name, transportNames[i], len(out.chunks))
				}
				out.chunks = nil
			}
			if first.uses != members {
				t.Errorf("%s: the chunk on %s was for %d sends, want %d", name, transportNames[i], first.uses, members)
			}
			if i == 0 && &first.data[0] != &segment.buf[0] {
				t.Errorf("%s: the chunk on TCP is a copy", name)
			}
		}
	}
}
