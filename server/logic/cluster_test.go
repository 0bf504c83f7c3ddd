package logic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	pb "barrage/server/api/logic"
	"barrage/server/backing"
	"barrage/server/discovery"
)

const (
	testTopic      = "goim-push-topic"
	testPartitions = 8
	patience       = 20 * time.Second // for what must happen; the machine may be busy
)

// A cluster is a logic with a Redis and a Kafka of its own, all in this process.
type cluster struct {
	redis     *miniredis.Miniredis
	kafka     *kafka.MockCluster
	server    *Server
	registry  *prometheus.Registry
	instances chan []discovery.Instance
	comet     pb.LogicClient // calls logic as a comet does
	stop      func()         // ends the server and waits; safe to call twice
}

func startCluster(t testing.TB, change func(cfg *Config, deps *Deps)) *cluster {
	t.Helper()
	c := &cluster{
		redis:     miniredis.RunT(t),
		kafka:     startKafka(t),
		registry:  prometheus.NewRegistry(),
		instances: make(chan []discovery.Instance, 1),
	}
	cfg := testConfig(c.redis.Addr(), c.kafka.BootstrapServers())
	deps := Deps{
		Log:       slog.New(slog.DiscardHandler),
		Metrics:   c.registry,
		Instances: c.instances,
	}
	if change != nil {
		change(&cfg, &deps)
	}
	server, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	c.server = server
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	stopped := false
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(c.stop)
	conn, err := grpc.NewClient(server.RPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c.comet = pb.NewLogicClient(conn)
	return c
}

func testConfig(redisAddr, brokers string) Config {
	cfg := DefaultConfig()
	cfg.HTTPServer.Addr = "127.0.0.1:0"
	cfg.RPCServer.Addr = "127.0.0.1:0"
	cfg.HTTPServer.ReadTimeout = 10 * time.Second
	cfg.RPCServer.Timeout = 10 * time.Second
	cfg.Redis.Addr = redisAddr
	cfg.Kafka.Brokers = strings.Split(brokers, ",")
	cfg.Online.Period = 100 * time.Millisecond
	return cfg
}

func startKafka(t testing.TB) *kafka.MockCluster {
	t.Helper()
	mock, err := backing.NewBroker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mock.Close)
	if err := mock.CreateTopic(testTopic, testPartitions, 1); err != nil {
		t.Fatal(err)
	}
	return mock
}

// post pushes body and returns the answer's body; it checks what all answers have in common.
func (c *cluster) post(t testing.TB, path, body string) string {
	t.Helper()
	answer, err := c.tryPost(path, body)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func (c *cluster) tryPost(path, body string) (string, error) {
	resp, err := http.Post("http://"+c.server.HTTPAddr().String()+path, "text/plain", strings.NewReader(body))
	return readAnswer(resp, err)
}

func (c *cluster) get(t testing.TB, path string) string {
	t.Helper()
	answer, err := readAnswer(http.Get("http://" + c.server.HTTPAddr().String() + path))
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func readAnswer(resp *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != jsonType {
		return "", fmt.Errorf("answer %d %q: %s", resp.StatusCode, resp.Header.Get("Content-Type"), answer)
	}
	return string(answer), nil
}

// connect enters a session as a comet does.
func (c *cluster) connect(t testing.TB, server, token string) *pb.ConnectReply {
	t.Helper()
	reply, err := c.comet.Connect(context.Background(), &pb.ConnectReq{Server: server, Token: []byte(token)})
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// A record is what a job would read.
type record struct {
	key       string
	partition int32
	push      *pb.PushMsg
}

// records reads n records from the topic's beginning, in the order of each partition.
func (c *cluster) records(t testing.TB, n int) []record {
	t.Helper()
	consumer, err := kafka.NewConsumer(&kafka.ConfigMap{
		"bootstrap.servers":  c.kafka.BootstrapServers(),
		"group.id":           t.Name() + fmt.Sprint(time.Now().UnixNano()),
		"enable.auto.commit": false,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	topic := testTopic
	var all []kafka.TopicPartition
	for p := range int32(testPartitions) {
		all = append(all, kafka.TopicPartition{Topic: &topic, Partition: p, Offset: kafka.OffsetBeginning})
	}
	if err := consumer.Assign(all); err != nil {
		t.Fatal(err)
	}
	var records []record
	deadline := time.Now().Add(patience)
	for len(records) < n {
		message, err := consumer.ReadMessage(time.Until(deadline))
		if err != nil {
			t.Fatalf("read record %d of %d: %v", len(records)+1, n, err)
		}
		var push pb.PushMsg
		if err := proto.Unmarshal(message.Value, &push); err != nil {
			t.Fatal(err)
		}
		records = append(records, record{string(message.Key), message.TopicPartition.Partition, &push})
	}
	if extra, err := consumer.ReadMessage(300 * time.Millisecond); err == nil {
		t.Fatalf("more than %d records: %v", n, extra)
	}
	return records
}

// eventually waits until check returns nil.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *cluster) ready(t testing.TB) {
	t.Helper()
	eventually(t, "ready", c.server.Ready)
}

func params(pairs ...string) string {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Add(pairs[i], pairs[i+1])
	}
	return "?" + values.Encode()
}

// comets is discovery's list of live comets with one session and one address each.
func comets(names ...string) []discovery.Instance {
	var list []discovery.Instance
	for _, name := range names {
		list = append(list, discovery.Instance{
			AppID:    discovery.AppComet,
			Hostname: name,
			Metadata: map[string]string{"weight": "10", "offline": "false", "conn_count": "3", "ip_count": "2"},
		})
	}
	return list
}

func wantAnswer(got, want string) error {
	if got != want {
		return errors.New("answer is " + got + ", not " + want)
	}
	return nil
}
