package comet

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"barrage/server/api/logic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakeLogic admits every token that is JSON.
type fakeLogic struct {
	logic.LogicClient
	heartbeat time.Duration      // of ConnectReply; an hour if 0
	profile   *wsProfile         // of the WebSocket listener; frames if nil
	plain     bool               // knows no calls for many sessions, as goim's
	forgets   bool               // keeps no cookies and ids, whose memory would be measured
	before    func(token []byte) // called in Connect, if set
	// What a logic that bounds the sessions of a key adds, and says to a heartbeat; may be nil.
	connect  func(*logic.ConnectReq, *logic.ConnectReply) error
	beat     func(*logic.HeartbeatReq) *logic.HeartbeatReply
	cluster  map[string]int32 // reply of RenewOnline
	mu       sync.Mutex
	received []*logic.ReceiveReq // mu guards
	gone     []string            // mu guards; keys that disconnected
	goneIDs  []string            // mu guards; and their sessions
	ids      []string            // mu guards; sessions that connected
	online   map[string]int32    // mu guards; last RenewOnline
	cookies  []string            // mu guards
}

func (f *fakeLogic) Connect(_ context.Context, q *logic.ConnectReq, _ ...grpc.CallOption) (*logic.ConnectReply, error) {
	if f.before != nil {
		f.before(q.Token)
	}
	var token struct {
		Mid     int64   `json:"mid"`
		Key     string  `json:"key"`
		RoomID  string  `json:"room_id"`
		Accepts []int32 `json:"accepts"`
	}
	if err := json.Unmarshal(q.Token, &token); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if !f.forgets {
		f.mu.Lock()
		f.cookies = append(f.cookies, q.Cookie)
		f.ids = append(f.ids, q.Session)
		f.mu.Unlock()
	}
	h := f.heartbeat
	if h == 0 {
		h = time.Hour
	}
	r := &logic.ConnectReply{Mid: token.Mid, Key: token.Key, RoomID: token.RoomID, Accepts: token.Accepts, Heartbeat: int64(h)}
	if f.connect != nil {
		if err := f.connect(q, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (f *fakeLogic) ConnectAll(ctx context.Context, q *logic.ConnectAllReq, _ ...grpc.CallOption) (*logic.ConnectAllReply, error) {
	if f.plain {
		return nil, status.Error(codes.Unimplemented, "unknown method ConnectAll")
	}
	r := &logic.ConnectAllReply{}
	for _, session := range q.Sessions {
		reply, err := f.Connect(ctx, session)
		r.Results = append(r.Results, &logic.ConnectResult{Reply: reply, Error: failure(err)})
	}
	return r, nil
}

func (f *fakeLogic) DisconnectAll(ctx context.Context, q *logic.DisconnectAllReq, _ ...grpc.CallOption) (*logic.DisconnectAllReply, error) {
	if f.plain {
		return nil, status.Error(codes.Unimplemented, "unknown method DisconnectAll")
	}
	r := &logic.DisconnectAllReply{}
	for _, session := range q.Sessions {
		reply, err := f.Disconnect(ctx, session)
		r.Results = append(r.Results, &logic.DisconnectResult{Reply: reply, Error: failure(err)})
	}
	return r, nil
}

func (f *fakeLogic) HeartbeatAll(ctx context.Context, q *logic.HeartbeatAllReq, _ ...grpc.CallOption) (*logic.HeartbeatAllReply, error) {
	if f.plain {
		return nil, status.Error(codes.Unimplemented, "unknown method HeartbeatAll")
	}
	r := &logic.HeartbeatAllReply{}
	for _, session := range q.Sessions {
		reply, err := f.Heartbeat(ctx, session)
		r.Results = append(r.Results, &logic.HeartbeatResult{Reply: reply, Error: failure(err)})
	}
	return r, nil
}

func failure(err error) *logic.Failure {
	if err == nil {
		return nil
	}
	return &logic.Failure{Code: int32(status.Code(err)), Message: err.Error()}
}

func (f *fakeLogic) Disconnect(_ context.Context, q *logic.DisconnectReq, _ ...grpc.CallOption) (*logic.DisconnectReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = append(f.gone, q.Key)
	f.goneIDs = append(f.goneIDs, q.Session)
	return &logic.DisconnectReply{Has: true}, nil
}

func (f *fakeLogic) Heartbeat(_ context.Context, q *logic.HeartbeatReq, _ ...grpc.CallOption) (*logic.HeartbeatReply, error) {
	if f.beat != nil {
		return f.beat(q), nil
	}
	return &logic.HeartbeatReply{}, nil
}

func (f *fakeLogic) Receive(_ context.Context, q *logic.ReceiveReq, _ ...grpc.CallOption) (*logic.ReceiveReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.received = append(f.received, q)
	return &logic.ReceiveReply{}, nil
}

func (f *fakeLogic) RenewOnline(_ context.Context, q *logic.OnlineReq, _ ...grpc.CallOption) (*logic.OnlineReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.online = q.RoomCount
	return &logic.OnlineReply{AllRoomCount: f.cluster}, nil
}
