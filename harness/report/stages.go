package report

import (
	"slices"
	"strings"
)

// A Stage is a part of a push's way, measured. The stages with the place OnTheWay follow each
// other from a push's intended time to its last receipt, and their means add up to
// Latency.Last.Mean. Percentiles don't add up, as a push that is slow in one stage need not be
// in another.
//
// What the server's processes tell counts a push once for each comet that it is for (and a
// push to keys or mids once for each comet that has some of them). With several comets the
// stages' means are over all of these, and what the slowest comet of each push takes longer is
// in the last stage, which is what the others leave of the whole.
type Stage struct {
	Name   string  `json:"name"` // one of StageNames
	What   string  `json:"what"` // "due to sent"
	Place  string  `json:"place"`
	Count  int64   `json:"count"`
	Mean   float64 `json:"mean"`
	P50    float64 `json:"p50"` // of a difference: 0
	P99    float64 `json:"p99"`
	Source string  `json:"source"` // who measured it, and by which metric if it is one: "logic, barrage_..."
	// Difference says that the mean is what the other stages leave: percentiles are not known.
	Difference bool `json:"difference"`
}

// The places of stages.
const (
	OnTheWay  = "way"    // from one to the next
	PartOfOne = "part"   // a closer look at the stage on the way before it
	Beside    = "beside" // while the push goes on
)

// The stages' names.
const (
	StageSend     = "send"     // from the intended time to the beginning of the request
	StageRequest  = "request"  // until logic has read it
	StageAccept   = "accept"   // until comet has it for all of its sessions
	StageQueue    = "queue"    // of that, until job has read it
	StageHandover = "handover" // and from there until job knows that comet has it, with comet's answer to it
	StageWrite    = "write"    // from comet's acceptance to the last write
	StageReceive  = "receive"  // from there to the last receipt
	StageRest     = "rest"     // instead of it where not all before it is measured
	StageAck      = "ack"      // from the beginning of the request to its acknowledgement
)

// StageNames returns the names of all stages that a run may have.
func StageNames() []string {
	return []string{StageSend, StageRequest, StageAccept, StageQueue, StageHandover, StageWrite, StageReceive, StageRest, StageAck}
}

// Stage returns the run's stage called name.
func (r *Run) Stage(name string) (s Stage, ok bool) {
	i := slices.IndexFunc(r.Stages, func(s Stage) bool { return s.Name == name })
	if i < 0 {
		return Stage{}, false
	}
	return r.Stages[i], true
}

func stageFigures() (list []Figure) {
	for _, name := range StageNames() {
		of := func(r *Run) Stage {
			s, _ := r.Stage(name)
			return s
		}
		for _, q := range []struct {
			name, help  string
			of          func(*Run) float64
			percentiles bool
		}{
			{"mean", "mean", func(r *Run) float64 { return of(r).Mean }, false},
			{"p50", "median", func(r *Run) float64 { return of(r).P50 }, true},
			{"p99", "99th percentile", func(r *Run) float64 { return of(r).P99 }, true},
		} {
			if q.percentiles && (name == StageReceive || name == StageRest) {
				continue // a difference of means
			}
			list = append(list, Figure{
				Name: "stage." + name + "." + q.name, Help: stageHelp[name] + ", " + q.help, Unit: Seconds, Better: Less, of: q.of,
				has: func(r *Run) bool {
					_, ok := r.Stage(name)
					return ok
				},
			})
		}
	}
	return list
}

var stageHelp = map[string]string{
	StageSend:     "a push's intended time to the beginning of its request",
	StageRequest:  "a push's request to logic's acceptance",
	StageAccept:   "logic's acceptance of a push to comet's",
	StageQueue:    "logic's acceptance of a push until job read it",
	StageHandover: "job's reading of a push until comet had taken it",
	StageWrite:    "comet's acceptance of a push to its last write",
	StageReceive:  "a push's last write to its last receipt, in the mean",
	StageRest:     "what is not measured of a push's way to its last receipt, in the mean",
	StageAck:      "a push's request to its acknowledgement",
}

// stageRows returns the cells of the table of stages: name, pushes, mean, p50, p99, who
// measured it and by which metric. The whole stands behind the stages on the way, and nothing
// where there are none.
func stageRows(r *Run) (rows [][]string) {
	row := func(s Stage, name string) {
		cells := []string{name, count(s.Count), span(s.Mean), span(s.P50), span(s.P99), s.who(), s.metric()}
		if s.Difference {
			cells[3], cells[4] = "-", "-"
		}
		rows = append(rows, cells)
	}
	for _, s := range r.Stages {
		switch s.Place {
		case OnTheWay:
			row(s, s.What)
		case PartOfOne:
			row(s, "  "+s.What)
		}
	}
	if rows == nil {
		return nil
	}
	l := &r.Latency.Last
	row(Stage{Count: l.Count, Mean: l.Mean, P50: l.P50, P99: l.P99, Source: "harness"}, "all, to the last receipt")
	for _, s := range r.Stages {
		if s.Place == Beside {
			row(s, "beside it, "+s.What)
		}
	}
	return rows
}

// stageNotes says how the table of stages is to be read.
func stageNotes(r *Run) []string {
	notes := []string{"Means add up, percentiles don't: the push that is slow in one stage need not be slow in another."}
	if !slices.ContainsFunc(r.Stages, func(s Stage) bool { return s.metric() != "" }) {
		return notes // all is the harness's own
	}
	notes = append(notes, "p50 and p99 of what the server's processes tell are read from buckets a quarter wide.")
	comets := 0
	for _, p := range r.Processes {
		if strings.Contains(p.Role, "comet") {
			comets++
		}
	}
	if _, measured := r.Stage(StageWrite); measured && comets > 1 {
		notes = append(notes, "A push counts once for each comet that it is for, and what the slowest of them takes longer than the mean is in the last stage.")
	}
	if r.Target != nil {
		notes = append(notes, "What the target's processes tell is of all their pushes, those of others included, and by their clocks.")
	}
	return notes
}

// who returns who measured the stage.
func (s Stage) who() string {
	who, _, _ := strings.Cut(s.Source, ", ")
	return who
}

// metric returns the metric by which a process of the server measured the stage, or "".
func (s Stage) metric() string {
	_, metric, _ := strings.Cut(s.Source, ", ")
	return metric
}

func (e *errWriter) stages(r *Run) {
	var t Table
	t.Add("", "pushes", "mean", "p50", "p99", "told by")
	for _, cells := range stageRows(r) {
		t.Add(cells[:6]...)
	}
	e.printf("%s", t.Lines("  "))
	for _, note := range stageNotes(r) {
		e.printf("  %s\n", note)
	}
}
