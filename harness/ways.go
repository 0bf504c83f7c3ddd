package harness

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"barrage/harness/cluster"
	"barrage/harness/pusher"
)

// openWays connects to c on the ways in that the streams name. Call closeAll when nothing is
// pushed any more.
func openWays(ctx context.Context, c *cluster.Cluster, streams []pusher.Stream) (ways map[pusher.Via]pusher.Way, closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for _, end := range closers {
			end()
		}
	}
	ways = map[pusher.Via]pusher.Way{}
	for _, s := range streams {
		if ways[s.Via] != nil {
			continue
		}
		way, end, err := openWay(ctx, c, s.Via)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("open the way in via %s: %w", s.Via, err)
		}
		ways[s.Via] = way
		closers = append(closers, end)
	}
	return ways, closeAll, nil
}

// openWay connects to c on one way in.
func openWay(ctx context.Context, c *cluster.Cluster, via pusher.Via) (way pusher.Way, end func(), err error) {
	switch {
	case via == pusher.ViaKafka && c.Kafka != "":
		k, err := pusher.NewKafka(ctx, pusher.KafkaConfig{Brokers: strings.Split(c.Kafka, ",")})
		if err != nil {
			return nil, nil, err
		}
		return k, k.Close, nil
	case via == pusher.ViaComet && len(c.RPC) > 0:
		k, err := pusher.NewComets(ctx, pusher.CometConfig{Addrs: c.RPC})
		if err != nil {
			return nil, nil, err
		}
		return k, func() { _ = k.Close() }, nil // nothing is under way that could be lost
	case via == pusher.ViaHTTP:
		return pusher.HTTP{Addr: c.Push, Key: c.PushKey, Roots: c.PushRoots}, func() {}, nil
	default:
		return nil, nil, errNoAddress
	}
}

// errNoAddress is about a cluster that runs already, of which only the addresses for clients
// and the push API's are given.
var errNoAddress = errors.New("its address is not known; pushes to a target can only go via http")
