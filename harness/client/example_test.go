package client_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"barrage/harness/client"
	"barrage/server/wire"
)

// A program joins a room, receives what is pushed, and goes to another room.
func Example() {
	comet := startComet() // a running cluster in earnest
	defer comet.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{
		// Against a cluster, rather: client.Logic{URL: "http://127.0.0.1:3111"}
		Nodes:     client.Fixed{comet.Addr().String()},
		Transport: client.TCP,
		Token:     client.Token{Mid: 123, RoomID: "live://1000", Accepts: []int32{1000, 1001}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	moved := make(chan error, 1)
	go func() { moved <- c.ChangeRoom(ctx, "live://2000") }() // replies need a Receive that goes on

	for range 2 {
		push, err := c.Receive(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("operation %d: %s\n", push.Op, push.Body)
	}
	if err := <-moved; err != nil {
		log.Fatal(err)
	}
	online, err := c.Heartbeat(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("online:", online)
	// Output:
	// operation 1000: welcome to live://1000
	// operation 1000: welcome to live://2000
	// online: 1
}

// startComet is as much of a server as the example needs.
func startComet() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := make([]byte, wire.MaxClientSize)
		for {
			if _, err := io.ReadFull(conn, in[:4]); err != nil {
				return
			}
			n := int(in[2])<<8 | int(in[3])
			if _, err := io.ReadFull(conn, in[4:n]); err != nil {
				return
			}
			f, _, err := wire.Decode(in[:n], wire.MaxClientBody)
			if err != nil {
				return
			}
			reply, push := f, wire.Frame{Ver: wire.Version, Op: 1000}
			reply.Op++
			switch f.Op {
			case wire.OpAuth:
				reply.Body, push.Body = nil, []byte("welcome to live://1000")
			case wire.OpChangeRoom:
				push.Body = append([]byte("welcome to "), f.Body...)
			case wire.OpHeartbeat:
				reply.Body = []byte{0, 0, 0, 1}
			}
			out := wire.AppendFrame(nil, reply)
			if push.Body != nil {
				out = wire.AppendFrame(out, push)
			}
			if _, err := conn.Write(out); err != nil {
				return
			}
		}
	}()
	return ln
}
