package ledger

import "time"

// epoch is read once and never changes. Everything in the harness counts from it, so that
// a step of the wall clock during a run moves no figure.
var epoch = time.Now()

// Now returns unix nanoseconds that only ever advance: the wall clock as it was when the
// process started, plus the monotonic time since. Intended times and receipts both come
// from it.
func Now() int64 { return epoch.UnixNano() + int64(time.Since(epoch)) }
