package presence

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Sessions are kept twice: under their key and, those of a member, under its id. Both places
// look alike: goim's own entry (the index: a text key_{key}, or a hash mid_{mid} of key to
// server), which says where the newest session is, and beside it a hash of all sessions, by
// their ids. Each script below sees one place alone, so that a cluster can serve it, and
// decides there what several logics may want at the same instant.
//
//	KEYS[1]  the index
//	KEYS[2]  the hash of sessions
//
// A session is written as "connected renewed mid length server key", the times in ms since
// 1970 and length the server's, in bytes.

// library is in front of every script.
const library = `
local index, sessions = KEYS[1], KEYS[2]
local kind, now, expire = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local id, server, key, mid = ARGV[4], ARGV[5], ARGV[6], ARGV[7]

-- read returns the sessions that are alive, oldest first, and forgets the others.
local function read()
	local live, all = {}, redis.call('HGETALL', sessions)
	for i = 1, #all, 2 do
		local connected, renewed, m, n, rest = string.match(all[i + 1], '^(%d+) (%d+) (%-?%d+) (%d+) (.*)$')
		if connected and tonumber(renewed) + expire > now then
			n = tonumber(n)
			table.insert(live, {id = all[i], connected = tonumber(connected), mid = m,
				server = string.sub(rest, 1, n), key = string.sub(rest, n + 1)})
		else
			redis.call('HDEL', sessions, all[i])
		end
	end
	table.sort(live, function(a, b)
		if a.connected ~= b.connected then return a.connected < b.connected end
		return a.id < b.id
	end)
	return live
end

-- write enters the session of ARGV.
local function write(connected)
	redis.call('HSET', sessions, id, string.format('%s %s %s %d ', connected, ARGV[2], mid, #server) .. server .. key)
	redis.call('PEXPIRE', sessions, expire)
end

-- point makes goim's entry name s's server.
local function point(s)
	if kind == 'key' then
		redis.call('SET', index, s.server, 'PX', expire)
	else
		redis.call('HSET', index, s.key, s.server)
		redis.call('PEXPIRE', index, expire)
	end
end

-- settle has goim's entry for key k name the newest of the live sessions under it, and, if
-- there is none, forgets it where it still names the server was.
local function settle(live, k, was)
	for i = #live, 1, -1 do
		if live[i].key == k then return point(live[i]) end
	end
	if kind == 'key' then
		if redis.call('GET', index) == was then return redis.call('DEL', index) end
	elseif redis.call('HGET', index, k) == was then
		return redis.call('HDEL', index, k)
	end
	return 0
end

local function list(first, some)
	local out = {first}
	for _, s in ipairs(some) do
		for _, v in ipairs({s.id, s.server, s.key, s.mid}) do table.insert(out, v) end
	end
	return out
end
`

// The scripts. Each returns a list whose first element is 1 or 0.
var (
	// addScript enters a session. With ARGV[8], the bound, above 0 there are never more than
	// that: by ARGV[9] the oldest go (1, and those), or the new one is not entered (0, and
	// those that are there).
	addScript = redis.NewScript(library + `
local bound, policy = tonumber(ARGV[8]), ARGV[9]
local others = {}
for _, s in ipairs(read()) do
	if s.id ~= id then table.insert(others, s) end
end
local replaced = {}
if bound > 0 and #others >= bound then
	if policy == 'reject' then return list(0, others) end
	while #others >= bound do
		local s = table.remove(others, 1)
		redis.call('HDEL', sessions, s.id)
		table.insert(replaced, s)
	end
end
write(ARGV[2])
local me = {id = id, server = server, key = key, mid = mid}
table.insert(others, me)
point(me)
for _, s in ipairs(replaced) do
	if s.key ~= key then settle(others, s.key, s.server) end
end
return list(1, replaced)`)

	// renewScript keeps a session from expiring, and enters it again when it is not there: 1.
	// When it is not there since others have taken its place, 0.
	renewScript = redis.NewScript(library + `
local bound = tonumber(ARGV[8])
local live, connected = read(), nil
for _, s in ipairs(live) do
	if s.id == id then connected = string.format('%.0f', s.connected) end
end
if not connected and bound > 0 and #live >= bound then return {0} end
write(connected or ARGV[2])
local missing
if kind == 'key' then
	missing = redis.call('PEXPIRE', index, expire) == 0
else
	missing = redis.call('HEXISTS', index, key) == 0
	redis.call('PEXPIRE', index, expire)
end
if missing then point({server = server, key = key}) end
return {1}`)

	// removeScript forgets a session, and whether it was there.
	removeScript = redis.NewScript(library + `
local had = redis.call('HDEL', sessions, id)
local gone = settle(read(), key, server)
if had == 1 or gone == 1 then return {1} end
return {0}`)
)

// A place is one of the two where a session is kept.
type place struct {
	kind     string // "key" or "mid"
	index    string
	sessions string
	bound    int
}

// places returns where s is kept.
func (s Session) places(b Bounds) []place {
	list := []place{{kind: "key", index: sessionKey(s.Key), sessions: sessionsKey(sessionKey(s.Key)), bound: b.PerKey}}
	if s.Mid > 0 {
		list = append(list, place{kind: "mid", index: memberKey(s.Mid), sessions: sessionsKey(memberKey(s.Mid)), bound: b.PerMid})
	}
	return list
}

// sessionsKey names the hash of sessions beside an index, in the same slot of a cluster: by
// the index in braces, or, where that has a part in braces itself, by that.
func sessionsKey(index string) string {
	if open := strings.IndexByte(index, '{'); open >= 0 {
		if end := strings.IndexByte(index[open+1:], '}'); end > 0 {
			return "ses_" + index
		}
	}
	return "ses_{" + index + "}"
}

// checkSlot refuses the keys for which sessionsKey can't keep to the slot.
func (s *Store) checkSlot(session Session) error {
	index := sessionKey(session.Key)
	if !s.clustered || sessionsKey(index) == "ses_"+index || !strings.Contains(index, "}") {
		return nil
	}
	return fmt.Errorf("session key %q: a key with a closing brace can't be kept in a Redis cluster", session.Key)
}

// A call is one run of a script.
type call struct {
	script *redis.Script
	place  place
	args   []any
	result []any // once run: what the script returned
}

// call makes a call for session, with more arguments behind those that all scripts have.
func (s *Store) call(script *redis.Script, p place, session Session, now time.Time, more ...any) *call {
	args := []any{p.kind, now.UnixMilli(), s.expire.Milliseconds(), session.id(), session.Server, session.Key, session.Mid}
	return &call{script: script, place: p, args: append(args, more...)}
}

// run makes the calls in one round trip, and in one more where Redis doesn't know a script.
func (s *Store) runScripts(ctx context.Context, calls []*call) error {
	unknown, err := s.try(ctx, calls, func(pipe redis.Pipeliner, c *call) *redis.Cmd {
		return pipe.EvalSha(ctx, c.script.Hash(), c.place.keys(), c.args...)
	})
	if err == nil && len(unknown) > 0 {
		_, err = s.try(ctx, unknown, func(pipe redis.Pipeliner, c *call) *redis.Cmd {
			return c.script.Eval(ctx, pipe, c.place.keys(), c.args...)
		})
	}
	return err
}

func (p place) keys() []string { return []string{p.index, p.sessions} }

func (s *Store) try(ctx context.Context, calls []*call, run func(redis.Pipeliner, *call) *redis.Cmd) (unknown []*call, err error) {
	pipe := s.client.Pipeline()
	commands := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		commands[i] = run(pipe, c)
	}
	_, failed := pipe.Exec(ctx)
	for i, c := range calls {
		err := commands[i].Err()
		if err == nil {
			c.result, err = commands[i].Slice()
		}
		switch {
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			unknown = append(unknown, c)
		case failed != nil && !redis.HasErrorPrefix(failed, "NOSCRIPT"):
			return nil, failed // of the connection, or of the first command that failed
		case err != nil:
			return nil, fmt.Errorf("%s: %w", c.place.index, err)
		case len(c.result) == 0:
			return nil, errors.New("a script returned nothing")
		}
	}
	return unknown, nil
}

// ok is the first element of the result.
func (c *call) ok() bool {
	n, _ := c.result[0].(int64)
	return n == 1
}

// listed are the sessions in the result.
func (c *call) listed() (list []Session) {
	text := func(i int) string { t, _ := c.result[i].(string); return t }
	for i := 1; i+3 < len(c.result); i += 4 {
		mid, _ := strconv.ParseInt(text(i+3), 10, 64)
		list = append(list, Session{ID: text(i), Server: text(i + 1), Key: text(i + 2), Mid: mid})
	}
	return list
}
