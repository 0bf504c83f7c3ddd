package presence

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Session says which comet holds a session with a key. Several sessions may have one key.
type Session struct {
	Mid    int64 // the member that it belongs to, 0 for nobody
	Key    string
	Server string // the comet's name
	ID     string // unique for ever; "" for a session of a comet that gives none: it has one a key
}

// id is the session's name among those with its key and among its member's.
func (s Session) id() string {
	if s.ID == "" {
		return s.Server + " " + s.Key
	}
	return s.ID
}

// Bounds are how many live sessions there may be, 0 for any number.
type Bounds struct {
	PerKey int
	PerMid int
	Reject bool // the one too many is not let in; else the oldest goes
}

// SetBounds makes b hold for sessions that connect from now on.
func (s *Store) SetBounds(b Bounds) { s.bounds.Store(&b) }

// An Admission is what became of a session that connects.
type Admission struct {
	Replaced []Session // that have to go, also where the session was rejected; they are forgotten already
	Rejected bool      // the session was not entered, or is gone already
	Holders  []Session // whose being there is the reason, if that is known
}

// Add enters a session, or says that it can't be entered.
func (s *Store) Add(ctx context.Context, session Session) (Admission, error) {
	fail := func(err error) (Admission, error) {
		return Admission{}, s.failed(opAdd, fmt.Errorf("add session %q to redis: %w", session.Key, err))
	}
	if err := s.checkSlot(session); err != nil {
		return fail(err)
	}
	bounds := *s.bounds.Load()
	now := time.Now()
	calls := s.entries(session, now, bounds)
	var err error
	if s.clustered && session.Mid > 0 && bounds.PerKey > 0 && bounds.PerMid > 0 {
		err = s.runInTurn(ctx, calls[0], calls[1])
	} else {
		err = s.runAll(ctx, calls)
	}
	if err != nil {
		if slices.ContainsFunc(calls, (*call).ok) {
			s.takeOut(ctx, session)
		}
		return fail(err)
	}
	var a Admission
	var cleanUp []*call
	for _, c := range calls {
		if !c.ok() {
			a.Rejected = true
			a.Holders = append(a.Holders, c.listed...)
			continue
		}
		for _, old := range c.listed {
			if !slices.ContainsFunc(a.Replaced, func(r Session) bool { return r.ID == old.ID }) {
				a.Replaced = append(a.Replaced, old)
			}
			// It has to leave the other place too.
			for _, p := range old.places(bounds) {
				if p.index != c.place.index {
					cleanUp = append(cleanUp, s.removal(p, old))
				}
			}
		}
	}
	for _, c := range calls {
		if a.Rejected && c.ok() {
			cleanUp = append(cleanUp, s.removal(c.place, session))
		}
	}
	if err := s.removeAll(ctx, cleanUp); err != nil {
		// All is decided, and who has to go must hear of it. What they leave behind goes when
		// their comets end them, or expires; what a rejected session does would lock others out.
		s.log.Warn("could not remove replaced or rejected sessions from redis", "session", session.Key, "err", s.failed(opRemove, err))
		if a.Rejected {
			s.takeOut(ctx, session)
		}
	}
	return a, nil
}

// takeOut removes a session that could not be entered everywhere, if it can, also when ctx is
// over. A session that it replaced enters itself again when it is renewed.
func (s *Store) takeOut(ctx context.Context, session Session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := s.Remove(ctx, session); err != nil {
		s.log.Warn("a session that was not let in stays in redis until it expires", "session", session.Key, "err", err)
	}
}

// Renew keeps a session from expiring, and enters it again when it has expired. It returns
// that the session has been replaced where others have its place.
func (s *Store) Renew(ctx context.Context, session Session) (replaced bool, err error) {
	bounds := *s.bounds.Load()
	var calls []*call
	for _, p := range session.places(bounds) {
		calls = append(calls, &call{place: p, session: session, script: renewScript, more: []any{p.bound}})
	}
	if err := s.runAll(ctx, calls); err != nil {
		return false, s.failed(opRenew, fmt.Errorf("renew session %q in redis: %w", session.Key, err))
	}
	for _, c := range calls {
		if !c.ok() {
			_, err = s.Remove(ctx, session)
			return true, err
		}
	}
	var cleanUp []*call
	for _, c := range calls {
		for _, dead := range c.listed {
			for _, p := range dead.places(Bounds{}) {
				removal := s.removal(p, dead)
				removal.more = []any{"dead"}
				cleanUp = append(cleanUp, removal)
			}
		}
	}
	if err := s.removeAll(ctx, cleanUp); err != nil {
		s.log.Warn("could not remove expired sessions from redis", "err", s.failed(opRemove, err))
	}
	return false, nil
}

// Remove forgets a session and returns whether it was there. Other sessions with the same
// key stay.
func (s *Store) Remove(ctx context.Context, session Session) (had bool, err error) {
	var calls []*call
	for _, p := range session.places(Bounds{}) {
		calls = append(calls, s.removal(p, session))
	}
	if err := s.removeAll(ctx, calls); err != nil {
		return false, s.failed(opRemove, fmt.Errorf("remove session %q from redis: %w", session.Key, err))
	}
	return calls[0].ok(), nil
}

// Forget removes sessions whose comets can't do so any more.
func (s *Store) Forget(ctx context.Context, list []Session) error {
	for some := range slices.Chunk(list, 100) {
		var calls []*call
		for _, session := range some {
			for _, p := range session.places(Bounds{}) {
				calls = append(calls, s.removal(p, session))
			}
		}
		if err := s.removeAll(ctx, calls); err != nil {
			return s.failed(opRemove, fmt.Errorf("remove %d sessions from redis: %w", len(list), err))
		}
	}
	return nil
}

// Servers returns, for each key, the comets that hold its sessions; none for a key that is
// not online.
func (s *Store) Servers(ctx context.Context, keys []string) ([][]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	several := s.bounds.Load().PerKey != 1
	pipe := s.client.Pipeline()
	var clock *redis.TimeCmd // the server's, as the scripts have it
	if several {
		clock = pipe.Time(ctx)
	}
	newest := make([]*redis.StringCmd, len(keys))
	all := make([]*redis.StringSliceCmd, len(keys))
	for i, key := range keys {
		index := sessionKey(key)
		newest[i] = pipe.Get(ctx, index)
		if several && s.checkSlot(Session{Key: key}) == nil {
			all[i] = pipe.HVals(ctx, sessionsKey(index))
		}
	}
	if err := run(ctx, pipe); err != nil {
		return nil, s.failed(opServers, fmt.Errorf("look up %d session keys in redis: %w", len(keys), err))
	}
	servers := make([][]string, len(keys))
	first := make([]string, len(keys)) // all lists of one server, in one piece
	for i := range keys {
		if first[i] = newest[i].Val(); first[i] != "" {
			servers[i] = first[i : i+1 : i+1]
		}
		if all[i] == nil {
			continue
		}
		for _, session := range s.live(all[i].Val(), clock.Val()) {
			if !slices.Contains(servers[i], session.Server) {
				servers[i] = append(servers[i], session.Server)
			}
		}
		slices.Sort(servers[i])
	}
	return servers, nil
}

// Sessions returns where the sessions of the given members are: each key and comet once, in
// the order of mids, then of keys and comets.
func (s *Store) Sessions(ctx context.Context, mids []int64) ([]Session, error) {
	if len(mids) == 0 {
		return nil, nil
	}
	several := s.bounds.Load().PerKey != 1
	pipe := s.client.Pipeline()
	var clock *redis.TimeCmd // the server's, as the scripts have it
	if several {
		clock = pipe.Time(ctx)
	}
	newest := make([]*redis.MapStringStringCmd, len(mids))
	all := make([]*redis.StringSliceCmd, len(mids))
	for i, mid := range mids {
		newest[i] = pipe.HGetAll(ctx, memberKey(mid))
		if several {
			all[i] = pipe.HVals(ctx, sessionsKey(memberKey(mid)))
		}
	}
	if err := run(ctx, pipe); err != nil {
		return nil, s.failed(opMembers, fmt.Errorf("look up %d members in redis: %w", len(mids), err))
	}
	type at struct{ key, server string }
	var sessions []Session
	seen := make(map[at]bool)
	for i, mid := range mids {
		found := make(map[at]bool)
		for key, server := range newest[i].Val() {
			found[at{key, server}] = true
		}
		if all[i] != nil {
			for _, session := range s.live(all[i].Val(), clock.Val()) {
				found[at{session.Key, session.Server}] = true
			}
		}
		for _, f := range slices.SortedFunc(maps.Keys(found), func(a, b at) int {
			if c := strings.Compare(a.key, b.key); c != 0 {
				return c
			}
			return strings.Compare(a.server, b.server)
		}) {
			if f.key != "" && f.server != "" && !seen[f] {
				seen[f] = true
				sessions = append(sessions, Session{Mid: mid, Key: f.key, Server: f.server})
			}
		}
	}
	return sessions, nil
}

// live reads the values of a hash of sessions, without those that have expired or can't be
// read.
func (s *Store) live(values []string, now time.Time) (list []Session) {
	for _, v := range values {
		session, renewed, ok := parseSession(v)
		if ok && renewed.Add(s.expire).After(now) {
			list = append(list, session)
		}
	}
	return list
}

// parseSessions reads the fields of a hash of sessions, without those that can't be read, in
// the order of their ids.
func parseSessions(fields map[string]string) (list []Session) {
	for _, id := range slices.Sorted(maps.Keys(fields)) {
		if session, _, ok := parseSession(fields[id]); ok {
			session.ID = id
			list = append(list, session)
		}
	}
	return list
}

// text is the session as the scripts write it too.
func (s Session) text(now time.Time) string {
	return fmt.Sprintf("%d %d %d %d %s%s", now.UnixMicro(), now.UnixMilli(), s.Mid, len(s.Server), s.Server, s.Key)
}

// parseSession reads "connected renewed mid length server key", which the scripts write.
func parseSession(v string) (s Session, renewed time.Time, ok bool) {
	fields := strings.SplitN(v, " ", 5)
	if len(fields) != 5 {
		return s, renewed, false
	}
	ms, err1 := strconv.ParseInt(fields[1], 10, 64)
	mid, err2 := strconv.ParseInt(fields[2], 10, 64)
	n, err3 := strconv.Atoi(fields[3])
	rest := fields[4]
	if err1 != nil || err2 != nil || err3 != nil || n < 0 || n > len(rest) {
		return s, renewed, false
	}
	return Session{Mid: mid, Server: rest[:n], Key: rest[n:]}, time.UnixMilli(ms), true
}
