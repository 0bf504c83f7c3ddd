package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"barrage/harness/client"
)

// A collector is a client in room live://1 that keeps the numbers that are pushed to it.
type collector struct {
	*client.Client
	comet string
	ended chan struct{} // closed when nothing more comes

	mu      sync.Mutex
	numbers []int // mu guards; -1 for what is no number
}

func (c *testCluster) collect(transport client.Transport, comet string) *collector {
	c.t.Helper()
	in := c.dial(transport, client.Token{RoomID: "live://1"}, comet)
	k := &collector{Client: in, comet: comet, ended: make(chan struct{})}
	go func() {
		defer close(k.ended)
		for {
			f, err := k.Receive(context.Background())
			if err != nil {
				return
			}
			n, err := strconv.Atoi(string(f.Body))
			if err != nil {
				n = -1
			}
			k.mu.Lock()
			k.numbers = append(k.numbers, n)
			k.mu.Unlock()
		}
	}()
	return k
}

// reaches waits until number n has come, or a later one.
func (k *collector) reaches(t *testing.T, n int) {
	t.Helper()
	within(t, fmt.Sprintf("a client of %s gets push %d", k.comet, n), func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.numbers) == 0 || k.numbers[len(k.numbers)-1] < n {
			return fmt.Errorf("it has %d pushes, and in the end %v", len(k.numbers), k.numbers[max(0, len(k.numbers)-1):])
		}
		return nil
	})
}

// whole closes the client and returns the last number, if all from the first on came, once
// and in order.
func (k *collector) whole(t *testing.T) (last int) {
	t.Helper()
	k.Close()
	<-k.ended
	for i, n := range k.numbers {
		if n != k.numbers[0]+i {
			t.Fatalf("a client of %s got push %d where %d was next", k.comet, n, k.numbers[0]+i)
		}
	}
	return k.numbers[len(k.numbers)-1]
}

// A pushLoop pushes 0, 1, 2 and so on to room live://1, each when the one before is
// acknowledged.
type pushLoop struct {
	end  context.CancelFunc
	loop sync.WaitGroup

	mu    sync.Mutex
	acked int   // pushes that logic has acknowledged; mu guards, both
	err   error // why there will be no more
}

func (c *testCluster) pushing() *pushLoop {
	ctx, end := context.WithCancel(context.Background())
	p := &pushLoop{end: end}
	c.t.Cleanup(p.stop)
	p.loop.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			err := pushNumber(c.api, n)
			p.mu.Lock()
			if p.err = err; err == nil {
				p.acked++
			}
			p.mu.Unlock()
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err != nil {
				return
			}
		}
	})
	return p
}

func pushNumber(api string, n int) error {
	resp, err := http.Post(api+"/goim/push/room?operation=1000&type=live&room=1", "", strings.NewReader(strconv.Itoa(n)))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != `{"code":0,"message":""}` {
		return fmt.Errorf("push %d: %s, %v", n, text, err)
	}
	return nil
}

// stop returns when the last push has its answer.
func (p *pushLoop) stop() {
	p.end()
	p.loop.Wait()
}

// count returns how many pushes are acknowledged: all, so far.
func (p *pushLoop) count(t *testing.T) int {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.acked
}

// A comet that is killed while pushes run costs nobody else one: the clients of the others
// get each that was acknowledged, once and in order. When the comet is back its clients get
// all that is pushed from then on, be it at its old address at once, or at another when job
// had given it up.
func TestACometIsKilledUnderPushes(t *testing.T) {
	const name = "comet-3"
	c := startCluster(t, clusterFlags{job: []string{"-comet.deadAfter=5s"}}, "comet-1", "comet-2", name)
	admin := "http://" + c.job.find(t, &c.job.stderr, `msg="job serves" .*admin=(\S+)`)[1]
	givenUp := func() string {
		return regexp.MustCompile(`(?m)^barrage_job_comets_given_up_total (\d+)`).FindString(get(t, admin+"/metrics"))
	}
	on := func(comets ...string) (list []*collector) {
		t.Helper()
		for _, comet := range comets {
			list = append(list, c.collect(client.TCP, comet), c.collect(client.WebSocket, comet))
		}
		return list
	}
	others, struck := on("comet-1", "comet-2"), on(name)
	pushes := c.pushing()
	// all waits until each client has that many pushes more than there are now.
	all := func(more int, clients ...*collector) {
		t.Helper()
		to := pushes.count(t) + more
		for _, k := range clients {
			k.reaches(t, to)
		}
	}
	all(100, slices.Concat(others, struck)...)
	reached := pushes.count(t)

	crash := func() {
		t.Helper()
		c.kill(name)
		for _, k := range struck {
			k.whole(t) // up to the crash
		}
		all(100, others...)
	}
	back := func(flags ...string) {
		t.Helper()
		c.startComet(name, flags...)
		struck = on(name)
		all(100, slices.Concat(others, struck)...)
	}
	rpc := c.comet[name].find(t, &c.comet[name].stderr, `msg="comet serves" .*rpc=(\S+)`)[1]
	crash()
	back("-tcp.bind="+c.addrs[name][client.TCP], "-websocket.bind="+c.addrs[name][client.WebSocket], "-rpcServer.addr="+rpc)

	before := givenUp()
	crash()
	within(t, "job gives the comet up", func() error {
		if now := givenUp(); now == before {
			return fmt.Errorf("it says %q", now)
		}
		return nil
	})
	all(100, others...)
	back()

	pushes.stop()
	n := pushes.count(t)
	for _, k := range slices.Concat(others, struck) {
		k.reaches(t, n-1)
		if last := k.whole(t); last != n-1 {
			t.Errorf("a client of %s got push %d in the end, which is not the last of %d", k.comet, last, n)
		}
	}
	for _, k := range others {
		if k.numbers[0] >= reached {
			t.Errorf("a client of %s missed the first %d pushes", k.comet, k.numbers[0])
		}
	}
}
