package comet

// wheelSlots is the number of seconds that one turn of a wheel covers.
const wheelSlots = 512

// A wheel finds the sessions whose heartbeat is overdue: a hashed timing wheel of one
// second a slot. A heartbeat only stores the session's new deadline; the wheel looks at
// it when the old one comes round, so that a renewal costs nothing here. It is owned by
// the shard.
type wheel struct {
	slots [wheelSlots][]*session
	now   int64 // second that was expired last
}

// add files s under the second, in unix time, at which to look at it.
func (w *wheel) add(s *session, second int64) {
	second = max(second, w.now+1)
	slot := second % wheelSlots
	s.wheelSlot, s.wheelIndex = int32(slot), int32(len(w.slots[slot]))
	w.slots[slot] = append(w.slots[slot], s)
}

// remove takes s out.
func (w *wheel) remove(s *session) {
	slot := w.slots[s.wheelSlot]
	last := len(slot) - 1
	moved := slot[last]
	slot[s.wheelIndex] = moved
	moved.wheelIndex = s.wheelIndex
	slot[last] = nil
	w.slots[s.wheelSlot] = slot[:last]
}

// advance looks at every session whose second has come, up to now, and calls expired for
// those whose deadline has passed; the others are filed anew.
func (w *wheel) advance(now int64, expired func(*session)) {
	if w.now == 0 || now-w.now > wheelSlots {
		w.now = now - wheelSlots
	}
	for w.now < now {
		w.now++
		slot := w.now % wheelSlots
		due := w.slots[slot]
		w.slots[slot] = nil
		for _, s := range due {
			deadline := s.deadline.Load()
			w.add(s, min(deadline+1, w.now+wheelSlots-1))
			if deadline <= now {
				expired(s)
			}
		}
	}
}
