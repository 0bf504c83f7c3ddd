package swarm

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
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

// calmMonitor lets the runtime's monitor, a thread that looks after goroutines in system calls,
// sleep longer than it asks for. While many threads wait for events it always finds one to look
// after, and sleeps for 20 us at a time: with fifty of them that takes an eighth of what the
// clients do, and the sockets' memory out of the processor's cache. It is the thread that is in
// nanosleep(2) before the swarm's are there. Where that can't be told, or changed, it stays as it
// is.
var calmMonitor = sync.OnceFunc(func() {
	const (
		slack = "2000000" // nanoseconds; a goroutine is preempted after 10 ms
		tries = 100       // it may be about to sleep, or to look
	)
	sleeping := strconv.Itoa(unix.SYS_NANOSLEEP) + " "
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for range tries {
		for _, task := range tasks {
			call, err := os.ReadFile("/proc/self/task/" + task.Name() + "/syscall")
			if err == nil && strings.HasPrefix(string(call), sleeping) {
				_ = os.WriteFile("/proc/"+task.Name()+"/timerslack_ns", []byte(slack), 0)
				return
			}
		}
	}
})
