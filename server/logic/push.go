package logic

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	pb "barrage/server/api/logic"
	"barrage/server/logic/presence"
	"barrage/server/logic/producer"
)

// A sender takes records and returns nil once they are safe.
type sender interface {
	Send(ctx context.Context, records ...producer.Record) error
}

// A locator knows which comets hold which sessions.
type locator interface {
	Servers(ctx context.Context, keys []string) ([][]string, error)
	Sessions(ctx context.Context, mids []int64) ([]presence.Session, error)
}

// A message is a push that logic accepted.
type message struct {
	body     []byte
	accepted time.Time // when its last byte had been read
}

// A pusher turns pushes into records of the topic. A push to one room, or of one operation
// to all, is always a record of the same key: the topic keeps the order of such pushes.
type pusher struct {
	sender  sender
	locator locator
	lookup  time.Duration // that the locator may take
}

// pushKeys sends m to the sessions of keys, and returns on how many comets they are.
func (p *pusher) pushKeys(ctx context.Context, operation int32, keys []string, m message) (online int, err error) {
	lookup, cancel := context.WithTimeout(ctx, p.lookup)
	defer cancel()
	servers, err := p.locator.Servers(lookup, keys)
	if err != nil {
		return 0, err
	}
	var targets targets
	var seen map[string]bool
	if len(keys) > 1 {
		seen = make(map[string]bool, len(keys))
	}
	for i, list := range servers {
		if keys[i] == "" || seen[keys[i]] {
			continue
		}
		if seen != nil {
			seen[keys[i]] = true
		}
		for _, server := range list {
			targets.add(server, keys[i])
			online++
		}
	}
	return online, p.pushTargets(ctx, operation, targets, m)
}

// pushMids sends m to all sessions of members, and returns how many sessions those have.
func (p *pusher) pushMids(ctx context.Context, operation int32, mids []int64, m message) (online int, err error) {
	lookup, cancel := context.WithTimeout(ctx, p.lookup)
	defer cancel()
	sessions, err := p.locator.Sessions(lookup, mids)
	if err != nil {
		return 0, err
	}
	var targets targets
	for _, session := range sessions {
		targets.add(session.Server, session.Key)
	}
	return len(sessions), p.pushTargets(ctx, operation, targets, m)
}

// pushTargets sends one record to each comet, all of them at once.
func (p *pusher) pushTargets(ctx context.Context, operation int32, targets targets, m message) error {
	records := make([]producer.Record, 0, len(targets.servers))
	for i, server := range targets.servers {
		keys := targets.keys[i]
		record, err := encode(keys[0], m, &pb.PushMsg{
			Type:      pb.PushMsg_PUSH,
			Operation: operation,
			Server:    server,
			Keys:      keys,
		})
		if err != nil {
			return err
		}
		records = append(records, record)
	}
	if len(records) == 0 {
		return nil
	}
	return p.sender.Send(ctx, records...)
}

func (p *pusher) pushRoom(ctx context.Context, operation int32, room string, m message) error {
	record, err := encode(room, m, &pb.PushMsg{
		Type:      pb.PushMsg_ROOM,
		Operation: operation,
		Room:      room,
	})
	if err != nil {
		return err
	}
	return p.sender.Send(ctx, record)
}

// pushAll sends m to all sessions that accept operation, to at most speed sessions a
// second over all comets, 0 for no limit.
func (p *pusher) pushAll(ctx context.Context, operation, speed int32, m message) error {
	record, err := encode(strconv.FormatInt(int64(operation), 10), m, &pb.PushMsg{
		Type:      pb.PushMsg_BROADCAST,
		Operation: operation,
		Speed:     speed,
	})
	if err != nil {
		return err
	}
	return p.sender.Send(ctx, record)
}

// encode makes the record of a push whose target is set.
func encode(key string, m message, push *pb.PushMsg) (producer.Record, error) {
	push.Msg, push.Accepted = m.body, m.accepted.UnixNano()
	value, err := proto.Marshal(push)
	if err != nil {
		return producer.Record{}, fmt.Errorf("encode %s push %q: %w", push.GetType(), key, err)
	}
	return producer.Record{Key: []byte(key), Value: value}, nil
}

// targets are keys by the comet that holds them, in the order in which they were added.
type targets struct {
	servers []string
	keys    [][]string // of the server at the same index
	index   map[string]int
}

func (t *targets) add(server, key string) {
	i, known := t.index[server]
	if !known {
		if t.index == nil {
			t.index = make(map[string]int)
		}
		i = len(t.servers)
		t.index[server] = i
		t.servers = append(t.servers, server)
		t.keys = append(t.keys, nil)
	}
	t.keys[i] = append(t.keys[i], key)
}

func roomKey(kind, room string) string { return kind + "://" + room }
