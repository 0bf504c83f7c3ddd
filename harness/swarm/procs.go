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

// changeProcs makes room for n threads more, or less, beside the process's other goroutines. To
// the scheduler they always run: see fdtable.Poll. Without room a goroutine that becomes ready
// would wait for its preemption of them, 10 ms.
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
