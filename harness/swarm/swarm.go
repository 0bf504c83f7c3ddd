package swarm

import (
	"context"

	"barrage/harness/ledger"
)

// A Swarm is the simulated clients of one process.
type Swarm struct{}

// New starts the swarm's threads. No client connects before Connect. It raises GOMAXPROCS
// so that the threads don't take the processors of the goroutines beside them; Close puts
// it back.
func New(cfg Config) (*Swarm, error) { return nil, nil }

// Connect connects the clients at the configured rate, and returns when each of them has
// joined or failed. Failed ones are no error: see Snapshot. The error is that of ctx, or of
// a thread that can't work.
func (s *Swarm) Connect(ctx context.Context) error { return nil }

// Snapshot returns the figures of this moment. It never waits for a thread.
func (s *Swarm) Snapshot() Snapshot { return Snapshot{} }

// Count returns what arrived of plans so far, exactly. The threads count between two
// rounds of events.
func (s *Swarm) Count(ctx context.Context, plans []ledger.Plan) (ledger.Counts, error) {
	return ledger.Counts{}, nil
}

// Drain waits until everything that plans owe has arrived, and says whether it has before
// ctx ended.
func (s *Swarm) Drain(ctx context.Context, plans []ledger.Plan) (bool, error) { return false, nil }

// Finish returns the report over plans. The swarm goes on, so it may be called again.
func (s *Swarm) Finish(ctx context.Context, plans []ledger.Plan) (*Report, error) { return nil, nil }

// Close ends all threads, and with them their connections, and waits for them.
func (s *Swarm) Close() error { return nil }
