package main

import (
	"context"
	"testing"
	"time"

	"barrage/harness/client"
	"barrage/server/wire"
)

// A client that knows nothing but logic's address finds its comet, and hears of a push.
func TestUpTellsClientsWhereToGo(t *testing.T) {
	b := launch(t, append([]string{"up"}, anyPorts()...)...)
	api := b.find(t, &b.stdout, `push API +(http://[^/]+)/`)[1]
	for _, transport := range []client.Transport{client.TCP, client.WebSocket} {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		c, err := client.Dial(ctx, client.Config{Nodes: client.Logic{URL: api}, Transport: transport, Token: client.Token{Key: "k", Accepts: []int32{1000}}})
		if err != nil {
			t.Fatalf("%s: %v", transport, err)
		}
		push(t, api+"/goim/push/keys?operation=1000&keys=k", "hello")
		if f, err := c.Receive(ctx); err != nil || string(f.Body) != "hello" || f.Op != wire.Op(1000) {
			t.Errorf("%s: %+v, %v", transport, f, err)
		}
		c.Close()
		cancel()
	}
}
