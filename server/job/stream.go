package job

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"barrage/server/api/pushes"
)

// A pushStream carries calls of Push to one comet, and their replies back, for as long as it
// works: a stream for each call would cost both ends more than what it is for.
type pushStream struct {
	stream grpc.BidiStreamingClient[pushes.Call, pushes.Reply]
	cancel context.CancelFunc

	sending sync.Mutex // held while a call is sent

	mu     sync.Mutex
	number uint64                 // of the last call
	calls  map[uint64]*streamCall // that are not answered for; nil when the stream has ended
	err    error                  // why it has ended
}

// A streamCall is a call under way.
type streamCall struct {
	open   int // items that no reply has named
	answer func(*pushes.Reply)
	err    error         // set before ended is closed
	ended  chan struct{} // closed when all items are named, or the stream has ended
}

// Push is Comet's. A call that is given up ends the stream, and with it what of that call, and
// of the others, still waits for space in the comet.
func (c *rpcComet) Push(ctx context.Context, items []*pushes.Item, answer func(*pushes.Reply)) error {
	s, err := c.pushStream(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	call := &streamCall{open: len(items), answer: answer, ended: make(chan struct{})}
	s.send(call, items)
	<-call.ended
	if call.err != nil && ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return call.err
}

// pushStream returns the stream that works, or opens one before ctx ends.
func (c *rpcComet) pushStream(ctx context.Context) (*pushStream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream != nil && !c.stream.hasEnded() {
		return c.stream, nil
	}
	life, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	stream, err := c.pushes.Push(life)
	if stop(); err != nil {
		cancel()
		return nil, err
	}
	c.stream = &pushStream{stream: stream, cancel: cancel, calls: make(map[uint64]*streamCall)}
	go c.stream.receive() // ends with the stream, at the latest with the connection
	return c.stream, nil
}

func (s *pushStream) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls == nil
}

// send makes the call, or fails it.
func (s *pushStream) send(call *streamCall, items []*pushes.Item) {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	if s.calls == nil {
		call.err = s.err
		close(call.ended)
		s.mu.Unlock()
		return
	}
	s.number++
	number := s.number
	s.calls[number] = call
	s.mu.Unlock()
	// Receive says why it failed, to all calls: io.EOF is the stream's end, which it has seen.
	if err := s.stream.Send(&pushes.Call{Number: number, Items: items}); err != nil && !errors.Is(err, io.EOF) {
		s.cancel()
	}
}

// receive passes replies on until the stream ends.
func (s *pushStream) receive() {
	defer s.cancel()
	for {
		reply, err := s.stream.Recv()
		if err == nil {
			err = s.settle(reply)
		}
		if err != nil {
			s.end(err)
			return
		}
	}
}

// settle passes a reply on.
func (s *pushStream) settle(reply *pushes.Reply) error {
	s.mu.Lock()
	call := s.calls[reply.Call]
	s.mu.Unlock()
	if call == nil {
		return status.Errorf(codes.Internal, "the comet answers call %d, which is not under way", reply.Call)
	}
	call.answer(reply)
	if call.open -= len(reply.Taken) + len(reply.Refused); call.open > 0 {
		return nil
	}
	s.mu.Lock()
	delete(s.calls, reply.Call)
	s.mu.Unlock()
	close(call.ended)
	return nil
}

// end fails what is under way.
func (s *pushStream) end(err error) {
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Unavailable, "the comet ended the stream")
	}
	s.mu.Lock()
	calls := s.calls
	s.calls, s.err = nil, err
	s.mu.Unlock()
	for _, call := range calls {
		call.err = err
		close(call.ended)
	}
}
