package comet

import (
	"encoding/binary"
	"slices"

	"barrage/server/wire"
)

// An acceptSet is an interned set of operations: sessions of one shard that accept the
// same operations share one, so that chunks can be shared too.
type acceptSet struct {
	ops  []wire.Op // sorted, distinct
	refs int
}

func (a *acceptSet) has(op wire.Op) bool {
	_, ok := slices.BinarySearch(a.ops, op)
	return ok
}

// acceptSets interns the sets of one shard. It is owned by the shard.
type acceptSets struct {
	sets map[string]*acceptSet
	key  []byte
}

// intern returns the set of ops, which need be neither sorted nor distinct, with one
// reference more.
func (t *acceptSets) intern(ops []wire.Op) *acceptSet {
	ops = slices.Clone(ops)
	slices.Sort(ops)
	ops = slices.Compact(ops)
	t.key = appendOps(t.key[:0], ops)
	set, ok := t.sets[string(t.key)]
	if !ok {
		if t.sets == nil {
			t.sets = make(map[string]*acceptSet)
		}
		set = &acceptSet{ops: ops}
		t.sets[string(t.key)] = set
	}
	set.refs++
	return set
}

// release takes one reference back; a set that nobody holds is forgotten.
func (t *acceptSets) release(set *acceptSet) {
	if set.refs--; set.refs == 0 {
		t.key = appendOps(t.key[:0], set.ops)
		delete(t.sets, string(t.key))
	}
}

func appendOps(dst []byte, ops []wire.Op) []byte {
	for _, op := range ops {
		dst = binary.BigEndian.AppendUint32(dst, uint32(op))
	}
	return dst
}
