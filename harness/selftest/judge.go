package selftest

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"barrage/harness/report"
)

// An Outcome is what a figure, or a check, came to.
type Outcome uint8

// The outcomes, each worse than the one before.
const (
	AsPlanned Outcome = iota
	Unclear           // it is not as planned, and the machine, and not the harness, may be why
	Wrong             // it is not as planned
)

// String returns the outcome as the table shows it.
func (o Outcome) String() string { return [...]string{"as planned", "UNCLEAR", "WRONG"}[o] }

// A Figure is one thing that was planned, and what became of it.
type Figure struct {
	Name     string
	Planned  string
	Did      string // the server, by its own account; "" where it has none
	Reported string
	Outcome  Outcome

	late string // what the machine held up on the server's side, "" for nothing
}

// exactly is a figure that allows for no difference.
func exactly(name string, planned, did, reported int64) Figure {
	f := Figure{Name: name, Planned: count(planned), Did: count(did), Reported: count(reported)}
	if reported != did || did != planned {
		f.Outcome = Wrong
	}
	return f
}

func count(n int64) string { return report.Count.Format(float64(n)) }

// within is what a reported time may differ by: a hundredth and a millisecond.
func within(a, b float64) bool { return math.Abs(a-b) <= b*0.01+0.001 }

// held is what a server may be late by, so that the plan still is what was checked: a
// thread is woken late on a busy machine, and thousands of frames that are due at one time
// are not written at one time.
func held(planned, did float64) bool { return math.Abs(did-planned) > planned*0.05+0.020 }

// timed is a time in seconds. What is reported is held against what the server did, so
// that a server that was late is no fault of the harness.
func timed(name string, planned, did, reported float64) Figure {
	f := Figure{Name: name, Planned: span(planned), Did: span(did), Reported: span(reported)}
	switch {
	case !within(reported, did):
		f.Outcome = Wrong
	case held(planned, did):
		f.Outcome = Unclear
		f.late = fmt.Sprintf("the selftest's server was itself late: %s is %s, planned %s", name, f.Did, f.Planned)
	}
	return f
}

func span(seconds float64) string {
	if seconds >= 1 {
		return fmt.Sprintf("%.3f s", seconds)
	}
	return report.Seconds.Format(seconds)
}

// verdict is the run's verdict and the exit status that goes with it.
func verdict(planned string, r *benched) Figure {
	exit := map[string]int{report.Good: 0, report.Failed: 1, report.Invalid: 3}
	words := func(status string, exit int) string {
		return fmt.Sprintf("%s, exit %d", report.StatusWord(status), exit)
	}
	f := Figure{Name: "verdict", Planned: words(planned, exit[planned]), Reported: words(r.Verdict.Status, r.exit)}
	if f.Planned != f.Reported {
		f.Outcome = Wrong
	}
	return f
}

// doubt is a reason for which the run must be invalid.
func doubt(planned string, r *benched) Figure {
	f := Figure{Name: "reason", Planned: planned, Reported: "none", Outcome: Wrong}
	if i := slices.IndexFunc(r.Verdict.Doubts, func(d string) bool { return strings.HasPrefix(d, planned) }); i >= 0 {
		f.Reported, f.Outcome = planned, AsPlanned
	}
	return f
}

// wokenLate is how late, in seconds, the machine may wake an idle thread, in the 99th
// percentile, before a millisecond is more than it can be asked for.
const wokenLate = 0.0005

// judge holds a run against its case. late is the 99th percentile of how late the machine
// woke a thread meanwhile, in seconds.
//
// A figure that is wrong is put down to the machine only where the run itself says so, by
// being invalid, or where it is a time and the machine woke threads late or the server
// could not write when it wanted to.
func judge(c Case, r *benched, did *Did, late float64) Result {
	res := Result{Name: c.Name, Figures: c.Figures(r, did)}
	excused := r.Verdict.Status == report.Invalid && c.Status != report.Invalid
	wrong := slices.ContainsFunc(res.Figures, func(f Figure) bool { return f.Outcome == Wrong })
	if wrong && excused {
		for _, d := range r.Verdict.Doubts {
			res.Why = append(res.Why, "the run is invalid: "+d)
		}
	}
	if wrong && c.Timed && late > wokenLate {
		excused = true
		res.Why = append(res.Why, fmt.Sprintf("the machine woke an idle thread late by %s (p99)", span(late)))
	}
	if wrong && c.Timed && did.Held > 0 {
		excused = true
		res.Why = append(res.Why, fmt.Sprintf("sockets were full at %s, so that the server's stamps are too early", report.Plural(did.Held, "write")))
	}
	for i := range res.Figures {
		f := &res.Figures[i]
		if f.Outcome == Wrong && excused {
			f.Outcome = Unclear
		}
		if f.late != "" {
			res.Why = append(res.Why, f.late)
		}
		res.Outcome = max(res.Outcome, f.Outcome)
	}
	return res
}
