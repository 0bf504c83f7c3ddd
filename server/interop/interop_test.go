package interop

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	logicpb "barrage/server/api/logic"
	"barrage/server/api/protocol"
	"barrage/server/backing"
	"barrage/server/comet"
	"barrage/server/discovery"
	"barrage/server/job"
	"barrage/server/logic"
	"barrage/server/wire"
)

// runs runs a server until the test ends.
func runs(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// startComet runs our comet with a logic of goim's.
func startComet(t *testing.T, goimLogic *goimServer) *comet.Server {
	t.Helper()
	conn, err := grpc.NewClient(goimLogic.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	cfg := comet.DefaultConfig()
	cfg.Env.Host = "our-comet"
	cfg.TCP.Bind, cfg.WebSocket.Bind, cfg.RPCServer.Addr = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}, "127.0.0.1:0"
	cfg.Online.Period, cfg.Drain.Window = 20*time.Millisecond, 0
	server, err := comet.New(cfg, comet.Deps{Logic: logicpb.NewLogicClient(conn), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	runs(t, server.Run)
	return server
}

// Our comet between goim's logic and goim's job: every call to the field, and what comes
// out at the client to the byte.
func TestOurCometBetweenGoims(t *testing.T) {
	t.Parallel()
	goimLogic := startGoim(t, map[string][]byte{
		"/goim.logic.Logic/Connect":     fixture(t, "connect_reply"),
		"/goim.logic.Logic/Disconnect":  fixture(t, "disconnect_reply"),
		"/goim.logic.Logic/Heartbeat":   {},
		"/goim.logic.Logic/RenewOnline": fixture(t, "online_reply"),
		"/goim.logic.Logic/Receive":     {},
	})
	server := startComet(t, goimLogic)
	rpc := server.RPCAddr().String()
	client, err := net.Dial("tcp", server.TCPAddrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(client)
	token := `{"mid":123,"key":"k1","room_id":"live://1000","platform":"web","accepts":[1000,1001]}`
	client.Write(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuth, Seq: 1, Body: []byte(token)}))
	if got := fmt.Sprintf("%x", readExactly(t, in, 16)); got != "00000010001000010000000800000001" {
		t.Errorf("auth reply %s", got)
	}
	connect := show(t, goimLogic.first(t, "/goim.logic.Logic/Connect"))
	if want := fmt.Sprintf(`1="our-comet"; 3=%q; 101=`, token); !strings.HasPrefix(connect, want) {
		t.Errorf("ConnectReq is %s", connect)
	}

	// As goim's job calls.
	for _, c := range []struct{ method, request, want string }{
		{"/goim.comet.Comet/PushMsg", "push_msg_req", frame(1000, `{"n":1}`) + frame(1000, `{"n":2}`)},
		{"/goim.comet.Comet/Broadcast", "broadcast_req", frame(1000, "to all")},
		{"/goim.comet.Comet/BroadcastRoom", "broadcast_room_req", frame(1000, "to the room")},
	} {
		reply, err := call(t, rpc, c.method, fixture(t, c.request))
		if err != nil || len(reply) != 0 {
			t.Fatalf("%s: %x, %v", c.method, reply, err)
		}
		if got := string(readExactly(t, in, len(c.want))); got != c.want {
			t.Errorf("%s: the client got %x, want %x", c.method, got, c.want)
		}
	}
	reply, err := call(t, rpc, "/goim.comet.Comet/Rooms", fixture(t, "rooms_req"))
	if err != nil || show(t, reply, "1") != show(t, fixture(t, "rooms_reply"), "1") {
		t.Errorf("Rooms: %s, %v", show(t, reply, "1"), err)
	}

	// What goes to goim's logic.
	eventually(t, "RenewOnline", func() error {
		for _, q := range goimLogic.got("/goim.logic.Logic/RenewOnline") {
			if show(t, q, "2") == `1="our-comet"; 2={2.1="live://1000"; 2.2=1}` {
				return nil
			}
		}
		return fmt.Errorf("%d calls, none with the room", len(goimLogic.got("/goim.logic.Logic/RenewOnline")))
	})
	eventually(t, "the room's count over all comets", func() error {
		client.Write(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpHeartbeat, Seq: 2}))
		if got := binary.BigEndian.Uint32(readExactly(t, in, 20)[16:]); got != 7 {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
	client.Write(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 4, Seq: 9, Body: []byte("hello")}))
	if got := fmt.Sprintf("%x", readExactly(t, in, 16)); got != "00000010001000010000000400000009" {
		t.Errorf("echo %s", got)
	}
	if got, want := show(t, goimLogic.first(t, "/goim.logic.Logic/Receive"), "2"), show(t, fixture(t, "receive_req"), "2"); got != want {
		t.Errorf("ReceiveReq is %s, want %s", got, want)
	}

	// goim's logic doesn't bound the sessions of a key: the older one of it goes.
	second, err := net.Dial("tcp", server.TCPAddrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	second.Write(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpAuth, Seq: 1, Body: []byte(token)}))
	if got := string(readExactly(t, in, 16+19)[16:]); got != `{"code":"replaced"}` {
		t.Errorf("the older session got %q", got)
	}
	if _, err := in.ReadByte(); err == nil {
		t.Error("the older session is still open")
	}
	second.Close()
	disconnect := show(t, goimLogic.first(t, "/goim.logic.Logic/Disconnect"))
	if !strings.HasPrefix(disconnect, `1=123; 2="k1"; 3="our-comet"; 101=`) {
		t.Errorf("DisconnectReq is %s", disconnect)
	}
}

// frame is a pushed frame's bytes.
func frame(op wire.Op, body string) string {
	return string(wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: op, Body: []byte(body)}))
}

// startServices runs an embedded Kafka and Redis.
func startServices(t *testing.T) *backing.Services {
	t.Helper()
	cfg := backing.DefaultConfig()
	services, err := backing.Start(context.Background(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { services.Close() })
	return services
}

// startLogic runs our logic, with these comets in discovery.
func startLogic(t *testing.T, services *backing.Services, receive logic.Receiver, comets ...discovery.Instance) *logic.Server {
	t.Helper()
	cfg := logic.DefaultConfig()
	cfg.HTTPServer.Addr, cfg.RPCServer.Addr = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Kafka.Brokers, cfg.Redis.Addr = strings.Split(services.KafkaBrokers(), ","), services.RedisAddr()
	cfg.Online.Period = 20 * time.Millisecond
	instances := make(chan []discovery.Instance, 1)
	server, err := logic.New(cfg, logic.Deps{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Instances: instances, Receive: receive})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	runs(t, server.Run)
	eventually(t, "logic is ready", server.Ready)
	instances <- comets
	return server
}

// A topicReader reads the records of the push topic as a process of goim's would.
type topicReader struct {
	consumer *kafka.Consumer
}

func readTopic(t *testing.T, services *backing.Services) *topicReader {
	t.Helper()
	consumer, err := kafka.NewConsumer(&kafka.ConfigMap{"bootstrap.servers": services.KafkaBrokers(), "group.id": "reader", "fetch.wait.max.ms": 2, "go.logs.channel.enable": true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { consumer.Close() })
	topic := "goim-push-topic"
	meta, err := consumer.GetMetadata(&topic, false, int(patience/time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	var all []kafka.TopicPartition
	for _, p := range meta.Topics[topic].Partitions {
		all = append(all, kafka.TopicPartition{Topic: &topic, Partition: p.ID, Offset: kafka.OffsetBeginning})
	}
	if err := consumer.Assign(all); err != nil {
		t.Fatal(err)
	}
	return &topicReader{consumer}
}

// next waits for a record and returns it as "key fields".
func (r *topicReader) next(t *testing.T) string {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if m, ok := r.consumer.Poll(100).(*kafka.Message); ok {
			return string(m.Key) + " " + show(t, m.Value)
		}
	}
	t.Fatal("no record came")
	return ""
}

// push calls the push API, which is to answer that all is well.
func push(t *testing.T, server *logic.Server, path string) {
	t.Helper()
	resp, err := http.Post("http://"+server.HTTPAddr().String()+"/goim/push/"+path, "", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(string(text), `{"code":0,`) {
		t.Fatalf("%s: %s, %v", path, text, err)
	}
}

// A member comes back on another comet of goim's while the first one still has its
// connection, which it can't be told to close: it has no service for that. The old
// connection's end leaves the new session alone.
func TestOurLogicBetweenTwoCometsOfGoims(t *testing.T) {
	t.Parallel()
	services := startServices(t)
	comets := map[string]*goimServer{"goim-comet": startGoim(t, nil), "other-comet": startGoim(t, nil)}
	var instances []discovery.Instance
	for name, c := range comets {
		instances = append(instances, discovery.Instance{AppID: "goim.comet", Hostname: name, LatestTimestamp: 1, Addrs: []string{"grpc://" + c.addr},
			Metadata: map[string]string{"weight": "10", "addrs": "1.2.3.4", "conn_count": "0"}})
	}
	server := startLogic(t, services, nil, instances...)
	must := func(method, request string) []byte {
		t.Helper()
		reply, err := call(t, server.RPCAddr().String(), "/goim.logic.Logic/"+method, fixture(t, request))
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return reply
	}
	for _, request := range []string{"connect_req", "connect_req_other"} {
		if got, want := show(t, must("Connect", request)), show(t, fixture(t, "connect_reply")); got != want {
			t.Errorf("ConnectReply is %s, want %s", got, want)
		}
	}
	asked := show(t, comets["goim-comet"].first(t, "/barrage.sessions.Sessions/Close"), "1")
	if !strings.HasPrefix(asked, "1={") || !strings.HasSuffix(asked, `; 2="replaced"`) {
		t.Errorf("goim's comet was asked %s", asked)
	}
	want := `k1 2=1000; 4="other-comet"; 6="k1"; 7="x"; 101=now`
	records := readTopic(t, services)
	push(t, server, "keys?operation=1000&keys=k1")
	if got := records.next(t); got != want {
		t.Errorf("the record is %s, want %s", got, want)
	}
	if got := must("Disconnect", "disconnect_req"); len(got) != 0 {
		t.Errorf("the DisconnectReply of the old connection is %s", show(t, got))
	}
	push(t, server, "mids?operation=1000&mids=123")
	if got := records.next(t); got != want {
		t.Errorf("the record is %s, want %s", got, want)
	}
}

// Our logic below goim's comet, to the field; and its records, as goim's job reads them.
func TestOurLogicForGoims(t *testing.T) {
	t.Parallel()
	services := startServices(t)
	received := make(chan string, 1)
	server := startLogic(t, services, receiver(received), discovery.Instance{AppID: "goim.comet", Hostname: "goim-comet", LatestTimestamp: 1, Metadata: map[string]string{
		"weight": "10", "offline": "false", "addrs": "1.2.3.4,5.6.7.8", "conn_count": "0", "ip_count": "0"}})
	rpc := server.RPCAddr().String()
	must := func(method, request string, options ...grpc.CallOption) []byte {
		t.Helper()
		reply, err := call(t, rpc, "/goim.logic.Logic/"+method, fixture(t, request), options...)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return reply
	}
	if got, want := show(t, must("Connect", "connect_req")), show(t, fixture(t, "connect_reply")); got != want {
		t.Errorf("ConnectReply is %s, want %s", got, want)
	}
	if got := must("Heartbeat", "heartbeat_req"); len(got) != 0 {
		t.Errorf("HeartbeatReply is %s", show(t, got))
	}
	for _, options := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
		eventually(t, "the rooms of all comets", func() error {
			if got, want := show(t, must("RenewOnline", "online_req", options...), "1"), show(t, fixture(t, "online_reply"), "1"); got != want {
				return fmt.Errorf("OnlineReply is %s, want %s", got, want)
			}
			return nil
		})
	}
	if got := must("Receive", "receive_req"); len(got) != 0 {
		t.Errorf("ReceiveReply is %s", show(t, got))
	}
	if got := <-received; got != `123 1 4 9 "hello"` {
		t.Errorf("received %s", got)
	}
	if got, want := show(t, must("Nodes", "nodes_req"), "7"), show(t, fixture(t, "nodes_reply"), "7"); got != want {
		t.Errorf("NodesReply is %s, want %s", got, want)
	}
	if _, err := call(t, rpc, "/goim.logic.Logic/Ping", nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("an unknown method: %v", err)
	}

	// The records of the three kinds of pushes, as goim's job decodes them.
	records := readTopic(t, services)
	for path, want := range map[string]string{
		"keys?operation=1000&keys=k1&keys=gone":    `k1 2=1000; 4="goim-comet"; 6="k1"; 7="x"; 101=now`,
		"mids?operation=1001&mids=123":             `k1 2=1001; 4="goim-comet"; 6="k1"; 7="x"; 101=now`,
		"room?operation=1000&type=live&room=1000":  `live://1000 1=1; 2=1000; 5="live://1000"; 7="x"; 101=now`,
		"all?operation=1000&speed=64":              `1000 1=2; 2=1000; 3=64; 7="x"; 101=now`,
		"all?operation=1002":                       `1002 1=2; 2=1002; 7="x"; 101=now`,
		"keys?operation=0&keys=k1&keys=k1":         `k1 4="goim-comet"; 6="k1"; 7="x"; 101=now`,
		"room?operation=-1&type=a&room=b%3A%2F%2F": `a://b:// 1=1; 2=-1; 5="a://b://"; 7="x"; 101=now`,
	} {
		push(t, server, path)
		if got := records.next(t); got != want {
			t.Errorf("%s: the record is %s, want %s", path, got, want)
		}
	}
	if got, want := show(t, must("Disconnect", "disconnect_req")), show(t, fixture(t, "disconnect_reply")); got != want {
		t.Errorf("DisconnectReply is %s, want %s", got, want)
	}
	if got := must("Disconnect", "disconnect_req"); len(got) != 0 {
		t.Errorf("the second DisconnectReply is %s", show(t, got))
	}
}

// Our job between goim's logic and a comet of goim's, which knows neither Rooms (as some
// versions) nor our own service.
func TestOurJobBetweenGoims(t *testing.T) {
	t.Parallel()
	for _, skip := range []bool{false, true} {
		t.Run(fmt.Sprintf("skipUnheldRooms %v", skip), func(t *testing.T) {
			t.Parallel()
			services := startServices(t)
			goimComet := startGoim(t, map[string][]byte{
				"/goim.comet.Comet/PushMsg": {}, "/goim.comet.Comet/Broadcast": {}, "/goim.comet.Comet/BroadcastRoom": {},
			})
			cfg := job.DefaultConfig()
			cfg.Kafka.Brokers, cfg.Kafka.Options = strings.Split(services.KafkaBrokers(), ","), backing.ConsumerOptions()
			cfg.Comet.SkipUnheldRooms = skip
			instances := make(chan []discovery.Instance, 1)
			server, err := job.New(cfg, job.Deps{Instances: instances})
			if err != nil {
				t.Fatal(err)
			}
			if err := server.Listen(); err != nil {
				t.Fatal(err)
			}
			runs(t, server.Run)
			instances <- []discovery.Instance{{AppID: "goim.comet", Hostname: "goim-comet", Addrs: []string{"grpc://" + goimComet.addr}}}

			produce(t, services, map[string]string{"k1": "record_push", "live://1000": "record_room", "1000": "record_broadcast"})
			inner := []string{"2"}
			for method, want := range map[string]string{
				"PushMsg":       fmt.Sprintf(`1="k1"; 1="k2"; 2={2.1=1; 2.2=9; 2.4=%q}; 3=1000`, frame(1000, `{"to":"keys"}`)),
				"BroadcastRoom": fmt.Sprintf(`1="live://1000"; 2={2.1=1; 2.2=9; 2.4=%q}`, frame(1000, `{"to":"room"}`)),
				"Broadcast":     fmt.Sprintf(`1=1000; 2={2.1=1; 2.2=9; 2.4=%q}; 3=64`, frame(1000, `{"to":"all"}`)),
			} {
				if got := show(t, goimComet.first(t, "/goim.comet.Comet/"+method), inner...); got != want {
					t.Errorf("%s: %s\nwant %s", method, got, want)
				}
			}
		})
	}
}

// produce writes goim's records.
func produce(t *testing.T, services *backing.Services, byKey map[string]string) {
	t.Helper()
	producer, err := kafka.NewProducer(&kafka.ConfigMap{"bootstrap.servers": services.KafkaBrokers(), "go.logs.channel.enable": true})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	topic := "goim-push-topic"
	for key, name := range byKey {
		done := make(chan kafka.Event, 1)
		err := producer.Produce(&kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: kafka.PartitionAny}, Key: []byte(key), Value: fixture(t, name)}, done)
		if err != nil {
			t.Fatal(err)
		}
		if m := (<-done).(*kafka.Message); m.TopicPartition.Error != nil {
			t.Fatal(m.TopicPartition.Error)
		}
	}
}

// receiver shows the frames that clients send to the application.
func receiver(to chan<- string) logic.Receiver {
	return func(_ context.Context, mid int64, f *protocol.Proto) error {
		to <- fmt.Sprintf("%d %d %d %d %q", mid, f.GetVer(), f.GetOp(), f.GetSeq(), f.GetBody())
		return nil
	}
}
