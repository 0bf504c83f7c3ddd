package logic

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "barrage/server/api/logic"
	"barrage/server/logic/presence"
)

// maxHolders is how many sessions comets are asked about for some that would be rejected.
const maxHolders = 4096

// Connect reads the token of a new session and enters the session.
func (s *service) Connect(ctx context.Context, req *pb.ConnectReq) (*pb.ConnectReply, error) {
	results, err := s.connect(ctx, []*pb.ConnectReq{req})
	if err != nil {
		return nil, err
	}
	return results[0].reply, results[0].err
}

// ConnectAll reads the tokens of new sessions and enters the sessions.
func (s *service) ConnectAll(ctx context.Context, req *pb.ConnectAllReq) (*pb.ConnectAllReply, error) {
	results, err := s.connect(ctx, req.GetSessions())
	if err != nil {
		return nil, err
	}
	reply := &pb.ConnectAllReply{Results: make([]*pb.ConnectResult, len(results))}
	for i, r := range results {
		reply.Results[i] = &pb.ConnectResult{Reply: r.reply, Error: failure(r.err)}
	}
	return reply, nil
}

// A connected is what became of a session that connects.
type connected struct {
	reply *pb.ConnectReply
	err   error // a gRPC status; nil with a reply
}

// A token is what a client says of itself.
type token struct {
	Mid      int64   `json:"mid"`
	Key      string  `json:"key"`
	RoomID   string  `json:"room_id"`
	Platform string  `json:"platform"`
	Accepts  []int32 `json:"accepts"`
}

// connect connects sessions. Its error is that of all of them: nobody waits for them any more.
func (s *service) connect(ctx context.Context, reqs []*pb.ConnectReq) ([]connected, error) {
	results := make([]connected, len(reqs))
	tokens := make([]token, len(reqs))
	var list []*admission
	for i, req := range reqs {
		t := &tokens[i]
		if err := json.Unmarshal(req.GetToken(), t); err != nil {
			results[i].err = status.Errorf(codes.InvalidArgument, "read auth token: %v", err)
			continue
		}
		if t.Key == "" {
			t.Key = uuid.NewString()
		}
		list = append(list, &admission{index: i,
			session: presence.Session{Mid: t.Mid, Key: t.Key, Server: req.GetServer(), ID: req.GetSession()}})
	}
	if err := s.admit(ctx, list); err != nil {
		return nil, unavailable(ctx, err)
	}
	node := &s.live.Load().advice.Node
	var dismissed []presence.Session
	for _, a := range list {
		r, t := &results[a.index], &tokens[a.index]
		switch {
		case a.Err != nil:
			r.err = unavailable(ctx, a.Err)
			continue
		case a.Rejected:
			s.metrics.rejected.Inc()
			dismissed = append(dismissed, a.Replaced...)
			r.err = status.Errorf(codes.AlreadyExists, "session %q of member %d: %d sessions have its place (session.maxPerKey, session.maxPerMid)",
				a.session.Key, a.session.Mid, len(a.Holders))
			continue
		}
		s.log.Debug("session connected", "session", t.Key, "mid", t.Mid, "comet", a.session.Server,
			"room", t.RoomID, "platform", t.Platform)
		r.reply = &pb.ConnectReply{
			Mid:       t.Mid,
			Key:       t.Key,
			RoomID:    t.RoomID,
			Accepts:   t.Accepts,
			Heartbeat: int64(node.Heartbeat) * int64(node.HeartbeatMax),
			Managed:   a.session.ID != "", // else the comet tells sessions of a key apart by itself
		}
		for _, old := range a.Replaced {
			if old.Server != a.session.Server {
				dismissed = append(dismissed, old)
			} else {
				r.reply.Replaced = append(r.reply.Replaced, &pb.SessionRef{Key: old.Key, Session: old.ID})
			}
		}
	}
	s.peers.dismiss(dismissed)
	for i := range results {
		s.metrics.session("Connect", results[i].err)
	}
	return results, nil
}

// An admission is a session on its way in, and what has become of it.
type admission struct {
	session presence.Session
	index   int // of its result
	presence.Added
}

// admit enters sessions. Before one is rejected, those that hold its place are looked for: what
// a crash left behind locks nobody out. Its error is ctx's.
func (s *service) admit(ctx context.Context, list []*admission) error {
	if err := s.add(ctx, list); err != nil {
		return err
	}
	for len(list) > 0 {
		// As many of them as one question to the comets may be about.
		var some []*admission
		var holders []presence.Session
		for len(list) > 0 && (len(some) == 0 || len(holders)+len(list[0].Holders) <= maxHolders) {
			if a := list[0]; a.Err == nil && a.Rejected {
				some, holders = append(some, a), append(holders, a.Holders...)
			}
			list = list[1:]
		}
		if len(holders) == 0 {
			continue
		}
		if err := s.admitAgain(ctx, some, holders); err != nil {
			return err
		}
	}
	return nil
}

// admitAgain enters those of rejected sessions whose place is held by some that are not there
// any more.
func (s *service) admitAgain(ctx context.Context, rejected []*admission, holders []presence.Session) error {
	gone := make(map[string]presence.Session)
	for _, session := range s.peers.stale(ctx, holders) {
		gone[session.ID] = session
	}
	if len(gone) == 0 {
		return nil
	}
	list := make([]presence.Session, 0, len(gone))
	for _, session := range gone {
		list = append(list, session)
	}
	forgotten, err := s.registrar.removes.all(ctx, list)
	if err != nil {
		return err
	}
	for _, r := range forgotten {
		if r.Err != nil {
			err = r.Err
		}
	}
	var again []*admission
	for _, a := range rejected {
		if holds(a.Holders, gone) {
			again = append(again, a)
		}
	}
	if err != nil {
		for _, a := range again {
			a.Err = err
		}
		return nil
	}
	return s.add(ctx, again)
}

// holds says whether some of the holders are gone.
func holds(holders []presence.Session, gone map[string]presence.Session) bool {
	for _, h := range holders {
		if _, is := gone[h.ID]; is {
			return true
		}
	}
	return false
}

// add has the sessions entered in a round, and takes what comes of them.
func (s *service) add(ctx context.Context, list []*admission) error {
	sessions := make([]presence.Session, len(list))
	for i, a := range list {
		sessions[i] = a.session
	}
	added, err := s.registrar.adds.all(ctx, sessions)
	if err != nil {
		return err
	}
	for i, a := range list {
		a.Added = added[i]
	}
	return nil
}

// failure is err as a part of a reply, nil for none.
func failure(err error) *pb.Failure {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	return &pb.Failure{Code: int32(st.Code()), Message: st.Message()}
}
