package compare

import (
	_ "embed"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"barrage/harness/page"
	"barrage/harness/report"
)

//go:embed compare.html.tmpl
var htmlText string

var htmlPage = page.Parse("compare", htmlText)

// An htmlComparison is what the page's template shows.
type htmlComparison struct {
	Title    string
	Warnings []string
	Words    []string
	Alone    bool // one side, and nothing to hold it against
	Many     bool // a side has several runs
	Sides    []htmlSide
	Doubtful string // which sides have invalid runs
	Rows     []htmlRow
	Charts   []page.Figure
	Repeat   []htmlRepeat
	Runs     []htmlRun
	Machines []htmlMachine
	Command  string // that made the page, where it is none of Repeat
}

type htmlSide struct {
	Letter, Name, Commits, Doubt string
	Colour                       int
	Runs                         int
	Statuses                     []htmlStatus
}

type htmlStatus struct{ Class, Text string }

type htmlRow struct {
	Name  []string // in parts, between which the line may break
	Help  string
	Cells []htmlCell
}

var nameParts = regexp.MustCompile(`[^._]+[._]?`)

// An htmlCell is one figure of one side.
type htmlCell struct {
	Value, Bounds, Doubt string
	Against              bool // the side is held against the first
	Size, Interval, P    string
	Word, Class          string // what the change means
}

type htmlRepeat struct{ Side, Commit, Command string }

type htmlRun struct{ Side, Started, Class, Word, Commit, Command, Reasons string }

type htmlMachine struct{ Side, Machine, System, Cluster, Clients, Commit string }

// HTML writes c as one page that needs nothing else: no network, no script. What is doubtful
// comes before anything else, then what changed in plain words, the table, the runs' curves
// over each other, and how to repeat the runs. command is what made the page.
func HTML(w io.Writer, c *Comparison, command []string) error {
	view := htmlComparison{
		Title: title(c), Warnings: c.Warnings, Words: Sentences(c), Alone: len(c.Sides) == 1,
		Charts: charts(c), Command: report.CommandLine(command),
	}
	var doubtful []string
	for i, s := range c.Sides {
		side := htmlSide{
			Letter: letter(i), Name: s.Name, Commits: strings.TrimPrefix(commits(s.Runs), ", "), Doubt: doubt(s), Colour: page.Colour(i),
			Runs: len(s.Runs), Statuses: statuses(s),
		}
		view.Sides = append(view.Sides, side)
		view.Many = view.Many || len(s.Runs) > 1
		if side.Doubt != "" {
			doubtful = append(doubtful, side.Letter)
		}
		for _, r := range s.Runs {
			view.Runs = append(view.Runs, htmlRun{
				Side: side.Letter, Started: r.Started.Format("2006-01-02 15:04:05"), Class: r.Verdict.Status, Word: report.StatusWord(r.Verdict.Status),
				Commit: shortCommit(r), Command: report.CommandLine(r.Command), Reasons: strings.Join(slices.Concat(r.Verdict.Doubts, r.Verdict.Reasons), "; "),
			})
			repeat := htmlRepeat{side.Letter, shortCommit(r), report.CommandLine(r.Command)}
			if !slices.Contains(view.Repeat, repeat) {
				view.Repeat = append(view.Repeat, repeat)
			}
			e := &r.Environment
			row := htmlMachine{
				Side: side.Letter, Machine: e.Machine(), System: fmt.Sprintf("%s, Linux %s, %s", e.System, e.Kernel, e.Go),
				Cluster: cluster(r), Clients: clients(r), Commit: e.Commit,
			}
			if !slices.Contains(view.Machines, row) {
				view.Machines = append(view.Machines, row)
			}
		}
	}
	// The page of a series was made by the command that made its runs.
	if slices.ContainsFunc(view.Repeat, func(r htmlRepeat) bool { return r.Command == view.Command }) {
		view.Command = ""
	}
	view.Doubtful = strings.Join(doubtful, ", ")
	for _, row := range c.Rows {
		out := htmlRow{Name: nameParts.FindAllString(row.Figure.Name, -1), Help: row.Figure.Help}
		for i, own := range row.Cells {
			out.Cells = append(out.Cells, htmlCellOf(row.Figure, own, doubt(c.Sides[i]), i > 0))
		}
		view.Rows = append(view.Rows, out)
	}
	if err := htmlPage.Execute(w, &view); err != nil {
		return fmt.Errorf("write the comparison: %w", err)
	}
	return nil
}

// clients says where a run's clients were, with what of the harness costs them time.
func clients(r *report.Run) string {
	text := place(r)
	if where := agentMachines(r); where != "" {
		text += " (" + where + ")"
	}
	text += fmt.Sprintf(", %s of the harness", report.Plural(r.Environment.HarnessProcs, "processor"))
	if profiled(r) {
		text += ", profiles taken"
	}
	return text
}

// title says what is compared.
func title(c *Comparison) string {
	var scenarios, letters []string
	for i, s := range c.Sides {
		letters = append(letters, letter(i))
		for _, r := range s.Runs {
			if !slices.Contains(scenarios, r.Scenario.Name) {
				scenarios = append(scenarios, r.Scenario.Name)
			}
		}
	}
	name := strings.Join(scenarios, ", ")
	if len(c.Sides) == 1 {
		return fmt.Sprintf("%s: %s", name, report.Plural(len(c.Sides[0].Runs), "run"))
	}
	return fmt.Sprintf("%s: %s against A", name, strings.Join(letters[1:], ", "))
}

// statuses counts a side's verdicts.
func statuses(s Side) (list []htmlStatus) {
	for _, status := range []string{report.Good, report.Failed, report.Invalid, report.CutShort} {
		if n := count(s, is(status)); n > 0 {
			list = append(list, htmlStatus{status, fmt.Sprintf("%d %s", n, report.StatusWord(status))})
		}
	}
	return list
}

func htmlCellOf(f report.Figure, own Cell, doubt string, against bool) htmlCell {
	out := htmlCell{Against: against, Value: "-"}
	if len(own.Values) > 0 {
		out.Value, out.Doubt = f.Unit.Format(own.Median), doubt
		if own.High > own.Low {
			out.Bounds = spread(f, own)
		}
	}
	ch := own.Change
	if ch == nil {
		return out
	}
	out.Size = ch.size(f)
	if ch.Enough && ch.High > ch.Low {
		out.P = fmt.Sprintf("p=%.3f", ch.P)
		out.Interval = fmt.Sprintf("%s to %s", (&Change{Ratio: ch.Low, Absolute: ch.Absolute}).size(f), (&Change{Ratio: ch.High, Absolute: ch.Absolute}).size(f))
	}
	switch ch.Judge(f) {
	case Same:
		out.Size, out.Word = "~", "no difference shown"
	case Unknown:
		out.Word = "too few runs"
	case Better:
		out.Word, out.Class = "better", "holds"
	case Worse:
		out.Word, out.Class = "worse", "broken"
	case Different:
		out.Word = "different"
	}
	return out
}
