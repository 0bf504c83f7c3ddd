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
		for i, c := range calls {
			if c.script != nil {
				_ = answers[i]() // one of several nodes may have done its part
			}
		}
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
	args := []any{c.place.kind, expire.Milliseconds(), c.session.id(), c.session.Server, c.session.Key, c.session.Mid}
	command := eval(c.script, ctx, pipe, append([]string{c.place.index, c.place.sessions}, c.keys...), append(args, c.more...)...)
	return func() error {
		answer, err := command.Slice()
		if err != nil {
			return err
		}
		if len(answer) == 0 {
			return errors.New("a script returned nothing")
		}
		c.answer, _ = answer[0].(int64)
		c.unsure = len(answer) == 2
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
			c.listed = parseSessions(before.Val()) // whether they are alive is a matter of the server's clock
		}
		return nil
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

// removeAll makes calls of removal; a key's place has to come before the member's. In a
// cluster two more round trips tell crowds of a member what their keys' places know. (A
// session with the same key that connects between the two to the very comet that the old one
// was on is found by its member again when it is renewed.)
func (s *Store) removeAll(ctx context.Context, calls []*call) error {
	if len(calls) == 0 {
		return nil
	}
	if err := s.runAll(ctx, calls); err != nil || !s.clustered {
		return err
	}
	const most = 256
	var unsure []*call
	var scans []*redis.ScanCmd
	pipe := s.client.Pipeline()
	for _, c := range calls {
		if c.unsure && c.place.kind == "mid" {
			unsure = append(unsure, c)
			scans = append(scans, pipe.HScan(ctx, sessionsKey(sessionKey(c.session.Key)), 0, "", most))
		}
	}
	if len(unsure) == 0 {
		return nil
	}
	if err := run(ctx, pipe); err != nil {
		return fmt.Errorf("look for other sessions with %d keys: %w", len(unsure), err)
	}
	for i, c := range unsure {
		fields, cursor := scans[i].Val()
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
	return s.runAll(ctx, unsure)
}
