package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"barrage/harness/capacity"
	"barrage/harness/report"
	"barrage/harness/scenario"
)

// A CapacityResult is the bracket that a search found, and where its runs lie.
type CapacityResult struct {
	Dir      string // with a folder for each run, capacity.json and capacity.txt
	Scenario *scenario.Scenario
	*capacity.Result
	Runs     []*report.Run // of the trials, in their order
	CutShort bool          // an interrupt ended the search
}

// Capacity looks for the highest rate at which the scenario of opt holds what it expects.
// Each trial is a run of its own, with processes and clients of its own: what an overloaded
// run leaves behind must not be the next one's. An interrupt ends the search; what had been found
// until then is written, and returned with ErrInterrupted.
func Capacity(ctx context.Context, opt Options) (*CapacityResult, error) {
	s := opt.Scenario
	dir, err := makeDir(opt.Results, s.Name, time.Now())
	if err != nil {
		return nil, err
	}
	out := &CapacityResult{Dir: dir, Scenario: s}
	var first *report.Run
	try := func(ctx context.Context, rate float64) (capacity.Trial, error) {
		one := opt
		one.First = first
		one.Dir = filepath.Join(dir, strconv.Itoa(len(out.Runs)+1))
		one.Overrides = append(opt.Overrides[:len(opt.Overrides):len(opt.Overrides)],
			fmt.Sprintf("pushes.%d.rate=%s/s", s.Capacity.Push, strconv.FormatFloat(rate, 'g', -1, 64)))
		var err error
		if one.Scenario, err = scenario.Parse(s.File, []byte(s.Text), one.Overrides); err != nil {
			return capacity.Trial{}, err
		}
		if opt.Progress != nil {
			fmt.Fprintf(opt.Progress, "trial %d: %s at %g pushes a second\n", len(out.Runs)+1, s.Pushes[s.Capacity.Push].Name, rate)
		}
		result, err := Run(ctx, one)
		if err != nil {
			return capacity.Trial{}, err
		}
		if first == nil {
			first = result.Run
		}
		if result.Run.Verdict.Status == report.CutShort {
			return capacity.Trial{}, ErrInterrupted
		}
		out.Runs = append(out.Runs, result.Run)
		return trial(result.Run), nil
	}
	c := s.Capacity
	found, searchErr := capacity.Search(ctx, capacity.Config{From: c.From, To: c.To, Precision: c.Precision, Confirm: c.Confirm, Most: c.Trials, Try: try})
	if found == nil {
		return nil, searchErr
	}
	out.Result = found
	if len(found.Trials) == 0 {
		return nil, searchErr
	}
	out.CutShort = errors.Is(searchErr, ErrInterrupted)
	if err := out.write(); err != nil {
		return out, err
	}
	return out, searchErr
}

// trial says what a run means to the search.
func trial(r *report.Run) capacity.Trial {
	var t capacity.Trial
	v := &r.Verdict
	switch v.Status {
	case report.Good:
		return t
	case report.Invalid:
		t.Outcome, t.Reason = capacity.Unclear, strings.Join(v.Doubts[:min(1, len(v.Doubts))], "")
	default:
		t.Outcome, t.Reason = capacity.Broke, strings.Join(v.Reasons[:min(1, len(v.Reasons))], "")
	}
	return t
}

// capacityFile is capacity.json: the bracket, and the trials that it stands on.
type capacityFile struct {
	Schema    int             `json:"schema"`
	Scenario  string          `json:"scenario"`
	Push      string          `json:"push"` // the line whose rate was looked for
	Holds     float64         `json:"holds_per_second"`
	Breaks    float64         `json:"breaks_per_second"`  // 0: nothing was found to break
	Unclear   float64         `json:"unclear_per_second"` // 0, or the lowest rate that could not be measured
	Confirmed bool            `json:"confirmed"`
	CutShort  bool            `json:"cut_short"` // an interrupt ended the search
	Trials    []capacityTrial `json:"trials"`
}

type capacityTrial struct {
	Rate    float64 `json:"rate_per_second"`
	Outcome string  `json:"outcome"` // held, broke, unclear
	Reason  string  `json:"reason,omitempty"`
	Run     string  `json:"run"` // folder
}

func (c *CapacityResult) write() error {
	f := capacityFile{
		Schema: 1, Scenario: c.Scenario.Name, Push: c.Scenario.Pushes[c.Scenario.Capacity.Push].Name,
		Holds: c.Holds, Breaks: c.Breaks, Unclear: c.Unclear, Confirmed: c.Confirmed, CutShort: c.CutShort,
	}
	for i, t := range c.Trials {
		f.Trials = append(f.Trials, capacityTrial{Rate: t.Rate, Outcome: t.Outcome.String(), Reason: t.Reason, Run: strconv.Itoa(i + 1)})
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("write capacity.json: %w", err)
	}
	var b strings.Builder
	if err := c.Text(&b); err != nil {
		return err
	}
	if err := report.WriteFile(filepath.Join(c.Dir, "capacity.txt"), []byte(b.String())); err != nil {
		return err
	}
	return report.WriteFile(filepath.Join(c.Dir, "capacity.json"), append(text, '\n'))
}

// Text writes the bracket in a sentence, and a line for each trial.
func (c *CapacityResult) Text(w io.Writer) error {
	var b strings.Builder
	name := fmt.Sprintf("%s, %s", c.Scenario.Name, c.Scenario.Pushes[c.Scenario.Capacity.Push].Name)
	if c.CutShort {
		b.WriteString("CUT SHORT: what had been found when the search was interrupted.\n")
	}
	switch {
	case c.Holds == 0 && c.Breaks > 0:
		fmt.Fprintf(&b, "%s: %g pushes a second do not hold, and no rate below held in each of its runs.\n", name, c.Breaks)
	case c.Holds == 0:
		fmt.Fprintf(&b, "%s: no rate could be measured.\n", name)
	case c.Breaks > 0:
		fmt.Fprintf(&b, "%s: %g pushes a second hold, %g do not.\n", name, c.Holds, c.Breaks)
	case c.Unclear > 0:
		fmt.Fprintf(&b, "%s: %g pushes a second hold; %g and more could not be measured.\n", name, c.Holds, c.Unclear)
	default:
		fmt.Fprintf(&b, "%s: %g pushes a second hold, and nothing in the range was found not to.\n", name, c.Holds)
	}
	if c.Confirmed {
		fmt.Fprintf(&b, "Each end of the bracket had %d runs at least, all with the same outcome.\n", c.Scenario.Capacity.Confirm)
	} else {
		b.WriteString("The bracket is NOT confirmed: its ends lie too far apart, one is missing, or they had too few runs.\n")
	}
	b.WriteByte('\n')
	fraction, _ := report.FindFigure("ceiling.fraction") // there is one
	var t report.Table
	t.Add("run", "pushes/s", "outcome", "p50", "p99", "deliveries/s", "lost", "writes/s of the ceiling", "")
	for i, trial := range c.Trials {
		r := c.Runs[i]
		reason := trial.Reason
		if r.Verdict.Doubtful() {
			reason = strings.TrimSpace("INVALID " + reason)
		}
		ofCeiling := "-"
		if v, ok := fraction.Of(r); ok {
			ofCeiling = fraction.Unit.Format(v)
		}
		t.Add(strconv.Itoa(i+1), strconv.FormatFloat(trial.Rate, 'g', -1, 64), trial.Outcome.String(),
			report.Seconds.Format(r.Latency.All.P50), report.Seconds.Format(r.Latency.All.P99), report.Rate.Format(r.Deliveries.PerSecond),
			report.Count.Format(float64(r.Deliveries.Measured.Lost+r.Deliveries.WarmUp.Lost)), ofCeiling, reason)
	}
	b.WriteString(t.Lines("  "))
	_, err := io.WriteString(w, b.String())
	return err
}
