package fdtable

import (
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// CalmMonitor lets the runtime's monitor, a thread that looks after goroutines in system calls
// and in C, sleep longer than it asks for. Where threads wait for events or messages it always
// finds one to look after, and sleeps for 20 us at a time: with librdkafka's 200 messages a
// second that takes 3 to 4% of a processor, with fifty tables' threads an eighth of what a
// million clients do, and the sockets' memory out of the cache. It is the thread that is in
// nanosleep(2) before others are there. Where that can't be told, or changed, it stays as it
// is. A comet without tables is better off with the monitor as it is: its sweeps run on Go's
// own threads, and would give way to clients on the same machine less often.
var CalmMonitor = sync.OnceFunc(func() {
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
