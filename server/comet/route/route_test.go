package route

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"barrage/server/api/logic"
)

// A process is a logic that counts its calls.
type process struct {
	logic.UnimplementedLogicServer
	addr          string
	many          bool // knows calls for many sessions
	single, batch atomic.Int64
}

func (p *process) Connect(context.Context, *logic.ConnectReq) (*logic.ConnectReply, error) {
	p.single.Add(1)
	return &logic.ConnectReply{}, nil
}

func (p *process) ConnectAll(ctx context.Context, q *logic.ConnectAllReq) (*logic.ConnectAllReply, error) {
	p.batch.Add(1)
	if !p.many {
		return p.UnimplementedLogicServer.ConnectAll(ctx, q)
	}
	return &logic.ConnectAllReply{}, nil
}

// start serves processes, and returns a client of them all.
func start(t *testing.T, processes ...*process) logic.LogicClient {
	t.Helper()
	r := manual.NewBuilderWithScheme("test")
	var state resolver.State
	for _, p := range processes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		logic.RegisterLogicServer(server, p)
		go server.Serve(l)
		t.Cleanup(server.Stop)
		p.addr = l.Addr().String()
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: p.addr}}})
	}
	r.InitialState(state)
	conn, err := grpc.NewClient("test:///logic", grpc.WithResolvers(r), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultServiceConfig(ServiceConfig))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stub := logic.NewLogicClient(conn)
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, err := stub.Connect(t.Context(), &logic.ConnectReq{}, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(processes, func(p *process) bool { return p.single.Load() == 0 }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not every process gets calls")
		}
	}
	for _, p := range processes {
		p.single.Store(0)
	}
	return stub
}

func TestCallsForManyGoWhereTheyAreKnown(t *testing.T) {
	goim, one, two := &process{}, &process{many: true}, &process{many: true}
	stub := start(t, goim, one, two)
	unknown := 0
	for range 60 {
		switch _, err := stub.ConnectAll(t.Context(), &logic.ConnectAllReq{}); status.Code(err) {
		case codes.OK:
		case codes.Unimplemented:
			unknown++
		default:
			t.Fatal(err)
		}
		if _, err := stub.Connect(t.Context(), &logic.ConnectReq{}); err != nil {
			t.Fatal(err)
		}
	}
	if unknown > 1 || goim.batch.Load() > 1 {
		t.Errorf("%d calls went to a process that doesn't know them", goim.batch.Load())
	}
	for _, p := range []*process{goim, one, two} {
		if n := p.single.Load(); n < 10 {
			t.Errorf("a process got %d of 60 calls that all know", n)
		}
	}
	if one.batch.Load() < 10 || two.batch.Load() < 10 {
		t.Errorf("two processes got %d and %d of 60 calls that both know", one.batch.Load(), two.batch.Load())
	}
}

func TestNobodyKnowsCallsForMany(t *testing.T) {
	goim := &process{}
	stub := start(t, goim)
	for range 10 {
		if _, err := stub.ConnectAll(t.Context(), &logic.ConnectAllReq{}); status.Code(err) != codes.Unimplemented {
			t.Fatal(err)
		}
	}
	if n := goim.batch.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	if _, err := stub.Connect(t.Context(), &logic.ConnectReq{}); err != nil {
		t.Error(err)
	}
}

// named is a process's own picker.
type named string

func (n named) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{Metadata: map[string][]string{"name": {string(n)}}}, nil
}

// pick returns the name of the process for a call, and what ends the call.
func pick(t *testing.T, p *picker, method string) (string, func(error)) {
	t.Helper()
	r, err := p.Pick(balancer.PickInfo{FullMethodName: "/goim.logic.Logic/" + method})
	if err != nil {
		return fmt.Sprint(status.Code(err)), nil
	}
	return r.Metadata["name"][0], func(err error) { r.Done(balancer.DoneInfo{Err: err}) }
}

func TestOneThatHangsGetsTheFewest(t *testing.T) {
	p := &picker{now: time.Now, ready: []choice{{&node{}, named("hangs")}, {&node{}, named("works")}}}
	hanging := 0
	for range 100 {
		if name, done := pick(t, p, "Connect"); name == "hangs" {
			hanging++
		} else {
			done(nil)
		}
	}
	if hanging != 1 {
		t.Errorf("%d of 100 calls went to a process that answers none", hanging)
	}
}

func TestAskedAgainAfterAWhile(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p := &picker{now: func() time.Time { return now }, ready: []choice{{&node{}, named("goim")}}}
	unknown := status.Error(codes.Unimplemented, "unknown method")
	_, done := pick(t, p, "Connect")
	done(unknown) // of another method it says nothing
	name, done := pick(t, p, "DisconnectAll")
	if name != "goim" {
		t.Fatal(name)
	}
	done(unknown)
	if name, _ := pick(t, p, "ConnectAll"); name != "Unimplemented" {
		t.Errorf("%s is asked again at once", name)
	}
	now = now.Add(plainFor)
	if name, _ := pick(t, p, "ConnectAll"); name != "goim" {
		t.Errorf("after a while it is %s", name)
	}
}
