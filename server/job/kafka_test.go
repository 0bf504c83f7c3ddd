package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"barrage/server/api/comet"
	"barrage/server/api/logic"
	"barrage/server/api/protocol"
	"barrage/server/api/pushes"
	"barrage/server/backing"
	"barrage/server/discovery"
)

// A broker is librdkafka's mock cluster with the push topic. It keeps about 5 MiB of a
// partition and drops what is older without a word: tests stay below, but for the one that
// shows what a job says then.
type broker struct {
	t        *testing.T
	cluster  *kafka.MockCluster
	producer *kafka.Producer
	topic    string
}

func newBroker(t *testing.T, partitions int) *broker {
	t.Helper()
	cluster, err := backing.NewBroker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	b := &broker{t: t, cluster: cluster, topic: DefaultConfig().Kafka.Topic}
	if err := cluster.CreateTopic(b.topic, partitions, 1); err != nil {
		t.Fatal(err)
	}
	b.producer, err = kafka.NewProducer(&kafka.ConfigMap{
		"bootstrap.servers": cluster.BootstrapServers(), "enable.idempotence": true, "linger.ms": 1,
		"go.logs.channel.enable": true, "go.delivery.reports": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.producer.Close)
	return b
}

// produce writes m to a partition of the test's choice, to know what shares one.
func (b *broker) produce(partition int32, m *logic.PushMsg) {
	b.t.Helper()
	b.raw(partition, marshal(b.t, m))
}

func (b *broker) raw(partition int32, value []byte) {
	b.t.Helper()
	err := b.producer.Produce(&kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &b.topic, Partition: partition}, Value: value}, nil)
	if err != nil {
		b.t.Fatal(err)
	}
}

// flush waits until the broker has acknowledged everything.
func (b *broker) flush() {
	b.t.Helper()
	eventually(b.t, func() error {
		for {
			select {
			case e := <-b.producer.Events():
				if m, ok := e.(*kafka.Message); ok && m.TopicPartition.Error != nil {
					b.t.Fatal(m.TopicPartition.Error)
				}
				continue
			default:
			}
			// Len counts a report until the one after it is asked for: it may be 1 with no event to come.
			if n := b.producer.Len(); n > 0 {
				return fmt.Errorf("the broker has not acknowledged %d records", n)
			}
			return nil
		}
	})
}

func roomMsg(room, body string) *logic.PushMsg {
	return &logic.PushMsg{Type: logic.PushMsg_ROOM, Operation: 1000, Room: room, Msg: []byte(body)}
}

// A rpcFake is a fakeComet behind a real gRPC server.
type rpcFake struct {
	comet.UnimplementedCometServer
	*fakeComet
	t      *testing.T
	addr   string
	server *grpc.Server
	goim   bool // without the service of our own
}

func newRPCFake(t *testing.T) *rpcFake { return startRPCFake(t, false) }

func startRPCFake(t *testing.T, goim bool) *rpcFake {
	f := &rpcFake{fakeComet: newFakeComet(), t: t, addr: "127.0.0.1:0", goim: goim}
	f.start()
	t.Cleanup(func() { f.server.Stop() })
	return f
}

func (f *rpcFake) start() {
	f.t.Helper()
	listener, err := net.Listen("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.addr = listener.Addr().String()
	f.server = grpc.NewServer(grpc.MaxRecvMsgSize(protocol.MaxMessage))
	comet.RegisterCometServer(f.server, f)
	if !f.goim {
		pushes.RegisterPushesServer(f.server, pushesFake{comet: f.fakeComet})
	}
	server := f.server
	go func() { _ = server.Serve(listener) }() // ends with Stop
}

// pushesFake is the fakeComet's Push over gRPC.
type pushesFake struct {
	pushes.UnimplementedPushesServer
	comet *fakeComet
}

func (f pushesFake) Push(stream grpc.BidiStreamingServer[pushes.Call, pushes.Reply]) error {
	var sending sync.Mutex
	failed := make(chan error, 1)
	go func() {
		for {
			call, err := stream.Recv()
			if err != nil {
				return // the stream has ended
			}
			go func() {
				err := f.comet.Push(stream.Context(), call.Items, func(reply *pushes.Reply) {
					sending.Lock()
					defer sending.Unlock()
					reply.Call = call.Number
					_ = stream.Send(reply) // a lost answer ends the stream
				})
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}()
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-stream.Context().Done():
		return nil
	}
}

// crash ends the comet as a killed process would: connections break, calls get no answer.
func (f *rpcFake) crash() { f.server.Stop() }

func (f *rpcFake) PushMsg(ctx context.Context, in *comet.PushMsgReq) (*comet.PushMsgReply, error) {
	return &comet.PushMsgReply{}, f.fakeComet.PushMsg(ctx, in.Keys, in.ProtoOp, Frames{in.Proto.Body, in.Accepted})
}

func (f *rpcFake) BroadcastRoom(ctx context.Context, in *comet.BroadcastRoomReq) (*comet.BroadcastRoomReply, error) {
	if in.Proto.Ver != 1 || in.Proto.Op != 9 || in.Proto.Seq != 0 {
		f.t.Errorf("envelope is %v, want version 1, op 9, seq 0", in.Proto)
	}
	return &comet.BroadcastRoomReply{}, f.fakeComet.BroadcastRoom(ctx, in.RoomID, Frames{in.Proto.Body, in.Accepted})
}

func (f *rpcFake) Broadcast(ctx context.Context, in *comet.BroadcastReq) (*comet.BroadcastReply, error) {
	return &comet.BroadcastReply{}, f.fakeComet.Broadcast(ctx, in.ProtoOp, in.Speed, Frames{in.Proto.Body, in.Accepted})
}

func (f *rpcFake) Rooms(ctx context.Context, _ *comet.RoomsReq) (*comet.RoomsReply, error) {
	held, err := f.fakeComet.Rooms(ctx)
	return &comet.RoomsReply{Rooms: held}, err
}

// A running job, with the channel by which it hears of comets.
type running struct {
	*Job
	t         *testing.T
	reg       *prometheus.Registry
	instances chan []discovery.Instance
	cancel    context.CancelFunc
	done      chan struct{}
	err       error
}

// groupPatience is the session time-out of the tests. The mock cluster lets the first member
// of a group wait 3 s for others, and unlike Kafka counts that as silence: a member that is
// out of patience by then is forgotten, its question is never answered, and it reads nothing
// for as long as it waits (kafka.maxPollInterval). Later rounds take a second less than this.
const groupPatience = 4500 * time.Millisecond

// kafkaConfig is a configuration for a mock cluster.
func kafkaConfig(b *broker) Config {
	cfg := quick()
	cfg.Kafka.Brokers = []string{b.cluster.BootstrapServers()}
	cfg.Kafka.SessionTimeout = groupPatience
	cfg.Kafka.CommitInterval = 50 * time.Millisecond
	return cfg
}

func startJob(t *testing.T, cfg Config, comets ...*rpcFake) *running {
	t.Helper()
	r := &running{t: t, reg: prometheus.NewRegistry(), instances: make(chan []discovery.Instance, 1), done: make(chan struct{})}
	var err error
	r.Job, err = New(cfg, Deps{Log: testLog(t), Metrics: r.reg, Instances: r.instances})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.done)
		r.err = r.Run(ctx)
	}()
	t.Cleanup(r.stop)
	if len(comets) > 0 {
		r.list(comets...)
	}
	return r
}

// list tells the job that these comets are in discovery.
func (r *running) list(comets ...*rpcFake) {
	list := make([]discovery.Instance, 0, len(comets))
	for _, c := range comets {
		list = append(list, discovery.Instance{Hostname: c.addr, Addrs: []string{"grpc://" + c.addr}})
	}
	r.instances <- list
}

// stop ends the job in order.
func (r *running) stop() {
	r.cancel()
	select {
	case <-r.done:
		if r.err != nil {
			r.t.Errorf("job: %v", r.err)
		}
	case <-time.After(30 * time.Second):
		r.t.Fatal("the job did not end in 30 s")
	}
}

func testLog(t *testing.T) *slog.Logger {
	if os.Getenv("BARRAGE_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("test", t.Name())
}

func numbers(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, strconv.Itoa(i))
	}
	return out
}

// got says what is missing until the room on c has seen want, duplicates aside. A record
// before an earlier one ends the test at once: it can't be mended by waiting.
func got(c *rpcFake, room string, want []string) error {
	all := c.takenRoom(room)
	g := firsts(all)
	for i := range g {
		if i >= len(want) || g[i] != want[i] {
			c.t.Fatalf("comet %s, room %s: record %d is %.20q, want %.20q (%d of %d are there)", c.addr, room, i, g[i], want[min(i, len(want)-1)], len(g), len(want))
		}
	}
	if len(g) < len(want) {
		return fmt.Errorf("comet %s, room %s: %d of %d records, in order, and %d again", c.addr, room, len(g), len(want), len(all)-len(g))
	}
	return nil
}

func TestPushesReachCometsThroughKafka(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 4)
	c1, c2 := newRPCFake(t), newRPCFake(t)
	j := startJob(t, kafkaConfig(b))
	if j.Ready() == nil {
		t.Error("ready without comets")
	}
	for i := range 100 {
		b.produce(int32(i%4), roomMsg("live://"+strconv.Itoa(i%4), strconv.Itoa(i/4)))
	}
	b.raw(0, []byte("\xffnot a push"))
	b.produce(0, roomMsg("live://0", "25"))
	accepted := time.Now().UnixNano()
	b.produce(1, &logic.PushMsg{Type: logic.PushMsg_PUSH, Operation: 1000, Server: c2.addr, Keys: []string{"k"}, Msg: []byte("to k"), Accepted: accepted})
	b.produce(1, &logic.PushMsg{Type: logic.PushMsg_BROADCAST, Operation: 1000, Msg: []byte("to all")})
	b.flush()
	if n := c1.calls; n != 0 {
		t.Errorf("%d calls before there was a list of comets", n)
	}
	j.list(c1, c2)
	eventually(t, func() error {
		for room := range 4 {
			want := numbers(0, 25)
			if room == 0 {
				want = numbers(0, 26)
			}
			for _, c := range []*rpcFake{c1, c2} {
				if err := got(c, "live://"+strconv.Itoa(room), want); err != nil {
					return err
				}
			}
		}
		if !slices.Equal(c2.taken(target{kindPush, "k"}), []string{"to k"}) {
			return errors.New("the push to a key is missing")
		}
		if !slices.Equal(c1.taken(target{kind: kindBroadcast}), []string{"to all"}) {
			return errors.New("the broadcast is missing")
		}
		return nil
	})
	if err := j.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if n := value(t, j.reg, "barrage_job_records_bad_total", "undecodable"); n != 1 {
		t.Errorf("%v bad records, want 1", n)
	}
	if !slices.ContainsFunc(c2.accepted, func(at []int64) bool { return slices.Equal(at, []int64{accepted}) }) {
		t.Errorf("no call says when logic accepted the push: %v", c2.accepted)
	}
	eventually(t, func() error { return committed(b, 104) })
	// All records, once for each comet that they are for; and the one that says when it began.
	if n, m := value(t, j.reg, "barrage_job_handover_seconds"), value(t, j.reg, "barrage_job_read_seconds"); n != 2*101+1+2 || m != 1 {
		t.Errorf("%v records were handed over, %v have an age; want 205 and 1", n, m)
	}
	eventually(t, func() error {
		if n := value(t, j.reg, "barrage_job_lag_records"); n != 0 {
			return fmt.Errorf("lag is %v", n)
		}
		return nil
	})
}

// committed says what is missing until the group's committed offsets sum up to n.
func committed(b *broker, n int64) error {
	c, err := kafka.NewConsumer(&kafka.ConfigMap{"bootstrap.servers": b.cluster.BootstrapServers(), "group.id": DefaultConfig().Kafka.Group, "go.logs.channel.enable": true})
	if err != nil {
		return err
	}
	defer c.Close()
	meta, err := c.GetMetadata(&b.topic, false, 5000)
	if err != nil {
		return err
	}
	var list []kafka.TopicPartition
	for _, p := range meta.Topics[b.topic].Partitions {
		list = append(list, kafka.TopicPartition{Topic: &b.topic, Partition: p.ID})
	}
	list, err = c.Committed(list, 5000)
	if err != nil {
		return err
	}
	sum := int64(0)
	for _, tp := range list {
		sum += max(0, int64(tp.Offset))
	}
	if sum != n {
		return fmt.Errorf("committed %d of %d", sum, n)
	}
	return nil
}

// pushing produces one record after another to each of the rooms, room i to partition i,
// until stop is called, which returns how many each room got.
func pushing(b *broker, rooms int) (stop func() int) {
	var wg sync.WaitGroup
	end := make(chan struct{})
	n := 0
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ; ; n++ {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			for room := range rooms {
				b.produce(int32(room), roomMsg("live://"+strconv.Itoa(room), strconv.Itoa(n)))
			}
		}
	})
	stopOnce := sync.OnceFunc(func() {
		close(end)
		wg.Wait()
	})
	b.t.Cleanup(stopOnce) // before the producer is closed
	return func() int {
		stopOnce()
		b.flush()
		return n
	}
}

// TestCometCrash kills one of three comets while pushes run: the others get all of them in
// order, and when it is back, it gets what is pushed from then on, in order.
func TestCometCrash(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 4)
	cfg := kafkaConfig(b)
	cfg.Comet.DeadAfter = 500 * time.Millisecond
	c1, c2, c3 := newRPCFake(t), newRPCFake(t), newRPCFake(t)
	j := startJob(t, cfg, c1, c2, c3)
	stop := pushing(b, 4)
	// seen waits until c has got so many more records in every room.
	seen := func(c *rpcFake, more int) {
		t.Helper()
		for room := range 4 {
			to := "live://" + strconv.Itoa(room)
			least := len(c.takenRoom(to)) + more
			eventually(t, func() error {
				if n := len(c.takenRoom(to)); n < least {
					return fmt.Errorf("%d of %d in %s", n, least, to)
				}
				return nil
			})
		}
	}
	seen(c3, 50)
	c3.crash()
	eventually(t, func() error {
		if value(t, j.reg, "barrage_job_comets_given_up_total") != 1 {
			return errors.New("the comet was not given up")
		}
		return nil
	})
	seen(c1, 200)
	c3.start()
	seen(c3, 100)
	n := stop()

	want := numbers(0, n)
	for _, c := range []*rpcFake{c1, c2} {
		for room := range 4 {
			eventually(t, func() error { return got(c, "live://"+strconv.Itoa(room), want) })
		}
	}
	eventually(t, func() error { return committed(b, int64(4*n)) })
	if value(t, j.reg, "barrage_job_records_dropped_total", "comet_dead") == 0 {
		t.Error("nothing was counted as dropped with the dead comet")
	}
	for room := range 4 {
		back := firsts(c3.takenRoom("live://" + strconv.Itoa(room)))
		gaps := 0
		for i := 1; i < len(back); i++ {
			x, _ := strconv.Atoi(back[i-1])
			y, _ := strconv.Atoi(back[i])
			if y < x {
				t.Fatalf("room %d: the comet that crashed saw %d before %d", room, x, y)
			}
			if y > x+1 {
				gaps++
			}
		}
		if gaps != 1 {
			t.Errorf("room %d: %d gaps, want the one while it was dead", room, gaps)
		}
	}
}

// TestSlowCometPausesItsPartitions lets a comet hang until its lanes are full.
func TestSlowCometPausesItsPartitions(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 2)
	cfg := kafkaConfig(b)
	cfg.Lane.QueueBytes = 64 << 10
	c1, c2 := newRPCFake(t), newRPCFake(t)
	gate := make(chan struct{})
	c2.setHook(func(int) error { <-gate; return nil })
	j := startJob(t, cfg, c1, c2)
	const records = 1000
	filler := make([]byte, 512)
	for i := range filler {
		filler[i] = 'x'
	}
	var want []string
	for i := range records {
		body := strconv.Itoa(i) + string(filler)
		want = append(want, body)
		b.produce(0, roomMsg("live://0", body))
		b.produce(1, roomMsg("live://1", body))
	}
	b.flush()
	eventually(t, func() error {
		if n := value(t, j.reg, "barrage_job_partitions_paused"); n != 2 {
			return fmt.Errorf("%v partitions paused", n)
		}
		return nil
	})
	if n := value(t, j.reg, "barrage_job_lane_pending_bytes", c2.addr); n > 2*(64<<10)+4096 {
		t.Errorf("%v bytes wait for the slow comet, limit is 64 KiB a lane and one record more", n)
	}
	if n := len(c1.takenRoom("live://0")); n >= records {
		t.Errorf("the other comet has all %d records: nothing was held back", n)
	}
	close(gate)
	eventually(t, func() error {
		return errors.Join(got(c1, "live://0", want), got(c2, "live://0", want), got(c1, "live://1", want), got(c2, "live://1", want))
	})
	eventually(t, func() error { return committed(b, 2*records) })
	if n := len(c2.takenRoom("live://0")); n != records {
		t.Errorf("the slow comet got %d records of %d: pausing made duplicates", n, records)
	}
	if n := value(t, j.reg, "barrage_job_offsets_missing_total"); n != 0 {
		t.Errorf("%v offsets missing", n)
	}
}

func TestRecordsWaitForAComet(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 1)
	c := newRPCFake(t)
	j := startJob(t, kafkaConfig(b), c)
	b.produce(0, roomMsg("live://0", "0"))
	b.flush()
	eventually(t, func() error { return got(c, "live://0", numbers(0, 1)) })
	j.list() // the last comet leaves
	eventually(t, func() error {
		if value(t, j.reg, "barrage_job_partitions_paused") != 1 {
			return errors.New("not paused")
		}
		return nil
	})
	for i := 1; i < 50; i++ {
		b.produce(0, roomMsg("live://0", strconv.Itoa(i)))
	}
	b.flush()
	eventually(t, func() error {
		if lag := value(t, j.reg, "barrage_job_lag_records", "0"); lag != 49 {
			return fmt.Errorf("lag of the paused partition is %v, want 49", lag)
		}
		return nil
	})
	j.list(c)
	eventually(t, func() error { return got(c, "live://0", numbers(0, 50)) })
}

// TestTwoJobsShare lets a second job join and leave while pushes run.
func TestTwoJobsShare(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 4)
	c := newRPCFake(t)
	first := startJob(t, kafkaConfig(b), c)
	stop := pushing(b, 4)
	eventually(t, func() error {
		if n := len(c.takenRoom("live://3")); n < 20 {
			return fmt.Errorf("%d records", n)
		}
		return nil
	})
	second := startJob(t, kafkaConfig(b), c)
	eventually(t, func() error {
		a, z := value(t, first.reg, "barrage_job_partitions_assigned"), value(t, second.reg, "barrage_job_partitions_assigned")
		if a != 2 || z != 2 {
			return fmt.Errorf("jobs read %v and %v partitions, want 2 and 2", a, z)
		}
		return nil
	})
	eventually(t, func() error {
		if value(t, second.reg, "barrage_job_records_total") < 20 {
			return errors.New("the second job reads nothing")
		}
		return nil
	})
	first.stop()
	at := len(c.takenRoom("live://0"))
	eventually(t, func() error {
		if n := len(c.takenRoom("live://0")); n < at+20 {
			return errors.New("the second job did not take over")
		}
		return nil
	})
	n := stop()
	for room := range 4 {
		eventually(t, func() error { return got(c, "live://"+strconv.Itoa(room), numbers(0, n)) })
	}
	eventually(t, func() error { return committed(b, int64(4*n)) })
}
