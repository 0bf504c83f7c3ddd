package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// A Stream is one ordered series of pushes: all of them go to the same clients, and their
// sequence numbers count up by one from First.
type Stream struct {
	ID     uint16
	First  uint32 // sequence number of the first push
	Pushes uint32 // most pushes that the stream is going to carry; receipts of later ones are counted, but not timed push by push
	WarmUp bool   // counted for loss, but kept out of the latency histograms
	Group  uint8  // streams whose latency has a histogram of its own too, such as those of one line of pushes; counted from 0
}

// Streams are all streams of a run, and the sets of them that clients subscribe to. It is
// safe for concurrent use.
type Streams struct {
	list    []Stream
	index   []int32 // by ID: position in list, or -1
	running []atomic.Bool

	mu   sync.Mutex
	sets map[string]*Subscription // by the sorted IDs, big endian
}

// NewStreams returns the streams of a run. It refuses an ID given twice, and one whose
// sequence numbers would run over MaxSeq.
func NewStreams(list []Stream) (*Streams, error) {
	s := &Streams{
		list:    slices.Clone(list),
		running: make([]atomic.Bool, len(list)),
		sets:    make(map[string]*Subscription),
	}
	for i, st := range s.list {
		for len(s.index) <= int(st.ID) {
			s.index = append(s.index, -1)
		}
		if s.index[st.ID] >= 0 {
			return nil, fmt.Errorf("stream %d is declared twice", st.ID)
		}
		if uint64(st.First)+uint64(st.Pushes) > MaxSeq {
			return nil, fmt.Errorf("stream %d: %d pushes from sequence number %d run over %d", st.ID, st.Pushes, st.First, uint32(MaxSeq))
		}
		s.index[st.ID] = int32(i)
	}
	return s, nil
}

// groups returns how many groups there are.
func (s *Streams) groups() int {
	n := 0
	for _, st := range s.list {
		n = max(n, int(st.Group)+1)
	}
	return n
}

// Start says that the stream id is about to carry its first push. A client that joins
// later starts where it joined: the first push that it receives is the first that it was
// owed. Starting an unknown stream does nothing.
func (s *Streams) Start(id uint16) {
	if i := s.position(id); i >= 0 {
		s.running[i].Store(true)
	}
}

// Subscribe returns the set of the streams ids, the same pointer for the same set, so that
// any number of clients can share it. An unknown id is an error; one given twice counts
// once.
func (s *Streams) Subscribe(ids ...uint16) (*Subscription, error) {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	key := make([]byte, 0, 2*len(ids))
	for _, id := range ids {
		if s.position(id) < 0 {
			return nil, fmt.Errorf("subscribe: stream %d is not declared", id)
		}
		key = binary.BigEndian.AppendUint16(key, id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if set := s.sets[string(key)]; set != nil {
		return set, nil
	}
	set := newSubscription(s, len(s.sets), ids)
	s.sets[string(key)] = set
	return set, nil
}

func (s *Streams) position(id uint16) int {
	if int(id) >= len(s.index) {
		return -1
	}
	return int(s.index[id])
}

// A Subscription is a set of streams that a client must receive. Get one from
// Streams.Subscribe; it never changes.
type Subscription struct {
	streams *Streams
	number  int      // position among the sets of streams
	ids     []uint16 // sorted; the position of an id is its slot
	listed  []int32  // by slot: position in streams.list

	// Where the ids lie close together, places finds one without a search.
	base   uint16
	places []place // by id - base
}

// A place is where a stream stands in a subscription, and among all streams.
type place struct {
	slot   int32 // position in Subscription.ids, or -1
	listed int32 // position in Streams.list
}

// The table of places may be this many times longer than the set.
const placesSpread = 8

// IDs returns the streams of the set, ascending. The slice must not be changed.
func (s *Subscription) IDs() []uint16 { return s.ids }

func newSubscription(streams *Streams, number int, ids []uint16) *Subscription {
	s := &Subscription{streams: streams, number: number, ids: ids}
	for _, id := range ids {
		s.listed = append(s.listed, streams.index[id])
	}
	if len(ids) == 0 {
		return s
	}
	span := int(ids[len(ids)-1]-ids[0]) + 1
	if span > placesSpread*len(ids) {
		return s
	}
	s.base = ids[0]
	s.places = make([]place, span)
	for i := range s.places {
		s.places[i].slot = -1
	}
	for slot, id := range ids {
		s.places[id-s.base] = place{int32(slot), s.listed[slot]}
	}
	return s
}

// Len returns the number of streams in the set: a Book keeps 4 bytes for each of them and
// client.
func (s *Subscription) Len() int { return len(s.ids) }

// place finds id; its slot is -1 where id is not in the set.
func (s *Subscription) place(id uint16) place {
	if i := int(id) - int(s.base); uint(i) < uint(len(s.places)) {
		return s.places[i]
	}
	return s.search(id)
}

// has says whether the stream id is in the set.
func (s *Subscription) has(id uint16) bool { return s.place(id).slot >= 0 }

func (s *Subscription) search(id uint16) place {
	if s.places == nil {
		if slot, ok := slices.BinarySearch(s.ids, id); ok {
			return place{int32(slot), s.listed[slot]}
		}
	}
	return place{slot: -1}
}
