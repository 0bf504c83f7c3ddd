package pusher

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"google.golang.org/protobuf/proto"

	"barrage/harness/ledger"
	"barrage/harness/pusher/load"
	"barrage/server/api/logic"
	"barrage/server/backing"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

func startBacking(t *testing.T) *backing.Services {
	t.Helper()
	s, err := backing.Start(t.Context(), backing.DefaultConfig(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func connectKafka(t *testing.T, cfg KafkaConfig) *Kafka {
	t.Helper()
	k, err := NewKafka(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// A topic reads the embedded broker's records.
type topic struct {
	t        *testing.T
	consumer *kafka.Consumer
}

func openTopic(t *testing.T, brokers string) *topic {
	t.Helper()
	cfg := kafka.ConfigMap{"bootstrap.servers": brokers, "group.id": "test", "enable.auto.commit": false}
	for _, option := range backing.ConsumerOptions() {
		key, value, _ := strings.Cut(option, "=")
		cfg[key] = value
	}
	c, err := kafka.NewConsumer(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	name := goimTopic
	var all []kafka.TopicPartition
	for p := range backing.DefaultConfig().Kafka.Partitions {
		all = append(all, kafka.TopicPartition{Topic: &name, Partition: int32(p), Offset: 0})
	}
	if err := c.Assign(all); err != nil {
		t.Fatal(err)
	}
	return &topic{t, c}
}

// read returns the next n records.
func (r *topic) read(n int) []*kafka.Message {
	r.t.Helper()
	var list []*kafka.Message
	for range n {
		m, err := r.consumer.ReadMessage(patience)
		if err != nil {
			r.t.Fatalf("read record %d of %d: %v", len(list), n, err)
		}
		list = append(list, m)
	}
	return list
}

func TestKafkaGetsEveryPushInOrder(t *testing.T) {
	s := startBacking(t)
	way := connectKafka(t, KafkaConfig{Brokers: []string{s.KafkaBrokers()}})
	// One stream at a rate that no stream could have that waits for each acknowledgement.
	list := split(1, constant(3000), time.Second, ViaKafka, room)
	all := split(2, constant(100), time.Second, ViaKafka, Target{Kind: KindAll, Operation: 1001, Speed: 7})
	for i := range all {
		all[i].ID, all[i].Lane, all[i].Line, all[i].Sizes = uint16(10+i), i, 1, load.Fixed(3000)
	}
	list = append(list, all...)
	begin := ledger.Now()
	r, err := Run(t.Context(), Config{Ways: map[Via]Way{ViaKafka: way}, Streams: list}, begin)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Total(false); c != (Counts{Intended: 3100, Sent: 3100, Acknowledged: 3100}) {
		t.Errorf("%+v, errors %q", c, r.Errors)
	}
	if r.Lines[0].Ack.TotalCount() != 3000 || r.Lines[1].Ack.TotalCount() != 100 {
		t.Errorf("%d and %d acknowledgements by line", r.Lines[0].Ack.TotalCount(), r.Lines[1].Ack.TotalCount())
	}
	got := map[uint16][]ledger.Stamp{}
	for _, m := range openTopic(t, s.KafkaBrokers()).read(3100) {
		var push logic.PushMsg
		if err := proto.Unmarshal(m.Value, &push); err != nil {
			t.Fatal(err)
		}
		stamp, ok := ledger.ParseBody(push.Msg)
		if !ok {
			t.Fatalf("a record without a stamp: %v", &push)
		}
		got[stamp.Stream] = append(got[stamp.Stream], stamp)
		key, size, want := "live://1", 64, logic.PushMsg{Type: logic.PushMsg_ROOM, Operation: 1000, Room: "live://1", Msg: push.Msg}
		if stamp.Stream >= 10 {
			key, size, want = "1001", 3000, logic.PushMsg{Type: logic.PushMsg_BROADCAST, Operation: 1001, Speed: 7, Msg: push.Msg}
		}
		want.Accepted = push.Accepted
		if push.Accepted < stamp.Intended || push.Accepted > ledger.Now() {
			t.Fatalf("a push was accepted at %d, not between %d and now", push.Accepted, stamp.Intended)
		}
		if string(m.Key) != key || len(push.Msg) != size || !proto.Equal(&push, &want) {
			t.Fatalf("record with key %q: %v, want key %q: %v", m.Key, &push, key, &want)
		}
		if want := partition(m.Key); m.TopicPartition.Partition != want {
			t.Fatalf("key %q is in partition %d, want %d", m.Key, m.TopicPartition.Partition, want)
		}
	}
	wantAll(t, got, list, begin)
}

// partition is where goim's producer (sarama) puts a key: the absolute value of its FNV-1a.
func partition(key []byte) int32 {
	h := fnv.New32a()
	h.Write(key)
	p := int32(h.Sum32()) % int32(backing.DefaultConfig().Kafka.Partitions)
	return max(p, -p)
}

// mockBroker is a broker whose faults can be set.
func mockBroker(t *testing.T) *kafka.MockCluster {
	t.Helper()
	mock, err := backing.NewBroker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mock.Close)
	if err := mock.CreateTopic(goimTopic, 8, 1); err != nil {
		t.Fatal(err)
	}
	return mock
}

// An acknowledgement takes half a second, and 200 pushes are due in one: a stream that waited
// for each would be past its overrun after a few.
func TestKafkaDoesNotWaitForAcknowledgements(t *testing.T) {
	mock := mockBroker(t)
	way := connectKafka(t, KafkaConfig{Brokers: []string{mock.BootstrapServers()}, Timeout: time.Minute})
	if err := mock.SetRoundtripDuration(1, 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Ways: map[Via]Way{ViaKafka: way}, Streams: split(1, constant(200), time.Second, ViaKafka, room), Overrun: 10 * time.Second}
	r, err := Run(t.Context(), cfg, ledger.Now())
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Total(false); c != (Counts{Intended: 200, Sent: 200, Acknowledged: 200}) {
		t.Errorf("%+v, errors %q", c, r.Errors)
	}
	if ack := time.Duration(r.Ack.Min()); ack < 400*time.Millisecond {
		t.Errorf("the fastest acknowledgement is %s", ack)
	}
}

// What is not acknowledged is of unknown fate, in the plan as well, and the order of the
// others stands.
func TestKafkaOutageIsTold(t *testing.T) {
	mock := mockBroker(t)
	way := connectKafka(t, KafkaConfig{Brokers: []string{mock.BootstrapServers()}, Timeout: time.Second})
	push := func() *Result {
		r, err := Run(t.Context(), Config{Ways: map[Via]Way{ViaKafka: way}, Streams: split(1, constant(100), 100*time.Millisecond, ViaKafka, room)}, ledger.Now())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if c := push().Total(false); c.Acknowledged != 10 {
		t.Fatalf("before the outage: %+v", c)
	}
	if err := mock.SetBrokerDown(1); err != nil {
		t.Fatal(err)
	}
	r := push()
	if c := r.Total(false); c != (Counts{Intended: 10, Sent: 10, Unknown: 10}) {
		t.Errorf("%+v", c)
	}
	plan := r.Plans()[0]
	slices.Sort(plan.Unknown)
	if plan.Pushed != 10 || !slices.Equal(plan.Unknown, []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}) {
		t.Errorf("plan is %+v", plan)
	}
	if len(r.Errors) != keptErrors || !strings.Contains(r.Errors[0], `write to topic "goim-push-topic": Local: Message timed out`) {
		t.Errorf("errors %q", r.Errors)
	}
}

func TestKafkaCancelEndsAtOnce(t *testing.T) {
	mock := mockBroker(t)
	way := connectKafka(t, KafkaConfig{Brokers: []string{mock.BootstrapServers()}, Timeout: 5 * time.Minute})
	if err := mock.SetBrokerDown(1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	list := split(1, constant(100), time.Minute, ViaKafka, room)
	list = append(list, list[0])
	list[1].ID, list[1].Lane, list[1].Start = 1, 1, 100*time.Millisecond
	r, err := Run(ctx, Config{Ways: map[Via]Way{ViaKafka: way}, Streams: list, Started: func(stream uint16) {
		if stream == 1 { // by then some of the first stream's are under way
			cancel()
		}
	}}, ledger.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := r.Total(false)
	if c.Sent < 2 || c.Unknown != c.Sent || c.Acknowledged+c.Failed != 0 {
		t.Errorf("%+v", c)
	}
	for _, text := range r.Errors {
		if !strings.Contains(text, context.Canceled.Error()) {
			t.Errorf("error %q", text)
		}
	}
}

func TestKafkaThatIsNotThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = NewKafka(t.Context(), KafkaConfig{Brokers: []string{l.Addr().String()}, Topic: "some", Timeout: time.Second})
	if err == nil || !strings.Contains(err.Error(), `ask the brokers for topic "some"`) {
		t.Errorf("got %v", err)
	}
}

func TestKafkaFates(t *testing.T) {
	k := &Kafka{topic: "some"}
	for _, c := range []struct {
		code   kafka.ErrorCode
		failed bool
	}{
		{kafka.ErrMsgSizeTooLarge, true},
		{kafka.ErrUnknownTopicOrPart, true},
		{kafka.ErrTopicAuthorizationFailed, true},
		{kafka.ErrMsgTimedOut, false},
		{kafka.ErrRequestTimedOut, false},
		{kafka.ErrNotEnoughReplicasAfterAppend, false}, // it may be there
		{kafka.ErrPurgeInflight, false},
	} {
		err := k.fate(kafka.NewError(c.code, "", false))
		if err == nil || errors.Is(err, ErrRefused) != c.failed || errors.Is(err, ErrNotSent) {
			t.Errorf("%v is %v", c.code, err)
		}
	}
	if err := k.fate(nil); err != nil {
		t.Errorf("an acknowledgement is %v", err)
	}
}

func TestKafkaRecordThatIsTooLarge(t *testing.T) {
	mock := mockBroker(t)
	way := connectKafka(t, KafkaConfig{Brokers: []string{mock.BootstrapServers()}, Timeout: time.Minute})
	sender, err := way.Open([]Target{room})
	if err != nil {
		t.Fatal(err)
	}
	// Larger than a record may be: it never enters the queue.
	var told error
	sender.Send(t.Context(), 0, make([]byte, maxRecord+1), func(err error) { told = err })
	if !errors.Is(told, ErrNotSent) {
		t.Errorf("got %v", told)
	}
	sender.Close(t.Context())
}

// BenchmarkKafka is what one push costs with the broker's side, many under way together.
func BenchmarkKafka(b *testing.B) {
	mock, err := backing.NewBroker()
	if err != nil {
		b.Fatal(err)
	}
	defer mock.Close()
	if err := mock.CreateTopic(goimTopic, 8, 1); err != nil {
		b.Fatal(err)
	}
	way, err := NewKafka(b.Context(), KafkaConfig{Brokers: []string{mock.BootstrapServers()}})
	if err != nil {
		b.Fatal(err)
	}
	defer way.Close()
	sender, err := way.Open([]Target{room})
	if err != nil {
		b.Fatal(err)
	}
	body := ledger.AppendBody(nil, ledger.Stamp{}, 64)
	b.ReportAllocs()
	for b.Loop() {
		sender.Send(b.Context(), 0, body, func(err error) {
			if err != nil {
				b.Error(fmt.Errorf("push: %w", err))
			}
		})
	}
	sender.Close(b.Context())
}
