package logic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"barrage/server/discovery"
)

// A push that Kafka did not take is never a success.
func TestKafkaOutage(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) { cfg.Kafka.Timeout = 500 * time.Millisecond })
	c.ready(t)
	if got := c.post(t, roomPath, "before"); got != success {
		t.Fatal(got)
	}
	if err := c.kafka.SetBrokerDown(1); err != nil {
		t.Fatal(err)
	}
	got := c.post(t, roomPath, "during")
	if !strings.HasPrefix(got, `{"code":-500,"message":"`) || !strings.Contains(got, testTopic) {
		t.Errorf("got %s", got)
	}
	eventually(t, "not ready", func() error {
		if c.server.Ready() == nil {
			return errors.New("ready without Kafka")
		}
		return nil
	})
	if err := c.kafka.SetBrokerUp(1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "push after the outage", func() error { return wantAnswer(c.post(t, roomPath, "after"), success) })
	c.ready(t)
	if n := testutil.ToFloat64(c.server.metrics.pushes[kindRoom][pushFailed]); n < 1 {
		t.Errorf("%v failed pushes are counted", n)
	}
}

// Nothing is there when logic starts; it says what it waits for and works once it comes.
func TestStartsWithoutAnything(t *testing.T) {
	var registered, closed atomic.Bool
	mayRegister := make(chan struct{})
	var instance discovery.Instance
	c := startCluster(t, func(cfg *Config, deps *Deps) {
		cfg.Redis.Addr = freeAddr(t)
		cfg.Kafka.Timeout = 500 * time.Millisecond
		cfg.Kafka.Brokers = []string{freeAddr(t)}
		cfg.Env = discovery.Env{Region: "sh", Zone: "sh001", DeployEnv: "dev", Host: "logic-1", Weight: 10}
		deps.Register = func(ctx context.Context, in discovery.Instance) (io.Closer, error) {
			select {
			case <-mayRegister:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			instance = in
			registered.Store(true)
			return closer(func() { closed.Store(true) }), nil
		}
	})
	err := c.server.Ready()
	for _, missing := range []string{"kafka", "redis", "discovery"} {
		if err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("Ready says %v, nothing of %s", err, missing)
		}
	}
	if got := c.post(t, roomPath, "x"); !strings.HasPrefix(got, `{"code":-500,`) {
		t.Errorf("push without Kafka: %s", got)
	}
	if got := c.get(t, "/goim/online/total"); got != `{"code":0,"message":"","data":{"conn_count":0,"ip_count":0}}` {
		t.Error(got)
	}
	close(mayRegister)
	eventually(t, "registration", func() error {
		if !registered.Load() || strings.Contains(c.server.Ready().Error(), "discovery") {
			return errors.New("not registered")
		}
		return nil
	})
	if instance.AppID != "goim.logic" || instance.Hostname != "logic-1" || instance.Metadata["weight"] != "10" ||
		instance.GRPCAddr() != c.server.RPCAddr().String() {
		t.Errorf("registered as %+v", instance)
	}
	c.stop()
	if !closed.Load() {
		t.Error("logic stopped without leaving discovery")
	}
}

// Redis comes late.
func TestRedisComesLate(t *testing.T) {
	c := startCluster(t, nil)
	c.ready(t)
	addr := c.redis.Addr()
	c.redis.Close()
	eventually(t, "not ready", func() error {
		if err := c.server.Ready(); err == nil || !strings.Contains(err.Error(), "redis") {
			return errors.New("ready without Redis")
		}
		return nil
	})
	if err := c.redis.StartAddr(addr); err != nil {
		t.Fatal(err)
	}
	c.ready(t)
	c.connect(t, "comet-1", `{}`)
}

// Stopping answers what is under way, and does not wait for connections that are idle.
func TestStopAnswersWhatIsUnderWay(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) { cfg.Kafka.Linger = 500 * time.Millisecond })
	c.ready(t)
	idle := c.dial(t)
	io.WriteString(idle, "GET /goim/online/total HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := idle.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first request is answered", func() error {
		if n := c.server.httpListener.busy(); n != 0 {
			return fmt.Errorf("%d requests are under way", n)
		}
		return nil
	})
	answer := make(chan string, 1)
	go func() {
		got, err := c.tryPost(roomPath, "last words")
		if err != nil {
			got = err.Error()
		}
		answer <- got
	}()
	eventually(t, "the push is under way", func() error {
		if n := c.server.httpListener.busy(); n != 1 {
			return fmt.Errorf("%d requests are", n)
		}
		return nil
	})
	start := time.Now()
	c.stop()
	if took := time.Since(start); took > shutdownWait {
		t.Errorf("stopping took %v", took)
	}
	if got := <-answer; got != success {
		t.Error(got)
	}
	if got := string(c.records(t, 1)[0].push.GetMsg()); got != "last words" {
		t.Errorf("record %q", got)
	}
	if _, err := c.tryPost(roomPath, "too late"); err == nil {
		t.Error("a stopped server answers")
	}
}

func TestStopBeforeAnythingRuns(t *testing.T) {
	startCluster(t, nil).stop()
}

func TestListenSaysWhatIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, setting := range []string{"httpServer.addr", "rpcServer.addr"} {
		cfg := testConfig("127.0.0.1:1", "127.0.0.1:1")
		if setting == "httpServer.addr" {
			cfg.HTTPServer.Addr = taken.Addr().String()
		} else {
			cfg.RPCServer.Addr = taken.Addr().String()
		}
		server, err := New(cfg, Deps{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		err = server.Listen()
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), setting) || !strings.Contains(err.Error(), taken.Addr().String()) {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

func (l *listener) busy() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if c.busy.Load() {
			n++
		}
	}
	return n
}

type closer func()

func (c closer) Close() error {
	c()
	return nil
}

// freeAddr returns an address that nobody listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// What a push costs, from the socket to the acknowledgement and back: alone, where it is
// mostly kafka.linger, and with many others that share its batch.
func BenchmarkPushRoom(b *testing.B) {
	c := startCluster(b, nil)
	c.ready(b)
	body := strings.Repeat("x", 64)
	target := "http://" + c.server.HTTPAddr().String() + roomPath
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}
	defer client.CloseIdleConnections()
	push := func(b *testing.B) {
		resp, err := client.Post(target, "", strings.NewReader(body))
		if got, err := readAnswer(resp, err); err != nil || got != success {
			b.Errorf("%s, %v", got, err)
		}
	}
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			push(b)
		}
	})
	b.Run("together", func(b *testing.B) {
		b.SetParallelism(64)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				push(b)
			}
		})
	})
}
