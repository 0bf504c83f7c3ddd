package report

import (
	"fmt"
	"strings"
)

// Behaviour is what came of clients that misbehave. It is absent where all behave well and
// stay in their rooms.
type Behaviour struct {
	Slow     int `json:"slow"` // clients, by what they do
	Stalled  int `json:"stalled"`
	Churn    int `json:"churn"`
	HalfOpen int `json:"half_open"`

	// Slow and stalled clients are in none of the run's other deliveries. What the server
	// skipped for them is lost here.
	Lagging       Counts       `json:"lagging"`
	LaggingCloses []CauseCount `json:"lagging_closes"` // connections that they lost

	Vanished    int64        `json:"vanished"`
	RoomChanges int64        `json:"room_changes"` // asked for
	Leftover    int64        `json:"leftover"`     // deliveries of a room that a client had asked to leave, before the server said that it had
	Rejoined    int64        `json:"rejoined"`     // comebacks
	Rejoin      Percentiles  `json:"rejoin"`       // from connect(2) to the auth reply, of those that came back by themselves
	Retries     []CauseCount `json:"retries"`      // attempts to come back that failed, and were made again
	Storm       *Storm       `json:"storm,omitempty"`
}

// Unread says whether some clients leave, or don't read, what the server sends them.
func (b *Behaviour) Unread() bool {
	return b.Slow+b.Stalled+b.Churn+b.HalfOpen > 0 || b.Storm != nil
}

// Storm is what a storm did.
type Storm struct {
	Clients int64       `json:"clients"` // that lost their connection
	Back    int64       `json:"back"`    // of them, the ones that were back by the end
	Seconds float64     `json:"seconds"` // from the first loss until the last was back
	Rejoin  Percentiles `json:"rejoin"`  // from a client's connect(2) to its auth reply
}

// lines says what happened, a sentence each.
func (b *Behaviour) lines() (list []string) {
	add := func(holds bool, format string, args ...any) {
		if holds {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	l := &b.Lagging
	add(b.Slow+b.Stalled > 0, "%s slow and %s stalled clients were owed %s deliveries, apart from all others, and got %s of them (%s); %s duplicate, %s reordered",
		count(b.Slow), count(b.Stalled), count(l.Expected), count(l.Delivered), percent(ratio(l.Delivered, l.Expected)), count(l.Duplicate), count(l.Reordered))
	list = append(list, causeLines("of them were closed", b.LaggingCloses)...)
	add(b.HalfOpen > 0, "%s of %s half-open clients vanished", count(b.Vanished), count(b.HalfOpen))
	add(b.RoomChanges > 0, "%s changes of room; %s deliveries of a room that was left came before the server's answer", count(b.RoomChanges), count(b.Leftover))
	add(b.Churn > 0, "%s clients came and went; connect to joined p50 %s, p99 %s, max %s",
		count(b.Churn), span(b.Rejoin.P50), span(b.Rejoin.P99), span(b.Rejoin.Max))
	if s := b.Storm; s != nil {
		add(true, "a storm took %s clients; %s were back after %s, each within p50 %s, p99 %s, max %s of its connect",
			count(s.Clients), count(s.Back), span(s.Seconds), span(s.Rejoin.P50), span(s.Rejoin.P99), span(s.Rejoin.Max))
	}
	add(b.Rejoined > 0, "%s comebacks", count(b.Rejoined))
	return append(list, causeLines("attempts to come back failed, and were made again", b.Retries)...)
}

func causeLines(what string, causes []CauseCount) (list []string) {
	for _, c := range causes {
		list = append(list, fmt.Sprintf("%s %s (%s): %s", count(c.Count), what, c.Cause, strings.Join(c.Examples, "; ")))
	}
	return list
}

func ratio(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

func behaviourFigures() []Figure {
	has := func(r *Run) bool { return r.Behaviour != nil }
	storm := func(r *Run) bool { return has(r) && r.Behaviour.Storm != nil }
	rejoined := func(r *Run) bool { return has(r) && r.Behaviour.Rejoin.Count > 0 }
	return []Figure{
		{Name: "lagging.delivered", Help: "of what slow and stalled clients were owed, the part that they got", Unit: Fraction, Better: More,
			has: func(r *Run) bool { return has(r) && r.Behaviour.Lagging.Expected > 0 },
			of:  func(r *Run) float64 { return ratio(r.Behaviour.Lagging.Delivered, r.Behaviour.Lagging.Expected) }},
		{Name: "lagging.reordered", Help: "deliveries to slow clients that came behind a later one of their stream", Unit: Count, Better: Less, has: has,
			of: func(r *Run) float64 { return float64(r.Behaviour.Lagging.Reordered) }},
		{Name: "lagging.duplicate", Help: "deliveries to slow clients that came twice", Unit: Count, Better: Less, has: has,
			of: func(r *Run) float64 { return float64(r.Behaviour.Lagging.Duplicate) }},
		{Name: "rejoin.retries", Help: "attempts to come back that failed, and were made again", Unit: Count, Better: Less, has: has,
			of: func(r *Run) float64 {
				n := int64(0)
				for _, c := range r.Behaviour.Retries {
					n += c.Count
				}
				return float64(n)
			}},
		{Name: "rejoin.p50", Help: "from a churning client's connect to its auth reply, median", Unit: Seconds, Better: Less, has: rejoined,
			of: func(r *Run) float64 { return r.Behaviour.Rejoin.P50 }},
		{Name: "rejoin.p99", Help: "the same, 99th percentile", Unit: Seconds, Better: Less, has: rejoined,
			of: func(r *Run) float64 { return r.Behaviour.Rejoin.P99 }},
		{Name: "storm.recovery", Help: "from a storm's first lost connection until the last client was back", Unit: Seconds, Better: Less, Primary: true, has: storm,
			of: func(r *Run) float64 { return r.Behaviour.Storm.Seconds }},
		{Name: "storm.missing", Help: "clients that a storm took and that were not back by the end", Unit: Count, Better: Less, has: storm,
			of: func(r *Run) float64 { return float64(r.Behaviour.Storm.Clients - r.Behaviour.Storm.Back) }},
		{Name: "storm.rejoin.p99", Help: "from a client's connect in a storm to its auth reply, 99th percentile", Unit: Seconds, Better: Less, has: storm,
			of: func(r *Run) float64 { return r.Behaviour.Storm.Rejoin.P99 }},
	}
}
