package logic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pb "barrage/server/api/logic"
	"barrage/server/discovery"
)

// A comet that was killed is counted until discovery drops it, and at most for
// online.maxAge, whatever discovery says. One that reports is counted all the time.
func TestSilentCometIsNotCounted(t *testing.T) {
	c := startCluster(t, func(cfg *Config, _ *Deps) {
		cfg.Online = OnlineConfig{Period: 20 * time.Millisecond, MaxAge: time.Second}
	})
	c.instances <- comets("alive", "killed")
	report := func(server string) error {
		_, err := c.comet.RenewOnline(t.Context(), &pb.OnlineReq{Server: server, RoomCount: map[string]int32{"live://1": 10}})
		return err
	}
	if err := report("killed"); err != nil {
		t.Fatal(err)
	}
	both := false
	eventually(t, "only the living comet is counted, after both were", func() error {
		if err := report("alive"); err != nil {
			return err
		}
		switch got := c.get(t, "/goim/online/room?type=live&rooms=1"); {
		case got == `{"code":0,"message":"","data":{"1":20}}`:
			both = true
			return errors.New("both are")
		case got != `{"code":0,"message":"","data":{"1":10}}` || !both:
			return errors.New(got)
		}
		return nil
	})
}

// A fakeSummer counts one session in each comet's own room.
type fakeSummer struct {
	failing atomic.Bool
	oldest  atomic.Pointer[time.Time]
}

func (f *fakeSummer) Sum(_ context.Context, servers []string, oldest time.Time) (map[string]int32, error) {
	f.oldest.Store(&oldest)
	if f.failing.Load() {
		return nil, errors.New("redis is out of reach")
	}
	rooms := make(map[string]int32)
	for _, server := range servers {
		rooms["live://"+server] = 1
	}
	return rooms, nil
}

// Readers see one picture or the next, while comets come and go and Redis fails.
func TestPictureChangesWhileItIsRead(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Online.Period = time.Millisecond
	summer := &fakeSummer{}
	o := newOnline(summer, &cfg, slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()))
	ctx, stop := context.WithCancel(t.Context())
	lists := make(chan []discovery.Instance)
	var running, reading sync.WaitGroup
	running.Go(func() { o.run(ctx, lists) })
	reading.Go(func() {
		for ctx.Err() == nil {
			if n := len(o.all()); n > 4 {
				t.Errorf("%d rooms", n)
			}
			for _, room := range o.top("live", 3) {
				if room.Count != 1 {
					t.Errorf("%v", room)
				}
			}
			o.counts("live", []string{"c0", "c3"})
			if total := o.total.Load(); total.Conns != total.IPs/2*3 {
				t.Errorf("%v", total)
			}
		}
	})
	names := []string{"c0", "c1", "c2", "c3"}
	for i := range 200 {
		summer.failing.Store(i%3 == 0)
		lists <- comets(names[:i%5]...)
	}
	summer.failing.Store(false)
	lists <- comets(names...)
	eventually(t, "the last list is counted", func() error {
		want := map[string]int32{"live://c0": 1, "live://c1": 1, "live://c2": 1, "live://c3": 1}
		if !maps.Equal(o.all(), want) {
			return fmt.Errorf("%v", o.all())
		}
		return nil
	})
	// A failure leaves the picture as it was.
	summer.failing.Store(true)
	before := summer.oldest.Load()
	eventually(t, "another sum", func() error {
		if summer.oldest.Load() == before {
			return errors.New("not yet")
		}
		return nil
	})
	if len(o.all()) != 4 {
		t.Errorf("%v", o.all())
	}
	stop()
	running.Wait()
	reading.Wait()
}

// Totals are of the comets that take clients, as goim has it.
func TestTotals(t *testing.T) {
	of := func(name string, metadata map[string]string) discovery.Instance {
		return discovery.Instance{Hostname: name, Metadata: metadata}
	}
	list := []discovery.Instance{
		of("b", map[string]string{"offline": "false", "conn_count": "2147483647", "ip_count": "5"}),
		of("a", map[string]string{"offline": "0", "conn_count": "1", "ip_count": "1"}),
		of("draining", map[string]string{"offline": "true", "conn_count": "100", "ip_count": "100"}),
		of("no conn_count", map[string]string{"offline": "false", "ip_count": "100"}),
		of("no ip_count", map[string]string{"offline": "false", "conn_count": "100"}),
		of("no offline", map[string]string{"conn_count": "100", "ip_count": "100"}),
		of("junk", map[string]string{"offline": "no", "conn_count": "1e3", "ip_count": "-"}),
		of("too large", map[string]string{"offline": "false", "conn_count": "2147483648", "ip_count": "1"}),
		of("no metadata", nil),
	}
	servers, total := liveComets(list)
	if fmt.Sprint(servers) != "[a b]" || total != (totals{Conns: 2147483648, IPs: 6}) {
		t.Errorf("%q, %+v", servers, total)
	}
}
