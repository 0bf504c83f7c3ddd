package discovery

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"barrage/server/api/logic"
)

// A named server says its name in every answer.
type named struct {
	logic.UnimplementedLogicServer
	name string
}

func (s named) Connect(context.Context, *logic.ConnectReq) (*logic.ConnectReply, error) {
	return &logic.ConnectReply{Key: s.name}, nil
}

func serve(t *testing.T, name string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	logic.RegisterLogicServer(server, named{name: name})
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return SchemeGRPC + "://" + listener.Addr().String()
}

func TestResolverFollowsInstancesAndPrefersTheOwnZone(t *testing.T) {
	addr, _ := startNode(t, "127.0.0.1:0", nil)
	client := NewClient(Config{Nodes: []string{addr}}, testEnv("caller"), quiet())
	conn, err := grpc.NewClient("discovery:///"+AppLogic,
		grpc.WithResolvers(client.Resolver()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stub := logic.NewLogicClient(conn)
	// answers calls until exactly these servers answer, all of them, for 20 calls.
	answers := func(want ...string) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			seen := map[string]bool{}
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				reply, err := stub.Connect(ctx, &logic.ConnectReq{}, grpc.WaitForReady(true))
				cancel()
				if err == nil {
					seen[reply.Key] = true
				}
			}
			good := len(seen) == len(want)
			for _, name := range want {
				good = good && seen[name]
			}
			if good {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("answers come from %v, want %v", seen, want)
			}
		}
	}
	register(t, client, Instance{AppID: AppLogic, Hostname: "far", Zone: "sh002", Addrs: []string{serve(t, "far")}})
	answers("far")
	first := register(t, client, Instance{AppID: AppLogic, Hostname: "first", Addrs: []string{serve(t, "first")}})
	answers("first")
	register(t, client, Instance{AppID: AppLogic, Hostname: "second", Addrs: []string{serve(t, "second")}})
	answers("first", "second")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	answers("second")
}
