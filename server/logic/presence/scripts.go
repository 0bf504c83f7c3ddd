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
//
// A crowd may share a key or a member, where those have no bound: everybody is 123 in many a
// test. So a script reads a whole hash only when it must count against a bound, when the hash
// is small, or so seldom that it costs little on average.

// library is in front of every script.
const library = `
local index, sessions = KEYS[1], KEYS[2]
local kind, now, expire = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local id, server, key, mid = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local crowd = 256 -- sessions from which on a hash isn't read as a whole for one of them

-- parse returns the session in a field; whether it is alive; nil for junk.
local function parse(field, value)
	local connected, renewed, m, n, rest = string.match(value, '^(%d+) (%d+) (%-?%d+) (%d+) (.*)$')
	if not connected then return nil, false end
	n = tonumber(n)
	local s = {id = field, connected = connected, mid = m, server = string.sub(rest, 1, n), key = string.sub(rest, n + 1)}
	return s, tonumber(renewed) + expire > now
end

-- oldestFirst sorts sessions by when they connected.
local function oldestFirst(list)
	table.sort(list, function(a, b)
		local x, y = tonumber(a.connected), tonumber(b.connected)
		if x ~= y then return x < y end
		return a.id < b.id
	end)
	return list
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

-- settle is for when a session of key k has gone that was on the server was: if goim's entry
-- names that, it has it name the newest of the live sessions under the key, and where there
-- is none forgets it. It returns how many it forgot.
local function settle(live, k, was)
	local named
	if kind == 'key' then named = redis.call('GET', index) else named = redis.call('HGET', index, k) end
	if named and named ~= was then return 0 end
	if type(live) == 'function' then live = live() end
	for i = #live, 1, -1 do
		if live[i].key == k then
			point(live[i])
			return 0
		end
	end
	if not named then return 0 end
	if kind == 'key' then return redis.call('DEL', index) end
	return redis.call('HDEL', index, k)
end

-- read returns the sessions that are alive, oldest first, and forgets the others.
local function read()
	local live, dead, all = {}, {}, redis.call('HGETALL', sessions)
	for i = 1, #all, 2 do
		local s, alive = parse(all[i], all[i + 1])
		if alive then
			table.insert(live, s)
		else
			redis.call('HDEL', sessions, all[i])
			if s then table.insert(dead, s) end
		end
	end
	oldestFirst(live)
	for _, s in ipairs(dead) do settle(live, s.key, s.server) end
	return live
end

-- look is read, or in a crowd only some of its sessions.
local function look()
	if redis.call('HLEN', sessions) <= crowd then return read() end
	if redis.replicate_commands then redis.replicate_commands() end -- servers before 5 need to be told
	local live, some = {}, redis.call('HSCAN', sessions, '0', 'COUNT', crowd)[2]
	for i = 1, #some, 2 do
		local s, alive = parse(some[i], some[i + 1])
		if alive then table.insert(live, s) end
	end
	return oldestFirst(live)
end

-- clean forgets the sessions that are dead, among n, but not every time.
local function clean(n)
	if n > 0 and (n <= 8 or now % n == 0) then read() end
end

-- write enters the session of ARGV.
local function write(connected)
	redis.call('HSET', sessions, id, string.format('%s %s %s %d ', connected, ARGV[2], mid, #server) .. server .. key)
	redis.call('PEXPIRE', sessions, expire)
end

-- without returns the sessions but that of ARGV.
local function without(live)
	local others = {}
	for _, s in ipairs(live) do
		if s.id ~= id then table.insert(others, s) end
	end
	return others
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
	// addScript enters a session; enter does without, where it can. With ARGV[8], the bound,
	// above 0 there are never more than that: by ARGV[9] the oldest go (1, and those), or the
	// new one is not entered (0, and those that are there). With ARGV[10] 'draw' it answers a
	// ticket instead of 1. With a ticket there those of the same member that have a later one
	// stay; when they are as many as may be, the new one is not entered (0, and nobody).
	addScript = redis.NewScript(library + `
local bound, policy, ticket = tonumber(ARGV[8]), ARGV[9], ARGV[10]
local connected, answer, replaced, others = ARGV[2], 1, {}, {}
local n = redis.call('HLEN', sessions)
if bound > 0 and n >= bound or ticket == 'draw' then
	others = without(read())
	if ticket == 'draw' then
		answer = now
		if #others > 0 then answer = math.max(now, tonumber(others[#others].connected) + 1) end
		connected = string.format('%.0f', answer)
	elseif ticket then
		connected = ticket
		local later = 0
		for _, s in ipairs(others) do
			if s.mid == mid and tonumber(s.connected) > tonumber(ticket) then later = later + 1 end
		end
		if later >= bound then return {0} end
	end
	if #others >= bound and policy == 'reject' then return list(0, others) end
	while #others >= bound do
		local s = table.remove(others, 1)
		redis.call('HDEL', sessions, s.id)
		table.insert(replaced, s)
	end
else
	connected = ticket or connected
	clean(n)
end
write(connected)
point({server = server, key = key})
for _, s in ipairs(replaced) do
	if s.key ~= key then settle(others, s.key, s.server) end
end
return list(answer, replaced)`)

	// renewScript keeps a session from expiring, and enters it again when it is not there: 1.
	// When others have its place, 0: it is not there and they are as many as may be, or it is
	// and as many are newer, since the bound was lowered.
	renewScript = redis.NewScript(library + `
local bound = tonumber(ARGV[8])
local n, value = redis.call('HLEN', sessions), redis.call('HGET', sessions, id)
local me, alive
if value then me, alive = parse(id, value) end
if not alive then me = nil end
if bound > 0 and (n > bound or n == bound and not me) then
	local newer, live = 0, read()
	for i = #live, 1, -1 do
		if live[i].id == id then break end
		newer = newer + 1
	end
	if newer >= bound then
		if me then
			redis.call('HDEL', sessions, id)
			settle(without(live), key, server)
		end
		return {0}
	end
else
	clean(n)
end
write(me and me.connected or ARGV[2])
local there
if kind == 'key' then
	there = redis.call('PEXPIRE', index, expire) == 1
else
	there = redis.call('HEXISTS', index, key) == 1
	redis.call('PEXPIRE', index, expire)
end
if not there then point({server = server, key = key}) end
return {1}`)

	// removeScript forgets a session, and whether it was there.
	removeScript = redis.NewScript(library + `
local had = redis.call('HDEL', sessions, id)
local gone = settle(look, key, server)
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

// A call is what is done for a session at one place.
type call struct {
	place   place
	session Session
	now     time.Time
	script  *redis.Script // nil: it is entered, without a script
	more    []any         // arguments behind those that all scripts have

	answer int64     // above 0: done
	listed []Session // by the answer; those that were replaced, or are in the way
}

// entries returns the calls that enter session. The bounds that nearly everybody has, none at
// all and one a key where the newest stays, need no script: as one transaction it is one
// decision as well, and costs a third in Redis and a tenth in miniredis. (In a cluster a
// transaction can't have both places.)
func (s *Store) entries(session Session, now time.Time, b Bounds) (calls []*call) {
	script := addScript
	if !s.clustered && b.PerMid == 0 && (b.PerKey == 0 || b.PerKey == 1 && !b.Reject) {
		script = nil
	}
	policy := "replace"
	if b.Reject {
		policy = "reject"
	}
	for _, p := range session.places(b) {
		calls = append(calls, &call{place: p, session: session, now: now, script: script, more: []any{p.bound, policy}})
	}
	return calls
}

// runAll makes the calls in one round trip, and in one more where Redis doesn't know a
// script. Outside of a cluster nothing comes between them: sessions that connect at the same
// instant meet in the same order at all places, and none replaces each other.
func (s *Store) runAll(ctx context.Context, calls []*call) error {
	unknown, err := s.try(ctx, calls, (*redis.Script).EvalSha)
	if err == nil && len(unknown) > 0 {
		_, err = s.try(ctx, unknown, (*redis.Script).Eval)
	}
	return err
}

// runInTurn makes the calls that enter a member's session in a cluster with bounds of both
// kinds: two slots, and nothing that holds them together. The member's place goes first and
// gives the session a ticket. Of two that connect at the same instant the later one stays,
// at the key's place as well, so that they don't replace each other.
func (s *Store) runInTurn(ctx context.Context, byKey, byMember *call) error {
	byMember.more = append(byMember.more, "draw")
	if err := s.runAll(ctx, []*call{byMember}); err != nil || !byMember.ok() {
		return err
	}
	byKey.more = append(byKey.more, byMember.answer)
	if err := s.runAll(ctx, []*call{byKey}); err != nil || !byKey.ok() {
		return err
	}
	// Whoever replaced it since may have been at the key's place before it.
	still, err := s.client.HExists(ctx, byMember.place.sessions, byMember.session.id()).Result()
	if err != nil {
		return fmt.Errorf("%s: %w", byMember.place.sessions, err)
	}
	if !still {
		byMember.answer = 0
	}
	return nil
}

type evaluate func(script *redis.Script, ctx context.Context, to redis.Scripter, keys []string, args ...any) *redis.Cmd

func (s *Store) try(ctx context.Context, calls []*call, eval evaluate) (unknown []*call, err error) {
	pipe := s.client.TxPipeline()
	if s.clustered || len(calls) == 1 && calls[0].script != nil {
		pipe = s.client.Pipeline() // each script is a transaction by itself
	}
	answers := make([]func() error, len(calls))
	for i, c := range calls {
		if c.script == nil {
			answers[i] = c.enter(ctx, pipe, s.expire)
		} else {
			answers[i] = c.run(ctx, pipe, s.expire, eval)
		}
	}
	_, failed := pipe.Exec(ctx)
	if failed != nil && !redis.HasErrorPrefix(failed, "NOSCRIPT") {
		return nil, fmt.Errorf("%s: %w", calls[0].place.index, failed)
	}
	for i, c := range calls {
		err := answers[i]()
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			unknown = append(unknown, c)
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", c.place.index, err)
		}
	}
	return unknown, nil
}

func (c *call) ok() bool { return c.answer > 0 }

// run queues a script and returns what reads its answer.
func (c *call) run(ctx context.Context, pipe redis.Pipeliner, expire time.Duration, eval evaluate) func() error {
	args := []any{c.place.kind, c.now.UnixMilli(), expire.Milliseconds(), c.session.id(), c.session.Server, c.session.Key, c.session.Mid}
	command := eval(c.script, ctx, pipe, []string{c.place.index, c.place.sessions}, append(args, c.more...)...)
	return func() error {
		answer, err := command.Slice()
		if err != nil {
			return err
		}
		if len(answer) == 0 {
			return errors.New("a script returned nothing")
		}
		c.answer, _ = answer[0].(int64)
		text := func(i int) string { t, _ := answer[i].(string); return t }
		for i := 1; i+3 < len(answer); i += 4 {
			mid, _ := strconv.ParseInt(text(i+3), 10, 64)
			c.listed = append(c.listed, Session{ID: text(i), Server: text(i + 1), Key: text(i + 2), Mid: mid})
		}
		return nil
	}
}

// enter queues the commands that enter the session, in the place of all others where the
// bound is 1, and returns what reads their answers.
func (c *call) enter(ctx context.Context, pipe redis.Pipeliner, expire time.Duration) func() error {
	p, x := c.place, c.session
	var before *redis.MapStringStringCmd
	var commands []redis.Cmder
	if p.bound == 1 {
		before = pipe.HGetAll(ctx, p.sessions)
		commands = append(commands, before, pipe.Del(ctx, p.sessions))
	}
	commands = append(commands, pipe.HSet(ctx, p.sessions, x.id(), x.text(c.now)), pipe.PExpire(ctx, p.sessions, expire))
	if p.kind == "key" {
		commands = append(commands, pipe.Set(ctx, p.index, x.Server, expire))
	} else {
		commands = append(commands, pipe.HSet(ctx, p.index, x.Key, x.Server), pipe.PExpire(ctx, p.index, expire))
	}
	return func() error {
		for _, command := range commands {
			if err := command.Err(); err != nil {
				return err
			}
		}
		c.answer = 1
		if before != nil {
			delete(before.Val(), x.id())
			c.listed = alive(before.Val(), c.now, expire)
		}
		return nil
	}
}
