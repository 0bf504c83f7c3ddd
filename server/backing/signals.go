package backing

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// withoutSignals runs f with all signals blocked in its thread: threads that f starts
// inherit that, and never get one.
func withoutSignals(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, was unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if unix.PthreadSigmask(unix.SIG_SETMASK, &all, &was) == nil {
		defer unix.PthreadSigmask(unix.SIG_SETMASK, &was, nil)
	}
	f()
}
