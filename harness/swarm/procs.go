package swarm

import (
	"runtime"
	"sync"
)

// procs is what swarms have done to GOMAXPROCS.
var procs struct {
	mu      sync.Mutex
	threads int // mu guards; of all swarms of the process
	before  int // mu guards; GOMAXPROCS without any
}

// changeProcs makes room for n threads more, or less, beside the process's other goroutines.
// Without it a goroutine that becomes ready while they all run waits for the scheduler's
// preemption, 10 ms, and each of them waits for another to hand over its place whenever it wakes.
func changeProcs(n int) {
	procs.mu.Lock()
	defer procs.mu.Unlock()
	if procs.threads == 0 {
		procs.before = runtime.GOMAXPROCS(0)
	}
	procs.threads += n
	if procs.threads == 0 {
		runtime.GOMAXPROCS(procs.before)
		return
	}
	runtime.GOMAXPROCS(max(procs.before, runtime.NumCPU()+procs.threads))
}
