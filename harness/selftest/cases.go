package selftest

import (
	"embed"
	"time"

	"barrage/harness/report"
)

//go:embed scenarios/*.yaml
var scenarios embed.FS

// A Case is one check.
type Case struct {
	ID       string // of its folder
	Name     string
	Scenario []byte // YAML; without a warm-up, so that the first push is the first measured one
	Plan     Plan
	Status   string // the verdict's, where it is planned
	Timed    bool   // its figures are times
	Figures  func(r *benched, did *Did) []Figure

	when when
}

// when is how a case shares the machine with others.
type when uint8

const (
	inTheCrowd when = iota // its figures don't mind, and it is short
	oneByOne               // it measures short times
	meanwhile              // it is long, and takes little of the machine
	alone                  // it disturbs others
)

func scenario(name string) []byte {
	text, err := scenarios.ReadFile("scenarios/" + name + ".yaml")
	if err != nil {
		panic(err) // it is embedded
	}
	return text
}

// Cases are the checks of the selftest.
func Cases() []Case {
	return []Case{
		counted("good", "a server without a fault", Deliver),
		counted("loss", "1 frame in 10 is dropped", Drop),
		counted("duplicates", "1 frame in 10 comes twice", Double),
		counted("swaps", "1 frame in 10 comes behind the next one", Swap),
		Delayed(time.Millisecond),
		Delayed(50 * time.Millisecond),
		Delayed(time.Second),
		Omission(),
		stalled(),
		starved(),
	}
}

// counted is a case of 50 clients and 100 pushes in which fault strikes one frame in ten:
// for each client every tenth push, and each push at every tenth client. A push that is to
// come behind the next one needs a next one, so there the clients begin with one of the
// first five: the last is then push 94 of 0 to 99.
func counted(id, name string, fault Fault) Case {
	const frames, struck = 50 * 100, 50 * 100 / 10
	c := Case{ID: id, Name: name, Scenario: scenario("counts"), Status: report.Failed}
	var planned struct{ lost, duplicate, reordered int64 }
	switch fault {
	case Drop:
		planned.lost = struck
	case Double:
		planned.duplicate = struck
	case Swap:
		planned.reordered = struck
	default:
		c.Status = report.Good
	}
	c.Plan.Fault = func(client int, seq uint32) Fault {
		if int(seq)%10 == client%5 {
			return fault
		}
		return Deliver
	}
	c.Figures = func(r *benched, did *Did) []Figure {
		m := &r.Deliveries.Measured
		return []Figure{
			exactly("delivered", frames-planned.lost, did.Delivered(), m.Delivered),
			exactly("lost", planned.lost, did.Faults[Drop], m.Lost),
			exactly("duplicate", planned.duplicate, did.Faults[Double], m.Duplicate),
			exactly("reordered", planned.reordered, did.Faults[Swap], m.Reordered),
			exactly("bytes, kernel's less swarm's", 0, 0, r.Deliveries.KernelBytes-r.Deliveries.Bytes),
			verdict(c.Status, r),
		}
	}
	return c
}

// Delayed is a case in which each push is delivered a known time after it was due.
func Delayed(d time.Duration) Case {
	c := Case{ID: "delay-" + d.String(), Name: "every push is held for " + d.String(), Scenario: scenario("delay"), Plan: Plan{Delay: d}, Timed: true, when: oneByOne}
	c.Figures = func(r *benched, did *Did) []Figure {
		all, planned := &r.Latency.All, d.Seconds()
		return []Figure{
			exactly("latencies", 20*100, did.Delivered(), all.Count),
			timed("mean", planned, did.Mean(), all.Mean),
			timed("p50", planned, did.Percentile(50), all.P50),
			timed("p90", planned, did.Percentile(90), all.P90),
			timed("p99", planned, did.Percentile(99), all.P99),
		}
	}
	return c
}

// Omission is a case in which the server takes no push for 1 s in 10. Of the 400 pushes,
// 25 ms apart, those due from 4.525 s to 5.5 s fall into the stall from 4.5125 s to
// 5.5125 s: 40, which wait for 0.9875 s, 0.9625 s, ... 0.0125 s, 0.5 s in the mean, and so
// all of them for 0.05 s. The 396th slowest of the 400 is the 36th of the 40, 35 steps of
// 25 ms above the quickest, 0.8875 s, and the slowest is the first.
func Omission() Case {
	const from = 4512500 * time.Microsecond
	c := Case{ID: "omission", Name: "no push is taken for 1 s in 10", Scenario: scenario("omission"), Timed: true, when: meanwhile,
		Plan: Plan{Stall: Stall{From: from, To: from + time.Second, Answers: true}}}
	c.Figures = func(r *benched, did *Did) []Figure {
		all := &r.Latency.All
		return []Figure{
			exactly("latencies", 20*400, did.Delivered(), all.Count),
			timed("mean", 0.05, did.Mean(), all.Mean),
			timed("p99", 0.8875, did.Percentile(99), all.P99),
			timed("p99.9", 0.9875, did.Percentile(99.9), all.P999),
			timed("max", 0.9875, did.Percentile(100), all.Max),
		}
	}
	return c
}

// stalled is a case in which nothing is delivered for 15 s of 30. Of the 600 pushes, 50 ms
// apart, those due from 7.5 s to 22.45 s fall into the stall from 7.475 s to 22.475 s: 300,
// which wait for 14.975 s, 14.925 s, ... 0.025 s, 7.5 s in the mean. The other 300 wait for
// nothing, so the mean of the whole run is 3.75 s. The 540th slowest of all is the 240th of
// the 300, 239 steps above the quickest, 11.975 s, and the 594th the 294th, 14.675 s.
func stalled() Case {
	const from = 7475 * time.Millisecond
	c := Case{ID: "stall", Name: "nothing is delivered for 15 s in 30", Scenario: scenario("stall"), Timed: true, when: meanwhile,
		Plan: Plan{Stall: Stall{From: from, To: from + 15*time.Second}}}
	c.Figures = func(r *benched, did *Did) []Figure {
		all := &r.Latency.All
		// The quicker half adds next to nothing.
		slower := Did{Latencies: did.Latencies[len(did.Latencies)/2:]}
		return []Figure{
			exactly("latencies", 10*600, did.Delivered(), all.Count),
			timed("mean of the pushes due in it", 7.5, slower.Mean(), 2*all.Mean),
			timed("mean of the whole run", 3.75, did.Mean(), all.Mean),
			timed("p90", 11.975, did.Percentile(90), all.P90),
			timed("p99", 14.675, did.Percentile(99), all.P99),
			timed("max", 14.975, did.Percentile(100), all.Max),
		}
	}
	return c
}

// starved is a case in which a client has 16384 pings to answer at any time. To answer one
// takes a system call, to ask for it two bytes, so no machine's swarm keeps up.
func starved() Case {
	c := Case{ID: "starved", Name: "the swarm has more to do than it can", Scenario: scenario("starved"), Plan: Plan{Storm: 16384, Stormed: 1},
		Status: report.Invalid, when: alone}
	c.Figures = func(r *benched, _ *Did) []Figure {
		return []Figure{verdict(report.Invalid, r), doubt("the swarm was saturated", r)}
	}
	return c
}
