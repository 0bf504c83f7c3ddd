package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"barrage/server/discovery"
)

// childEnv makes the test binary a job of its own, so that a test can kill it as a machine
// would. It holds a childSpec.
const childEnv = "BARRAGE_JOB_TEST_CHILD"

type childSpec struct {
	Config Config
	Comets []discovery.Instance
}

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		if err := runChild(spec); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		return
	}
	waitTogether()
	os.Exit(m.Run())
}

// waitTogether lets some tests run at a time, however few cores there are: those with a
// broker spend most of their time waiting for its group.
func waitTogether() {
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said && runtime.GOMAXPROCS(0) < 4 {
		_ = flag.Set("test.parallel", "4")
	}
}

func runChild(text string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	instances := make(chan []discovery.Instance, 1)
	instances <- spec.Comets
	j, err := New(spec.Config, Deps{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Instances: instances})
	if err != nil {
		return err
	}
	if err := j.Listen(); err != nil {
		return err
	}
	return j.Run(context.Background())
}

// startChild starts a job in a process of its own and returns how to kill it, with no
// chance to commit or to leave the group.
func startChild(t *testing.T, cfg Config, comets ...*rpcFake) (kill func()) {
	t.Helper()
	spec := childSpec{Config: cfg}
	for _, c := range comets {
		spec.Comets = append(spec.Comets, discovery.Instance{Hostname: c.addr, Addrs: []string{"grpc://" + c.addr}})
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill = func() {
		if killed {
			return
		}
		killed = true
		_ = cmd.Process.Kill() // SIGKILL
		err := cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Exited() {
			t.Errorf("the job ended by itself: %v\n%s", err, log.String())
		}
		if t.Failed() {
			t.Logf("killed job's log:\n%s", log.String())
		}
	}
	t.Cleanup(kill)
	return kill
}

// TestJobCrash kills a job while one comet has taken what another is still to get. The next
// job delivers again: duplicates, but no gap, and nothing before an earlier record.
func TestJobCrash(t *testing.T) {
	for _, instanceID := range []string{"", "job-1"} {
		name := "dynamic member"
		if instanceID != "" {
			name = "static member"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, 4)
			cfg := kafkaConfig(b)
			cfg.Kafka.InstanceID = instanceID
			quick, stuck := newRPCFake(t), newRPCFake(t)
			kill := startChild(t, cfg, quick, stuck)
			stop := pushing(b, 4)
			seen := func(c *rpcFake, least int) {
				t.Helper()
				eventually(t, func() error {
					for room := range 4 {
						if n := len(c.takenRoom("live://" + strconv.Itoa(room))); n < least {
							return fmt.Errorf("comet %s has %d of %d in room %d", c.addr, n, least, room)
						}
					}
					return nil
				})
			}
			seen(quick, 100)
			seen(stuck, 100)
			eventually(t, func() error { // some of it is committed, so that not all is delivered again
				if committed(b, 0) == nil {
					return errors.New("nothing is committed")
				}
				return nil
			})
			gate := make(chan struct{})
			stuck.setHook(func(int) error { <-gate; return nil })
			eventually(t, func() error {
				for room := range 4 {
					to := "live://" + strconv.Itoa(room)
					if ahead, behind := len(quick.takenRoom(to)), len(stuck.takenRoom(to)); ahead < behind+150 {
						return fmt.Errorf("comets are at %d and %d in room %d", ahead, behind, room)
					}
				}
				return nil
			})
			// Calls that hang in the comet are cancelled with the connection: nothing of them is taken.
			kill()
			close(gate)
			stuck.setHook(nil)

			startJob(t, cfg, quick, stuck)
			seen(quick, len(quick.takenRoom("live://0"))+100)
			n := stop()
			for _, c := range []*rpcFake{quick, stuck} {
				for room := range 4 {
					eventually(t, func() error { return got(c, "live://"+strconv.Itoa(room), numbers(0, n)) })
				}
			}
			eventually(t, func() error { return committed(b, int64(4*n)) })
			if len(quick.takenRoom("live://0")) == n {
				t.Error("the comet that was ahead saw nothing twice: nothing was delivered again")
			}
			if first := quick.takenRoom("live://0"); len(first) > 2*n-50 {
				t.Errorf("%d records for %d: the commit before the crash was ignored", len(first), n)
			}
		})
	}
}

// TestRebalanceWithCallsInFlight moves partitions to a second job while a comet hangs: the
// calls in flight end late, at the old owner, when the new one is already delivering.
func TestRebalanceWithCallsInFlight(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 4)
	cfg := kafkaConfig(b)
	cfg.Kafka.RevokeWait = 50 * time.Millisecond
	fast, slow := newRPCFake(t), newRPCFake(t)
	first := startJob(t, cfg, fast, slow)
	stop := pushing(b, 4)
	eventually(t, func() error {
		if n := len(slow.takenRoom("live://3")); n < 20 {
			return fmt.Errorf("%d records", n)
		}
		return nil
	})
	moved := make(chan struct{})
	slow.setHook(func(int) error {
		select {
		case <-moved:
		default:
			<-moved
			time.Sleep(200 * time.Millisecond) // the new owner delivers meanwhile
		}
		return nil
	})
	startJob(t, cfg, fast, slow)
	eventually(t, func() error {
		if n := value(t, first.reg, "barrage_job_partitions_assigned"); n != 2 {
			return fmt.Errorf("the first job reads %v partitions, want 2", n)
		}
		return nil
	})
	close(moved)
	n := stop()
	for _, c := range []*rpcFake{fast, slow} {
		for room := range 4 {
			eventually(t, func() error { return got(c, "live://"+strconv.Itoa(room), numbers(0, n)) })
		}
	}
	eventually(t, func() error { return committed(b, int64(4*n)) })
	if value(t, first.reg, "barrage_job_records_given_back_total", "revoked") == 0 {
		t.Error("nothing waited when the partitions were revoked: the test shows nothing")
	}
}

// TestRebalanceWhilePaused moves partitions to a second job and back while a comet hangs
// and all of them are paused: those that stay remain paused, and those that come back flow.
func TestRebalanceWhilePaused(t *testing.T) {
	t.Parallel()
	b := newBroker(t, 4)
	cfg := kafkaConfig(b)
	cfg.Lane.QueueBytes = 64 << 10
	cfg.Kafka.RevokeWait = 50 * time.Millisecond
	cfg.Drain.Timeout = 50 * time.Millisecond
	c := newRPCFake(t)
	gate := make(chan struct{})
	c.setHook(func(int) error { <-gate; return nil })
	first := startJob(t, cfg, c)
	const records = 400
	filler := " " + strings.Repeat("x", 1024)
	for i := range records {
		for p := range int32(4) {
			b.produce(p, roomMsg("live://"+strconv.Itoa(int(p)), strconv.Itoa(i)+filler))
		}
	}
	b.flush()
	paused := func(j *running, assigned, paused float64) {
		t.Helper()
		eventually(t, func() error {
			a, p := value(t, j.reg, "barrage_job_partitions_assigned"), value(t, j.reg, "barrage_job_partitions_paused")
			if a != assigned || p != paused {
				return fmt.Errorf("%v partitions, %v of them paused; want %v and %v", a, p, assigned, paused)
			}
			return nil
		})
	}
	bounded := func(j *running) {
		t.Helper()
		if n := value(t, j.reg, "barrage_job_lane_pending_bytes"); n > 4*(64<<10)+8<<10 {
			t.Errorf("%v bytes wait: a paused partition was read", n)
		}
	}
	paused(first, 4, 4)
	second := startJob(t, cfg, c)
	paused(first, 2, 2)
	paused(second, 2, 2)
	bounded(first)
	bounded(second)
	second.stop()
	paused(first, 4, 4)
	bounded(first)
	close(gate)
	for p := range 4 {
		eventually(t, func() error {
			g := firsts(c.takenRoom("live://" + strconv.Itoa(p)))
			for i, body := range g {
				if !strings.HasPrefix(body, strconv.Itoa(i)+" ") {
					t.Fatalf("partition %d: record %d is %.10q", p, i, body)
				}
			}
			if len(g) != records {
				return fmt.Errorf("partition %d: %d of %d records", p, len(g), records)
			}
			return nil
		})
	}
	paused(first, 4, 0)
	eventually(t, func() error { return committed(b, 4*records) })
}
