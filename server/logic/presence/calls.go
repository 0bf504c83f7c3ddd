package presence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
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
	now     time.Time     // by this machine's clock, for what is entered without a script
	script  *redis.Script // nil: it is entered, without a script
	keys    []string      // behind those of the place
	more    []any         // arguments behind those that all scripts have
	atOnce  bool          // those that it lists are not there any more

	commands []redis.Cmder             // of enter
	before   *redis.MapStringStringCmd // of enter; the sessions that were there, nil where they may stay

	err    error     // why it was not made, or not as a whole; what follows says nothing then
	answer int64     // above 0: done
	listed []Session // by the answer; those that were replaced, are in the way, or dead
	unsure bool      // goim's entry may name a server that has no session with the key any more
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

// maxTogether is how many calls one run of a script makes at most, and so for how long it holds
// up all others in Redis: some ms, as a session costs it 20 to 30 µs at each place. Beside that
// a run costs as much as several sessions, and in miniredis as dozens.
const maxTogether = 128

// runAll makes the calls in one round trip, and in one more where Redis doesn't know a script.
// What comes of each is in it. Outside of a cluster nothing comes between the calls of one
// session, which follow each other: sessions that connect at the same instant meet in the same
// order at all places, and none replaces each other.
func (s *Store) runAll(ctx context.Context, calls []*call) {
	if unknown := s.try(ctx, calls, (*redis.Script).EvalSha); len(unknown) > 0 {
		s.try(ctx, unknown, (*redis.Script).Eval)
	}
}

type evaluate func(script *redis.Script, ctx context.Context, to redis.Scripter, keys []string, args ...any) *redis.Cmd

// try makes the calls in one round trip and returns those whose script Redis doesn't know.
func (s *Store) try(ctx context.Context, calls []*call, eval evaluate) (unknown []*call) {
	if len(calls) == 0 {
		return nil
	}
	pipe := s.client.Pipeline() // each run of a script is a transaction by itself
	if !s.clustered && slices.ContainsFunc(calls, func(c *call) bool { return c.script == nil }) {
		pipe = s.client.TxPipeline()
	}
	var runs []*scripted
	for rest := calls; len(rest) > 0; {
		if rest[0].script == nil {
			rest[0].enter(ctx, pipe, s.expire)
			rest = rest[1:]
			continue
		}
		n := s.together(rest)
		runs = append(runs, &scripted{calls: rest[:n], command: runScript(ctx, pipe, s.expire, eval, rest[:n])})
		rest = rest[n:]
	}
	execute(ctx, pipe)
	for _, c := range calls {
		if c.script == nil {
			c.entered()
		}
	}
	for _, r := range runs {
		if r.read(); redis.HasErrorPrefix(r.command.Err(), "NOSCRIPT") {
			unknown = append(unknown, r.calls...)
		}
	}
	return unknown
}

// together returns how many of the calls, from the first on, one run of its script makes: only
// one in a cluster, where each place is in a slot of its own. The calls of one session are in
// one run.
func (s *Store) together(calls []*call) int {
	n, whole := 1, 1
	for n < len(calls) && !s.clustered && calls[n].script == calls[0].script && n < maxTogether {
		n++
		if n == len(calls) || calls[n].session != calls[n-1].session {
			whole = n
		}
	}
	return whole
}

// runInTurn enters sessions in a cluster with bounds of both kinds: two slots, and nothing
// that holds them together. A member's place goes first and gives its session a ticket. Of two
// that connect at the same instant the later one stays, at the key's place as well, so that
// they don't replace each other.
func (s *Store) runInTurn(ctx context.Context, list []*change) {
	var byMember, byKey []*call
	for _, e := range list {
		if len(e.calls) > 1 {
			e.calls[1].more, e.calls[1].atOnce = append(e.calls[1].more, "draw"), true
			byMember = append(byMember, e.calls[1])
		}
	}
	s.runAll(ctx, byMember)
	var ticketed []*change
	for _, e := range list {
		if len(e.calls) > 1 {
			if !e.calls[1].ok() {
				continue
			}
			e.calls[0].more, e.calls[0].atOnce = append(e.calls[0].more, e.calls[1].answer), true
			ticketed = append(ticketed, e)
		}
		byKey = append(byKey, e.calls[0])
	}
	s.runAll(ctx, byKey)
	// Whoever replaced it since may have been at the key's place before it.
	pipe := s.client.Pipeline()
	still := make([]*redis.BoolCmd, len(ticketed))
	for i, e := range ticketed {
		still[i] = pipe.HExists(ctx, e.calls[1].place.sessions, e.session.id())
	}
	if len(ticketed) == 0 {
		return
	}
	execute(ctx, pipe)
	for i, e := range ticketed {
		there, err := still[i].Result()
		switch {
		case !e.calls[0].ok():
		case err != nil:
			e.calls[1].err = err
		case !there:
			e.calls[1].answer = 0
		}
	}
}

func (c *call) ok() bool { return c.err == nil && c.answer > 0 }

// A scripted is one run of a script.
type scripted struct {
	calls   []*call
	command *redis.Cmd
}

// runScript queues one run of the script that all of the calls have.
func runScript(ctx context.Context, pipe redis.Pipeliner, expire time.Duration, eval evaluate, calls []*call) *redis.Cmd {
	keys := make([]string, 0, 3*len(calls))
	args := make([]any, 1, 1+11*len(calls))
	args[0] = len(calls)
	for _, c := range calls {
		keys = append(append(keys, c.place.index, c.place.sessions), c.keys...)
		args = append(args, 2+len(c.keys), 6+len(c.more),
			c.place.kind, expire.Milliseconds(), c.session.id(), c.session.Server, c.session.Key, c.session.Mid)
		args = append(args, c.more...)
	}
	return eval(calls[0].script, ctx, pipe, keys, args...)
}

// read takes the answers apart.
func (r *scripted) read() {
	answers, err := r.command.Slice()
	if err == nil && len(answers) != len(r.calls) {
		err = fmt.Errorf("a script returned %d answers for %d sessions", len(answers), len(r.calls))
	}
	for i, c := range r.calls {
		if c.err = err; err == nil {
			c.read(answers[i])
		}
	}
}

// read takes one session's answer.
func (c *call) read(answer any) {
	list, _ := answer.([]any)
	if len(list) == 0 {
		c.err = errors.New("a script returned nothing")
		return
	}
	text := func(i int) string { t, _ := list[i].(string); return t }
	c.answer, _ = list[0].(int64)
	if c.answer < 0 {
		c.err = errors.New(text(len(list) - 1))
		return
	}
	c.unsure = len(list) == 2
	for i := 1; i+3 < len(list); i += 4 {
		mid, _ := strconv.ParseInt(text(i+3), 10, 64)
		c.listed = append(c.listed, Session{ID: text(i), Server: text(i + 1), Key: text(i + 2), Mid: mid})
	}
}

// enter queues the commands that enter the session, and where the bound is 1 reads which others are
// there, that have to go.
func (c *call) enter(ctx context.Context, pipe redis.Pipeliner, expire time.Duration) {
	p, x := c.place, c.session
	if p.bound == 1 {
		c.before = pipe.HGetAll(ctx, p.sessions)
		c.commands = append(c.commands, c.before)
	}
	c.commands = append(c.commands, pipe.HSet(ctx, p.sessions, x.id(), x.text(c.now)), pipe.PExpire(ctx, p.sessions, expire))
	if p.kind == "key" {
		c.commands = append(c.commands, pipe.Set(ctx, p.index, x.Server, expire))
	} else {
		c.commands = append(c.commands, pipe.HSet(ctx, p.index, x.Key, x.Server), pipe.PExpire(ctx, p.index, expire))
	}
}

// entered reads the answers to what enter queued.
func (c *call) entered() {
	for _, command := range c.commands {
		if c.err = command.Err(); c.err != nil {
			return
		}
	}
	c.answer = 1
	if c.before != nil {
		delete(c.before.Val(), c.session.id())
		c.listed = parseSessions(c.before.Val()) // whether they are alive is a matter of the server's clock
	}
}

// removal is the call that forgets a session at one of its places.
func (s *Store) removal(p place, session Session) *call {
	c := &call{place: p, session: session, script: removeScript}
	if p.kind == "mid" && !s.clustered {
		c.keys = []string{sessionsKey(sessionKey(session.Key))}
	}
	return c
}

// takeAway makes calls of removal; a key's place has to come before the member's. In a
// cluster two more round trips tell crowds of a member what their keys' places know. (A
// session with the same key that connects between the two to the very comet that the old one
// was on is found by its member again when it is renewed.)
func (s *Store) takeAway(ctx context.Context, calls []*call) {
	s.runAll(ctx, calls)
	if !s.clustered {
		return
	}
	const most = 256
	var unsure []*call
	var scans []*redis.ScanCmd
	pipe := s.client.Pipeline()
	for _, c := range calls {
		if c.err == nil && c.unsure && c.place.kind == "mid" {
			unsure = append(unsure, c)
			scans = append(scans, pipe.HScan(ctx, sessionsKey(sessionKey(c.session.Key)), 0, "", most))
		}
	}
	if len(unsure) == 0 {
		return
	}
	execute(ctx, pipe)
	var again []*call
	for i, c := range unsure {
		fields, cursor, err := scans[i].Result()
		if err != nil {
			c.err = fmt.Errorf("look for other sessions with the key: %w", err)
			continue
		}
		again = append(again, c)
		dead, known := "", "all"
		if len(c.more) > 0 {
			dead = "dead"
		}
		if cursor != 0 {
			known = "some"
		}
		c.more = []any{dead, known}
		for j := 0; j < len(fields); j += 2 {
			c.more = append(c.more, fields[j])
		}
	}
	had := make([]int64, len(again))
	for i, c := range again {
		had[i] = c.answer
	}
	s.runAll(ctx, again)
	for i, c := range again {
		c.answer = max(c.answer, had[i])
	}
}
