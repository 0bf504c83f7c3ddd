package comet

import (
	"context"
	"errors"
	"slices"
	"sync"

	"barrage/server/api/logic"
	"barrage/server/api/protocol"
	"barrage/server/wire"
)

// maxReceiving bounds the bytes of a session's frames that wait for logic.
const maxReceiving = 256 << 10

var errReceiving = errors.New("frames for logic come faster than it takes them")

// A receiver hands a session's frames with operations of the application's to logic, one
// at a time and in their order. It exists once a session has sent such a frame.
type receiver struct {
	mu    sync.Mutex
	queue []*protocol.Proto
	bytes int
}

// receive hands f to logic. The reply keeps the request's operation and has no body, as
// goim's.
func (s *session) receive(f wire.Frame) error {
	r := s.in.receiver
	if r == nil {
		r = &receiver{}
		s.in.receiver = r
	}
	p := &protocol.Proto{Ver: int32(f.Ver), Op: int32(f.Op), Seq: f.Seq, Body: slices.Clone(f.Body)}
	r.mu.Lock()
	r.queue = append(r.queue, p)
	r.bytes += f.Size()
	first, over := len(r.queue) == 1, r.bytes > maxReceiving
	r.mu.Unlock()
	if over {
		return &closing{reason: reasonInputOverflow, cause: errReceiving}
	}
	if first {
		s.server.workers.Add(func() { s.server.receiveNext(s.mid, r) })
	}
	s.write(s.reply(f, f.Op, nil))
	return nil
}

// receiveNext calls logic for the first frame of the queue, which stays there meanwhile, so
// that only one worker is at it. The next frame gets in line behind other sessions' calls.
func (s *Server) receiveNext(mid int64, r *receiver) {
	r.mu.Lock()
	p := r.queue[0]
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.RPCClient.Timeout)
	_, err := s.logic.Receive(ctx, &logic.ReceiveReq{Mid: mid, Proto: p})
	cancel()
	s.called("Receive", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = r.queue[1:]
	r.bytes -= wire.HeaderLen + len(p.Body)
	if len(r.queue) == 0 {
		r.queue = nil
		return
	}
	s.workers.Add(func() { s.receiveNext(mid, r) })
}
