package presence

import "github.com/redis/go-redis/v9"

// Sessions are kept twice: under their key and, those of a member, under its id. Both places
// look alike: goim's own entry (the index: a text key_{key}, or a hash mid_{mid} of key to
// server), which says where the newest session is, and beside it a hash of all sessions, by
// their ids. Each script below sees one place alone, so that a cluster can serve it, and
// decides there what several logics may want at the same instant.
//
//	KEYS  of each session: the index; the hash of sessions; and, for the one script that needs
//	      it there, where all keys are on one server, the hash of sessions under the same key
//	ARGV  how many sessions there are; then of each of them how many keys and how many
//	      arguments it has, and those
//
// A script works on one session after the other, and what fails for one is told in its answer
// and touches no other. In a cluster it is given one session, whose keys are in one slot.
//
// A session is written as "connected renewed mid length server key", connected in µs and
// renewed in ms since 1970, length the server's in bytes. Two that connect at the same instant
// must be in the same order at both places, whose scripts don't run in the same ms.
//
// A crowd may share a key or a member, where those have no bound: everybody is 123 in many a
// test. So a script reads a whole hash only when it must count against a bound, when the hash
// is small, or so seldom that it costs little on average.
//
// The scripts tell the time by the server's clock, so that logics' clocks don't matter. What
// is entered without a script has its logic's time until it is renewed: with one a key
// nothing is compared then, and a clock that is off makes a session's time that much shorter
// or longer. In a cluster each node has its own clock, which orders what it keeps; tickets are
// by the clocks of members' nodes, and order sessions of one member with each other for sure.

// library is in front of every script.
const library = `
local crowd = 256 -- sessions from which on a hash isn't read as a whole for one of them

-- Of the session that is worked on: its keys and arguments, and what comes behind those that
-- all scripts have.
local index, sessions, underKey
local kind, expire, id, server, key, mid
local more

if redis.replicate_commands then redis.replicate_commands() end -- servers before 5 need to be told
local time = redis.call('TIME')
local instant = tonumber(time[1]) * 1000000 + tonumber(time[2]) -- in µs
local now = math.floor(instant / 1000) -- in ms
local chance = now -- like now, and another one for each session

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

-- name returns the server that goim's entry names for a key, forget has it name none.
local function name(k)
	if kind == 'key' then return redis.call('GET', index) end
	return redis.call('HGET', index, k)
end

local function forget(k)
	if kind == 'key' then redis.call('DEL', index) else redis.call('HDEL', index, k) end
end

-- newest returns the newest session of each key; list has the oldest first.
local function newest(list)
	local by = {}
	for _, s in ipairs(list) do by[s.key] = s end
	return by
end

-- settle is for when a session of key k has gone that was on the server was: if goim's entry
-- names that, it has it name the newest of the live sessions under the key, and where there
-- is none forgets it.
local function settle(by, k, was)
	local named = name(k)
	if named and named ~= was then return end
	if by[k] then point(by[k]) elseif named then forget(k) end
end

-- read returns the sessions that are alive, oldest first, and forgets the others, a thousand
-- at most.
local function read()
	local live, dead, all = {}, {}, redis.call('HGETALL', sessions)
	for i = 1, #all, 2 do
		local s, alive = parse(all[i], all[i + 1])
		if alive then
			table.insert(live, s)
		elseif #dead < 1000 then
			redis.call('HDEL', sessions, all[i])
			table.insert(dead, s or false)
		end
	end
	oldestFirst(live)
	local by = newest(live)
	for _, s in ipairs(dead) do
		if s then settle(by, s.key, s.server) end
	end
	return live
end

-- clean forgets the sessions that are dead, among n that are no crowd, but not every time.
local function clean(n)
	if n > 0 and n <= crowd and (n <= 8 or chance % n == 0) then read() end
end

-- corpses returns some of the dead sessions of a crowd of n, and not every time: whether
-- others have their keys isn't to be seen here.
local function corpses(n)
	local dead = {}
	if n <= crowd or chance % 16 ~= 0 then return dead end
	-- Any number is a place to start from. A scan doesn't go round: what comes first is reached
	-- from 0 alone (and in miniredis everything).
	local cursor = string.format('%.0f', (tonumber(time[1]) * 1000003 + instant % 1000000 * 7919) % 2147483648)
	if chance % 128 == 0 then cursor = '0' end
	local some = redis.call('HSCAN', sessions, cursor, 'COUNT', 128)[2]
	for i = 1, #some, 2 do
		local s, alive = parse(some[i], some[i + 1])
		if not s then
			redis.call('HDEL', sessions, some[i])
		elseif not alive and #dead < 32 then
			table.insert(dead, s)
		end
	end
	return dead
end

-- write enters the session that is worked on.
local function write(connected)
	redis.call('HSET', sessions, id, string.format('%.0f %.0f %s %d ', connected, now, mid, #server) .. server .. key)
	redis.call('PEXPIRE', sessions, expire)
end

-- without returns the sessions but the one that is worked on.
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

-- each does the work for all sessions, one after the other, and returns their answers. Each
-- has a µs of its own, in which it connects.
local function each(work)
	local answers, k, a = {}, 0, 1
	for i = 1, tonumber(ARGV[1]) do
		local keys, arguments = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
		a = a + 2
		index, sessions, underKey = KEYS[k + 1], KEYS[k + 2], nil
		if keys > 2 then underKey = KEYS[k + 3] end
		kind, expire = ARGV[a + 1], tonumber(ARGV[a + 2])
		id, server, key, mid = ARGV[a + 3], ARGV[a + 4], ARGV[a + 5], ARGV[a + 6]
		more = {}
		for j = 7, arguments do more[j - 6] = ARGV[a + j] end
		local done, answer = pcall(work)
		if not done then
			if type(answer) == 'table' then answer = answer.err end
			answer = {-1, tostring(answer)}
		end
		answers[i] = answer
		k, a = k + keys, a + arguments
		instant, chance = instant + 1, chance + 1
		now = math.floor(instant / 1000)
	end
	return answers
end
`

// The scripts. Each session's answer is a list whose first element is 1 or 0, or -1 with the
// error behind it.
var (
	// addScript enters a session; enter does without, where it can. With more[1], the bound,
	// above 0 there are to be no more than that: by more[2] the oldest have to go (1, and those,
	// which stay until removeScript), or the new one is not entered (0, and those that are there).
	// With more[3] 'draw' it answers a ticket instead of 1, and the oldest go at once, as they do
	// with a ticket there. Then those of the same member that have a later one stay; when they are
	// as many as may be, the new one is not entered (0, and nobody).
	addScript = redis.NewScript(library + `
return each(function()
	local bound, policy, ticket = tonumber(more[1]), more[2], more[3]
	local connected, answer, replaced, others = instant, 1, {}, {}
	local n = redis.call('HLEN', sessions)
	if bound > 0 and n >= bound or ticket == 'draw' then
		others = without(read())
		if ticket == 'draw' then
			answer = instant
			if #others > 0 then answer = math.max(instant, tonumber(others[#others].connected) + 1) end
			connected = answer
		elseif ticket then
			connected = tonumber(ticket)
			local later = 0
			for _, s in ipairs(others) do
				if s.mid == mid and tonumber(s.connected) > tonumber(ticket) then later = later + 1 end
			end
			if later >= bound then return {0} end
		end
		if #others >= bound and policy == 'reject' then return list(0, others) end
		while #others >= bound do
			local s = table.remove(others, 1)
			if ticket then redis.call('HDEL', sessions, s.id) end
			table.insert(replaced, s)
		end
	else
		connected = tonumber(ticket or instant)
		clean(n)
	end
	write(connected)
	point({server = server, key = key})
	local by = newest(others)
	for _, s in ipairs(replaced) do
		if s.key ~= key then settle(by, s.key, s.server) end
	end
	return list(answer, replaced)
end)`)

	// renewScript keeps a session from expiring, and enters it again when it is not there: 1,
	// and at times some of the dead sessions of a crowd, which removeScript forgets. When others have its
	// place, 0: it is not there and they are as many as may be, or it is and as many are newer,
	// since the bound was lowered.
	renewScript = redis.NewScript(library + `
return each(function()
	local bound = tonumber(more[1])
	local n, value = redis.call('HLEN', sessions), redis.call('HGET', sessions, id)
	local me, alive, dead
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
				settle(newest(without(live)), key, server)
			end
			return {0}
		end
	else
		clean(n)
		dead = corpses(n)
	end
	write(me and math.min(tonumber(me.connected), instant) or instant)
	local there
	if kind == 'key' then
		there = redis.call('PEXPIRE', index, expire) == 1
	else
		there = redis.call('HEXISTS', index, key) == 1
		redis.call('PEXPIRE', index, expire)
	end
	if not there then point({server = server, key = key}) end
	return list(1, dead or {})
end)`)

	// removeScript forgets a session, or with more[1] 'dead' does so unless it is alive, and
	// whether it was there. In a member's crowd it looks for other sessions with the key among
	// those that the key's place knows: by underKey, or by the ids from more[3] on, of which
	// more[2] says whether they are 'all' or 'some'. With neither, or where some tell nothing,
	// goim's entry stays as it is, and there is a second element, 'unsure'.
	removeScript = redis.NewScript(library + `
local function heir()
	if redis.call('HLEN', sessions) <= crowd then return newest(read())[key], true end
	local ids, sure, best = {}, false, nil
	local place = kind == 'key' and sessions or underKey
	if place then
		sure = redis.call('HLEN', place) <= crowd
		if sure then
			ids = redis.call('HKEYS', place)
		else
			local some = redis.call('HSCAN', place, '0', 'COUNT', crowd)[2]
			for i = 1, #some, 2 do table.insert(ids, some[i]) end
		end
	else
		sure = more[2] == 'all'
		for i = 3, #more do table.insert(ids, more[i]) end
	end
	for _, field in ipairs(ids) do
		local value = redis.call('HGET', sessions, field)
		if value then
			local s, alive = parse(field, value)
			if alive and s.key == key and (not best or tonumber(s.connected) >= tonumber(best.connected)) then best = s end
		end
	end
	return best, sure
end

return each(function()
	if more[1] == 'dead' then
		local value = redis.call('HGET', sessions, id)
		if value then
			local _, alive = parse(id, value)
			if alive then return {0} end
		end
	end
	local had, named = redis.call('HDEL', sessions, id), name(key)
	if named and named ~= server then return {had} end
	local s, sure = heir()
	if s then
		point(s)
	elseif named then
		if not sure then return {had, 'unsure'} end
		forget(key)
		had = 1
	end
	return {had}
end)`)
)
