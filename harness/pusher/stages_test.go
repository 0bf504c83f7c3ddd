package pusher

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"barrage/harness/ledger"
	"barrage/harness/pusher/load"
	logicpb "barrage/server/api/logic"
	"barrage/server/backing"
	"barrage/server/discovery"
	"barrage/server/job"
	"barrage/server/logic"
	"barrage/server/wire"
)

// runRole runs a role until the test ends.
func runRole(t *testing.T, name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
}

// eventually polls check until it returns nil.
func eventually(t *testing.T, what string, check func() error) {
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

func startLogic(t *testing.T, s *backing.Services) (addr string) {
	t.Helper()
	cfg := logic.DefaultConfig()
	cfg.HTTPServer.Addr, cfg.RPCServer.Addr = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Redis.Addr, cfg.Kafka.Brokers = s.RedisAddr(), []string{s.KafkaBrokers()}
	server, err := logic.New(cfg, logic.Deps{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	runRole(t, "logic", server.Run)
	eventually(t, "logic is ready", server.Ready)
	return server.HTTPAddr().String()
}

func startJob(t *testing.T, s *backing.Services, comets ...*fakeComet) {
	t.Helper()
	cfg := job.DefaultConfig()
	cfg.Kafka.Brokers, cfg.Kafka.Options = []string{s.KafkaBrokers()}, backing.ConsumerOptions()
	instances := make(chan []discovery.Instance, 1)
	var list []discovery.Instance
	for i, f := range comets {
		list = append(list, discovery.Instance{Hostname: fmt.Sprintf("comet-%d", i+1), Addrs: []string{"grpc://" + f.addr}})
	}
	instances <- list
	j, err := job.New(cfg, job.Deps{Instances: instances})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Listen(); err != nil {
		t.Fatal(err)
	}
	runRole(t, "job", j.Run)
	eventually(t, "job is ready", j.Ready)
}

// The same pushes through each way in are the same at each stage behind it: the records that
// logic writes are those of the way through Kafka, and the frames that job hands to comets
// those of the way through comet.
func TestWaysMeetBehindTheStagesTheyLeaveOut(t *testing.T) {
	s := startBacking(t)
	// Job's comets, which get what went through HTTP and Kafka, and those of the direct way.
	behind := []*fakeComet{startComet(t, nil), startComet(t, nil)}
	direct := []*fakeComet{startComet(t, nil), startComet(t, nil)}
	ways := map[Via]Way{
		ViaHTTP:  HTTP{Addr: startLogic(t, s), Timeout: time.Minute},
		ViaKafka: connectKafka(t, KafkaConfig{Brokers: []string{s.KafkaBrokers()}}),
		ViaComet: connectComets(t, CometConfig{Addrs: []string{direct[0].addr, direct[1].addr}}),
	}
	startJob(t, s, behind...)

	sizes, err := load.NewUniform(ledger.BodyMin, 2000, 1)
	if err != nil {
		t.Fatal(err)
	}
	// A paced broadcast carries each comet's share of the speed.
	targets := []Target{room, {Kind: KindRoom, Operation: 2, RoomType: "live", RoomID: "a b/ü"}, {Kind: KindAll, Operation: 1001}, {Kind: KindAll, Operation: 1002, Speed: 100_001}}
	const pushes = 20
	begin := ledger.Now()
	// Each way has the same stamps, though the later ones are late.
	for _, via := range Vias() {
		var list []Stream
		for i, target := range targets {
			list = append(list, Stream{
				ID: uint16(i), Lane: i, Via: via, Target: target, Sizes: sizes,
				Schedule: constant(200), Step: 1, Pushes: pushes,
			})
		}
		r, err := Run(t.Context(), Config{Ways: ways, Streams: list, Overrun: time.Hour}, begin)
		if err != nil {
			t.Fatal(err)
		}
		if c := r.Total(false); c.Acknowledged != int64(len(targets)*pushes) {
			t.Fatalf("via %s: %+v, errors %q", via, c, r.Errors)
		}
	}

	// By key and partition, logic's records come first, then those of the way through Kafka.
	type record struct {
		partition  int32
		key, value string
	}
	records := map[string][]record{}
	for _, m := range openTopic(t, s.KafkaBrokers()).read(2 * len(targets) * pushes) {
		records[string(m.Key)] = append(records[string(m.Key)], record{m.TopicPartition.Partition, string(m.Key), withoutTime(t, begin, m.Value)})
	}
	if len(records) != len(targets) {
		t.Errorf("records of %d keys, want %d", len(records), len(targets))
	}
	for key, list := range records {
		if len(list) != 2*pushes || !slices.Equal(list[:pushes], list[pushes:]) {
			t.Errorf("the %d records of %q are not twice the same %d", len(list), key, pushes)
		}
	}

	for i := range behind {
		for _, name := range []string{"live://1", "live://a b/ü", "1001", "1002"} {
			eventually(t, "job delivers "+name, func() error {
				if n := len(behind[i].taken(name)); n != 2*pushes {
					return fmt.Errorf("%d of %d frames", n, 2*pushes)
				}
				return nil
			})
			got, want := encoded(behind[i].taken(name)), encoded(direct[i].taken(name))
			if len(want) != pushes || !slices.Equal(got[:pushes], want) || !slices.Equal(got[pushes:], want) {
				t.Errorf("comet %d: the frames of %s from job are not those of the way through comet", i, name)
			}
			behindSpeeds, directSpeeds := behind[i].told(name), direct[i].told(name)
			if !slices.Equal(behindSpeeds, directSpeeds) {
				t.Errorf("comet %d: job's speeds of %s are %d, those of the way through comet %d", i, name, behindSpeeds, directSpeeds)
			}
		}
	}
}

// withoutTime returns a record's value without the time at which the push was accepted, which
// must lie between begin and now.
func withoutTime(t *testing.T, begin int64, value []byte) string {
	t.Helper()
	var m logicpb.PushMsg
	if err := proto.Unmarshal(value, &m); err != nil {
		t.Fatal(err)
	}
	if m.Accepted < begin || m.Accepted > ledger.Now() {
		t.Errorf("a push was accepted at %d, not between %d and now", m.Accepted, begin)
	}
	m.Accepted = 0
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	return string(value)
}

// encoded returns the frames as the texts of their bytes.
func encoded(frames []wire.Frame) []string {
	list := make([]string, len(frames))
	for i, f := range frames {
		list[i] = string(wire.AppendFrame(nil, f))
	}
	return list
}
