package comet

import "testing"

// So many shards are in a gate at a time, in the order in which they came, and each is roused
// when its turn has come; one that has nothing to do any more passes its turn on.
func TestGate(t *testing.T) {
	g := &gate{free: 2}
	shards := make([]*shard, 6)
	for i := range shards {
		shards[i] = &shard{gate: g, mailbox: newMailbox(1)}
	}
	roused := func(i int) bool {
		select {
		case <-shards[i].mailbox.wake:
			return true
		default:
			return false
		}
	}
	for i, sh := range shards {
		if in := g.enter(sh); in != (i < 2) {
			t.Errorf("shard %d is in: %v", i, in)
		}
		if !g.enter(shards[0]) {
			t.Error("who is in is in")
		}
	}
	g.quit(shards[3])
	g.leave(shards[1])
	if !roused(2) || roused(3) || roused(4) {
		t.Error("it is the turn of shard 2")
	}
	g.leave(shards[2]) // before it looked
	if roused(3) || !roused(4) || g.enter(shards[5]) || !g.enter(shards[4]) {
		t.Error("it is the turn of shard 4")
	}
	g.leave(shards[1]) // again
	g.leave(shards[0])
	if !roused(5) || !g.enter(shards[5]) {
		t.Error("it is the turn of shard 5")
	}
	g.leave(shards[5])
	g.leave(shards[4])
	if g.free != 2 || len(g.waiting) != 0 {
		t.Errorf("%d may enter, %d wait", g.free, len(g.waiting))
	}
	var none *gate
	none.leave(shards[0])
	none.quit(shards[0])
	if !none.enter(shards[0]) {
		t.Error("no gate keeps anybody out")
	}
}
