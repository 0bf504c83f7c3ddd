package logic

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"barrage/server/discovery"
)

// A summer adds up what comets reported of their rooms.
type summer interface {
	Sum(ctx context.Context, servers []string, oldest time.Time) (map[string]int32, error)
}

// online is what logic knows of the whole cluster's sessions: a picture that is drawn anew
// every period and whenever a comet comes or goes. Readers never wait for it.
type online struct {
	summer  summer
	period  time.Duration
	maxAge  time.Duration // of a comet's report
	timeout time.Duration // of one sum
	log     *slog.Logger
	metrics *metrics

	rooms atomic.Pointer[map[string]int32] // sessions by room key; the map is never changed
	total atomic.Pointer[totals]
}

// totals are sums over the comets' discovery metadata.
type totals struct {
	Conns int64 `json:"conn_count"`
	IPs   int64 `json:"ip_count"`
}

func newOnline(s summer, cfg *Config, log *slog.Logger, m *metrics) *online {
	o := &online{summer: s, period: cfg.Online.Period, maxAge: cfg.Online.MaxAge, timeout: cfg.RPCServer.Timeout, log: log, metrics: m}
	o.rooms.Store(&map[string]int32{})
	o.total.Store(&totals{})
	return o
}

// run draws the picture until ctx ends. instances sends the comets' list whenever it
// changes; it may be nil.
func (o *online) run(ctx context.Context, instances <-chan []discovery.Instance) {
	ticker := time.NewTicker(o.period)
	defer ticker.Stop()
	var comets []string
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case list, open := <-instances:
			if !open {
				instances = nil
				continue
			}
			live, total := liveComets(list)
			o.total.Store(&total)
			o.metrics.comets.Set(float64(len(live)))
			if slices.Equal(live, comets) {
				continue // only their figures changed
			}
			comets = live
		case <-ticker.C:
		}
		err := o.sum(ctx, comets)
		switch {
		case err != nil && !failing && ctx.Err() == nil:
			o.log.Warn("room counts stay as they are", "err", err)
		case err == nil && failing:
			o.log.Info("room counts are up to date again")
		}
		failing = err != nil
	}
}

func (o *online) sum(ctx context.Context, comets []string) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	rooms, err := o.summer.Sum(ctx, comets, time.Now().Add(-o.maxAge))
	if err != nil {
		return fmt.Errorf("sum room counts: %w", err)
	}
	o.rooms.Store(&rooms)
	o.metrics.rooms.Set(float64(len(rooms)))
	return nil
}

// all returns the sessions of every room. The map must not be changed.
func (o *online) all() map[string]int32 { return *o.rooms.Load() }

// A roomTop is a room in the list of the largest ones.
type roomTop struct {
	Room  string `json:"room_id"`
	Count int32  `json:"count"`
}

// top returns at most limit of the largest rooms whose key begins with prefix, largest first.
func (o *online) top(prefix string, limit int) []roomTop {
	tops := []roomTop{}
	for key, count := range o.all() {
		_, room, ok := strings.Cut(key, "://")
		if ok && strings.HasPrefix(key, prefix) {
			tops = append(tops, roomTop{Room: room, Count: count})
		}
	}
	slices.SortFunc(tops, func(a, b roomTop) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Room, b.Room))
	})
	return tops[:min(limit, len(tops))]
}

// counts returns the sessions of the given rooms of one type, 0 for rooms without any.
func (o *online) counts(kind string, rooms []string) map[string]int32 {
	all := o.all()
	counts := make(map[string]int32, len(rooms))
	for _, room := range rooms {
		counts[room] = all[roomKey(kind, room)]
	}
	return counts
}

// liveComets returns the server names of the comets that take clients, sorted, and the sums
// of their sessions and addresses. Like goim it leaves out those that are offline or whose
// metadata lacks the figures.
func liveComets(list []discovery.Instance) (servers []string, total totals) {
	for _, instance := range list {
		offline, err := strconv.ParseBool(instance.Metadata["offline"])
		if err != nil || offline {
			continue
		}
		conns, err := strconv.ParseInt(instance.Metadata["conn_count"], 10, 32)
		if err != nil {
			continue
		}
		ips, err := strconv.ParseInt(instance.Metadata["ip_count"], 10, 32)
		if err != nil {
			continue
		}
		total.Conns += conns
		total.IPs += ips
		servers = append(servers, instance.Hostname)
	}
	slices.Sort(servers)
	return slices.Compact(servers), total
}
