package job

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestRecordsReachWhomTheyAreFor(t *testing.T) {
	y := newYard(t, quick())
	y.list("a", "b")
	y.push(kindRoom, "live://1", "room")
	y.pushTo("b", "key", "push")
	y.pushTo("gone", "key", "push to nobody")
	r := newRecord(y.part, y.next, kindBroadcast, "", "all")
	r.pace = newPace(10)
	y.hand(r)
	y.settled()
	for host, c := range y.comets {
		if got := c.takenRoom("live://1"); !slices.Equal(got, []string{"room"}) {
			t.Errorf("comet %s: room got %q", host, got)
		}
		if got := c.taken(target{kind: kindBroadcast}); !slices.Equal(got, []string{"all"}) || !slices.Equal(c.speeds, []int32{5}) {
			t.Errorf("comet %s: all got %q at speeds %d", host, got, c.speeds)
		}
	}
	if got := y.comets["a"].taken(target{kindPush, "key"}); len(got) != 0 {
		t.Errorf("comet a: keys of comet b got %q", got)
	}
	if got := y.comets["b"].taken(target{kindPush, "key"}); !slices.Equal(got, []string{"push"}) {
		t.Errorf("comet b: keys got %q", got)
	}
	if n := value(t, y.reg, "barrage_job_records_dropped_total", "comet_gone"); n != 1 {
		t.Errorf("%v records dropped, want 1", n)
	}
}

func TestFailedCallsAreRepeatedInOrder(t *testing.T) {
	y := newYard(t, quick())
	y.list("a")
	y.comets["a"].setHook(func(n int) error {
		if n%3 != 0 {
			return unavailable()
		}
		return nil
	})
	var want []string
	for i := range 200 {
		y.push(kindRoom, "live://1", strconv.Itoa(i))
		want = append(want, strconv.Itoa(i))
	}
	y.settled()
	if got := y.comets["a"].takenRoom("live://1"); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if value(t, y.reg, "barrage_job_rpc_retries_total") == 0 {
		t.Error("no retries counted")
	}
}

func TestRefusedBatchIsDroppedAndTheNextOneGoes(t *testing.T) {
	y := newYard(t, quick())
	y.list("a")
	y.comets["a"].setHook(func(n int) error {
		if n == 1 {
			return status.Error(codes.InvalidArgument, "no")
		}
		return nil
	})
	y.push(kindRoom, "live://1", "bad")
	y.settled()
	y.push(kindRoom, "live://1", "good")
	y.settled()
	if got := y.comets["a"].takenRoom("live://1"); !slices.Equal(got, []string{"good"}) {
		t.Errorf("got %q", got)
	}
	if n := value(t, y.reg, "barrage_job_records_dropped_total", "refused"); n != 1 {
		t.Errorf("%v dropped as refused, want 1", n)
	}
}

func TestExhaustedCometIsTriedForALimitedTime(t *testing.T) {
	cfg := quick()
	cfg.Comet.DeadAfter = 100 * time.Millisecond
	y := newYard(t, cfg)
	y.list("a")
	y.comets["a"].setHook(func(int) error { return status.Error(codes.ResourceExhausted, "full") })
	y.push(kindRoom, "live://1", "x")
	y.settled()
	if n := value(t, y.reg, "barrage_job_records_dropped_total", "exhausted"); n != 1 {
		t.Errorf("%v dropped as exhausted, want 1", n)
	}
	if n := value(t, y.reg, "barrage_job_comets_given_up_total"); n != 0 {
		t.Error("a comet that answers was given up")
	}
}

func TestDeadCometIsGivenUpAndComesBack(t *testing.T) {
	cfg := quick()
	cfg.Comet.DeadAfter = 100 * time.Millisecond
	y := newYard(t, cfg)
	y.list("a", "b")
	y.comets["b"].kill()
	for i := range 50 {
		y.push(kindRoom, "live://"+strconv.Itoa(i%5), strconv.Itoa(i))
	}
	y.settled() // b does not hold the offsets back for longer than comet.deadAfter
	if n := value(t, y.reg, "barrage_job_records_dropped_total", "comet_dead"); n != 50 {
		t.Errorf("%v records dropped with the comet, want 50", n)
	}
	if n := value(t, y.reg, "barrage_job_comet_up", "b"); n != 0 {
		t.Error("the dead comet is shown as up")
	}
	y.push(kindRoom, "live://1", "only a")
	y.settled()
	if n := value(t, y.reg, "barrage_job_records_dropped_total", "comet_dead"); n != 51 {
		t.Errorf("%v records count as dropped, want also the one that the dead comet missed", n)
	}
	y.comets["b"].revive()
	eventually(t, func() error {
		if y.fleet.live.Load().byHost["b"] == nil {
			return errors.New("b is not back")
		}
		return nil
	})
	y.push(kindRoom, "live://1", "both")
	y.settled()
	if got := y.comets["b"].takenRoom("live://1"); !slices.Equal(got, []string{"both"}) {
		t.Errorf("b got %q", got)
	}
	if got := y.comets["a"].takenRoom("live://1"); len(got) != 12 {
		t.Errorf("a got %q, want all 12", got)
	}
}

// A connection that stands is no sign that a comet which hangs is back: an answer is.
func TestHangingCometIsNotTakenForBack(t *testing.T) {
	cfg := quick()
	cfg.Comet.DeadAfter = 100 * time.Millisecond
	cfg.Comet.BackoffMax = time.Millisecond
	y := newYard(t, cfg)
	y.list("a", "b")
	b := y.comets["b"]
	hangs := status.Error(codes.DeadlineExceeded, "hangs")
	asked := make(chan struct{}, 1000)
	b.mu.Lock()
	b.hooked = func(int) error { return hangs }
	b.roomsErr = hangs
	b.answer = func() {
		select {
		case asked <- struct{}{}:
		default:
		}
	}
	b.mu.Unlock()
	y.push(kindRoom, "live://1", "x")
	y.settled()
	for range 10 {
		<-asked
	}
	if y.fleet.live.Load().byHost["b"] != nil {
		t.Error("the comet is live though it answers nothing")
	}
	b.setHook(nil)
	b.mu.Lock()
	b.roomsErr = nil
	b.mu.Unlock()
	eventually(t, func() error {
		if y.fleet.live.Load().byHost["b"] == nil {
			return errors.New("b is not back")
		}
		return nil
	})
}

// One call that times out does not make a comet dead whose other lanes go on.
func TestCometWithOneHangingLaneIsNotGivenUp(t *testing.T) {
	cfg := quick()
	cfg.Comet.DeadAfter = 100 * time.Millisecond
	y := newYard(t, cfg)
	y.list("a")
	a := y.comets["a"]
	hanging := make(chan struct{})
	timedOut := make(chan struct{})
	a.setHook(func(n int) error {
		if n > 1 {
			return nil
		}
		close(hanging)
		<-timedOut
		return status.Error(codes.DeadlineExceeded, "hung for longer than comet.deadAfter")
	})
	y.push(kindBroadcast, "", "hangs") // in a lane of its own
	<-hanging
	for start, i := time.Now(), 0; time.Since(start) < 2*cfg.Comet.DeadAfter; i++ {
		y.push(kindRoom, "live://1", strconv.Itoa(i))
		eventually(t, func() error {
			if n := len(a.takenRoom("live://1")); n != i+1 {
				return fmt.Errorf("%d of %d", n, i+1)
			}
			return nil
		})
	}
	close(timedOut)
	y.settled()
	if n := value(t, y.reg, "barrage_job_comets_given_up_total"); n != 0 {
		t.Error("a comet that answers was given up")
	}
	if got := a.taken(target{kind: kindBroadcast}); !slices.Equal(got, []string{"hangs"}) {
		t.Errorf("the call that timed out was not repeated: %q", got)
	}
}

// One lane: a room that has no space holds up only itself, until it is answered for.
func TestSlowRoomHoldsUpOnlyItself(t *testing.T) {
	cfg := quick()
	cfg.Lane.Count = 1
	y := newYard(t, cfg)
	a := newFakeComet()
	a.slow = map[string]chan error{"live://full": make(chan error)}
	y.comets["a"] = a
	y.list("a")
	y.push(kindRoom, "live://full", "1")
	for i := range 20 {
		y.push(kindRoom, "live://full", strconv.Itoa(i+2))
		y.push(kindRoom, "live://other", strconv.Itoa(i))
		eventually(t, func() error {
			if n := len(a.takenRoom("live://other")); n != i+1 {
				return fmt.Errorf("%d of %d", n, i+1)
			}
			return nil
		})
	}
	if got := a.takenRoom("live://full"); len(got) != 0 {
		t.Errorf("the full room took %q", got)
	}
	if taken, _ := y.part.progress(); taken > 0 {
		t.Errorf("the offset is %d, before the first record was taken", taken)
	}
	a.slow["live://full"] <- unavailable() // the call breaks off: what was not answered for is sent again
	a.slow["live://full"] <- nil
	a.slow["live://full"] <- nil // what came meanwhile, as one batch
	y.settled()
	var want []string
	for i := range 21 {
		want = append(want, strconv.Itoa(i+1))
	}
	if got := a.takenRoom("live://full"); !slices.Equal(got, want) {
		t.Errorf("the full room took %q", got)
	}
	if n := len(a.takenRoom("live://other")); n != 20 {
		t.Errorf("the other room took %d records, want each once", n)
	}
	if a.overlap {
		t.Error("two batches of one room were in flight at once")
	}
}

// Refusing one item does not hit the others in its call.
func TestRefusedItemIsDroppedAlone(t *testing.T) {
	cfg := quick()
	cfg.Lane.Count = 1
	y := newYard(t, cfg)
	y.list("a")
	a, gate := y.comets["a"], make(chan struct{})
	a.setHook(func(n int) error {
		if n == 1 {
			<-gate
		}
		if n == 3 {
			return status.Error(codes.InvalidArgument, "no")
		}
		return nil
	})
	for i := range 4 {
		y.push(kindRoom, "live://"+strconv.Itoa(i), "x") // the first alone, or not
	}
	close(gate)
	y.settled()
	if n := value(t, y.reg, "barrage_job_records_dropped_total", "refused"); n != 1 {
		t.Errorf("%v dropped as refused, want 1", n)
	}
	got := 0
	for i := range 4 {
		got += len(a.takenRoom("live://" + strconv.Itoa(i)))
	}
	if got != 3 {
		t.Errorf("%d rooms got theirs, want 3", got)
	}
}

// goim's comets don't know Push: they are asked once, and then called for each room.
func TestGoimsCometGetsOneRoomACall(t *testing.T) {
	cfg := quick()
	cfg.Lane.Count = 1
	y := newYard(t, cfg)
	y.comets["a"] = newFakeComet()
	y.comets["a"].goim = true
	y.list("a")
	for i := range 50 {
		y.push(kindRoom, "live://"+strconv.Itoa(i%7), strconv.Itoa(i))
		y.pushTo("a", "k", strconv.Itoa(i))
	}
	y.settled()
	var want []string
	for i := range 50 {
		want = append(want, strconv.Itoa(i))
	}
	if got := y.comets["a"].taken(target{kindPush, "k"}); !slices.Equal(got, want) {
		t.Errorf("the key got %q", got)
	}
	if n := y.comets["a"].asked; n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	if n := value(t, y.reg, "barrage_job_rpc_retries_total"); n != 0 {
		t.Errorf("%v retries counted", n)
	}
}

// What goim's comet refuses of several that went to it together is dropped alone, too.
func TestGoimsCometRefusesOneBatchAlone(t *testing.T) {
	cfg := quick()
	cfg.Lane.Count = 1
	y := newYard(t, cfg)
	y.list("a")
	a, gate := y.comets["a"], make(chan struct{})
	a.setHook(func(n int) error {
		switch n {
		case 1:
			<-gate
		case 3:
			return status.Error(codes.InvalidArgument, "no")
		}
		return nil
	})
	y.push(kindRoom, "live://0", "x")
	eventually(t, func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.calls == 0 {
			return errors.New("the comet is not called")
		}
		return nil
	})
	for i := 1; i < 5; i++ {
		y.push(kindRoom, "live://"+strconv.Itoa(i), "x") // together, in the next call
	}
	a.mu.Lock()
	a.goim = true
	a.mu.Unlock()
	close(gate)
	y.settled()
	if n := value(t, y.reg, "barrage_job_records_dropped_total", "refused"); n != 1 {
		t.Errorf("%v dropped as refused, want 1", n)
	}
	var without []int
	for i := range 5 {
		if got := a.takenRoom("live://" + strconv.Itoa(i)); len(got) == 0 {
			without = append(without, i)
		}
	}
	if !slices.Equal(without, []int{2}) {
		t.Errorf("rooms %v got nothing, want the second of the call", without)
	}
}

func TestLeavingCometGetsWhatWaits(t *testing.T) {
	y := newYard(t, quick())
	y.list("a", "b")
	gate := make(chan struct{})
	y.comets["b"].setHook(func(int) error { <-gate; return nil })
	var want []string
	for i := range 20 {
		y.push(kindRoom, "live://1", strconv.Itoa(i))
		want = append(want, strconv.Itoa(i))
	}
	y.list("a")
	y.push(kindRoom, "live://1", "after")
	close(gate)
	y.settled()
	if got := y.comets["b"].takenRoom("live://1"); !slices.Equal(got, want) {
		t.Errorf("b got %q, want what waited when it left", got)
	}
	eventually(t, func() error {
		if n := len(y.fleet.everyLink()); n != 1 {
			return fmt.Errorf("%d links are left", n)
		}
		return nil
	})
}

func TestLeavingCometThatHangsIsCutOff(t *testing.T) {
	cfg := quick()
	cfg.Comet.LeaveWait = 50 * time.Millisecond
	y := newYard(t, cfg)
	y.list("a", "b")
	gate := make(chan struct{})
	defer close(gate)
	y.comets["b"].setHook(func(int) error { <-gate; return nil })
	for i := range 20 {
		y.push(kindRoom, "live://"+strconv.Itoa(i), "x")
	}
	y.list("a")
	eventually(t, func() error {
		if n := value(t, y.reg, "barrage_job_records_dropped_total", "comet_gone"); n != 20 {
			return fmt.Errorf("%v dropped", n)
		}
		return nil
	})
}

func TestCometThatComesBackWhileLeavingKeepsItsOrder(t *testing.T) {
	y := newYard(t, quick())
	y.list("a")
	gate := make(chan struct{})
	y.comets["a"].setHook(func(int) error { <-gate; return nil })
	y.push(kindRoom, "live://1", "1")
	y.push(kindRoom, "live://1", "2")
	y.list()
	y.list("a")
	y.push(kindRoom, "live://1", "3")
	close(gate)
	y.settled()
	if got := y.comets["a"].takenRoom("live://1"); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("got %q", got)
	}
}

func TestCometThatMovesIsCalledAtItsNewAddress(t *testing.T) {
	y := newYard(t, quick())
	y.list("a")
	y.comets["a"].setHook(func(int) error { return unavailable() })
	y.push(kindRoom, "live://1", "1")
	moved := newFakeComet()
	y.comets["a2"] = moved
	in := instance("a", "a2")
	y.fleet.apply(in)
	y.settled()
	if got := moved.takenRoom("live://1"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("got %q", got)
	}
}

func TestSlowCometDoesNotDelayTheOthers(t *testing.T) {
	y := newYard(t, quick())
	y.list("fast", "slow")
	gate := make(chan struct{})
	y.comets["slow"].setHook(func(int) error { <-gate; return nil })
	for i := range 100 {
		y.push(kindRoom, "live://1", strconv.Itoa(i))
	}
	eventually(t, func() error {
		if n := len(y.comets["fast"].takenRoom("live://1")); n != 100 {
			return fmt.Errorf("fast comet has %d", n)
		}
		return nil
	})
	if taken, _ := y.part.progress(); taken > 0 {
		t.Errorf("offset %d is stored, but the slow comet has taken nothing", taken)
	}
	close(gate)
	y.settled()
	if n := y.comets["slow"].calls; n > 3 {
		t.Errorf("%d calls for what waited, want it merged", n)
	}
}

func TestRevokedRecordsAreNotSentAndNotStored(t *testing.T) {
	y := newYard(t, quick())
	y.list("a")
	gate := make(chan struct{})
	y.comets["a"].setHook(func(int) error { <-gate; return nil })
	y.push(kindRoom, "live://1", "in flight")
	eventually(t, func() error {
		if y.part.flying.Load() == 0 {
			return errors.New("not in flight")
		}
		return nil
	})
	y.push(kindRoom, "live://1", "waits")
	y.part.revoked.Store(true)
	y.fleet.forget(y.part)
	go close(gate)
	if !y.part.waitLanded(time.Now().Add(20 * time.Second)) {
		t.Fatal("the call in flight did not land")
	}
	if taken, _ := y.part.progress(); taken != 1 {
		t.Errorf("offset to store is %d, want 1: what was in flight and no more", taken)
	}
	if got := y.comets["a"].takenRoom("live://1"); !slices.Equal(got, []string{"in flight"}) {
		t.Errorf("got %q", got)
	}
	if n := value(t, y.reg, "barrage_job_records_given_back_total", "revoked"); n != 1 {
		t.Errorf("%v given back, want 1", n)
	}
}

func TestUnheldRoomsAreKeptFromACometWithoutLoss(t *testing.T) {
	cfg := quick()
	cfg.Comet.SkipUnheldRooms = true
	y := newYard(t, cfg)
	c := newFakeComet()
	c.rooms = map[string]bool{"live://held": true}
	y.comets["a"] = c
	y.list("a")
	eventually(t, func() error {
		if y.fleet.live.Load().links[0].rooms.held.Load() == nil {
			return errors.New("the comet was not asked")
		}
		return nil
	})
	for i := range 100 {
		y.push(kindRoom, "live://unheld", strconv.Itoa(i))
		y.push(kindRoom, "live://held", strconv.Itoa(i))
	}
	y.settled()
	if got := c.takenRoom("live://unheld"); len(got) != 0 {
		t.Errorf("an unheld room got %q", got)
	}
	if got := c.takenRoom("live://held"); len(got) != 100 {
		t.Errorf("the held room got %d of 100", len(got))
	}
	if n := value(t, y.reg, "barrage_job_records_unheld_total"); n != 100 {
		t.Errorf("%v records counted as unheld, want 100", n)
	}

	// A session joins: whatever is pushed after that must reach it, whatever the last answer said.
	for join := range 50 {
		room := fmt.Sprintf("live://new%d", join)
		y.push(kindRoom, room, "before")
		c.mu.Lock()
		c.rooms[room] = true
		c.mu.Unlock()
		y.push(kindRoom, room, "after 1")
		y.push(kindRoom, room, "after 2")
		y.settled()
		got := c.takenRoom(room)
		if len(got) < 2 || !slices.Equal(got[len(got)-2:], []string{"after 1", "after 2"}) {
			t.Fatalf("join %d: got %q", join, got)
		}
	}

	// A comet that does not say gets everything.
	c.mu.Lock()
	c.roomsErr = status.Error(codes.Unimplemented, "old comet")
	c.mu.Unlock()
	y.push(kindRoom, "live://unheld", "last")
	eventually(t, func() error {
		y.push(kindRoom, "live://unheld", "last")
		if len(c.takenRoom("live://unheld")) == 0 {
			return errors.New("nothing was sent")
		}
		return nil
	})
}

// TestAnswerFromBeforeAJoinSettlesNothing lets a session join, and a push follow, while an
// answer that does not know of it is on its way.
func TestAnswerFromBeforeAJoinSettlesNothing(t *testing.T) {
	cfg := quick()
	cfg.Comet.SkipUnheldRooms = true
	y := newYard(t, cfg)
	c := newFakeComet()
	y.comets["a"] = c
	y.list("a")
	eventually(t, func() error {
		if y.fleet.live.Load().links[0].rooms.held.Load() == nil {
			return errors.New("the comet was not asked")
		}
		return nil
	})
	onItsWay, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c.mu.Lock()
	c.answer = func() {
		once.Do(func() {
			close(onItsWay)
			<-goOn
		})
	}
	c.mu.Unlock()
	<-onItsWay
	c.mu.Lock()
	c.rooms = map[string]bool{"live://new": true}
	c.mu.Unlock()
	y.push(kindRoom, "live://new", "after the join")
	close(goOn)
	y.settled()
	if got := c.takenRoom("live://new"); !slices.Equal(got, []string{"after the join"}) {
		t.Errorf("got %q", got)
	}
}

// TestFleetAgainstModel feeds random records to comets that answer at random times, fail
// before or after they took a batch, die and come back. A comet that was there all along
// must see every record of every target in order, duplicates aside; one that came and went
// must see some of them, in order; and in the end all offsets are done.
func TestFleetAgainstModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(strconv.Itoa(int(seed)), func(t *testing.T) {
			t.Parallel()
			modelRun(t, seed)
		})
	}
}

func modelRun(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	cfg := quick()
	cfg.Lane.Count = 1 + rng.IntN(4)
	cfg.Lane.BatchFrames = 1 + rng.IntN(20)
	cfg.Comet.SkipUnheldRooms = rng.IntN(2) == 0
	cfg.Comet.LeaveWait = 5 * time.Millisecond
	y := newYard(t, cfg)
	stay, roam := []string{"s1", "s2"}, []string{"r1", "r2", "r3"}
	for _, host := range append(slices.Clone(stay), roam...) {
		c := newFakeComet()
		c.goim = rng.IntN(3) == 0
		if rng.IntN(2) == 0 {
			c.slow = map[string]chan error{"live://0": make(chan error), "live://3": make(chan error)}
			for _, answers := range c.slow {
				go answerSlowly(t.Context(), answers, rand.New(rand.NewPCG(seed, rng.Uint64())))
			}
		}
		c.rooms = map[string]bool{}
		for room := range 6 {
			c.rooms["live://"+strconv.Itoa(room)] = true
		}
		var mu sync.Mutex
		own := rand.New(rand.NewPCG(seed, uint64(len(y.comets))))
		draw := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return own.IntN(n)
		}
		c.hooked = func(int) error {
			if draw(4) == 0 {
				time.Sleep(time.Duration(draw(500)) * time.Microsecond)
			}
			if draw(10) == 0 {
				return unavailable()
			}
			return nil
		}
		c.late = func(int) error { // taken, but the answer is lost: sent again
			if draw(20) == 0 {
				return unavailable()
			}
			return nil
		}
		y.comets[host] = c
	}
	y.list(stay...)

	sent := make(map[target][]string) // what every comet is to see
	keys := make(map[string][]string) // by comet
	const records = 1500
	for i := range records {
		if rng.IntN(100) == 0 {
			var hosts []string
			for _, h := range roam {
				if rng.IntN(2) == 0 {
					hosts = append(hosts, h)
				}
			}
			y.list(append(hosts, stay...)...)
		}
		body := strconv.Itoa(i)
		switch rng.IntN(10) {
		case 0:
			r := newRecord(y.part, y.next, kindBroadcast, "", body)
			y.hand(r)
			sent[target{kind: kindBroadcast}] = append(sent[target{kind: kindBroadcast}], body)
		case 1:
			host := stay[rng.IntN(len(stay))]
			y.pushTo(host, "k", body)
			keys[host] = append(keys[host], body)
		default:
			room := "live://" + strconv.Itoa(rng.IntN(6))
			y.push(kindRoom, room, body)
			sent[target{kindRoom, room}] = append(sent[target{kindRoom, room}], body)
		}
		if rng.IntN(50) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	y.settled()

	for _, host := range stay {
		for to, want := range sent {
			if got := firsts(y.comets[host].taken(to)); !slices.Equal(got, want) {
				t.Errorf("comet %s, %v: got %q, want %q", host, to, got, want)
			}
		}
		if got := firsts(y.comets[host].taken(target{kindPush, "k"})); !slices.Equal(got, keys[host]) {
			t.Errorf("comet %s, keys: got %q, want %q", host, got, keys[host])
		}
	}
	for host, c := range y.comets {
		if c.overlap && slices.Contains(stay, host) {
			t.Errorf("comet %s had two calls for one target at once", host)
		}
		for to := range sent {
			got := firsts(c.taken(to))
			if !slices.IsSortedFunc(got, func(a, b string) int { x, _ := strconv.Atoi(a); z, _ := strconv.Atoi(b); return x - z }) {
				t.Errorf("comet %s, %v: out of order: %q", host, to, got)
			}
		}
	}
	eventually(t, func() error {
		if n := y.fleet.waiting(); n != 0 {
			return fmt.Errorf("%d records are left in lanes", n)
		}
		return nil
	})
}

// answerSlowly lets the calls for a room wait, and breaks some of them off meanwhile.
func answerSlowly(ctx context.Context, answers chan<- error, rng *rand.Rand) {
	for {
		time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
		var answer error
		if rng.IntN(5) == 0 {
			answer = unavailable()
		}
		select {
		case answers <- answer:
		case <-ctx.Done():
			return
		}
	}
}

// firsts leaves out what came before.
func firsts(got []string) []string {
	seen := make(map[string]bool)
	var out []string
	for _, g := range got {
		if !seen[g] {
			seen[g] = true
			out = append(out, g)
		}
	}
	return out
}
