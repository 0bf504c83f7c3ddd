package comet

import (
	"hash/maphash"
	"sync"
)

// A directory is which shard has the sessions of a key, where that isn't told by the key's
// hash. It fills shards evenly, so that their tables are full together, and puts those who
// come one behind the other into the same.
type directory struct {
	seed  maphash.Seed
	parts [64]directoryPart

	mu      sync.Mutex
	shards  []*shard
	members []int // mu guards; of each shard
	current int   // mu guards; the shard whose turn it is
	run     int   // mu guards; the sessions that it gets before another's turn
}

type directoryPart struct {
	mu   sync.Mutex
	keys map[string]directoryEntry // mu guards
}

// A directoryEntry is where the sessions of a key are. All are in one shard.
type directoryEntry struct {
	shard    int32
	sessions int32
}

func newDirectory(shards []*shard) *directory {
	d := &directory{seed: maphash.MakeSeed(), shards: shards, members: make([]int, len(shards))}
	for i := range d.parts {
		d.parts[i].keys = make(map[string]directoryEntry)
	}
	return d
}

func (d *directory) part(key string) *directoryPart {
	return &d.parts[maphash.String(d.seed, key)%uint64(len(d.parts))]
}

// enter counts one session more under key and returns the shard that it belongs to.
func (d *directory) enter(key string) *shard {
	p := d.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.keys[key]
	e.shard = d.place(e.shard, ok)
	e.sessions++
	p.keys[key] = e
	return d.shards[e.shard]
}

// place counts one session more in a shard, which is given or for it to choose.
func (d *directory) place(shard int32, given bool) int32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !given {
		if d.run == 0 {
			d.run = sliceMembers
			for i, n := range d.members {
				if n < d.members[d.current] {
					d.current = i
				}
			}
		}
		d.run--
		shard = int32(d.current)
	}
	d.members[shard]++
	return shard
}

// leave counts one session less under key.
func (d *directory) leave(key string) {
	p := d.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.keys[key]
	d.mu.Lock()
	d.members[e.shard]--
	d.mu.Unlock()
	if e.sessions--; e.sessions > 0 {
		p.keys[key] = e
	} else {
		delete(p.keys, key)
	}
}

// find returns the shard with the sessions of key, or nil where there is none.
func (d *directory) find(key string) *shard {
	p := d.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.keys[key]; ok {
		return d.shards[e.shard]
	}
	return nil
}
