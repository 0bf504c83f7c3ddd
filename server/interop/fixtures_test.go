// Package interop has tests alone: processes of ours against bytes as goim's processes send
// them. The files in testdata are protobuf messages written by hand, a field a line, so that
// numbers and types are checked, and not our generated code against itself.
package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// fixture returns the bytes of a file in testdata: hexadecimal digits, and behind # what
// they mean.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for line := range strings.Lines(string(text)) {
		digits, _, _ := strings.Cut(line, "#")
		b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(digits), " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, b...)
	}
	return out
}

// show writes a message's fields by their numbers and wire types, in the order of the
// numbers, nested messages where inner says so ("2" or "2.4").
func show(t testing.TB, b []byte, inner ...string) string {
	t.Helper()
	return strings.Join(fields(t, b, "", inner), "; ")
}

func fields(t testing.TB, b []byte, path string, inner []string) []string {
	type field struct {
		number protowire.Number
		text   string
	}
	var list []field
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatalf("no tag in %x: %v", b, protowire.ParseError(n))
		}
		b = b[n:]
		at := strings.TrimPrefix(fmt.Sprintf("%s.%d", path, number), ".")
		var text string
		switch kind {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			b, text = b[n:], fmt.Sprintf("%s=%d", at, int64(v))
		case protowire.Fixed32Type:
			v, n := protowire.ConsumeFixed32(b)
			b, text = b[n:], fmt.Sprintf("%s=f%08x", at, v)
		case protowire.Fixed64Type: // only times of ours
			v, n := protowire.ConsumeFixed64(b)
			b, text = b[n:], fmt.Sprintf("%s=f%016x", at, v)
			if age := time.Since(time.Unix(0, int64(v))); age >= 0 && age < patience {
				text = at + "=now"
			}
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			b, text = b[n:], fmt.Sprintf("%s=%q", at, v)
			if slices.Contains(inner, at) {
				text = fmt.Sprintf("%s={%s}", at, strings.Join(fields(t, v, at, inner), "; "))
			}
		default:
			t.Fatalf("field %s has wire type %d", at, kind)
		}
		list = append(list, field{number, text})
	}
	slices.SortStableFunc(list, func(a, b field) int { return int(a.number - b.number) })
	var out []string
	for _, f := range list {
		out = append(out, f.text)
	}
	return out
}

// rawCodec sends and receives messages as the bytes that they are, under protobuf's name.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (rawCodec) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(b)
	return nil
}

// call makes a gRPC call with a message's bytes, as a process of goim's does.
func call(t testing.TB, addr, method string, request []byte, options ...grpc.CallOption) ([]byte, error) {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var reply []byte
	err = conn.Invoke(ctx, method, request, &reply, append(options, grpc.ForceCodec(rawCodec{}), grpc.WaitForReady(true))...)
	return reply, err
}

// A goimServer answers gRPC calls as a process of goim's does: with the bytes that it has
// for a method, and UNIMPLEMENTED for every other one.
type goimServer struct {
	addr    string
	replies map[string][]byte

	mu  sync.Mutex
	raw map[string][][]byte // by method; mu guards
}

func startGoim(t testing.TB, replies map[string][]byte) *goimServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &goimServer{addr: l.Addr().String(), replies: replies, raw: map[string][][]byte{}}
	server := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		var request []byte
		if err := stream.RecvMsg(&request); err != nil {
			return err
		}
		g.mu.Lock()
		g.raw[method] = append(g.raw[method], request)
		g.mu.Unlock()
		reply, known := g.replies[method]
		if !known {
			return status.Errorf(codes.Unimplemented, "unknown method %s", method)
		}
		return stream.SendMsg(reply)
	}))
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return g
}

// got returns the requests of a method so far.
func (g *goimServer) got(method string) [][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.raw[method])
}

// first waits for the first request of a method.
func (g *goimServer) first(t testing.TB, method string) []byte {
	t.Helper()
	var list [][]byte
	eventually(t, method, func() error {
		if list = g.got(method); len(list) == 0 {
			return fmt.Errorf("not called")
		}
		return nil
	})
	return list[0]
}

// readExactly reads n bytes of a connection.
func readExactly(t testing.TB, r *bufio.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	return b
}
