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

// An Added is what became of one session of several that connect.
type Added struct {
	Admission
	Err error // why it could not be entered; the Admission says nothing then
}

// AddAll enters sessions, or says of each why it can't be entered. They connect one after the
// other, in their order. What fails for one of them harms no other.
func (s *Store) AddAll(ctx context.Context, list []Session) []Added {
	results := make([]Added, len(list))
	bounds, now := *s.bounds.Load(), time.Now()
	var changes []*change
	for i, session := range list {
		if err := s.checkSlot(session); err != nil {
			results[i].Err = s.failed(opAdd, fmt.Errorf("add session %q to redis: %w", session.Key, err))
			continue
		}
		changes = append(changes, &change{session: session, calls: s.entries(session, now, bounds), index: i})
	}
	inRounds(changes, bounds, func(round []*change) { s.add(ctx, round, bounds, results) })
	return results
}

// A change is what is done for one of several sessions.
type change struct {
	session Session
	calls   []*call // one for each place
	index   int     // of its result
}

// err is the first error of the calls.
func (c *change) err() error {
	for _, call := range c.calls {
		if call.err != nil {
			return call.err
		}
	}
	return nil
}

func callsOf(list []*change) (calls []*call) {
	for _, c := range list {
		calls = append(calls, c.calls...)
	}
	return calls
}

// inRounds gives do all changes at once where they can't be in each other's way. With bounds
// of both kinds a session that one of its places turns away is at the other for an instant, and
// so is one that is replaced: then two that share a place aren't in one round, and the later
// one finds it as it is when the earlier one is through with it.
func inRounds(list []*change, b Bounds, do func(round []*change)) {
	for len(list) > 0 {
		round, rest := list, []*change(nil)
		if b.PerKey > 0 && b.PerMid > 0 {
			round = nil
			taken := make(map[string]bool)
			for _, c := range list {
				free := true
				for _, call := range c.calls {
					free = free && !taken[call.place.index]
					taken[call.place.index] = true
				}
				if free {
					round = append(round, c)
				} else {
					rest = append(rest, c)
				}
			}
		}
		do(round)
		list = rest
	}
}

// add enters a round of sessions.
func (s *Store) add(ctx context.Context, round []*change, bounds Bounds, results []Added) {
	if s.clustered && bounds.PerKey > 0 && bounds.PerMid > 0 {
		s.runInTurn(ctx, round)
	} else {
		s.runAll(ctx, callsOf(round))
	}
	s.failedAny(opAdd, round)
	var cleanUp []*call
	var halfIn []Session
	var replaced []replacement
	for _, c := range round {
		if err := c.err(); err != nil {
			results[c.index].Err = fmt.Errorf("add session %q to redis: %w", c.session.Key, err)
			if slices.ContainsFunc(c.calls, (*call).ok) {
				halfIn = append(halfIn, c.session)
			}
			continue
		}
		a, others, calls := s.admission(c, bounds)
		results[c.index].Admission = a
		replaced = append(replaced, others...)
		cleanUp = append(cleanUp, calls...)
	}
	s.takeAway(ctx, cleanUp)
	for _, r := range replaced {
		if r.holds() {
			a := &results[r.index].Admission
			a.Replaced = append(a.Replaced, r.old)
		}
	}
	if err := firstError(cleanUp); err != nil {
		// All is decided, and who has to go must hear of it. What they leave behind goes when
		// their comets end them, or expires; what a rejected session does would lock others out.
		s.log.Warn("could not remove replaced or rejected sessions from redis", "err", s.failed(opRemove, err))
		for _, c := range round {
			if results[c.index].Rejected {
				halfIn = append(halfIn, c.session)
			}
		}
	}
	s.takeOut(ctx, halfIn)
}

// A replacement is a session that another, which connects, found in its place.
type replacement struct {
	index   int // of the other's result
	old     Session
	removal *call // that takes it away where it was found; nil where it was, as it was found
}

// holds says whether the session is replaced by this one: it is not if somebody else took it away. When
// that isn't known, it is: it had better hear of it twice than never.
func (r *replacement) holds() bool {
	return r.removal == nil || r.removal.err != nil || r.removal.answer > 0
}

// admission reads what the calls say of a session, but for whom it replaces, and returns those that clean up
// behind it. Others are taken away only by these: had the answer been lost with which they were, whoever
// asks again would not hear of them.
func (s *Store) admission(c *change, bounds Bounds) (a Admission, replaced []replacement, cleanUp []*call) {
	for _, call := range c.calls {
		if !call.ok() {
			a.Rejected = true
			a.Holders = append(a.Holders, call.listed...)
			continue
		}
		for _, old := range call.listed {
			r := replacement{index: c.index, old: old}
			for _, p := range old.places(bounds) {
				removal := s.removal(p, old)
				cleanUp = append(cleanUp, removal)
				if p.index == call.place.index && !call.atOnce {
					r.removal = removal
				}
			}
			if !slices.ContainsFunc(replaced, func(o replacement) bool { return o.old.ID == old.ID }) {
				replaced = append(replaced, r)
			}
		}
	}
	for _, call := range c.calls {
		if a.Rejected && call.ok() {
			cleanUp = append(cleanUp, s.removal(call.place, c.session))
		}
	}
	return a, replaced, cleanUp
}

// takeOut removes sessions that could not be entered everywhere, if it can, also when ctx is
// over. A session that they replaced enters itself again when it is renewed.
func (s *Store) takeOut(ctx context.Context, list []Session) {
	if len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for _, r := range s.RemoveAll(ctx, list) {
		if r.Err != nil {
			s.log.Warn("sessions that were not let in stay in redis until they expire", "sessions", len(list), "err", r.Err)
			return
		}
	}
}

// A Renewed is what became of one session of several that are renewed.
type Renewed struct {
	Replaced bool // others have its place
	Err      error
}

// RenewAll keeps sessions from expiring, and enters those again that have expired. A session
// whose place others have is forgotten.
func (s *Store) RenewAll(ctx context.Context, list []Session) []Renewed {
	results := make([]Renewed, len(list))
	bounds := *s.bounds.Load()
	changes := make([]*change, len(list))
	for i, session := range list {
		c := &change{session: session, index: i}
		for _, p := range session.places(bounds) {
			c.calls = append(c.calls, &call{place: p, session: session, script: renewScript, more: []any{p.bound}})
		}
		changes[i] = c
	}
	inRounds(changes, bounds, func(round []*change) { s.renew(ctx, round, results) })
	return results
}

// renew renews a round of sessions.
func (s *Store) renew(ctx context.Context, round []*change, results []Renewed) {
	s.runAll(ctx, callsOf(round))
	s.failedAny(opRenew, round)
	var cleanUp []*call
	var replaced []Session
	var of []*Renewed // those that were replaced
	for _, c := range round {
		r := &results[c.index]
		if err := c.err(); err != nil {
			r.Err = fmt.Errorf("renew session %q in redis: %w", c.session.Key, err)
			continue
		}
		if slices.ContainsFunc(c.calls, func(call *call) bool { return !call.ok() }) {
			r.Replaced = true
			replaced, of = append(replaced, c.session), append(of, r)
			continue
		}
		for _, call := range c.calls {
			for _, dead := range call.listed {
				for _, p := range dead.places(Bounds{}) {
					removal := s.removal(p, dead)
					removal.more = []any{"dead"}
					cleanUp = append(cleanUp, removal)
				}
			}
		}
	}
	for i, r := range s.RemoveAll(ctx, replaced) {
		of[i].Err = r.Err
	}
	s.takeAway(ctx, cleanUp)
	if err := firstError(cleanUp); err != nil {
		s.log.Warn("could not remove expired sessions from redis", "err", s.failed(opRemove, err))
	}
}

// A Removed is what became of one session of several that end.
type Removed struct {
	Had bool // it was there
	Err error
}

// RemoveAll forgets sessions. Others with their keys stay.
func (s *Store) RemoveAll(ctx context.Context, list []Session) []Removed {
	results := make([]Removed, len(list))
	changes := make([]*change, len(list))
	for i, session := range list {
		changes[i] = &change{session: session}
		for _, p := range session.places(Bounds{}) {
			changes[i].calls = append(changes[i].calls, s.removal(p, session))
		}
	}
	s.takeAway(ctx, callsOf(changes))
	s.failedAny(opRemove, changes)
	for i, c := range changes {
		if err := c.err(); err != nil {
			results[i].Err = fmt.Errorf("remove session %q from redis: %w", c.session.Key, err)
			continue
		}
		results[i].Had = c.calls[0].ok()
	}
	return results
}

func firstError(calls []*call) error {
	for _, c := range calls {
		if c.err != nil {
			return fmt.Errorf("%s: %w", c.place.index, c.err)
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
