package presence

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// In a cluster a member and a key are in slots of their own, and nothing decides for both at
// once. All the same, of many that connect at the same instant as many stay as may, in both
// places the same ones, and each of the others is told.
func TestConnectsAtTheSameInstantInACluster(t *testing.T) {
	_, bus, _ := net.SplitHostPort(freeAddr(t))
	addr := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus)
	formCluster(t, addr)
	const logics, connects, rounds = 4, 8, 20
	var stores []*Store
	for range logics {
		s := open(t, func(cfg *Config) { cfg.Addr, cfg.Cluster = addr, true })
		s.client.AddHook(shuffle{})
		stores = append(stores, s)
	}
	mid := int64(0)
	for _, bounds := range []Bounds{
		{PerKey: 1}, {PerKey: 1, PerMid: 1}, {PerKey: 3, PerMid: 1}, {PerKey: 1, PerMid: 3}, {PerKey: 3, PerMid: 3},
		{PerKey: 1, PerMid: 1, Reject: true}, {PerKey: 3, PerMid: 2, Reject: true},
	} {
		t.Run(fmt.Sprintf("%+v", bounds), func(t *testing.T) {
			for _, s := range stores {
				s.SetBounds(bounds)
			}
			bound := bounds.PerKey
			if bounds.PerMid > 0 {
				bound = min(bound, bounds.PerMid)
			}
			for range rounds {
				mid++
				key := fmt.Sprint("k", mid)
				admissions := make([]Admission, connects)
				var all sync.WaitGroup
				for i := range admissions {
					all.Go(func() {
						var err error
						admissions[i], err = stores[i%logics].Add(context.Background(), Session{Mid: mid, Key: key, Server: fmt.Sprint("c", i), ID: fmt.Sprint("s", i)})
						if err != nil {
							t.Error(err)
						}
					})
				}
				all.Wait()
				gone := map[string]bool{}
				for i, a := range admissions {
					if a.Rejected {
						gone[fmt.Sprint("s", i)] = true
					}
					for _, old := range a.Replaced {
						gone[old.ID] = true
					}
				}
				byKey, byMember := fields(t, stores[0], sessionKey(key)), fields(t, stores[0], memberKey(mid))
				if !slices.Equal(byKey, byMember) {
					t.Fatalf("the key has %q and the member %q", byKey, byMember)
				}
				if len(byKey) > bound || len(byKey) == 0 || !bounds.Reject && len(byKey) != bound {
					t.Fatalf("%q stay, and %d may", byKey, bound)
				}
				if len(gone)+len(byKey) != connects {
					t.Fatalf("%q stay, and %d of %d are told to go", byKey, len(gone), connects)
				}
				for _, id := range byKey {
					if gone[id] {
						t.Fatalf("%s is told to go and there", id)
					}
				}
			}
		})
	}
}

// shuffle holds each step up a little, so that those of several sessions mix.
type shuffle struct{}

func (shuffle) DialHook(next redis.DialHook) redis.DialHook { return next }

func (shuffle) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		time.Sleep(rand.N(time.Millisecond))
		return next(ctx, command)
	}
}

func (shuffle) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		time.Sleep(rand.N(time.Millisecond))
		return next(ctx, commands)
	}
}

// fields are the ids of the sessions beside an index, sorted.
func fields(t *testing.T, s *Store, index string) []string {
	t.Helper()
	list, err := s.client.HKeys(context.Background(), sessionsKey(index)).Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}
