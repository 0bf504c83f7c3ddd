package job

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"barrage/server/discovery"
)

// TestExpiredRecordsAreCounted lets the broker drop records before a job reads them.
func TestExpiredRecordsAreCounted(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 1)
	c := newRPCFake(t)
	j := startJob(t, kafkaConfig(b), c)
	b.produce(0, roomMsg("live://0", "0"))
	b.flush()
	eventually(t, func() error { return got(c, "live://0", numbers(0, 1)) })
	j.list()
	eventually(t, func() error {
		if value(t, j.reg, "barrage_job_partitions_paused") != 1 {
			return errors.New("not paused")
		}
		return nil
	})
	filler := " " + strings.Repeat("x", 8<<10)
	const records = 1000 // 8 MiB
	for i := 1; i < records; i++ {
		b.produce(0, roomMsg("live://0", strconv.Itoa(i)+filler))
	}
	b.flush()
	j.list(c)
	eventually(t, func() error {
		if g := c.takenRoom("live://0"); !strings.HasPrefix(g[len(g)-1], strconv.Itoa(records-1)+" ") {
			return fmt.Errorf("%d records, the last is not there", len(g))
		}
		return nil
	})
	read := float64(len(c.takenRoom("live://0")))
	if missing := value(t, j.reg, "barrage_job_offsets_missing_total"); missing == 0 || missing+read != records {
		t.Errorf("%v records delivered and %v counted as missing, want %d together", read, missing, records)
	}
}

func TestReadySaysThatKafkaIsDown(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 1)
	c := newRPCFake(t)
	j := startJob(t, kafkaConfig(b), c)
	eventually(t, j.Ready)
	if err := b.cluster.SetBrokerDown(-1); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := j.Ready(); err == nil || !strings.Contains(err.Error(), "kafka") {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	if err := b.cluster.SetBrokerUp(-1); err != nil {
		t.Fatal(err)
	}
	eventually(t, j.Ready)
	b.produce(0, roomMsg("live://0", "0"))
	b.flush()
	eventually(t, func() error { return got(c, "live://0", numbers(0, 1)) })
}

func TestTopicThatIsMadeLater(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 1)
	cfg := kafkaConfig(b)
	cfg.Kafka.Topic = "later"
	cfg.Kafka.Options = []string{"topic.metadata.refresh.interval.ms=500"}
	c := newRPCFake(t)
	j := startJob(t, cfg, c)
	// The group is joined at once or only with the topic: either way nothing fails.
	if err := b.cluster.CreateTopic("later", 1, 1); err != nil {
		t.Fatal(err)
	}
	b.topic = "later"
	b.produce(0, roomMsg("live://0", "0"))
	b.flush()
	eventually(t, func() error { return got(c, "live://0", numbers(0, 1)) })
	eventually(t, j.Ready)
}

// TestStopDrains ends a job while a comet is slow: what was read is delivered and
// committed, so the next job delivers nothing twice.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 2)
	cfg := kafkaConfig(b)
	c := newRPCFake(t)
	c.setHook(func(int) error { time.Sleep(20 * time.Millisecond); return nil })
	j := startJob(t, cfg, c)
	stop := pushing(b, 2)
	eventually(t, func() error {
		if n := len(c.takenRoom("live://1")); n < 50 {
			return fmt.Errorf("%d records", n)
		}
		return nil
	})
	j.stop()
	n := stop()
	if n := value(t, j.reg, "barrage_job_records_given_back_total"); n != 0 {
		t.Errorf("%v records given back, want them delivered", n)
	}
	startJob(t, cfg, c)
	for room := range 2 {
		to := "live://" + strconv.Itoa(room)
		eventually(t, func() error { return got(c, to, numbers(0, n)) })
		if all := len(c.takenRoom(to)); all != n {
			t.Errorf("%d records delivered for %d: an orderly stop made duplicates", all, n)
		}
	}
}

// TestStopLeavesTheRest ends a job whose comet hangs: the next job delivers.
func TestStopLeavesTheRest(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 1)
	cfg := kafkaConfig(b)
	cfg.Drain.Timeout = 50 * time.Millisecond
	c := newRPCFake(t)
	gate := make(chan struct{})
	c.setHook(func(int) error { <-gate; return nil })
	j := startJob(t, cfg, c)
	for i := range 100 {
		b.produce(0, roomMsg("live://0", strconv.Itoa(i)))
	}
	b.flush()
	eventually(t, func() error {
		if n := value(t, j.reg, "barrage_job_records_total"); n != 100 {
			return fmt.Errorf("%v records read", n)
		}
		return nil
	})
	j.stop()
	if n := value(t, j.reg, "barrage_job_records_given_back_total", "shutdown"); n == 0 {
		t.Error("nothing counted as given back")
	}
	c.setHook(nil)
	close(gate)
	startJob(t, cfg, c)
	eventually(t, func() error { return got(c, "live://0", numbers(0, 100)) })
}

// TestWindowPausesAPartition bounds what is under way though no lane is full.
func TestWindowPausesAPartition(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 1)
	cfg := kafkaConfig(b)
	cfg.Kafka.Window = 10
	fast, stuck := newRPCFake(t), newRPCFake(t)
	gate := make(chan struct{})
	stuck.setHook(func(int) error { <-gate; return nil })
	j := startJob(t, cfg, fast, stuck)
	for i := range 100 {
		b.produce(0, roomMsg("live://0", strconv.Itoa(i)))
	}
	b.flush()
	eventually(t, func() error {
		if value(t, j.reg, "barrage_job_partitions_paused") != 1 {
			return errors.New("not paused")
		}
		return nil
	})
	if n := value(t, j.reg, "barrage_job_records_total"); n != 10 {
		t.Errorf("%v records read with a window of 10", n)
	}
	close(gate)
	for _, c := range []*rpcFake{fast, stuck} {
		eventually(t, func() error { return got(c, "live://0", numbers(0, 100)) })
	}
}

// TestNoCometDropsWhenSaidSo is goim's way: without a comet records are dropped, but not
// before discovery has said that there is none.
func TestNoCometDropsWhenSaidSo(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 1)
	cfg := kafkaConfig(b)
	cfg.Comet.WaitForFirst = false
	for i := range 50 {
		b.produce(0, roomMsg("live://0", strconv.Itoa(i)))
	}
	b.flush()
	j := startJob(t, cfg)
	eventually(t, func() error {
		if value(t, j.reg, "barrage_job_partitions_paused") != 1 {
			return errors.New("not paused before the first list")
		}
		return nil
	})
	if n := value(t, j.reg, "barrage_job_records_dropped_total"); n != 0 {
		t.Errorf("%v records dropped before the first list of comets", n)
	}
	j.list()
	eventually(t, func() error { return committed(b, 50) })
	if n := value(t, j.reg, "barrage_job_records_dropped_total", "no_comet"); n != 50 {
		t.Errorf("%v records dropped without a comet, want 50", n)
	}
	c := newRPCFake(t)
	j.list(c)
	eventually(t, func() error {
		if j.fleet.live.Load().byHost[c.addr] == nil {
			return errors.New("the comet is not live")
		}
		return nil
	})
	b.produce(0, roomMsg("live://0", "50"))
	b.flush()
	eventually(t, func() error { return got(c, "live://0", numbers(50, 51)) })
}

func TestListenNamesABadOption(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Kafka.Options = []string{"no.such.setting=1"}
	j, err := New(cfg, Deps{Instances: make(chan []discovery.Instance)})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Listen(); err == nil || !strings.Contains(err.Error(), "no.such.setting") || !strings.Contains(err.Error(), "kafka.options") {
		t.Errorf("error %v, want it to name the setting and kafka.options", err)
	}
}

// TestLargeRecord sends a frame that is larger than a batch may be.
func TestLargeRecord(t *testing.T) {
	c := newRPCFake(t)
	client, err := dial(c.addr, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r := newRecord(newPartition(0, func() {}), 0, kindRoom, "live://0", string(bytes.Repeat([]byte("x"), maxFrame-64)))
	if err := client.BroadcastRoom(t.Context(), r.room, Frames{Body: r.frame}); err != nil {
		t.Fatalf("a comet did not take the largest frame: %v", err)
	}
	if g := c.takenRoom("live://0"); len(g) != 1 || len(g[0]) != maxFrame-64 {
		t.Errorf("%d records arrived", len(g))
	}
}
