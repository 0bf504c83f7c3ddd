package comet

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"barrage/server/api/logic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
)

// gzipRooms is the number of rooms above which a report is compressed. A compressor holds
// over a megabyte, more than a small comet's sessions do.
const gzipRooms = 1024

// reportOnline tells logic how many are in each room here, once a period, and takes back
// how many there are on all comets. Comets that start together don't report together: for
// thousands of rooms that is work for all of them, and for logic.
func (s *Server) reportOnline(ctx context.Context) {
	tick := time.NewTicker(max(1, rand.N(s.cfg.Online.Period)))
	defer tick.Stop()
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if first {
			tick.Reset(s.cfg.Online.Period)
		}
		counts := s.rooms.counts()
		var options []grpc.CallOption
		if len(counts) > gzipRooms {
			options = append(options, grpc.UseCompressor(gzip.Name))
		}
		call, cancel := context.WithTimeout(ctx, max(s.cfg.RPCClient.Timeout, time.Second))
		r, err := s.logic.RenewOnline(call, &logic.OnlineReq{Server: s.name, RoomCount: counts}, options...)
		cancel()
		if err != nil {
			s.metrics.rpcErrors["RenewOnline"].Inc()
			s.log.Debug("report the online counts", "err", err)
			continue
		}
		s.rooms.setCluster(r.AllRoomCount)
	}
}

// registerGauges makes figures visible that are only read when asked for.
func (s *Server) registerGauges(r prometheus.Registerer) {
	gauge := func(name, help string, f func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "barrage_comet_" + name, Help: help}, f))
	}
	gauge("rooms", "Rooms with members.", func() float64 { return float64(s.rooms.len()) })
	gauge("connects_waiting", "Sessions whose auth frame has come and that logic has not been asked about yet.",
		func() float64 { return float64(s.registrar.connects.Waiting()) })
	gauge("addresses", "Client addresses with open connections.", func() float64 {
		_, n := s.limits.counts()
		return float64(n)
	})
}

// A lineLimit lets one log line a second through.
type lineLimit struct{ last atomic.Int64 }

func (l *lineLimit) allow(now time.Time) bool {
	last := l.last.Load()
	return now.UnixNano()-last >= int64(time.Second) && l.last.CompareAndSwap(last, now.UnixNano())
}
