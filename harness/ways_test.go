package harness

import (
	"errors"
	"testing"

	"barrage/harness/cluster"
	"barrage/harness/pusher"
)

// Of a cluster that runs already only logic's address is known.
func TestATargetIsPushedToThroughHTTPAlone(t *testing.T) {
	c, err := cluster.Connect(t.Context(), &cluster.Target{Push: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	ways, closeAll, err := openWays(t.Context(), c, []pusher.Stream{{Via: pusher.ViaHTTP}, {Via: pusher.ViaHTTP}})
	if err != nil {
		t.Fatal(err)
	}
	closeAll()
	if len(ways) != 1 || ways[pusher.ViaHTTP] != (pusher.HTTP{Addr: "127.0.0.1:1"}) {
		t.Errorf("ways are %v", ways)
	}
	for _, via := range []pusher.Via{pusher.ViaKafka, pusher.ViaComet} {
		if _, _, err := openWays(t.Context(), c, []pusher.Stream{{Via: pusher.ViaHTTP}, {Via: via}}); !errors.Is(err, errNoAddress) {
			t.Errorf("via %s: %v", via, err)
		}
	}
}
