package presence

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// A Session says which comet holds the session with a key. Mid is the member it belongs to,
// 0 for nobody.
type Session struct {
	Mid    int64
	Key    string
	Server string
}

// The scripts compare before they write: a key may have been taken over by a session on
// another comet, whose entry must outlive the end of the older session.
const (
	// renewSession keeps KEYS[1] alive for ARGV[2] ms, and puts ARGV[1] in when it is missing.
	renewSession = `
if redis.call('GET', KEYS[1]) then
	return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`

	// renewMember does the same for field ARGV[3] of the hash KEYS[1].
	renewMember = `
redis.call('HSETNX', KEYS[1], ARGV[3], ARGV[1])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`

	// removeSession deletes KEYS[1] if it holds ARGV[1].
	removeSession = `
if redis.call('GET', KEYS[1]) == ARGV[1] then
	return redis.call('DEL', KEYS[1])
end
return 0`

	// removeMember deletes field ARGV[2] of the hash KEYS[1] if it holds ARGV[1].
	removeMember = `
if redis.call('HGET', KEYS[1], ARGV[2]) == ARGV[1] then
	return redis.call('HDEL', KEYS[1], ARGV[2])
end
return 0`
)

// Add enters a session. An older session with the same key is forgotten.
func (s *Store) Add(ctx context.Context, session Session) error {
	pipe := s.client.Pipeline()
	if session.Mid > 0 {
		key := memberKey(session.Mid)
		pipe.HSet(ctx, key, session.Key, session.Server)
		pipe.PExpire(ctx, key, s.expire)
	}
	pipe.Set(ctx, sessionKey(session.Key), session.Server, s.expire)
	if err := run(ctx, pipe); err != nil {
		return s.failed(opAdd, fmt.Errorf("add session %q to redis: %w", session.Key, err))
	}
	return nil
}

// Renew keeps a session from expiring, and enters it again when it has expired.
func (s *Store) Renew(ctx context.Context, session Session) error {
	pipe := s.client.Pipeline()
	expire := s.expire.Milliseconds()
	if session.Mid > 0 {
		pipe.Eval(ctx, renewMember, []string{memberKey(session.Mid)}, session.Server, expire, session.Key)
	}
	pipe.Eval(ctx, renewSession, []string{sessionKey(session.Key)}, session.Server, expire)
	if err := run(ctx, pipe); err != nil {
		return s.failed(opRenew, fmt.Errorf("renew session %q in redis: %w", session.Key, err))
	}
	return nil
}

// Remove forgets a session and returns whether it was there. A session with the same key on
// another comet stays.
func (s *Store) Remove(ctx context.Context, session Session) (had bool, err error) {
	pipe := s.client.Pipeline()
	if session.Mid > 0 {
		pipe.Eval(ctx, removeMember, []string{memberKey(session.Mid)}, session.Server, session.Key)
	}
	removed := pipe.Eval(ctx, removeSession, []string{sessionKey(session.Key)}, session.Server)
	if err := run(ctx, pipe); err != nil {
		return false, s.failed(opRemove, fmt.Errorf("remove session %q from redis: %w", session.Key, err))
	}
	n, err := removed.Int64()
	if err != nil {
		return false, s.failed(opRemove, fmt.Errorf("remove session %q from redis: %w", session.Key, err))
	}
	return n > 0, nil
}

// Servers returns, for each key, the comet that holds its session, or "" when none does.
func (s *Store) Servers(ctx context.Context, keys []string) ([]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	pipe := s.client.Pipeline()
	found := make([]*redis.StringCmd, len(keys))
	for i, key := range keys {
		found[i] = pipe.Get(ctx, sessionKey(key))
	}
	if err := run(ctx, pipe); err != nil {
		return nil, s.failed(opServers, fmt.Errorf("look up %d session keys in redis: %w", len(keys), err))
	}
	servers := make([]string, len(keys))
	for i := range found {
		servers[i] = found[i].Val()
	}
	return servers, nil
}

// Sessions returns all sessions of the given members, a key once, in the order of mids and
// then of keys.
func (s *Store) Sessions(ctx context.Context, mids []int64) ([]Session, error) {
	if len(mids) == 0 {
		return nil, nil
	}
	pipe := s.client.Pipeline()
	found := make([]*redis.MapStringStringCmd, len(mids))
	for i, mid := range mids {
		found[i] = pipe.HGetAll(ctx, memberKey(mid))
	}
	if err := run(ctx, pipe); err != nil {
		return nil, s.failed(opMembers, fmt.Errorf("look up %d members in redis: %w", len(mids), err))
	}
	var sessions []Session
	seen := make(map[string]bool)
	for i, mid := range mids {
		first := len(sessions)
		for key, server := range found[i].Val() {
			if key != "" && server != "" && !seen[key] {
				seen[key] = true
				sessions = append(sessions, Session{Mid: mid, Key: key, Server: server})
			}
		}
		slices.SortFunc(sessions[first:], func(a, b Session) int { return strings.Compare(a.Key, b.Key) })
	}
	return sessions, nil
}
